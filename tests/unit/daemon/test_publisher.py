"""The publisher: changes become numbered events in order, and nothing is dropped in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backupd.appservers.base import Watched
from backupd.errors import AppServerRefused, AppServerUnavailable
from backupd.events import Change
from backupd.items import Kind
from backupd.states import ChangeType, Origin
from daemon.broker_address import BrokerAddress
from daemon.embedded_broker import EmbeddedBroker
from daemon.publisher import Publisher
from tests.world.subscriber import SERVER_ID, HastyClock, Pipeline, running, until

NOWHERE = BrokerAddress(host="127.0.0.1", port=1)


def change(number: int, account: str = "alice", **facts: Any) -> Change:
    return Change(
        account=account,
        kind=Kind.MESSAGE,
        item=str(number),
        type=ChangeType.CREATED,
        time=datetime(2026, 11, 23, tzinfo=UTC),
        origin=Origin.REALTIME,
        metadata={"folder": "INBOX"} | facts,
    )


class Watch:
    """A watch that yields what a test puts in; an exception ends it."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Watched | Exception] = asyncio.Queue()

    async def __call__(self) -> AsyncIterator[Watched]:
        yield Watched()
        while True:
            batch = await self.batches.get()
            if isinstance(batch, Exception):
                raise batch
            yield batch


@pytest.fixture
async def watch() -> Watch:
    return Watch()


class Gaps:
    """The gaps that were told; a trouble is raised once for each time it is in the list."""

    def __init__(self, *troubles: Exception) -> None:
        self.told: list[tuple[str, str]] = []
        self._troubles = list(troubles)

    async def __call__(self, account: str, reason: str) -> None:
        if self._troubles:
            raise self._troubles.pop()
        self.told.append((account, reason))


def publisher(
    address: BrokerAddress,
    watch: Watch,
    gaps: Gaps,
    may_publish: Callable[[], bool] = lambda: True,
    buffer_events_max: int = 1000,
    buffer_bytes_max: int = 1 << 20,
) -> Publisher:
    return Publisher(
        address=address,
        server_id=SERVER_ID,
        clock=HastyClock(),
        watch=watch,
        on_gap=gaps,
        may_publish=may_publish,
        buffer_events_max=buffer_events_max,
        buffer_bytes_max=buffer_bytes_max,
    )


def journaled(pipeline: Pipeline) -> list[Change]:
    content = pipeline.journal_file.read_bytes() if pipeline.journal_file.exists() else b""
    whole, _, _being_written = content.rpartition(b"\n")
    return [msgspec.json.decode(line, type=Change) for line in whole.splitlines()]


async def test_changes_are_numbered_per_account_and_arrive_in_order(watch: Watch, tmp_path: Path) -> None:
    """Through a broker into the journal: order kept, numbers without holes, one source, distinct ids."""
    gaps = Gaps()
    async with EmbeddedBroker() as broker:
        pipeline = Pipeline(broker.address, tmp_path, persistent=False)
        sender = publisher(
            broker.address, watch, gaps, may_publish=lambda: pipeline.subscription.takes_events
        )
        async with running(pipeline.subscription.run(), sender.run()):
            await sender.wait_until_watching()
            sent = [change(number, "alice" if number % 3 else "bob") for number in range(250)]
            watch.batches.put_nowait(Watched(changes=sent[:200]))
            watch.batches.put_nowait(Watched(changes=sent[200:]))
            await until(lambda: len(journaled(pipeline)) == 250)
            assert (sender.status.published, sender.status.buffered) == (250, 0)
            assert sender.status.connected
    arrived = journaled(pipeline)
    assert [one.item for one in arrived] == [one.item for one in sent]
    for account in ("alice", "bob"):
        numbers = [one.number for one in arrived if one.account == account]
        assert numbers == list(range(1, len(numbers) + 1))
    assert len({one.event for one in arrived}) == 250
    assert {one.event.split("#")[0] for one in arrived} == {sender.status.source}
    assert gaps.told == []


async def test_each_publisher_is_a_source_of_its_own(watch: Watch) -> None:
    """Numbers begin again with a new source, so that they never look like holes or repetitions."""
    sources = {publisher(NOWHERE, watch, Gaps()).status.source for _ in range(2)}
    assert len(sources) == 2
    assert all(source.startswith(f"/appservers/{SERVER_ID}/") for source in sources)


