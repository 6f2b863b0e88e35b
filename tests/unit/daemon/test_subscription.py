"""The subscription's connection: what it says when it can't be had, and what it leaves behind (nothing).

The broker here is a few bytes by hand: answers that a well-behaved one rarely gives. The main road is tested
with real brokers (tests/integration/test_mosquitto.py, test_embedded_broker.py).
"""

from __future__ import annotations

import asyncio
import functools
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from backupd.clock import SystemClock
from daemon.arrivals import Arrivals
from daemon.broker_address import BrokerAddress
from daemon.connection import heeding_cancellation
from daemon.subscription import RETRY_SECONDS_MAX
from tests.world.brokers import make_certificates
from tests.world.clocks import FakeClock
from tests.world.flood import event_payload, packet, text
from tests.world.subscriber import SERVER_ID, HastyClock, Pipeline, running, until

CONNACK = b"\x20\x03\x00\x00\x00"
CONNACK_KNOWN = b"\x20\x03\x01\x00\x00"
TAKEN_OVER = b"\xe0\x02\x8e\x00"


class Broker:
    """Answers CONNECT with `connack`, SUBSCRIBE with `code` and then `after`; keeps what it was sent."""

    def __init__(self, connack: bytes = CONNACK, code: int = 1, after: bytes = b"") -> None:
        self.connack = connack
        self.code = code
        self.after = after
        self.connections = 0
        self.open = 0
        self.packets: list[tuple[int, bytes]] = []
        self.address = BrokerAddress(host="127.0.0.1", port=1)

    @asynccontextmanager
    async def serving(self, certificates: Path | None = None) -> AsyncIterator[None]:
        trust = None
        if certificates is not None:
            trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            trust.load_cert_chain(certificates / "server.crt", certificates / "server.key")
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=trust)
        self.address = BrokerAddress(
            host="127.0.0.1",
            port=server.sockets[0].getsockname()[1],
            tls=certificates is not None,
            ca_file=None if certificates is None else certificates / "ca.crt",
        )
        async with server:
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                kind = (await reader.readexactly(1))[0]
                length = (await reader.readexactly(1))[0]
                if length & 128:
                    length = length & 127 | (await reader.readexactly(1))[0] << 7
                body = await reader.readexactly(length)
                self.packets.append((kind, body))
                if kind == 0x10:
                    writer.write(self.connack)
                elif kind == 0x82:
                    writer.write(packet(0x90, body[:2] + b"\x00" + bytes([self.code])) + self.after)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.open -= 1
        finally:
            writer.close()


def delivery(number: int, topic: bytes = b"") -> bytes:
    """Return a PUBLISH packet of MQTT 5 with an event."""
    name = topic or f"backupd/v1/{SERVER_ID}/alice/message/{number}".encode()
    head = len(name).to_bytes(2, "big") + name + number.to_bytes(2, "big") + b"\x00"
    return packet(0x32, head + event_payload(number))


async def test_attempts_come_less_and_less_often(tmp_path: Path) -> None:
    """Back-off grows to its bound, with jitter, and the status counts."""
    clock = FakeClock(instant=True)
    pipeline = Pipeline(BrokerAddress(host="127.0.0.1", port=1), tmp_path, clock=clock)
    async with running(pipeline.subscription.run()):
        await until(lambda: len(clock.slept) >= 12)
        assert pipeline.subscription.status.attempts >= 12
        assert pipeline.subscription.status.connections_lost >= 12
        assert not pipeline.subscription.status.connected
    assert clock.slept[0] <= 0.5
    assert max(clock.slept) <= RETRY_SECONDS_MAX
    assert min(clock.slept[8:]) >= RETRY_SECONDS_MAX / 2
    assert len(set(clock.slept)) > 6


async def test_a_refused_subscription_is_told_and_tried_again(tmp_path: Path) -> None:
    """An access list that forbids the topic must not look like a quiet day."""
    broker = Broker(code=0x87)
    async with broker.serving():
        pipeline = Pipeline(broker.address, tmp_path)
        async with running(pipeline.subscription.run()):
            await until(lambda: broker.connections >= 2)
            await until(lambda: "refuses the subscription" in pipeline.subscription.status.last_error)
            assert not pipeline.subscription.status.connected
        await until(lambda: broker.open == 0)


async def test_the_session_is_asked_for_as_it_must_be(tmp_path: Path) -> None:
    """Clean start off, expiry and receive maximum set, our identifier: else the broker keeps nothing."""
    broker = Broker()
    async with broker.serving():
        pipeline = Pipeline(broker.address, tmp_path)
        async with running(pipeline.subscription.run()):
            await pipeline.subscription.wait_until_subscribed()
    (_, connect), (_, subscribe) = broker.packets[:2]
    assert connect[6] == 5, "MQTT 5"
    assert connect[7] & 0x02 == 0, "clean start"
    assert b"\x11" + (7 * 24 * 3600).to_bytes(4, "big") in connect, "session expiry"
    assert b"\x21" + (1000).to_bytes(2, "big") in connect, "receive maximum"
    assert connect.endswith(text(f"backupd-{SERVER_ID}"))
    assert subscribe[3:] == text(f"backupd/v1/{SERVER_ID}/#") + bytes([0x21]), "QoS 1, no retained messages"


