"""The publisher: what an AppServer's `watch()` tells, as events to the broker.

Changes are numbered per account within a *source*, which is new for every start, wait in a bounded buffer
and go out in order with QoS 1, a window of them at a time; a window that is not confirmed is sent again over
the next connection (duplicates keep their id). Never silent: an account whose changes did not fit, could
not be written as JSON, or may have been missed by the watch itself is told to `on_gap(account, reason)`,
with the empty account for all of them. A number that was given to a dropped change stays missing, so that
the subscriber sees the hole even where this process dies before `on_gap`.

MQTT 3.1.1 is spoken, because every broker does and nothing of version 5 is needed to publish.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

import aiomqtt
import msgspec
import structlog

from backupd.appservers.base import Watched
from backupd.clock import Clock
from backupd.errors import AppServerUnavailable, SpaceExhausted
from backupd.events import Change, encode_event, event_of, topic_of
from daemon.arrivals import Arrivals
from daemon.broker_address import BrokerAddress, explained
from daemon.connection import Connection

BUFFER_EVENTS_MAX = 20_000
BUFFER_BYTES_MAX = 64 << 20
WINDOW_EVENTS_MAX = 100
RETRY_SECONDS_MIN = 0.5
RETRY_SECONDS_MAX = 30.0
HELD_SECONDS = 0.05
"""How often a publisher that waits for its subscriber looks whether it may go on."""

log = structlog.get_logger(__name__)


class PublisherStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the publisher is doing. `buffered` changes wait; `dropped` ones were told as gaps."""

    broker: str
    source: str
    watching: bool = False
    connected: bool = False
    since: datetime | None = None
    attempts: int = 0
    last_error: str = ""
    published: int = 0
    buffered: int = 0
    dropped: int = 0