async def test_changes_wait_while_nobody_would_receive_them(watch: Watch, tmp_path: Path) -> None:
    """Held back by its subscriber, the publisher keeps changes, then sends them."""
    gaps, is_open = Gaps(), False
    async with EmbeddedBroker() as broker:
        pipeline = Pipeline(broker.address, tmp_path, persistent=False)
        sender = publisher(broker.address, watch, gaps, may_publish=lambda: is_open)
        async with running(pipeline.subscription.run(), sender.run()):
            watch.batches.put_nowait(Watched(changes=[change(1)]))
            await until(lambda: sender.status.buffered == 1 and sender.status.connected)
            await pipeline.subscription.wait_until_subscribed()
            assert sender.status.published == 0
            is_open = True
            await until(lambda: len(journaled(pipeline)) == 1)
    assert gaps.told == []


@pytest.mark.parametrize("bound", [{"buffer_events_max": 3}, {"buffer_bytes_max": 1100}])
async def test_a_full_buffer_is_told_as_a_gap_of_the_accounts(watch: Watch, bound: dict[str, int]) -> None:
    """With the broker away, what does not fit is counted, and each account it concerns told."""
    gaps = Gaps()
    sender = publisher(NOWHERE, watch, gaps, **bound)
    async with running(sender.run()):
        watch.batches.put_nowait(Watched(changes=[change(number) for number in range(3)]))
        watch.batches.put_nowait(Watched(changes=[change(4, "bob"), change(5, "eve"), change(6, "bob")]))
        await until(lambda: len(gaps.told) == 2)
        assert gaps.told == [("bob", "publisher_buffer_full"), ("eve", "publisher_buffer_full")]
        assert (sender.status.buffered, sender.status.dropped) == (3, 3)
        await until(lambda: "nobody listens there" in sender.status.last_error)
        assert sender.status.attempts > 0


async def test_what_the_watch_missed_is_told_as_a_gap(watch: Watch) -> None:
    """Of some accounts or of all."""
    gaps = Gaps()
    async with running(publisher(NOWHERE, watch, gaps).run()):
        watch.batches.put_nowait(Watched(missed=frozenset({"alice"})))
        watch.batches.put_nowait(Watched(missed_all=True))
        await until(lambda: gaps.told == [("alice", "watch_missed"), ("", "watch_missed")])


async def test_a_change_that_can_not_be_written_is_told_and_the_others_go_on(watch: Watch) -> None:
    """A file name that is no UTF-8 must not stop the publisher."""
    gaps = Gaps()
    sender = publisher(NOWHERE, watch, gaps)
    async with running(sender.run()):
        watch.batches.put_nowait(Watched(changes=[change(1, name="\udcff"), change(2)]))
        await until(lambda: gaps.told == [("alice", "unwritable_change")])
        assert (sender.status.buffered, sender.status.dropped) == (1, 1)


async def test_a_gap_that_can_not_be_stored_is_told_again(watch: Watch) -> None:
    """A full disk does not lose the gap."""
    gaps = Gaps(OSError(28, "No space left on device"), OSError(28, "No space left on device"))
    async with running(publisher(NOWHERE, watch, gaps).run()):
        watch.batches.put_nowait(Watched(missed_all=True))
        await until(lambda: gaps.told == [("", "watch_missed")])


async def test_a_watch_that_broke_off_begins_again_and_is_a_gap(watch: Watch) -> None:
    """What happened in between may have been missed."""
    gaps = Gaps()
    sender = publisher(NOWHERE, watch, gaps)
    async with running(sender.run()):
        await sender.wait_until_watching()
        watch.batches.put_nowait(AppServerUnavailable("the root is missing"))
        await until(lambda: gaps.told == [("", "watch_interrupted")])
        assert sender.status.watching


async def test_an_appserver_that_can_not_tell_ends_the_publisher(watch: Watch) -> None:
    """Refused is not worth trying again; whoever runs the publisher learns of it."""
    sender = publisher(NOWHERE, watch, Gaps())
    watch.batches.put_nowait(AppServerRefused("this AppServer can't watch"))
    with pytest.raises(AppServerRefused):
        await asyncio.wait_for(sender.run(), 30)


async def test_a_lost_connection_to_a_broker_that_forgets_is_a_gap(watch: Watch) -> None:
    """The embedded broker may drop what it confirmed: that is told, and the publisher connects again."""
    gaps = Gaps()
    async with EmbeddedBroker() as broker:
        sender = publisher(broker.address, watch, gaps)
        async with running(sender.run()):
            await until(lambda: sender.status.connected)
            await broker.__aexit__(None, None, None)
            await until(lambda: gaps.told == [("", "publisher_connection_lost")])
            assert not sender.status.connected
            await broker.__aenter__()
