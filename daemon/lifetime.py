"""A lifetime of the daemon over one Backup Path: which parts there are, how they start and stop.

Every part is made, runs in one task group, and ends with it. What has been acknowledged before an end is in
the journal. SIGHUP asks a lifetime to read the configuration again: one that can't be used, or says the same,
is told and changes nothing; another ends the lifetime, and the next one begins with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Self

import structlog

from backupd import __version__
from backupd import config as configuration
from backupd.appservers.base import AppServer
from backupd.attribute import Attribute
from backupd.attributes import Scopes
from backupd.config import Config
from backupd.jobs.record import Recorder
from backupd.schedules import JOBS, METADATA_UPLOAD
from backupd.store.ledger import SetAttribute
from backupd.store.ledger_tables import KeptJobs
from backupd.store.store import Store
from daemon import blobless, wiring
from daemon.announcing import Announcing
from daemon.blobless import Blobless
from daemon.clock_watch import ClockWatch
from daemon.damage_watch import DamageWatch
from daemon.effects import Effects
from daemon.enrolling import Enrolling
from daemon.external_volume import STORE
from daemon.front import Front, Parts
from daemon.gaps import Gaps
from daemon.guarding import make_guard
from daemon.healing import Healing, heal_by_scan
from daemon.health import feed_watchdog, patience
from daemon.journaling import Journaling
from daemon.kept_operations import KeptOperations
from daemon.operations_queue import Factory, OperationsQueue
from daemon.outward import Outward
from daemon.protecting import Protecting
from daemon.quarantine import Quarantine
from daemon.realtime import RealtimeScanner
from daemon.recording import Recording
from daemon.reloading import Reloading
from daemon.scheduler import Scheduler
from daemon.services import Services
from daemon.surroundings import Surroundings
from daemon.verbs import Ingredients, make_factories
from daemon.volume_commands import VolumeSetting
from daemon.works import SCHEDULE

PRESSURE_EVENTS = 500
"""So many events waiting for the journal, and recording stands back for a moment."""

log = structlog.get_logger(__name__)


class Daemon:
    """One lifetime. Enter it to open the Backup Path and make the parts, then `run` it."""

    def __init__(
        self, config: Config, surroundings: Surroundings, *, carried: Sequence[SetAttribute] = ()
    ) -> None:
        """Make a lifetime; `carried` are attributes that a new Backup Path takes over from the one before."""
        self._config = config
        self._carried = carried
        self._clock, self._notifier, self._address = surroundings
        self._stack = AsyncExitStack()
        self._ended = asyncio.Event()
        self._is_running = False
        self._reloading = Reloading(config, self._notifier, end=self.begin_again, status=self._in_one_line)
        self.begin_anew = False

    async def __aenter__(self) -> Self:
        """Open the Backup Path and make every part. Raises `BackupPathRefused`, `ConfigError`."""
        config, clock = self._config, self._clock
        self._server_id = await asyncio.to_thread(configuration.server_id, config.server)
        async with patience(self._notifier, clock, f"opening {configuration.backup_path(config.server)}"):
            self._store = await asyncio.to_thread(wiring.make_store, config, self._server_id, clock)
        self._stack.push_async_callback(asyncio.to_thread, self._store.close)
        try:
            await self._make_parts(self._store)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close what was opened, last things first."""
        await self._stack.aclose()

    async def _make_parts(self, store: Store) -> None:
        config, clock = self._config, self._clock
        appserver = await asyncio.to_thread(wiring.make_appserver, config, clock)
        self._stack.push_async_callback(asyncio.to_thread, appserver.close)
        window = timedelta(milliseconds=config.realtime.coalesce_window_ms)
        await asyncio.to_thread(wiring.carry_attributes, store, self._carried)
        setting = VolumeSetting(store.ledger, self._server_id)
        self._settings = await asyncio.to_thread(
            wiring.make_settings, config, store, self._server_id, {STORE: setting.keep}
        )
        watch = self._clock_watch = ClockWatch(store, clock=clock)
        self._enrolling = await asyncio.to_thread(Enrolling, store, self._settings, now=watch.believed_now)
        self._settings.on_change(self._setting_changed)
        self._damage = DamageWatch(lambda: self._queue, store.layout.root, clock=clock)
        recorder = Recorder(
            store,
            appserver,
            clock=clock,
            window=window,
            enrolment=self._enrolling,
            damage_met=self._damage.met,
        )
        self._stack.push_async_callback(asyncio.to_thread, recorder.close)
        self._outward = await Outward.open(
            config,
            store,
            self._settings,
            setting,
            clock=clock,
            recorded_through=lambda: recorder.durable_cursor,
        )
        self._stack.push_async_callback(self._outward.close)
        self._blobless = Blobless(
            store, appserver, wanted=lambda: self._is_true(blobless.ATTRIBUTE), clock=clock
        )
        self._settings.guard(blobless.ATTRIBUTE, self._blobless.check)
        self._loop = asyncio.get_running_loop()
        await self._make_what_works(store, appserver, recorder, window)
        self._make_what_rules(store)
        self._apply_settings()
        self._services.on_realtime_return(self._realtime_returned)

    async def _make_what_works(
        self, store: Store, appserver: AppServer, recorder: Recorder, window: timedelta
    ) -> None:
        """Make what takes changes in, records them and works on operations."""
        config, clock = self._config, self._clock
        self._healing = Healing(store, clock=clock, heal=lambda account: heal_by_scan(self._queue, account))
        self._recording = Recording(
            recorder,
            store.journal,
            clock=clock,
            window=window,
            under_pressure=self._under_pressure,
            gap_opened=self._healing.gap_opened,
        )
        self._journaling = Journaling(store, clock=clock, grown=self._recording.grown)
        self._stack.push_async_callback(asyncio.to_thread, self._journaling.close)
        self._gaps = Gaps(
            store.ledger, clock=clock, is_enabled=self._enrolling.is_enabled, opened=self._gap_opened
        )
        self._realtime = self._make_realtime(store, appserver)
        self._announcing = Announcing(
            config, store.ledger, self._settings, server_id=self._server_id, clock=clock
        )
        self._stack.push_async_callback(self._announcing.close)
        self._queue = OperationsQueue(
            KeptOperations(store.ledger),
            self._factories(store, appserver),
            clock=clock,
            on_change=self._announcing.operation_changed,
        )
        self._scheduler = Scheduler(self._run_job, clock=clock, ledger=KeptJobs(store.ledger))
        await self._scheduler.load()
        self._services = Services(
            realtime=self._realtime,
            scheduler=self._scheduler,
            queue=self._queue,
            realtime_wanted=lambda: self._is_true("ZxBackup_RealTimeScanner"),
            started=self._is_true("ZxBackup_ModuleEnabledAtStartup"),
        )

    def _make_what_rules(self, store: Store) -> None:
        """Make what carries settings out and what answers, once all that works is there."""
        config, clock = self._config, self._clock
        self._effects = Effects(
            config=config,
            settings=self._settings,
            server_id=self._server_id,
            store=store,
            realtime=self._realtime,
            scheduler=self._scheduler,
            services=self._services,
            clock=clock,
            has_external_volume=self._outward.metadata.is_wanted,
        )
        self._protecting = Protecting(
            store,
            self._guard,
            self._enrolling,
            clock=clock,
            believed_now=self._clock_watch.believed_now,
            server=config.server.name,
            tell=self._announcing.tell,
            look_soon=self._announcing.look_soon,
        )
        self._settings.on_change(self._protecting.setting_changed)
        parts = Parts(
            config=config,
            server_id=self._server_id,
            clock=clock,
            store=store,
            settings=self._settings,
            queue=self._queue,
            recording=self._recording,
            realtime=self._realtime,
            scheduler=self._scheduler,
            services=self._services,
            announcing=self._announcing,
            protecting=self._protecting,
            config_trouble=lambda: self._reloading.trouble,
            volume=self._outward.view,
            tables=(self._outward.table(self._queue),),
            blobless=self._blobless,
            clock_doubt=lambda: self._clock_watch.doubt,
        )
        self._front = Front(parts)

    def _factories(self, store: Store, appserver: AppServer) -> dict[str, Factory]:
        self._guard = make_guard(store, self._settings, self._server_id)
        made = make_factories(
            Ingredients(
                config=self._config,
                clock=self._clock,
                server_id=self._server_id,
                store=store,
                appserver=appserver,
                settings=self._settings,
                recording=self._recording,
                clock_watch=self._clock_watch,
                enrolling=self._enrolling,
                guard=self._guard,
                wait_until_gathering=self._realtime.wait_until_gathering,
                outward=self._outward,
            )
        )
        return made | self._outward.factories()

    def _make_realtime(self, store: Store, appserver: AppServer) -> RealtimeScanner:
        config = self._config
        return RealtimeScanner(
            server_id=self._server_id,
            clock=self._clock,
            address=wiring.make_address(config),
            watch=appserver.watch if config.appserver.watch else None,
            journal=self._journaling.append,
            quarantine=Quarantine(config.server.state_directory / "quarantine.jsonl"),
            on_gap=self._gaps.open,
            on_missed=self._gaps.missed,
            on_session=self._remember_session,
            session_expected=lambda: store.ledger.has_session(config.broker.url),
            event_bytes_max=config.realtime.event_bytes_max,
            enabled=self._is_true("ZxBackup_RealTimeScanner"),
        )

    # ------------------------------------------------------------------ running

    async def run(self) -> None:
        """Run until `end` is called. Raises what a part could not cope with: a bug."""
        for operation in await self._queue.load():
            log.warning("operation_interrupted", operation=operation.uuid, type=operation.type)
        async with (
            self._front.answering(self._address),
            asyncio.TaskGroup() as tasks,
        ):
            running = [
                tasks.create_task(work, name=name)
                for name, work in (
                    ("recording", self._recording.run()),
                    ("waiting room", self._recording.run_waiting_room()),
                    ("realtime scanner", self._realtime.run()),
                    ("operations", self._queue.run()),
                    ("healing", self._healing.run()),
                    ("guard", self._protecting.run()),
                    ("damage", self._damage.run()),
                    ("scheduler", self._scheduler.run()),
                    ("warnings", self._effects.warn_again()),
                    ("blobless", self._blobless.run()),
                    ("clock watch", self._clock_watch.run()),
                    ("announcing", self._announcing.run(self._front.answers.status)),
                    ("gaps", self._gaps.run()),
                    ("reloading", self._reloading.run()),
                    ("volume choice", self._outward.wait_for_choice(self._queue, self.begin_again)),
                    ("metrics", self._front.serve_metrics()),
                    *self._outward.loops(),
                    ("watchdog", feed_watchdog(self._notifier, self._clock, self._unwell)),
                )
            ]
            await self._scan_at_start()
            log.info(
                "daemon_started",
                version=__version__,
                server=self._server_id,
                backup_path=str(self._store.layout.root),
                broker=self._config.broker.url,
                damaged=len(self._store.damaged),
            )
            self._is_running = True
            self._notifier.ready(self._in_one_line())
            await self._ended.wait()
            for task in running:
                task.cancel()

    def end(self, *, begin_anew: bool = False) -> None:
        """End this lifetime, cleanly. `begin_anew`: another one is to follow."""
        self.begin_anew = begin_anew
        self._ended.set()

    def begin_again(self) -> None:
        """End this lifetime; another one is to follow."""
        self.end(begin_anew=True)

    def reload(self) -> None:
        """Read the configuration again, soon."""
        self._reloading.ask()

    @property
    def backup_path(self) -> Path:
        """The Backup Path of this lifetime."""
        return self._store.layout.root

    def attributes(self) -> list[SetAttribute]:
        """Return the attributes that were set, to be carried to another Backup Path; blocks."""
        return self._store.ledger.attributes()

    async def _scan_at_start(self) -> None:
        first = await asyncio.to_thread(lambda: self._store.statistics.backup().last_scan_ended is None)
        if first or self._is_true("ZxBackup_DoSmartScanOnStartup"):
            await self._queue.submit(
                "doSmartScan", {}, started_by="first start" if first else "start", once=True
            )

    async def _run_job(self, name: str) -> None:
        if name == METADATA_UPLOAD:
            self._outward.metadata.ask()
            return
        operation = next(job.operation for job in JOBS if job.name == name)
        await self._queue.submit(operation, {}, started_by=SCHEDULE, once=True)

    # ------------------------------------------------------------------- intake

    async def _remember_session(self) -> None:
        url, now = self._config.broker.url, self._clock.now()
        await asyncio.to_thread(self._store.ledger.remember_session, url, now)

    def _gap_opened(self) -> None:
        self._healing.gap_opened()
        self._announcing.look_soon()

    def _under_pressure(self) -> bool:
        subscription = self._realtime.subscription
        return subscription is not None and subscription.status.waiting_events > PRESSURE_EVENTS

    # ----------------------------------------------------------------- settings

    def _is_true(self, attribute: str) -> bool:
        return bool(self._settings.get(attribute, Scopes(server=self._server_id)).value)

    def _setting_changed(self, attribute: Attribute) -> None:
        """Take a change over from the thread that made it."""
        self._loop.call_soon_threadsafe(self._take_setting, attribute.name)

    def _take_setting(self, name: str) -> None:
        log.info("attribute_changed", attribute=name)
        if name in {"ZxBackup_DestPath", STORE}:
            anew = self.begin_again if name == "ZxBackup_DestPath" else self._outward.chosen.set
            anew()
            return
        self._outward.look_soon()
        self._apply_settings()
        self._blobless.changed()
        self._announcing.look_soon()

    def _realtime_returned(self) -> None:
        """Have what happened while the Realtime Scanner was off found by a scan, as for any other gap."""
        self._gaps.open_soon("realtime_was_off", "the Realtime Scanner was turned on again")

    def _apply_settings(self) -> None:
        self._effects.apply()
        if self._is_running:
            self._notifier.status(self._in_one_line())

    def _in_one_line(self) -> str:
        if self._effects.is_idle:
            return "NO BACKUP IS BEING MADE: both scanners are off"
        return f"backing up {self._config.server.name}"

    def _unwell(self) -> str:
        """Return what hangs, for the watchdog; empty while all is well."""
        return self._recording.pulse.unwell() or self._journaling.pulse.unwell()
