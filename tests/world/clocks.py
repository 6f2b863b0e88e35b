"""Clocks for tests: time that stands still until the test moves it, and time that waits for nobody.

`FakeClock` has a wall clock and a monotonic one. `advance` moves both and wakes sleepers in the order of
their times; `jump` sets the wall clock alone, as an admin or NTP does; `suspend` lets the wall clock go on
while timers stand, as a machine does that sleeps. With `instant` nobody waits: sleeping moves time.
"""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 23, 20, 55, tzinfo=UTC)
SETTLE_TURNS = 25
"""Turns of the event loop after each step of time, for what was woken to come to its next wait."""


class FakeClock:
    """A clock that a test owns. Satisfies `backupd.clock.Clock`; used from one event loop."""

    def __init__(self, start: datetime = START, *, instant: bool = False) -> None:
        self._now = start
        self._monotonic = 1000.0
        self._instant = instant
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0
        self.slept: list[float] = []
        """Every wait that was asked for, in seconds."""

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self._instant:
            self._move(max(seconds, 0.0))
            await asyncio.sleep(0)
            return
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._monotonic + seconds, self._count, woken))
        await woken

    @property
    def sleepers(self) -> int:
        """How many wait right now."""
        return sum(1 for _, _, woken in self._sleepers if not woken.done())

    async def advance(self, seconds: float) -> None:
        """Let time pass and wake whoever waits for less, each at its own time."""
        end = self._monotonic + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._move(max(0.0, due - self._monotonic))
            woken.set_result(None)
            await settle()
        self._move(max(0.0, end - self._monotonic))
        await settle()

    def tick(self, seconds: float) -> None:
        """Let time pass without waking anybody: for code that does not wait."""
        self._move(seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back; durations do not notice."""
        self._now += timedelta(seconds=seconds)

    def suspend(self, seconds: float) -> None:
        """Let the machine sleep: the wall clock goes on, timers do not."""
        self.jump(seconds)

    async def wait_until_asleep(self, sleepers: int = 1, *, seconds_max: float = 30.0) -> None:
        """Wait, in real time, until so many wait on this clock; for code that also uses threads."""
        async with asyncio.timeout(seconds_max):
            while self.sleepers < sleepers:  # noqa: ASYNC110 - real threads are at work meanwhile
                await asyncio.sleep(0.001)

    def _move(self, seconds: float) -> None:
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)


async def settle(turns: int = SETTLE_TURNS) -> None:
    """Let everything that can go on without time or threads go on."""
    for _ in range(turns):
        await asyncio.sleep(0)
