"""Effects: what each attribute does to the parts of a running daemon, at the start and after every change."""

from __future__ import annotations

import structlog

from backupd import durable
from backupd.attributes import Scopes, Settings, schedule_of
from backupd.clock import Clock
from backupd.config import Config
from backupd.config_sections import LogLevel
from backupd.schedules import JOBS, METADATA_UPLOAD
from backupd.store.store import Store
from daemon import logs, wiring
from daemon.realtime import RealtimeScanner
from daemon.scheduler import Scheduler
from daemon.services import Services

WARN_SECONDS = 3_600.0
SMARTSCAN_JOB = "SmartScan"
NO_VOLUME = "nothing to do: no external volume is set"

log = structlog.get_logger(__name__)


class Effects:
    """Knows the parts that attributes act on."""

    def __init__(
        self,
        *,
        config: Config,
        settings: Settings,
        server_id: str,
        store: Store,
        realtime: RealtimeScanner,
        scheduler: Scheduler,
        services: Services,
        clock: Clock,
        has_external_volume: bool = False,
    ) -> None:
        self._config = config
        self._settings = settings
        self._scopes = Scopes(server=server_id)
        self._server_id = server_id
        self._store = store
        self._realtime = realtime
        self._scheduler = scheduler
        self._services = services
        self._clock = clock
        self._idle = {} if has_external_volume else {METADATA_UPLOAD: NO_VOLUME}

    def apply(self) -> None:
        """Let every part be as the attributes say."""
        self._services.apply()
        for job in JOBS:
            schedule = schedule_of(self._settings.get(job.attribute, self._scopes).value)
            self._scheduler.set(
                job.name,
                schedule.cron_pattern,
                enabled=schedule.cron_enabled,
                note=self._idle.get(job.name, ""),
                quiet=job.quiet,
            )
        self._store.space_threshold_bytes = wiring.space_threshold_bytes(
            self._settings, self._server_id, durable.total_bytes(self._store.layout.root)
        )
        self._store.blobs.level = int(str(self._settings.get("backupCompressionLevel", self._scopes).value))
        wants_debug = self._settings.get("ZxCore_LogLevel", self._scopes)
        is_set = wants_debug.level is not None
        logs.set_level(LogLevel.DEBUG if is_set and wants_debug.value == 0 else self._config.log.level)
        self.warn()

    @property
    def is_idle(self) -> bool:
        """Whether nothing backs anything up: no live changes are taken and no scan begins by itself."""
        return not self._realtime.enabled and not self.scans_by_itself

    @property
    def scans_by_itself(self) -> bool:
        """Whether SmartScan is queued at its time, and worked on."""
        scheduled = any(job.enabled for job in self._scheduler.jobs if job.name == SMARTSCAN_JOB)
        return scheduled and not {"scheduler", "operations"} & set(self._services.stopped)

    async def warn_again(self) -> None:
        """Warn every hour, until cancelled."""
        while True:
            await self._clock.sleep(WARN_SECONDS)
            self.warn()

    def warn(self) -> None:
        """Say loudly in the log where no backup is being made."""
        if self.is_idle:
            log.error("no_backup_is_being_made", reason="both scanners are off")
