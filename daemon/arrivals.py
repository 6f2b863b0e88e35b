"""Arrivals: what came from the broker and is not yet journaled, in bounds, and its decoding in batches.

`Arrivals` is the bounded queue between the socket and the journal: the reader of the socket asks `is_full`
and stops reading, so that nothing is ever discarded; the broker and the kernel keep the rest. `decode_batch`
turns arrivals into journal payloads and refusals. A *batch* is acknowledged as a whole, after it is durable.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime

import msgspec
import structlog

from backupd import events
from backupd.clock import Clock
from backupd.errors import NotAnEvent
from daemon.quarantine import PAYLOAD_BYTES_MAX, Refused

ARRIVED_EVENTS_MAX = 4096
ARRIVED_BYTES_MAX = 32 << 20
BATCH_EVENTS_MAX = 1000
BATCH_BYTES_MAX = 4 << 20

log = structlog.get_logger(__name__)


class Arrival(msgspec.Struct, frozen=True):
    """A message from the broker. `mid` belongs to its connection; `qos` 0 needs no acknowledgement."""

    topic: str
    payload: bytes
    mid: int
    qos: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Arrivals, decoded: what to journal, what to quarantine, what to acknowledge once both are durable."""

    payloads: Sequence[bytes]
    refused: Sequence[Refused]
    arrivals: Sequence[Arrival]


class Arrivals:
    """A queue bounded in events and bytes. All in the event loop."""

    def __init__(self, *, events_max: int = ARRIVED_EVENTS_MAX, bytes_max: int = ARRIVED_BYTES_MAX) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._queue: deque[Arrival] = deque()
        self._something = asyncio.Event()
        self.waiting_bytes = 0
        self.received = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether reading must stop."""
        return len(self._queue) >= self._events_max or self.waiting_bytes >= self._bytes_max

    @property
    def has_room(self) -> bool:
        """Whether reading may go on after it stopped: at most half of each bound is taken."""
        return len(self._queue) * 2 <= self._events_max and self.waiting_bytes * 2 <= self._bytes_max

    def put(self, arrival: Arrival) -> None:
        """Take an arrival, even beyond the bound: what was read from the socket is never discarded."""
        self._queue.append(arrival)
        self.waiting_bytes += len(arrival.payload)
        self.received += 1
        self._something.set()

    async def take(
        self, *, events_max: int = BATCH_EVENTS_MAX, bytes_max: int = BATCH_BYTES_MAX
    ) -> list[Arrival]:
        """Wait for something, then return as many as are there, in order, within bounds, but at least one."""
        await self._something.wait()
        taken = [self._queue.popleft()]
        size = len(taken[0].payload)
        while self._queue and len(taken) < events_max and size + len(self._queue[0].payload) <= bytes_max:
            arrival = self._queue.popleft()
            size += len(arrival.payload)
            taken.append(arrival)
        self.waiting_bytes -= size
        if not self._queue:
            self._something.clear()
        return taken


class Decoding:
    """What arrivals are decoded with: whose events they must be, their bound, and the count of refusals."""

    def __init__(
        self, *, server_id: str, clock: Clock, event_bytes_max: int = events.EVENT_BYTES_MAX
    ) -> None:
        self._server_id = server_id
        self._clock = clock
        self._event_bytes_max = event_bytes_max
        self._lines = LineLimit(clock)
        self.refused: Counter[str] = Counter()

    def decode(self, arrivals: Sequence[Arrival]) -> Batch:
        """Decode and validate arrivals; one that is no event is refused and never stops the others."""
        received = self._clock.now()
        payloads: list[bytes] = []
        refused: list[Refused] = []
        for arrival in arrivals:
            try:
                change = events.decode(
                    arrival.topic,
                    arrival.payload,
                    server_id=self._server_id,
                    received=received,
                    bytes_max=self._event_bytes_max,
                )
                payloads.append(events.encode_change(change))
            except NotAnEvent as error:
                refused.append(self._refuse(arrival, error, received))
        return Batch(payloads=payloads, refused=refused, arrivals=arrivals)

    def _refuse(self, arrival: Arrival, error: NotAnEvent, received: datetime) -> Refused:
        self.refused[error.reason] += 1
        if self._lines.allows():
            topic = arrival.topic.encode("utf-8", "backslashreplace").decode()[:200]
            log.warning(
                "event_refused",
                topic=topic,
                reason=error.reason,
                message=error.message[:500],
                unlogged_before=self._lines.suppressed(),
            )
        return Refused(
            time=received,
            topic=arrival.topic,
            reason=error.reason,
            message=error.message,
            payload=arrival.payload[:PAYLOAD_BYTES_MAX],
            size=len(arrival.payload),
        )


class LineLimit:
    """At most so many log lines in so many seconds; counts what was left out."""

    def __init__(self, clock: Clock, *, lines_max: int = 20, seconds: float = 60.0) -> None:
        self._clock = clock
        self._lines_max = lines_max
        self._seconds = seconds
        self._began = clock.monotonic()
        self._lines = 0
        self._suppressed = 0

    def allows(self) -> bool:
        """Tell whether one more line may be written; counts it."""
        now = self._clock.monotonic()
        if now - self._began >= self._seconds:
            self._began, self._lines = now, 0
        if self._lines >= self._lines_max:
            self._suppressed += 1
            return False
        self._lines += 1
        return True

    def suppressed(self) -> int:
        """Return how many lines were left out since this was last asked."""
        count, self._suppressed = self._suppressed, 0
        return count