class Publisher:
    """Watches and publishes until cancelled. `may_publish` False makes changes wait in the buffer."""

    def __init__(
        self,
        *,
        address: BrokerAddress,
        server_id: str,
        clock: Clock,
        watch: Callable[[], AsyncIterator[Watched]],
        on_gap: Callable[[str, str], Awaitable[None]],
        may_publish: Callable[[], bool] = lambda: True,
        buffer_events_max: int = BUFFER_EVENTS_MAX,
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
    ) -> None:
        self._address = address
        self._server_id = server_id
        self._clock = clock
        self._watch = watch
        self._on_gap = on_gap
        self._may_publish = may_publish
        self._buffer_events_max = buffer_events_max
        self._buffer_bytes_max = buffer_bytes_max
        self._source = f"/appservers/{server_id}/{uuid.uuid4().hex[:12]}"
        self._numbers: Counter[str] = Counter()
        self._buffer: deque[tuple[str, bytes]] = deque()
        self._buffer_bytes = 0
        self._something = asyncio.Event()
        self._watching = asyncio.Event()
        self._connected = False
        self._since: datetime | None = None
        self._failures = 0
        self._last_error = ""
        self._published = 0
        self._dropped = 0

    @property
    def status(self) -> PublisherStatus:
        """What the publisher is doing at this moment."""
        return PublisherStatus(
            broker=str(self._address),
            source=self._source,
            watching=self._watching.is_set(),
            connected=self._connected,
            since=self._since,
            attempts=self._failures,
            last_error=self._last_error,
            published=self._published,
            buffered=len(self._buffer),
            dropped=self._dropped,
        )

    async def wait_until_watching(self) -> None:
        """Wait until the watch has begun: what changes from then on is published or told as a gap."""
        await self._watching.wait()

    async def run(self) -> None:
        """Watch and publish until cancelled. Raises `AppServerRefused` where the AppServer can't tell."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._publish_all(), name="publisher sending")
                tasks.create_task(self._watch_all(), name="publisher watching")
        except BaseExceptionGroup as group:
            # One error is what happened; the group around it says nothing more.
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
        finally:
            self._watching.clear()

    async def _watch_all(self) -> None:
        seconds = RETRY_SECONDS_MIN
        is_first = True
        while True:
            try:
                async for watched in self._watch():
                    if not self._watching.is_set():
                        self._watching.set()
                        seconds = RETRY_SECONDS_MIN
                        if not is_first:
                            await self._tell_gap("", "watch_interrupted")
                        is_first = False
                    await self._take(watched)
                self._last_error = "the AppServer's watch ended"
            except AppServerUnavailable as error:
                self._last_error = str(error)
            self._watching.clear()
            log.warning("watch_interrupted", reason=self._last_error, retry_seconds=seconds)
            await self._clock.sleep(seconds)
            seconds = min(seconds * 2, RETRY_SECONDS_MAX)

    async def _take(self, watched: Watched) -> None:
        gaps: dict[str, str] = {}
        if watched.missed_all:
            gaps[""] = "watch_missed"
        gaps |= dict.fromkeys(watched.missed, "watch_missed")
        for change in watched.changes:
            reason = self._put(change)
            if reason:
                self._dropped += 1
                gaps.setdefault(change.account, reason)
        for account, reason in gaps.items():
            await self._tell_gap(account, reason)

    async def _tell_gap(self, account: str, reason: str) -> None:
        """Tell a gap until it is durable; what happens meanwhile waits in the watch."""
        seconds = RETRY_SECONDS_MIN
        while True:
            try:
                await self._on_gap(account, reason)
            except (SpaceExhausted, OSError) as error:
                log.error("gap_not_stored", account=account, gap=reason, reason=str(error))
                await self._clock.sleep(seconds)
                seconds = min(seconds * 2, RETRY_SECONDS_MAX)
            else:
                return

    def _put(self, change: Change) -> str:
        """Give a change its number and buffer it; return why it was dropped, else the empty text."""
        account = change.account
        self._numbers[account] += 1
        numbered = msgspec.structs.replace(change, number=self._numbers[account])
        try:
            event = event_of(numbered, source=self._source, event_id=str(uuid.uuid4()))
            message = (topic_of(self._server_id, change.key), encode_event(event))
        except (UnicodeError, OverflowError, TypeError, ValueError, RecursionError) as error:
            log.warning("change_unwritable", item=ascii(str(change.key)), reason=str(error))
            return "unwritable_change"
        if (
            len(self._buffer) >= self._buffer_events_max
            or self._buffer_bytes + len(message[1]) > self._buffer_bytes_max
        ):
            return "publisher_buffer_full"
        self._buffer.append(message)
        self._buffer_bytes += len(message[1])
        self._something.set()
        return ""

    async def _publish_all(self) -> None:
        while True:
            try:
                await self._publish_over_one_connection()
            except (aiomqtt.MqttError, OSError, UnicodeDecodeError) as error:
                self._last_error = explained(error, self._address)
            finally:
                self._connected = False
                self._since = self._clock.now()
            self._failures += 1
            seconds = min(RETRY_SECONDS_MIN * 2 ** min(self._failures - 1, 16), RETRY_SECONDS_MAX)
            seconds *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads reconnects, keeps no secret
            log.warning(
                "publisher_connection_lost",
                reason=self._last_error,
                attempts=self._failures,
                retry_seconds=round(seconds, 2),
            )
            await self._clock.sleep(seconds)

    async def _publish_over_one_connection(self) -> None:
        connection = Connection(
            self._address,
            identifier=f"backupd-publisher-{self._server_id}",
            arrivals=Arrivals(),
            persistent=False,
        )
        await connection.open()
        try:
            self._connected = True
            self._since = self._clock.now()
            self._last_error = ""
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send(connection), name="publisher window")
                self._last_error = f"{self._address}: {await connection.wait_until_lost()}"
                sending.cancel()
            if self._address.forgets:
                await self._tell_gap("", "publisher_connection_lost")
        finally:
            await connection.close()

    async def _send(self, connection: Connection) -> None:
        while True:
            await self._something.wait()
            if not self._may_publish():
                await self._clock.sleep(HELD_SECONDS)
                continue
            try:
                await self._publish_window(connection)
            except aiomqtt.MqttError as error:
                connection.give_up(str(error))
                return
            self._failures = 0

    async def _publish_window(self, connection: Connection) -> None:
        """Publish the first messages of the buffer; they leave it when the broker has all of them."""
        window = list(itertools.islice(self._buffer, WINDOW_EVENTS_MAX))
        await connection.publish(window)
        for _topic, payload in window:
            self._buffer.popleft()
            self._buffer_bytes -= len(payload)
        self._published += len(window)
        if not self._buffer:
            self._something.clear()
