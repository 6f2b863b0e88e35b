"""The intake: arrivals become batches, batches become durable, and only then they are acknowledged.

Decoding and syncing overlap: while one batch is being synced the next are decoded, at most
`BATCHES_DECODED_MAX` of them. Acknowledgements go out batch by batch, in order. Refused messages are
quarantined, durably, before they are acknowledged with their batch.

Failures: a journal or quarantine that can't write (`SpaceExhausted`, `OSError`) pauses the intake. The same
batch is tried again, with back-off, until it is durable or the connection it came over is gone; what waits
meanwhile is bounded, the broker keeps the rest. An append that is under way when the intake is cancelled is
waited for, so that what is durable gets acknowledged.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog

from backupd import durable
from backupd.clock import Clock
from backupd.errors import SpaceExhausted
from daemon.arrivals import Arrival, Arrivals, Batch, Decoding
from daemon.quarantine import Quarantine

BATCHES_DECODED_MAX = 2
PAUSE_SECONDS_MIN = 0.5
PAUSE_SECONDS_MAX = 15.0
STOP_SECONDS_MAX = 5.0
"""How long a stop waits for an append that is under way."""

log = structlog.get_logger(__name__)


class Intake:
    """The pipeline from arrivals to the journal. One `run` at a time."""

    def __init__(
        self,
        *,
        journal: Callable[[Sequence[bytes]], Awaitable[None]],
        quarantine: Quarantine,
        decoding: Decoding,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._quarantine = quarantine
        self._decoding = decoding
        self._clock = clock
        self.paused = ""
        """Why nothing is taken; empty while all is well."""
        self.journaled = 0
        self.in_flight = 0
        """Events decoded and not yet acknowledged."""
        self.last_event: datetime | None = None

    async def run(
        self,
        arrivals: Arrivals,
        acknowledge: Callable[[Sequence[Arrival]], None],
        read_on: Callable[[], None],
    ) -> None:
        """Work until cancelled. `read_on` is called whenever there may be room in `arrivals` again."""
        decoded: asyncio.Queue[Batch] = asyncio.Queue(BATCHES_DECODED_MAX)
        self.in_flight = 0
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._decode(arrivals, decoded, read_on), name="intake decoding")
                tasks.create_task(self._make_durable(decoded, acknowledge), name="intake journaling")
        finally:
            self.in_flight = 0
            self.paused = ""

    async def until_durable(self, what: str, action: Callable[[], Awaitable[None]]) -> None:
        """Try an action again and again until the disk takes it; meanwhile the intake counts as paused."""
        seconds = PAUSE_SECONDS_MIN
        while True:
            try:
                await action()
            except (SpaceExhausted, OSError) as error:
                if not self.paused:
                    log.error("intake_paused", step=what, reason=str(error))
                self.paused = str(error) or type(error).__name__
            else:
                if self.paused:
                    log.info("intake_resumed", step=what, reason_before=self.paused)
                self.paused = ""
                return
            await self._clock.sleep(seconds)
            seconds = min(seconds * 2, PAUSE_SECONDS_MAX)

    async def _decode(
        self, arrivals: Arrivals, decoded: asyncio.Queue[Batch], read_on: Callable[[], None]
    ) -> None:
        while True:
            taken = await arrivals.take()
            read_on()
            self.in_flight += len(taken)
            await decoded.put(self._decoding.decode(taken))

    async def _make_durable(
        self, decoded: asyncio.Queue[Batch], acknowledge: Callable[[Sequence[Arrival]], None]
    ) -> None:
        while True:
            batch = await decoded.get()
            # Shielded, and then waited for: a stop lets a batch that is being written become acknowledged.
            step = asyncio.gather(self._take(batch, acknowledge))
            try:
                await asyncio.shield(step)
            except asyncio.CancelledError:
                if not self.paused:
                    await asyncio.wait({step}, timeout=STOP_SECONDS_MAX)
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
                raise

    async def _take(self, batch: Batch, acknowledge: Callable[[Sequence[Arrival]], None]) -> None:
        if batch.refused:
            add = functools.partial(asyncio.to_thread, self._quarantine.add, batch.refused)
            await self.until_durable("quarantine", add)
        if batch.payloads:
            await self.until_durable("journal", functools.partial(self._journal, batch.payloads))
            self.journaled += len(batch.payloads)
            self.last_event = self._clock.now()
        durable.step("intake.journaled")
        acknowledge(batch.arrivals)
        self.in_flight -= len(batch.arrivals)
        durable.step("intake.acknowledged")
        log.debug("batch_acknowledged", events=len(batch.payloads), refused=len(batch.refused))
