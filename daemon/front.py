"""The front: everything of a lifetime that answers and shows, put together from the parts that work."""

from __future__ import annotations

from collections.abc import Callable

from backupd.attributes import Settings
from backupd.clock import Clock
from backupd.config import Config
from backupd.store.store import Store
from daemon.announcing import Announcing
from daemon.answers import Answers, names_of
from daemon.configuring import Configuring
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


class Front:
    """Makes what answers; `answers` is the control socket's service, `serve_metrics` runs in the lifetime."""

    def __init__(
        self,
        *,
        config: Config,
        server_id: str,
        clock: Clock,
        store: Store,
        settings: Settings,
        queue: OperationsQueue,
        recording: Recording,
        realtime: RealtimeScanner,
        scheduler: Scheduler,
        services: Services,
        announcing: Announcing,
        protecting: Protecting,
        config_trouble: Callable[[], str],
        clock_doubt: Callable[[], str] = str,
    ) -> None:
        self._listener = MetricsListener(config.metrics.listen, clock=clock)
        self.standing = Standing(
            store=store,
            server_id=server_id,
            server_name=config.server.name,
            broker_url=config.broker.url,
            settings=settings,
            queue=queue,
            recording=recording,
            realtime=realtime,
            scheduler=scheduler,
            services=services,
            clock=clock,
            enrolling=protecting.enrolling,
            unsent=announcing.unsent,
            metrics_trouble=lambda: self._listener.trouble,
            config_trouble=config_trouble,
            clock_doubt=clock_doubt,
        )
        self._metrics = Metrics(self.standing, clock)
        names = names_of(server_id, config.server.name)
        configuring = _configuring(settings, store, scheduler, server_id, config.server.name)
        self.answers = Answers(
            store=store,
            queue=queue,
            services=services,
            standing=self.standing,
            looking=Looking(store, clock=clock),
            names=names,
            metrics=self._metrics.text,
            parts=(
                configuring.table(),
                protecting.table(),
                Telling(announcing.kept, announcing.logs, queue).table(),
                Doctor(config, server_id, store, self.standing, realtime, clock=clock).table(),
            ),
        )

    async def serve_metrics(self) -> None:
        """Serve metrics over TCP where that is configured, until cancelled."""
        await self._listener.run(self._metrics.text)


def _configuring(
    settings: Settings, store: Store, scheduler: Scheduler, server_id: str, server_name: str
) -> Configuring:
    return Configuring(
        settings=settings,
        store=store,
        scheduler=scheduler,
        server_id=server_id,
        server_name=server_name,
        names=names_of(server_id, server_name),
    )
