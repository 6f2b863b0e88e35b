"""Recording: keeps the recorder going behind the journal, and lets others wait for it.

A round starts when the journal grew and the coalescing window has passed; while intake is under pressure
recording stands back, but never longer than `STAND_BACK_SECONDS_MAX`, so that bursts are acknowledged first
and freshness stays bounded. A round that fails (a full disk, an I/O error) is shown, and tried again with
back-off; nothing is lost, for the journal keeps it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import msgspec
import structlog

from backupd.clock import Clock, wait_until_set
from backupd.errors import BackupdError
from backupd.jobs.record import Recorder
from backupd.store.journal import Journal
from daemon.health import Pulse

STAND_BACK_SECONDS_MAX = 2.0
BACK_OFF_SECONDS_MAX = 30.0
WAITING_ROOM_SECONDS = 2.0
CHECKPOINT_SECONDS = 1.0
ROUND_SECONDS_MAX = 900.0
"""A round that takes longer hangs: the watchdog has the daemon started anew."""
MARKS_MAX = 4_096

log = structlog.get_logger(__name__)
T = TypeVar("T")


class RecordingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far recording is. `paused` is why it can't go on at the moment.

    `unwanted` counts changes that were left out because their account is not backed up.
    """

    journaled: int
    recorded: int
    durable: int
    lag_seconds: float
    paused: str
    unwanted: int = 0


