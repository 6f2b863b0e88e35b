"""One connection to the broker: what aiomqtt does, and the three things it does not offer.

These are acknowledging late (after the sync), telling whether the broker knew our session, and reading that
stops where our queue is full. For them the paho client below is reached through the one private attribute of
aiomqtt that this project uses, here and nowhere else (docs/decisions/001-aiomqtt.md); everything used of
paho is public. A connection is used once: message ids belong to it, and a reused client could acknowledge
another message than the one it means.

Failures: `open` raises and leaves nothing behind, also when cancelled while a thread is still connecting;
`wait_until_lost` returns the reason; whatever paho makes of unreadable bytes ends the connection.
"""

from __future__ import annotations

import asyncio
import functools
import math
import socket
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any

import aiomqtt
import msgspec
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from daemon.arrivals import Arrival, Arrivals
from daemon.broker_address import BrokerAddress, told

READ_EVENTS_MAX = 256
"""Messages read from the socket before other tasks get their turn."""
RECEIVE_MAXIMUM = 1000
SESSION_EXPIRY_SECONDS = 7 * 24 * 3600
KEEPALIVE_SECONDS = 20
CONNECT_SECONDS_MAX = 5.0


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker grants: how long it keeps the session while we are away, how large packets may be."""

    session_seconds: int
    packet_bytes_max: int | None = None


class Connection:
    """Messages go into `arrivals`; their acknowledgements wait for us.

    `persistent` asks for MQTT 5 and a session that outlives the connection, by `session_seconds`; else it is
    MQTT 3.1.1 without.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        identifier: str,
        arrivals: Arrivals,
        persistent: bool,
        session_seconds: int = SESSION_EXPIRY_SECONDS,
    ) -> None:
        self.arrivals = arrivals
        self.session_present = False
        self.granted = Granted(session_seconds=session_seconds)
        self.redelivered = 0
        self._address = address
        self._identifier = identifier
        self._persistent = persistent
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[str] = self._loop.create_future()
        self._socket: socket.socket | None = None
        self._is_reading = False
        self._is_abandoned = False

    async def open(self) -> None:
        """Connect. Raises `aiomqtt.MqttError`, `OSError`, `UnicodeDecodeError`; leaves nothing open then."""
        password, trust = await asyncio.to_thread(
            lambda: (self._address.password(), self._address.tls_context())
        )
        session: dict[str, Any] = {"protocol": aiomqtt.ProtocolVersion.V311, "clean_session": True}
        if self._persistent:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = self.granted.session_seconds
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
            session = {
                "protocol": aiomqtt.ProtocolVersion.V5,
                "clean_start": False,
                "properties": properties,
            }
        self._client = aiomqtt.Client(
            self._address.host,
            self._address.port,
            username=self._address.username,
            password=password,
            identifier=self._identifier,
            tls_context=trust,
            keepalive=KEEPALIVE_SECONDS,
            timeout=CONNECT_SECONDS_MAX,
            max_inflight_messages=RECEIVE_MAXIMUM,
            **session,
        )
        self._paho: PahoClient = self._client._client  # noqa: SLF001 - the one private attribute: late acknowledgement
        self._prepare(self._paho)
        try:
            await heeding_cancellation(self._client.__aenter__())
        except BaseException:
            # aiomqtt leaves the socket open when it gives up, and a thread that connects when cancelled.
            self._abandon()
            raise

    def _prepare(self, paho: PahoClient) -> None:
        paho.manual_ack_set(on=True)
        paho.disable_logger()
        paho.connect_timeout = CONNECT_SECONDS_MAX
        paho.on_message = self._on_message
        paho.on_connect = functools.partial(self._on_connect, paho.on_connect)
        paho.on_disconnect = functools.partial(self._on_disconnect, paho.on_disconnect)
        paho.on_socket_open = functools.partial(self._on_socket_open, paho.on_socket_open)

    def _on_connect(self, forward: Any, paho: PahoClient, userdata: Any, flags: Any, *rest: Any) -> None:
        self.session_present = bool(flags.session_present)
        properties = rest[-1] if rest else None
        if isinstance(properties, Properties):
            self.granted = Granted(
                session_seconds=getattr(properties, "SessionExpiryInterval", self.granted.session_seconds),
                packet_bytes_max=getattr(properties, "MaximumPacketSize", None),
            )
        forward(paho, userdata, flags, *rest)

    def _on_disconnect(
        self, forward: Any, paho: PahoClient, userdata: Any, flags: Any, code: Any, *rest: Any
    ) -> None:
        is_told = flags.is_disconnect_packet_from_server and isinstance(code, ReasonCode) and code.value
        self.give_up(told(code) if is_told else "the connection broke off")
        # As a success: nobody asks aiomqtt for the error, and it would complain about that.
        forward(paho, userdata, flags, 0, *rest)

    def _on_socket_open(self, forward: Any, paho: PahoClient, userdata: Any, sock: Any) -> None:
        """Take the reading of the socket over from aiomqtt, so that it can stop. Called in a thread."""
        self._socket = sock
        forward(paho, userdata, sock)
        self._loop.call_soon_threadsafe(self._start_reading)
        if self._is_abandoned:
            self._loop.call_soon_threadsafe(self._abandon)

    def _on_message(self, _paho: PahoClient, _userdata: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError as error:
            topic = error.object.decode("utf-8", "surrogateescape")
        self.redelivered += message.dup
        self.arrivals.put(Arrival(topic, bytes(message.payload), message.mid, message.qos))

    def _start_reading(self) -> None:
        if self._socket is not None and self._socket.fileno() >= 0:
            self._is_reading = True
            self._loop.add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        """Read messages until there are no more, it is others' turn, or the queue is full."""
        arrivals = self.arrivals
        try:
            for _ in range(READ_EVENTS_MAX):
                if arrivals.is_full:
                    self._stop_reading()
                    return
                before = arrivals.received
                self._paho.loop_read()
                if arrivals.received == before and not self._is_buffered():
                    return
        except Exception as error:  # noqa: BLE001 - whatever paho makes of the broker's bytes ends the connection
            self.give_up(f"the broker's answer can't be read: {error!r}")
            self._stop_reading()
            return
        if self._is_buffered():
            self._loop.call_soon(self._read)

    def _is_buffered(self) -> bool:
        """Whether TLS has decrypted more than was read: the socket itself does not tell."""
        pending = getattr(self._socket, "pending", None)
        return pending is not None and self._paho.socket() is not None and pending() > 0

    def _stop_reading(self) -> None:
        self._is_reading = False
        if self._socket is not None and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())

    def read_on(self) -> None:
        """Go on reading where it stopped because of a full queue, if there is room again."""
        if not self._is_reading and self.arrivals.has_room and not self._lost.done():
            self._start_reading()
            self._loop.call_soon(self._read)

    async def subscribe(self, topic: str) -> None:
        """Subscribe with QoS 1. Raises `aiomqtt.MqttError`, also where the broker refuses it.

        Waits until cancelled: the answer may stand behind a backlog of any size.
        """
        if self._persistent:
            options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
            codes = await self._client.subscribe(topic, options=options, timeout=math.inf)
        else:
            codes = await self._client.subscribe(topic, qos=1, timeout=math.inf)
        for code in codes:
            if isinstance(code, ReasonCode) and code.is_failure:
                raise aiomqtt.MqttError(f"the broker refuses the subscription to {topic}: {code}")

    def acknowledge(self, arrivals: Sequence[Arrival]) -> None:
        """Queue acknowledgements; the event loop writes them. Without effect once the connection is lost."""
        acknowledge = self._paho.ack
        for arrival in arrivals:
            if arrival.qos:
                acknowledge(arrival.mid, arrival.qos)

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish (topic, payload) pairs in their order; the broker has all on return. Raises `MqttError`."""
        self._client.pending_calls_threshold = len(messages)
        # gather starts its calls in order, and paho sends in the order of the calls.
        await asyncio.gather(*(self._client.publish(topic, payload, qos=1) for topic, payload in messages))

    def give_up(self, reason: str) -> None:
        """Count the connection as lost from now on; the first reason stays."""
        if not self._lost.done():
            self._lost.set_result(reason)

    async def wait_until_lost(self) -> str:
        """Return why the connection ended, once it has."""
        return await asyncio.shield(self._lost)

    async def close(self, *, forget_session: bool = False) -> None:
        """Write what is queued, tell the broker that we leave (and may forget the session), and close."""
        if forget_session and self._persistent:
            properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0
            self._paho.disconnect(properties=properties)
        try:
            with suppress(aiomqtt.MqttError):
                await heeding_cancellation(self._client.__aexit__(None, None, None))
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """End the connection as it stands; the reader then sees its end and paho closes the socket."""
        self._is_abandoned = True
        if self._socket is not None and self._socket.fileno() >= 0:
            self._start_reading()
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


async def heeding_cancellation(work: Awaitable[object]) -> None:
    """Await work that may swallow a cancellation, and raise it then.

    `asyncio.wait_for` of Python 3.11, which aiomqtt uses, forgets a cancellation that comes at the moment of
    its result: a stop of the daemon would be ignored.
    """
    task = asyncio.current_task()
    requests = task.cancelling() if task is not None else 0
    await work
    if task is not None and task.cancelling() > requests:
        raise asyncio.CancelledError
