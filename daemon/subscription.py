"""The subscription: events from the broker into the journal, acknowledged only once they are durable.

What arrives waits in `Arrivals`, which is bounded (reading stops where it is full), and goes through
`Intake`: decoded, journaled, acknowledged.

Failures: a lost connection is tried again with back-off; what it had delivered is forgotten unless
journaled, because the broker delivers it again. A session that the broker lost is told to `on_gap`, before
anything of the new session is asked for. All of it is visible in `status`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import aiomqtt
import msgspec
import structlog

from backupd.clock import Clock
from backupd.events import EVENT_BYTES_MAX, subscription_topic
from daemon.arrivals import Arrivals, Decoding
from daemon.broker_address import BrokerAddress, explained
from daemon.connection import Connection, Granted
from daemon.intake import Intake
from daemon.quarantine import Quarantine

RETRY_SECONDS_MIN = 0.5
RETRY_SECONDS_MAX = 30.0
EMBEDDED_RESTART = "embedded_restart"
"""The reason of the gap that every start with the embedded broker opens, and a scan heals at once."""

log = structlog.get_logger(__name__)


class SubscriptionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the subscription is doing. `attempts` counts since the last success; counts are since the start.

    `paused` says why nothing is taken (empty: it is). `waiting_events` have arrived and are not acknowledged.
    `connections_lost` counts attempts that failed, too.
    """

    broker: str
    connected: bool = False
    since: datetime | None = None
    session_resumed: bool = False
    granted: Granted | None = None
    attempts: int = 0
    last_error: str = ""
    paused: str = ""
    received: int = 0
    redelivered: int = 0
    connections_lost: int = 0
    journaled: int = 0
    refused: dict[str, int] = {}
    waiting_events: int = 0
    last_event: datetime | None = None


