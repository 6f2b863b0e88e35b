"""The embedded broker, with the real subscription and the real publisher in one process."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from backupd.errors import SpaceExhausted
from daemon.arrivals import Arrivals
from daemon.embedded_broker import HOST, BrokerUnavailable, EmbeddedBroker
from tests.world.brokers import PASSWORD, USERNAME
from tests.world.flood import connect, event_payload, packet, publish, text
from tests.world.subscriber import SERVER_ID, Pipeline, running, until


@asynccontextmanager
async def published(port: int, count: int) -> AsyncIterator[None]:
    """Publish events. The publisher stays: amqtt drops what it confirmed to one that left."""
    packets = [
        packet(
            0x32,
            text(f"backupd/v1/{SERVER_ID}/alice/message/{number}")
            + (number + 1).to_bytes(2, "big")
            + event_payload(number),
        )
        for number in range(count)
    ]
    with await asyncio.to_thread(connect, port) as connection:
        assert await asyncio.to_thread(publish, connection, packets) == count
        yield


def has_journaled(pipeline: Pipeline, count: int) -> bool:
    return pipeline.subscription.status.journaled == count


async def test_events_arrive_in_order_and_each_connection_is_a_gap(tmp_path: Path) -> None:
    """A round trip; as the broker keeps nothing, every connection but the first is a lost session."""
    pipeline = Pipeline(EmbeddedBroker().address, tmp_path)
    for count in (200, 400):
        async with EmbeddedBroker(username=USERNAME, password=PASSWORD) as broker:
            pipeline.subscription._address = broker.address
            pipeline.subscription._persistent = False
            async with running(pipeline.subscription.run()):
                await pipeline.subscription.wait_until_subscribed()
                async with published(broker.address.port, 200):
                    await until(functools.partial(has_journaled, pipeline, count))
    assert pipeline.ids == [f"event-{number}" for number in range(200)] * 2
    assert [reason for reason, _ in pipeline.gaps] == ["embedded_restart"]


async def test_reading_stops_where_the_queue_is_full_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that sends without end is held up by our queue, whose bound holds; all arrives later."""
    count, bound = 2500, 300
    monkeypatch.setattr("daemon.subscription.Arrivals", functools.partial(Arrivals, events_max=bound))
    async with EmbeddedBroker(username=USERNAME, password=PASSWORD) as broker:
        pipeline = Pipeline(broker.address, tmp_path, persistent=False)
        pipeline.trouble = SpaceExhausted("full")
        async with running(pipeline.subscription.run()):
            await pipeline.subscription.wait_until_subscribed()
            async with published(broker.address.port, count):
                await until(lambda: pipeline.subscription._connection.arrivals.is_full)
                assert len(pipeline.subscription._connection.arrivals) == bound
                assert not pipeline.subscription.takes_events
                pipeline.trouble = None
                await until(lambda: pipeline.subscription.status.journaled == count)
    assert msgspec.json.decode(event_payload(count - 1))["id"] == pipeline.ids[-1]
    assert len(set(pipeline.ids)) == count


async def test_only_who_knows_the_secret_gets_in(tmp_path: Path) -> None:
    """Other users of the machine can't publish into the backup; the secret is new for every start."""
    async with EmbeddedBroker() as first, EmbeddedBroker() as second:
        assert first.address.password() != second.address.password()
        assert first.address.host == HOST
        stranger = Pipeline(
            msgspec.structs.replace(first.address, secret="guess"), tmp_path, persistent=False
        )
        async with running(stranger.subscription.run()):
            await until(lambda: bool(stranger.subscription.status.last_error))
            assert not stranger.subscription.status.connected
        nobody = msgspec.structs.replace(first.address, username=None, secret=None)
        stranger = Pipeline(nobody, tmp_path, persistent=False)
        async with running(stranger.subscription.run()):
            await until(lambda: bool(stranger.subscription.status.last_error))
            assert not stranger.subscription.status.connected


async def test_anonymous_where_asked_for(tmp_path: Path) -> None:
    """An admin can open it for everybody on the machine."""
    async with EmbeddedBroker(anonymous=True) as broker:
        pipeline = Pipeline(broker.address, tmp_path, persistent=False)
        async with running(pipeline.subscription.run()):
            await asyncio.wait_for(pipeline.subscription.wait_until_subscribed(), 30)


async def test_a_port_that_is_taken_is_told() -> None:
    """The error names the port."""
    async with EmbeddedBroker() as broker:
        with pytest.raises(BrokerUnavailable, match=str(broker.address.port)):
            async with EmbeddedBroker(port=broker.address.port):
                raise AssertionError
