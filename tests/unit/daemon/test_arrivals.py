"""The queue between socket and journal, and the decoding of a batch."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from daemon.arrivals import Arrival, Arrivals, Decoding, LineLimit
from tests.world.clocks import FakeClock
from tests.world.flood import event_payload


def arrival(number: int, payload: bytes | None = None, topic: str = "") -> Arrival:
    return Arrival(
        topic or f"backupd/v1/s1/alice/message/{number}",
        event_payload(number) if payload is None else payload,
        number,
        1,
    )


async def test_a_batch_is_everything_that_is_there_in_order() -> None:
    """What arrived while nobody looked comes as one batch."""
    arrivals = Arrivals()
    for number in range(1, 6):
        arrivals.put(arrival(number))
    assert [one.mid for one in await arrivals.take()] == [1, 2, 3, 4, 5]
    assert (len(arrivals), arrivals.waiting_bytes, arrivals.received) == (0, 0, 5)


async def test_a_batch_has_bounds_but_is_never_empty() -> None:
    """Events and bytes bound a batch; one message beyond all bounds still comes, alone."""
    arrivals = Arrivals()
    for size in (10, 10, 10, 1000, 10):
        arrivals.put(arrival(1, b"x" * size))
    sizes = [[len(one.payload) for one in await arrivals.take(events_max=2, bytes_max=100)] for _ in range(4)]
    assert sizes == [[10, 10], [10], [1000], [10]]


async def test_taking_waits_for_something() -> None:
    """An empty queue keeps its taker waiting until the next arrival."""
    arrivals = Arrivals()
    async with asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(arrivals.take())
        await asyncio.sleep(0)
        assert not taking.done()
        arrivals.put(arrival(7))
    assert [one.mid for one in taking.result()] == [7]


@pytest.mark.parametrize("bound", [{"events_max": 4}, {"bytes_max": 4 * 10}])
async def test_reading_stops_at_the_bound_and_goes_on_at_half_of_it(bound: dict[str, int]) -> None:
    """Full at the bound; room again only when half is free, so that reading does not flutter."""
    arrivals = Arrivals(**bound)
    for number in range(4):
        assert not arrivals.is_full
        arrivals.put(arrival(number, b"0123456789"))
    assert arrivals.is_full
    await arrivals.take(events_max=1)
    assert not arrivals.is_full
    assert not arrivals.has_room
    await arrivals.take(events_max=1)
    assert arrivals.has_room


def test_a_bad_message_does_not_stop_the_good_ones(clock: FakeClock) -> None:
    """Events become payloads in order; what is none is refused with reason, topic and payload."""
    decoding = Decoding(server_id="s1", clock=clock)
    bad = [
        arrival(2, b"\xff"),
        arrival(3, topic="backupd/v1/other/alice/message/3"),
        arrival(4, b'{"data":{"metadata":{"x":' + b"[" * 100_000),
        arrival(5, topic="backupd/v1/s1/alice/message/\udcff"),
    ]
    batch = decoding.decode([arrival(1), *bad, arrival(6)])
    assert [msgspec.json.decode(payload)["item"] for payload in batch.payloads] == ["1", "6"]
    assert [one.reason for one in batch.refused] == ["not_json", "other_server", "nesting", "topic"]
    assert [one.topic for one in batch.refused] == [one.topic for one in bad]
    assert batch.refused[2].size == 100_025
    assert len(batch.refused[2].payload) < 100_000
    assert len(batch.arrivals) == 6
    assert decoding.refused == {"not_json": 1, "other_server": 1, "nesting": 1, "topic": 1}


def test_a_message_over_the_bound_is_refused(clock: FakeClock) -> None:
    """event_bytes_max holds."""
    decoding = Decoding(server_id="s1", clock=clock, event_bytes_max=100)
    assert decoding.decode([arrival(1)]).refused[0].reason == "too_large"


def test_log_lines_are_limited_and_what_was_left_out_is_counted(clock: FakeClock) -> None:
    """A flood of bad messages makes few lines; the next window says how many it did not log."""
    limit = LineLimit(clock, lines_max=2, seconds=60)
    assert [limit.allows() for _ in range(5)] == [True, True, False, False, False]
    clock.tick(61)
    assert limit.allows()
    assert limit.suppressed() == 3
    assert limit.suppressed() == 0