class Subscription:
    """Keeps a connection, and what arrives over it on its way into the journal, until cancelled.

    `journal` makes payloads durable before it returns and raises `SpaceExhausted` or `OSError` where it
    can't. `on_gap(reason, detail)` and `on_session()` are durable on return and raise the same. `on_session`
    is called when a first session begins: from then on `session_expected` is true, also for the next
    process, and a broker that does not know the session any more has lost events. `persistent` False is for
    the embedded broker, which speaks MQTT 3.1.1 and keeps no session: each connection is a new one.
    """

    def __init__(
        self,
        *,
        address: BrokerAddress,
        server_id: str,
        clock: Clock,
        journal: Callable[[Sequence[bytes]], Awaitable[None]],
        quarantine: Quarantine,
        on_gap: Callable[[str, str], Awaitable[None]],
        on_session: Callable[[], Awaitable[None]],
        session_expected: bool,
        persistent: bool = True,
        event_bytes_max: int = EVENT_BYTES_MAX,
    ) -> None:
        self._address = address
        self._server_id = server_id
        self._clock = clock
        self._on_gap = on_gap
        self._on_session = on_session
        self._session_expected = session_expected
        self._persistent = persistent
        self._decoding = Decoding(server_id=server_id, clock=clock, event_bytes_max=event_bytes_max)
        self._intake = Intake(journal=journal, quarantine=quarantine, decoding=self._decoding, clock=clock)
        self._subscribed = asyncio.Event()
        self._connection: Connection | None = None
        self._since: datetime | None = None
        self._failures = 0
        self._connections_lost = 0
        self._last_error = ""
        self._received = 0
        self._redelivered = 0

    @property
    def status(self) -> SubscriptionStatus:
        """What the subscription is doing at this moment."""
        connection = self._connection
        return SubscriptionStatus(
            broker=str(self._address),
            connected=self._subscribed.is_set(),
            since=self._since,
            session_resumed=connection is not None and connection.session_present,
            granted=connection.granted if connection is not None else None,
            attempts=self._failures,
            last_error=self._last_error,
            paused=self._intake.paused,
            received=self._received + (connection.arrivals.received if connection else 0),
            redelivered=self._redelivered + (connection.redelivered if connection else 0),
            connections_lost=self._connections_lost,
            journaled=self._intake.journaled,
            refused=dict(self._decoding.refused),
            waiting_events=len(connection.arrivals) + self._intake.in_flight if connection else 0,
            last_event=self._intake.last_event,
        )

    @property
    def takes_events(self) -> bool:
        """Whether what is published now is received soon; a publisher of this process waits where not."""
        connection = self._connection
        return (
            connection is not None
            and self._subscribed.is_set()
            and not self._intake.paused
            and connection.arrivals.has_room
        )

    async def wait_until_subscribed(self) -> None:
        """Wait until the broker has taken the subscription: from then on nothing published is missed."""
        await self._subscribed.wait()

    async def run(self) -> None:
        """Receive, journal and acknowledge until cancelled; then acknowledge what is durable and leave.

        May be called again after it was cancelled.
        """
        while True:
            began = self._clock.monotonic()
            try:
                self._last_error = await self._serve()
            except (aiomqtt.MqttError, OSError, UnicodeDecodeError) as error:
                self._last_error = explained(error, self._address)
            if self._clock.monotonic() - began > RETRY_SECONDS_MAX:
                self._failures = 0
            self._failures += 1
            self._connections_lost += 1
            seconds = min(RETRY_SECONDS_MIN * 2 ** min(self._failures - 1, 16), RETRY_SECONDS_MAX)
            seconds *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads reconnects, keeps no secret
            log.warning(
                "broker_connection_lost",
                reason=self._last_error,
                attempts=self._failures,
                retry_seconds=round(seconds, 2),
            )
            await self._clock.sleep(seconds)

    async def _serve(self) -> str:
        """Live through one connection; return why it ended."""
        connection = Connection(
            self._address,
            identifier=f"backupd-{self._server_id}",
            arrivals=Arrivals(),
            persistent=self._persistent,
        )
        await connection.open()
        self._connection = connection
        is_remembered = False
        try:
            await self._remember(connection)
            is_remembered = True
            async with asyncio.TaskGroup() as tasks:
                # Before subscribing: a broker that knows our session sends its backlog first, and its answer
                # to the subscription behind that.
                intake = tasks.create_task(
                    self._intake.run(connection.arrivals, connection.acknowledge, connection.read_on),
                    name="intake",
                )
                subscribing = tasks.create_task(self._subscribe(connection), name="subscribing")
                reason = await connection.wait_until_lost()
                intake.cancel()
                subscribing.cancel()
        finally:
            self._subscribed.clear()
            self._since = self._clock.now()
            self._received += connection.arrivals.received
            self._redelivered += connection.redelivered
            self._connection = None
            # A session whose beginning could not be written down must not look like a known one next time.
            await connection.close(forget_session=not is_remembered)
        return f"{self._address}: {reason}"

    async def _remember(self, connection: Connection) -> None:
        """Remember the session or its loss, durably, before anything of it is asked for."""
        if not self._session_expected:
            await self._intake.until_durable("session", self._on_session)
            self._session_expected = True
        elif not connection.session_present:
            reason, detail = "session_lost", f"{self._address} does not know our session any more"
            if self._address.forgets:
                reason, detail = (
                    EMBEDDED_RESTART,
                    "the embedded broker keeps nothing over a restart of the daemon",
                )
            await self._intake.until_durable("gap", lambda: self._on_gap(reason, detail))

    async def _subscribe(self, connection: Connection) -> None:
        try:
            await connection.subscribe(subscription_topic(self._server_id))
        except aiomqtt.MqttError as error:
            connection.give_up(str(error))
            return
        self._subscribed.set()
        self._since = self._clock.now()
        self._last_error = ""
        log.info("broker_subscribed", broker=str(self._address), session_resumed=connection.session_present)
