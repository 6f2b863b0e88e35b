"""The clock watch: keeps what is known of time, so that a wrong wall clock is noticed before it does harm.

Looks every few minutes and whenever a purge asks; what it knows is in the ledger, so that neither a restart
nor what is recorded under a wrong clock hides a doubt. It also keeps the marks by which deletions count from
when they were recorded. `backupd.timekeeping` says what is in doubt, and when
not any more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from backupd.clock import Clock
from backupd.decoding import decoded
from backupd.errors import BackupdError
from backupd.store.ledger_tables import Remembered
from backupd.store.store import Store
from backupd.timekeeping import Marks, Reckoning, Uptime, accepted, reckon

LOOK_SECONDS = 300.0
NAME = "clock"
MARKS_NAME = "recording_marks"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = structlog.get_logger(__name__)


def system_uptime() -> Uptime:
    """Return the machine's boot and its seconds since, sleep included."""
    try:
        boot = _BOOT_ID.read_text("ascii").strip()
    except OSError:
        boot = ""
    return Uptime(boot, time.clock_gettime(time.CLOCK_BOOTTIME))


class ClockWatch:
    """Any thread may look and accept; both block while the ledger writes."""

    def __init__(self, store: Store, *, clock: Clock, uptime: Callable[[], Uptime] = system_uptime) -> None:
        self._store = store
        self._clock = clock
        self._uptime = uptime
        self._lock = threading.Lock()
        self._kept = Remembered(store.ledger)
        self._reckoning: Reckoning | None = None
        self.doubt = ""
        """Why the clock was not to be believed when it was last looked at; empty where it was."""

    def look(self) -> str:
        """Look at the clock and keep what is known; return the doubt. Raises `SpaceExhausted`, `OSError`."""
        with self._lock:
            known = self._known()
            evidence = None
            if known is None:
                told = self._store.statistics.backup()
                moments = (told.last_scan_started, told.last_scan_ended, told.last_purge_ended)
                evidence = max((one for one in moments if one is not None), default=None)
            found = reckon(known, self._clock.now(), self._uptime(), evidence=evidence)
            if found.doubt and not self.doubt:
                log.error("clock_in_doubt", doubt=found.doubt)
            elif self.doubt and not found.doubt:
                log.info("clock_believed_again")
            # In memory first: a ledger that can't be written must not hide a doubt.
            self.doubt = found.doubt
            self._reckoning = found
            self._kept.keep(NAME, msgspec.json.encode(found))
            self._mark(found)
            return found.doubt

    def accept(self) -> None:
        """Believe the clock as it is now: an admin said so."""
        with self._lock:
            self._reckoning = accepted(self._clock.now(), self._uptime())
            self._kept.keep(NAME, msgspec.json.encode(self._reckoning))
            self._mark(self._reckoning)
            self.doubt = ""

    def believed_now(self) -> datetime:
        """Return the time, by the reckoning where the clock is in doubt; blocks before the first look."""
        return reckon(self._reckoning or self._known(), self._clock.now(), self._uptime()).moment

    def _mark(self, found: Reckoning) -> None:
        before = kept_marks(self._kept)
        marks = before.with_one(found.moment, self._store.journal.last_sequence)
        if marks != before:
            self._kept.keep(MARKS_NAME, msgspec.json.encode(marks))

    async def run(self) -> None:
        """Look now and every few minutes, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.look)
            except (BackupdError, OSError) as error:
                log.warning("clock_not_kept", reason=str(error))
            await self._clock.sleep(LOOK_SECONDS)

    def _known(self) -> Reckoning | None:
        kept = self._kept.get(NAME)
        try:
            return None if kept is None else decoded(kept, Reckoning)
        except msgspec.DecodeError:
            return None


def marks_of(store: Store) -> Marks:
    """Return the marks that a store keeps; blocks."""
    if not store.ledger.rows("SELECT 1 FROM sqlite_master WHERE name = 'remembered'"):
        return Marks()  # an older version wrote it
    return kept_marks(Remembered(store.ledger))


def kept_marks(kept: Remembered) -> Marks:
    """Return the marks that a ledger keeps; none where they can't be read."""
    facts = kept.get(MARKS_NAME)
    try:
        return Marks() if facts is None else decoded(facts, Marks)
    except msgspec.DecodeError:
        return Marks()
