"""The plan of uploads: oldest first, packs worth their request, and nobody waits longer than promised."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from backupd.jobs.upload import plan
from backupd.store.outside.catalog import Queued
from backupd.store.packs import PACK_BYTES, PACKED_BYTES_MAX
from tests.world.clocks import START


def waiting(number: int, *, age: float = 0.0, size: int = 5_000, stored: int = 2_000) -> Queued:
    return Queued(f"{number:043d}=", size, stored, START - timedelta(seconds=age))


def test_nothing_waits():
    """Without a queue there is nothing to do until something comes."""
    assert plan.plan([], START, is_remote=True) == plan.Plan((), None)


def test_a_lone_message_goes_out_within_seconds():
    """One small content waits for company, but only for so long; a clock set back does not prolong that."""
    assert plan.plan([waiting(1, age=2)], START, is_remote=True) == plan.Plan((), plan.AGE_SECONDS_MAX - 2)
    (shipment,) = plan.plan([waiting(1, age=5)], START, is_remote=True).shipments
    assert shipment.is_pack
    assert plan.plan([waiting(1, age=-3600)], START, is_remote=True).shipments


def test_a_full_pack_goes_at_once_and_the_rest_waits():
    """What fills a pack is not held back; what is left over waits for its time."""
    count = PACK_BYTES // 2_000 + 1
    queue = [waiting(n, age=1) for n in range(count + 3)]
    planned = plan.plan(queue, START, is_remote=True)
    assert [len(shipment.blobs) for shipment in planned.shipments] == [count]
    assert planned.wait_seconds == 0


def test_a_window_that_is_full_does_not_wait():
    """Where more waits than is looked at, everything in sight goes."""
    queue = [waiting(n, stored=1, size=1) for n in range(plan.WINDOW_MAX)]
    planned = plan.plan(queue, START, is_remote=True)
    assert sum(len(shipment.blobs) for shipment in planned.shipments) == plan.WINDOW_MAX


def test_large_contents_go_alone_and_in_their_order():
    """A large content is no part of a pack, and keeps its place by age."""
    queue = [waiting(1, age=9), waiting(2, age=8, size=PACKED_BYTES_MAX + 1), waiting(3, age=7)]
    planned = plan.plan(queue, START, is_remote=True)
    assert [(one.is_pack, [blob.digest for blob in one.blobs]) for one in planned.shipments] == [
        (True, [queue[0].digest, queue[2].digest]),
        (False, [queue[1].digest]),
    ]


def test_a_mounted_volume_gets_everything_alone_and_at_once():
    """On a mounted volume nothing is bundled and nothing waits."""
    planned = plan.plan([waiting(n) for n in range(plan.SINGLES_MAX + 1)], START, is_remote=False)
    assert [len(one.blobs) for one in planned.shipments] == [plan.SINGLES_MAX, 1]
    assert not any(one.is_pack for one in planned.shipments)


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 3 << 20), st.integers(1, 3 << 20)), max_size=60),
    st.booleans(),
)
def test_nothing_is_left_out_or_sent_twice(blobs, is_remote):
    """Whatever waits is in one shipment or still waits in time; no shipment has more than its bound."""
    queue = sorted(
        (waiting(n, age=age, size=size, stored=stored) for n, (age, size, stored) in enumerate(blobs)),
        key=lambda one: one.since,
    )
    planned = plan.plan(queue, START, is_remote=is_remote)
    sent = [blob for shipment in planned.shipments for blob in shipment.blobs]
    assert len({blob.digest for blob in sent}) == len(sent)
    for blob in queue:
        age = (START - blob.since).total_seconds()
        assert blob in sent or (age < plan.AGE_SECONDS_MAX and planned.wait_seconds is not None)
    for shipment in planned.shipments:
        bound = PACK_BYTES if shipment.is_pack else plan.SINGLES_BYTES_MAX
        assert sum(blob.stored for blob in shipment.blobs[:-1]) < bound
        assert [blob.since for blob in shipment.blobs] == sorted(blob.since for blob in shipment.blobs)