async def test_a_session_taken_over_is_told(tmp_path: Path) -> None:
    """A second daemon with our id is named as the likely reason."""
    broker = Broker(after=TAKEN_OVER)
    async with broker.serving():
        pipeline = Pipeline(broker.address, tmp_path)
        async with running(pipeline.subscription.run()):
            await until(lambda: "second daemon" in pipeline.subscription.status.last_error)


async def test_a_topic_that_is_no_text_is_quarantined(tmp_path: Path) -> None:
    """A broker that lets such a topic through must not make us reconnect for ever."""
    broker = Broker(after=delivery(1, b"backupd/\xff") + delivery(2))
    async with broker.serving():
        pipeline = Pipeline(broker.address, tmp_path)
        async with running(pipeline.subscription.run()):
            await until(lambda: [body for kind, body in broker.packets if kind == 0x40] == [b"\0\1", b"\0\2"])
    assert pipeline.ids == ["event-2"]
    assert pipeline.subscription.status.refused == {"topic": 1}
    assert broker.connections == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="apt-get install openssl")
async def test_events_that_tls_has_decrypted_do_not_wait_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many events in one TLS record, then silence: all are read, though the socket wakes us only once."""
    monkeypatch.setattr("daemon.subscription.Arrivals", functools.partial(Arrivals, events_max=5))
    broker = Broker(after=b"".join(delivery(number) for number in range(1, 31)))
    async with broker.serving(make_certificates(tmp_path / "tls")):
        pipeline = Pipeline(broker.address, tmp_path)
        async with running(pipeline.subscription.run()):
            await until(lambda: pipeline.ids == [f"event-{number}" for number in range(1, 31)])


async def test_bytes_that_are_no_mqtt_end_the_connection(tmp_path: Path) -> None:
    """Garbage is told and the next connection tried; the events before it are journaled."""
    broker = Broker(after=delivery(1) + b"\xf7\x00garbage")
    async with broker.serving():
        pipeline = Pipeline(broker.address, tmp_path)
        async with running(pipeline.subscription.run()):
            await until(lambda: broker.connections >= 2 and bool(pipeline.subscription.status.last_error))


@pytest.mark.parametrize("is_persistent", [True, False])
async def test_a_broker_that_says_nothing_is_left_without_a_trace(
    tmp_path: Path, is_persistent: bool
) -> None:
    """Stopped while the broker has not answered yet, no connection stays open that would take our events."""
    broker = Broker(connack=b"")
    async with broker.serving():
        pipeline = Pipeline(broker.address, tmp_path, persistent=is_persistent)
        async with running(pipeline.subscription.run()):
            await until(lambda: broker.open == 1 and len(broker.packets) == 1)
        await until(lambda: broker.open == 0)


async def test_a_stop_while_connecting_leaves_no_connection(tmp_path: Path) -> None:
    """The thread that connects can't be cancelled; what it opens is closed."""
    broker = Broker()
    async with broker.serving():
        for _ in range(20):
            pipeline = Pipeline(broker.address, tmp_path, clock=HastyClock())
            async with running(pipeline.subscription.run()):
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        await SystemClock().sleep(0.1)
        await until(lambda: broker.open == 0)


async def test_a_cancellation_at_the_moment_of_the_result_is_heeded() -> None:
    """Python 3.11 forgets it in wait_for; a stop would then go on reconnecting for ever."""
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    went_on = False

    async def forget() -> None:
        with suppress(asyncio.CancelledError):
            await answered

    async def work() -> None:
        nonlocal went_on
        await heeding_cancellation(forget())
        went_on = True

    async with running(work()):
        await asyncio.sleep(0)
    assert not went_on


async def test_a_lost_session_is_told_before_its_events_are_asked_for(tmp_path: Path) -> None:
    """The gap is stored first: a crash after the subscription could not tell it any more."""
    order: list[str] = []
    broker = Broker()
    async with broker.serving():
        pipeline = Pipeline(broker.address, tmp_path, session_expected=True)

        async def on_gap(reason: str, _detail: str) -> None:
            order.extend([reason, *("subscribed" for kind, _ in broker.packets if kind == 0x82)])

        pipeline.subscription._on_gap = on_gap
        async with running(pipeline.subscription.run()):
            await pipeline.subscription.wait_until_subscribed()
        assert order == ["session_lost"]
        broker.connack = CONNACK_KNOWN
        async with running(pipeline.subscription.run()):
            await pipeline.subscription.wait_until_subscribed()
            assert pipeline.subscription.status.session_resumed
    assert order == ["session_lost"], "a session that the broker knows is no gap"
