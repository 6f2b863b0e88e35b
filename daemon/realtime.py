"""The Realtime Scanner: broker, subscription and publisher as one, turned on and off at run time.

On, events come in and are journaled. Off, nothing is taken; a real broker keeps the events of the session
meanwhile, the embedded one is not even started. Turning it on again asks for a SmartScan, because what
happened meanwhile may have gone unseen. Nobody sees what an AppServer does while it is not watched, so every
beginning of our own watch is a gap too; the embedded broker's lost session tells as much by itself. A part
that ends with an operating error is shown in `trouble` and started again with back-off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import structlog

from backupd.appservers.base import Watched
from backupd.clock import Clock
from backupd.errors import BackupdError, SpaceExhausted
from daemon.broker_address import BrokerAddress
from daemon.embedded_broker import EmbeddedBroker
from daemon.publisher import Publisher
from daemon.quarantine import Quarantine
from daemon.subscription import Subscription

RETRY_SECONDS_MAX = 30.0
GATHER_SECONDS_MAX = 20.0

log = structlog.get_logger(__name__)


class RealtimeScanner:
    """Runs while `enabled`. `address` None means the embedded broker; `watch` None publishes nothing of ours.

    `journal`, `on_gap` and `on_session` are what `Subscription` needs; `on_missed(account, reason)` is
    durable on return. `session_expected` blocks.
    """

    def __init__(
        self,
        *,
        server_id: str,
        clock: Clock,
        address: BrokerAddress | None,
        watch: Callable[[], AsyncIterator[Watched]] | None,
        journal: Callable[[Sequence[bytes]], Awaitable[None]],
        quarantine: Quarantine,
        on_gap: Callable[[str, str], Awaitable[None]],
        on_missed: Callable[[str, str], Awaitable[None]],
        on_session: Callable[[], Awaitable[None]],
        session_expected: Callable[[], bool],
        event_bytes_max: int,
        enabled: bool,
    ) -> None:
        self._server_id = server_id
        self._clock = clock
        self._address = address
        self._watch = watch
        self._journal = journal
        self._quarantine = quarantine
        self._on_gap = on_gap
        self._on_missed = on_missed
        self._on_session = on_session
        self._session_expected = session_expected
        self._event_bytes_max = event_bytes_max
        self._enabled = enabled
        self._changed = asyncio.Event()
        self._began = asyncio.Event()
        self.trouble = ""
        self.subscription: Subscription | None = None
        self.publisher: Publisher | None = None

    @property
    def enabled(self) -> bool:
        """Whether the scanner is meant to run."""
        return self._enabled

    @property
    def is_embedded(self) -> bool:
        """Whether the broker is inside this process."""
        return self._address is None

    def enable(self, *, enabled: bool) -> None:
        """Turn the scanner on or off."""
        if enabled != self._enabled:
            self._enabled = enabled
            self._changed.set()

    async def wait_until_gathering(self) -> bool:
        """Wait until changes are taken, for a bounded time; return whether they are.

        Whoever scans everything waits for this first, so that no change falls between the scan and the watch.
        """
        if not self.enabled:
            return False
        try:
            async with asyncio.timeout(GATHER_SECONDS_MAX):
                await self._began.wait()
                if self.subscription is not None:
                    await self.subscription.wait_until_subscribed()
                if self.publisher is not None:
                    await self.publisher.wait_until_watching()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Run while enabled, wait while not, until cancelled."""
        while True:
            self._changed.clear()
            if not self._enabled:
                await self._changed.wait()
                continue
            log.info("realtime_scanner_on", embedded=self.is_embedded)
            try:
                async with asyncio.TaskGroup() as tasks:
                    gathering = tasks.create_task(self._gather_again_and_again(), name="realtime gathering")
                    await self._changed.wait()
                    gathering.cancel()
            finally:
                self._began.clear()
                self.subscription = self.publisher = None
            log.info("realtime_scanner_off")

    async def _gather_again_and_again(self) -> None:
        failures = 0
        while True:
            began = self._clock.monotonic()
            try:
                await self._gather()
            except BaseExceptionGroup as group:
                errors, bugs = group.split((BackupdError, OSError))
                if bugs is not None or errors is None:
                    raise
                self.trouble = "; ".join(str(error) for error in errors.exceptions)
            except (BackupdError, OSError) as error:
                self.trouble = str(error)
            finally:
                self._began.clear()
                self.subscription = self.publisher = None
            if self._clock.monotonic() - began > RETRY_SECONDS_MAX:
                failures = 0
            failures += 1
            delay = min(0.5 * 2 ** min(failures, 16), RETRY_SECONDS_MAX)
            log.error("realtime_scanner_failed", error=self.trouble, retry_seconds=delay)
            await self._clock.sleep(delay)

    async def _gather(self) -> None:
        async with AsyncExitStack() as stack:
            address = self._address
            if address is None:
                broker = await stack.enter_async_context(EmbeddedBroker())
                address = broker.address
            subscription = Subscription(
                address=address,
                server_id=self._server_id,
                clock=self._clock,
                journal=self._journal,
                quarantine=self._quarantine,
                on_gap=self._on_gap,
                on_session=self._on_session,
                session_expected=await asyncio.to_thread(self._session_expected),
                persistent=not self.is_embedded,
                event_bytes_max=self._event_bytes_max,
            )
            self.subscription = subscription
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(subscription.run(), name="subscription")
                if self._watch is not None:
                    self.publisher = Publisher(
                        address=address,
                        server_id=self._server_id,
                        clock=self._clock,
                        watch=self._watch if self.is_embedded else self._watch_with_gap,
                        on_gap=self._on_missed,
                        may_publish=lambda: subscription.takes_events,
                    )
                    tasks.create_task(self.publisher.run(), name="publisher")
                self.trouble = ""
                self._began.set()

    async def _watch_with_gap(self) -> AsyncIterator[Watched]:
        """Watch, and tell as it begins that nobody watched before."""
        assert self._watch is not None
        is_first = True
        async for watched in self._watch():
            if is_first:
                await self._tell_unwatched()
                is_first = False
            yield watched

    async def _tell_unwatched(self) -> None:
        seconds = 0.5
        while True:
            try:
                return await self._on_missed("", "watch_began")
            except (SpaceExhausted, OSError) as error:
                log.error("gap_not_stored", gap="watch_began", reason=str(error))
            await self._clock.sleep(seconds)
            seconds = min(seconds * 2, RETRY_SECONDS_MAX)
