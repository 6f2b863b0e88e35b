"""Services: the parts of the daemon that an admin can stop and start while the rest goes on.

The Realtime Scanner runs where its attribute says so and its service is started; the scheduler and the queue
stand still while theirs are stopped. `module` is all of them. What is stopped here is so until it is started
again, or the daemon is: then `ZxBackup_ModuleEnabledAtStartup` says whether they begin by themselves. What
was stopped is shown in `status`, because a stopped service backs nothing up.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from backupd.errors import UsageError
from backupd.parameters import did_you_mean, squashed
from backupd.views import ServiceView
from daemon.operations_queue import OperationsQueue
from daemon.realtime import RealtimeScanner
from daemon.scheduler import Scheduler

MODULE = "module"
REALTIME = "realtime-scanner"
SCHEDULER = "scheduler"
OPERATIONS = "operations"
MEANINGS = {
    MODULE: "all of the services below",
    REALTIME: "takes events in and watches the AppServer",
    SCHEDULER: "queues SmartScan and other jobs at their times",
    OPERATIONS: "works on queued operations; what runs goes on to its end",
}
"""Every service by its name."""
PARTS = (REALTIME, SCHEDULER, OPERATIONS)

log = structlog.get_logger(__name__)


class Services:
    """Starts and stops; used from the event loop. `realtime_wanted` is what the attribute says."""

    def __init__(
        self,
        *,
        realtime: RealtimeScanner,
        scheduler: Scheduler,
        queue: OperationsQueue,
        realtime_wanted: Callable[[], bool],
        started: bool = True,
    ) -> None:
        self._realtime = realtime
        self._scheduler = scheduler
        self._queue = queue
        self._realtime_wanted = realtime_wanted
        self._started = dict.fromkeys(PARTS, started)
        self._returned: list[Callable[[], None]] = []
        self.apply()

    def on_realtime_return(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the Realtime Scanner is turned on after it was off."""
        self._returned.append(listener)

    @property
    def stopped(self) -> list[str]:
        """The services that an admin stopped."""
        return [name for name, started in self._started.items() if not started]

    def start(self, name: str) -> None:
        """Start a service; nothing happens where it runs. Raises `UsageError` for an unknown one."""
        self._set(name, started=True)

    def stop(self, name: str) -> None:
        """Stop a service; nothing happens where it is stopped. Raises `UsageError` for an unknown one."""
        self._set(name, started=False)

    def apply(self) -> None:
        """Let every part be as its service and the attributes say."""
        was_on = self._realtime.enabled
        self._realtime.enable(enabled=self._started[REALTIME] and self._realtime_wanted())
        self._scheduler.hold(held=not self._started[SCHEDULER])
        self._queue.hold(held=not self._started[OPERATIONS])
        if self._realtime.enabled and not was_on:
            for listener in self._returned:
                listener()

    def views(self) -> tuple[ServiceView, ...]:
        """Return every service as it is now."""
        parts = [
            ServiceView(
                name=name,
                running=self._started[name] and (name != REALTIME or self._realtime.enabled),
                meaning=MEANINGS[name],
                note=self._note(name),
            )
            for name in PARTS
        ]
        whole = ServiceView(
            name=MODULE,
            running=any(self._started.values()),
            meaning=MEANINGS[MODULE],
            note=self._note(MODULE),
        )
        return (whole, *parts)

    def _note(self, name: str) -> str:
        if name == MODULE:
            stopped = self.stopped
            return f"stopped: {', '.join(stopped)}" if 0 < len(stopped) < len(PARTS) else ""
        if name == REALTIME and self._started[REALTIME]:
            return self._realtime.trouble if self._realtime_wanted() else "off by ZxBackup_RealTimeScanner"
        return ""

    def _set(self, name: str, *, started: bool) -> None:
        known = next((one for one in MEANINGS if squashed(one) == squashed(name)), None)
        if known is None:
            raise UsageError(
                f"no service is called {name[:80]!r}", hint=did_you_mean(name, MEANINGS, what="service")
            )
        for part in PARTS if known == MODULE else (known,):
            self._started[part] = started
        log.warning("service_set", service=known, started=started)
        self.apply()