class Recording:
    """The recorder's loop. `grown` may be called from the event loop's thread whenever the journal grew."""

    def __init__(
        self,
        recorder: Recorder,
        journal: Journal,
        *,
        clock: Clock,
        window: timedelta,
        under_pressure: Callable[[], bool] = lambda: False,
        gap_opened: Callable[[], None] = lambda: None,
    ) -> None:
        self.pulse = Pulse("recording", clock, silent_seconds_max=ROUND_SECONDS_MAX)
        self._recorder = recorder
        self._journal = journal
        self._clock = clock
        self._window_seconds = window.total_seconds()
        self._under_pressure = under_pressure
        self._gap_opened = gap_opened
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS_MAX)
        self._wake = asyncio.Event()
        self._advanced = asyncio.Condition()
        self._ripe_through = journal.last_sequence
        self._wanted_durable = 0
        self._paused = ""
        self._wake.set()

    def status(self) -> RecordingStatus:
        """Return how far recording is behind the journal."""
        journaled, recorded = self._journal.last_sequence, self._recorder.cursor
        behind = next((mark for mark, sequence in self._marks if sequence > recorded), None)
        lag = self._clock.monotonic() - behind if behind is not None and journaled > recorded else 0.0
        return RecordingStatus(
            journaled=journaled,
            recorded=recorded,
            durable=self._recorder.durable_cursor,
            lag_seconds=lag,
            paused=self._paused,
            unwanted=self._recorder.counts.unwanted,
        )

    @property
    def cursor(self) -> int:
        """The sequence number up to which everything is recorded."""
        return self._recorder.cursor

    async def between_rounds(self, work: Callable[[], T]) -> T:
        """Run blocking work while histories, blobs and index are its alone (`Recorder.between_rounds`)."""
        return await self._recorder.between_rounds(work)

    def grown(self) -> None:
        """Note that the journal grew just now."""
        self._mark()
        self._wake.set()

    def _mark(self) -> None:
        last = self._journal.last_sequence
        newest = self._marks[-1][1] if self._marks else self._ripe_through
        if newest < last:
            self._marks.append((self._clock.monotonic(), last))

    async def recorded_through(self, sequence: int) -> None:
        """Wait until everything up to a journal entry is recorded and synced."""
        self._wanted_durable = max(self._wanted_durable, sequence)
        self.grown()
        async with self._advanced:
            await self._advanced.wait_for(lambda: self._recorder.durable_cursor >= sequence)

    async def run(self) -> None:
        """Record until cancelled; on the way out what is recorded is made durable."""
        failures = 0
        try:
            while True:
                try:
                    await self._round()
                    failures, self._paused = 0, ""
                except (OSError, BackupdError) as error:
                    failures += 1
                    delay = min(0.5 * 2 ** min(failures, 16), BACK_OFF_SECONDS_MAX)
                    if self._paused != str(error):
                        self._paused = str(error)
                        log.error("recording_paused", error=str(error), retry_seconds=delay)
                    self.pulse.rest()
                    await self._clock.sleep(delay)
        finally:
            await asyncio.shield(self._close())

    async def _close(self) -> None:
        try:
            await self._recorder.checkpoint(force=True)
        except (OSError, BackupdError) as error:
            log.error("last_checkpoint_failed", error=str(error), hint="the next start records it again")

    async def run_waiting_room(self) -> None:
        """Try waiting photographs again and again, until cancelled; all of them once at the start."""
        reason, hastened = "", False
        while True:
            await self._clock.sleep(WAITING_ROOM_SECONDS)
            try:
                if not hastened:
                    await self._recorder.waiting.hasten()
                    hastened = True
                retried = await self._recorder.waiting.retry()
                while retried.more:
                    self.grown()
                    retried = await self._recorder.waiting.retry()
                if retried.settled:
                    self.grown()
                now = retried.reason
            except (OSError, BackupdError) as error:
                now = str(error)
            if now and now != reason:
                log.warning("photographs_still_wait", reason=now)
            reason = now

    async def _round(self) -> None:
        await self._wait_until_there_is_work()
        self.pulse.beat()
        self._look_at_marks()
        before, gaps = self._recorder.cursor, self._gaps()
        recorded = await self._recorder.record_next(self._ripe_through)
        if recorded.entries:
            log.debug("round_recorded", entries=recorded.entries, cursor=self._recorder.cursor)
        if self._gaps() != gaps:
            self._gap_opened()
        force = self._wanted_durable > self._recorder.durable_cursor
        await self._recorder.checkpoint(force=force)
        async with self._advanced:
            self._advanced.notify_all()
        if not recorded.more and self._recorder.cursor == before and recorded.entries:
            await self._clock.sleep(self._seconds_until_ripe())

    def _gaps(self) -> int:
        counts = self._recorder.counts
        return counts.gaps + counts.journal_errors

    async def _wait_until_there_is_work(self) -> None:
        if self._recorder.cursor >= self._journal.last_sequence:
            self.pulse.rest()
            self._wake.clear()
            if self._recorder.durable_cursor < self._recorder.cursor:
                await wait_until_set(self._wake, self._clock, CHECKPOINT_SECONDS)
            else:
                await self._wake.wait()
        stood_back = self._clock.monotonic()
        while self._under_pressure() and self._clock.monotonic() - stood_back < STAND_BACK_SECONDS_MAX:
            await self._clock.sleep(0.05)
        # Whoever appended without a word (an earlier lifetime, a scan) is noticed here.
        self._mark()
        is_awaited = self._wanted_durable > self._recorder.durable_cursor
        if self._journal.last_sequence > self._recorder.cursor and not is_awaited:
            # Where somebody waits, what is ripe is recorded at once: findings always are.
            await self._clock.sleep(self._seconds_until_ripe())

    def _seconds_until_ripe(self) -> float:
        """Seconds until the oldest unrecorded entry is ripe; 0 if it is ripe already."""
        self._look_at_marks()
        if self._ripe_through > self._recorder.cursor or not self._marks:
            return 0.0
        return max(0.0, self._marks[0][0] + self._window_seconds - self._clock.monotonic())

    def _look_at_marks(self) -> None:
        """Forget recorded marks, and move the ripe border to the newest mark older than the window."""
        while self._marks and self._marks[0][1] <= self._recorder.cursor:
            self._marks.popleft()
        border = self._clock.monotonic() - self._window_seconds
        for mark, sequence in self._marks:
            if mark > border:
                break
            self._ripe_through = max(self._ripe_through, sequence)
