"""The front: everything of a lifetime that answers and shows, put together from the parts that work."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from backupd.attributes import Settings
from backupd.clock import Clock
from backupd.config import Config
from backupd.store.store import Store
from backupd.volume_views import VolumeView
from daemon.announcing import Announcing
from daemon.answering import Answering
from daemon.answers import Answers, names_of
from daemon.blobless import Blobless
from daemon.bucket_probe import probe_bucket
from daemon.configuring import Configuring
from daemon.control_socket import ControlAddress, ControlSocket
from daemon.doctor import Doctor
from daemon.looking import Looking
from daemon.metrics import Metrics
from daemon.metrics_listener import MetricsListener
from daemon.operations_queue import OperationsQueue
from daemon.protecting import Protecting
from daemon.realtime import RealtimeScanner
from daemon.recording import Recording
from daemon.scheduler import Scheduler
from daemon.services import Services
from daemon.standing import Standing
from daemon.telling import Telling


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What works in a lifetime; `tables` are answers of parts that bring their own."""

    config: Config
    server_id: str
    clock: Clock
    store: Store
    settings: Settings
    queue: OperationsQueue
    recording: Recording
    realtime: RealtimeScanner
    scheduler: Scheduler
    services: Services
    announcing: Announcing
    protecting: Protecting
    blobless: Blobless
    config_trouble: Callable[[], str]
    clock_doubt: Callable[[], str]
    volume: Callable[[], VolumeView | None]
    tables: tuple[Mapping[str, Answering], ...]


class Front:
    """Makes what answers; `answers` is what questions are put to, `serve_metrics` runs in the lifetime."""

    def __init__(self, of: Parts) -> None:
        self._control, self._clock = of.config.control, of.clock
        self._listener = MetricsListener(of.config.metrics.listen, clock=of.clock)
        self.standing = self._standing(of)
        self._metrics = Metrics(self.standing, of.clock)
        self.answers = self._answers(of)

    def answering(self, address: ControlAddress) -> ControlSocket:
        """Return the context in which questions are answered at the configured place."""
        return ControlSocket(
            address, self._control.socket, self.answers, group=self._control.group, clock=self._clock
        )

    async def serve_metrics(self) -> None:
        """Serve metrics over TCP where that is configured, until cancelled."""
        await self._listener.run(self._metrics.text)

    def _standing(self, of: Parts) -> Standing:
        return Standing(
            store=of.store,
            server_id=of.server_id,
            server_name=of.config.server.name,
            broker_url=of.config.broker.url,
            settings=of.settings,
            queue=of.queue,
            recording=of.recording,
            realtime=of.realtime,
            scheduler=of.scheduler,
            services=of.services,
            clock=of.clock,
            enrolling=of.protecting.enrolling,
            unsent=of.announcing.unsent,
            metrics_trouble=lambda: self._listener.trouble,
            config_trouble=of.config_trouble,
            clock_doubt=of.clock_doubt,
            volume=of.volume,
            blobless=of.blobless.view,
        )

    def _answers(self, of: Parts) -> Answers:
        names = names_of(of.server_id, of.config.server.name)
        configuring = Configuring(
            settings=of.settings,
            store=of.store,
            scheduler=of.scheduler,
            server_id=of.server_id,
            server_name=of.config.server.name,
            names=names,
            queue=of.queue,
            probe=probe_bucket,
        )
        doctor = Doctor(of.config, of.server_id, of.store, self.standing, of.realtime, clock=of.clock)
        return Answers(
            store=of.store,
            queue=of.queue,
            services=of.services,
            standing=self.standing,
            looking=Looking(of.store, clock=of.clock),
            names=names,
            metrics=self._metrics.text,
            parts=(
                configuring.table(),
                *of.tables,
                of.protecting.table(),
                Telling(of.announcing.kept, of.announcing.logs, of.queue).table(),
                doctor.table(),
            ),
            sends_mail=of.config.notifications.smtp_host is not None,
        )
