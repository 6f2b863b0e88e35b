"""Coalescing: which changes become one transaction, and what is left of each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backupd.coalescing import Entry, Group, coalesce
from backupd.events import Change
from backupd.items import Kind
from backupd.states import ChangeType, Origin
from tests.world.clocks import START

C, M, V, D = ChangeType.CREATED, ChangeType.MODIFIED, ChangeType.MOVED, ChangeType.DELETED
WINDOW = timedelta(milliseconds=100)


def entry(sequence: int, ms: int, kind: ChangeType = M, *, item: str = "1", **more: Any) -> Entry:
    metadata = more.pop("metadata", {"n": sequence})
    return Entry(
        sequence,
        Change(
            account="a",
            kind=Kind.MESSAGE,
            item=item,
            type=kind,
            time=START + timedelta(milliseconds=ms),
            origin=Origin.SMARTSCAN if "basis" in more else Origin.REALTIME,
            event="" if "basis" in more else f"s#{sequence}",
            metadata=None if kind is D else metadata,
            **more,
        ),
    )


def told(groups: list[Group]) -> list[tuple[int, int, ChangeType]]:
    """Return first sequence, transaction and change of each group."""
    return [(group.first, group.transaction.transaction, group.transaction.change) for group in groups]


def test_changes_within_the_window_are_one() -> None:
    """The window counts from the group's first change, and its end belongs to it."""
    entries = [entry(1, 0), entry(2, 60), entry(3, 100), entry(4, 101)]
    assert told(coalesce(entries, WINDOW)) == [(1, 3, M), (4, 4, M)]


def test_a_group_keeps_everything_that_matters() -> None:
    """Last photograph, first time, last number, all events and the last actor are what is left."""
    entries = [entry(1, 0, C, actor={"client": "lmtp"}), entry(2, 5), entry(3, 10, V)]
    (group,) = coalesce(entries, WINDOW)
    assert group.transaction.time == START
    assert group.transaction.events == ("s#1", "s#2", "s#3")
    assert group.transaction.actor == {"client": "lmtp"}
    assert (group.photographed, group.last) == (entries[2].change, entries[2].change)


def test_creation_stays_and_deletion_wins() -> None:
    """A creation followed by changes is a creation, anything followed by a deletion a deletion."""
    assert told(coalesce([entry(1, 0, C), entry(2, 1, M)], WINDOW)) == [(1, 2, C)]
    assert told(coalesce([entry(1, 0, M), entry(2, 1, V), entry(3, 2, M)], WINDOW)) == [(1, 3, V)]
    (group,) = coalesce([entry(1, 0, C), entry(2, 1, D)], WINDOW)
    assert group.transaction.change is D
    assert group.photographed is not None
    assert group.photographed.metadata == {"n": 1}


def test_a_creation_after_a_deletion_is_a_group_of_its_own() -> None:
    """An item deleted and made again at the same moment has been deleted and made again."""
    assert told(coalesce([entry(1, 0, D), entry(2, 1, C)], WINDOW)) == [(1, 1, D), (2, 2, C)]


def test_an_unphotographed_change_outdates_the_photograph_before() -> None:
    """A photograph older than the last change is not the item's: it must be taken anew."""
    (group,) = coalesce([entry(1, 0), entry(2, 1, metadata=None)], WINDOW)
    assert group.photographed is None


def test_scans_are_never_merged() -> None:
    """A scan's finding is a photograph of its own moment: it merges with nothing."""
    entries = [entry(1, 0), entry(2, 1, basis=1), entry(3, 2, basis=1), entry(4, 3)]
    assert [first for first, _, _ in told(coalesce(entries, WINDOW))] == [1, 2, 3, 4]


def test_no_window_merges_nothing() -> None:
    """A window of 0 turns coalescing off, even for changes of the same microsecond."""
    assert len(coalesce([entry(1, 0), entry(2, 0)], timedelta(0))) == 2


def test_items_do_not_meet() -> None:
    """Changes of different items are never merged, however they are interleaved."""
    entries = [entry(1, 0), entry(2, 0, item="2"), entry(3, 1), entry(4, 1, item="2")]
    assert told(coalesce(entries, WINDOW)) == [(1, 3, M), (2, 4, M)]


ENTRIES = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from([C, M, V, D]), st.sampled_from("123"), st.booleans()),
    max_size=40,
).map(
    lambda rows: [
        entry(number, ms, kind, item=item, **({"basis": 0} if scanned else {}))
        for number, (ms, kind, item, scanned) in enumerate(rows, 1)
    ]
)


@given(ENTRIES, st.integers(0, 300))
def test_nothing_is_lost_and_nothing_is_doubled(entries: list[Entry], window_ms: int) -> None:
    """Every entry is in exactly one group, groups are ordered, and each spans no more than its window."""
    window = timedelta(milliseconds=window_ms)
    groups = coalesce(entries, window)
    numbers = [group.transaction.transaction for group in groups]
    assert numbers == sorted(set(numbers))
    events = [event for group in groups for event in group.transaction.events]
    assert sorted(events) == sorted(entry.change.event for entry in entries if entry.change.event)
    scanned = sum(1 for one in entries if one.change.basis is not None)
    assert sum(1 for group in groups if group.last.basis is not None) == scanned
    by_event = {one.change.event: one.change.time for one in entries}
    for group in groups:
        for event in group.transaction.events:
            assert abs(by_event[event] - group.transaction.time) <= window


@given(ENTRIES, st.integers(0, 300))
def test_what_was_last_is_what_is_left(entries: list[Entry], window_ms: int) -> None:
    """Each item's last group ends with the item's last change: its state after replay is its real one."""
    groups = coalesce(entries, timedelta(milliseconds=window_ms))
    for item in {one.change.item for one in entries}:
        last = [one for one in entries if one.change.item == item][-1]
        group = [one for one in groups if one.last.item == item][-1]
        assert group.last == last.change
        assert (group.transaction.change is D) == (last.change.type is D)
        if last.change.metadata is not None:
            assert group.photographed == last.change
