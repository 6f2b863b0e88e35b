"""Runs of single accounts within one operation: their progress adds up, their errors say whose they are."""

from __future__ import annotations

import threading

import structlog

from backupd.clock import Clock
from backupd.operations import Run

log = structlog.get_logger(__name__)


class Shared:
    """What the accounts of an operation have in common. Thread-safe."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.total = 0
        self.unusable = 0
        """Files of the source that could not be used."""
        self._lock = threading.Lock()
        self._done = 0

    def advance(self, by: int) -> None:
        """Add to what is done of all items."""
        with self._lock:
            self._done += by
            self.run.report(min(self._done, self.total), self.total)

    def strange(self, path: str, reason: str) -> None:
        """Note a file or directory of the source that can't be used."""
        with self._lock:
            self.unusable += 1
        self.run.note_error(path, reason)
        log.warning("source_passed", path=path, reason=reason)


class WithinAccount(Run):
    """The run of one account: stops with the operation, and reports to it."""

    def __init__(self, shared: Shared, account: str, clock: Clock) -> None:
        super().__init__(clock, uuid=shared.run.uuid)
        self._shared = shared
        self._account = account
        self._reported = 0

    def report(self, done: int, total: int | None = None, *, unit: str = "items") -> None:
        """Add what is new to the operation's progress."""
        super().report(done, total, unit=unit)
        self._shared.advance(done - self._reported)
        self._reported = done

    @property
    def reported(self) -> int:
        """How many items this account has said that it did."""
        return self._reported

    def note_error(self, item: str, reason: str) -> None:
        """Note an item with the account it is of."""
        self._shared.run.note_error(f"{self._account}: {item}", reason)

    def check(self) -> None:
        """Raise `OperationStopped` if the operation shall stop."""
        self._shared.run.check()
