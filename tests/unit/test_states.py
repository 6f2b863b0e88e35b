"""Histories: how states follow each other, what makes one, and which one holds at a moment."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.clock import MICROSECOND
from backupd.items import ItemKey, Kind
from backupd.states import ChangeType, Origin, Photograph, State, Transaction, next_state, state_at
from tests.world.clocks import START

KEY = ItemKey("a", Kind.MESSAGE, "1")
TYPES = [ChangeType.CREATED, ChangeType.MODIFIED, ChangeType.MOVED, ChangeType.DELETED]


def photograph(flag: object = "seen", digest: str | None = None) -> Photograph:
    return Photograph(metadata={"flags": flag}, digest=digest, size=None if digest is None else 1)


def transaction(number: int, change: ChangeType = ChangeType.MODIFIED, **more: Any) -> Transaction:
    when = more.pop("time", START + timedelta(seconds=number))
    return Transaction(transaction=number, key=KEY, time=when, change=change, origin=Origin.REALTIME, **more)


def grown(*steps: tuple[Transaction, Photograph | None]) -> list[State]:
    """Return the history that these transactions make."""
    history: list[State] = []
    for step, picture in steps:
        state = next_state(history[-1] if history else None, step, picture)
        if state is not None:
            history.append(state)
    return history


STEPS = st.lists(
    st.tuples(
        st.integers(1, 30),
        st.sampled_from(TYPES),
        st.integers(-5, 5),
        st.none() | st.sampled_from(["seen", "read", "flagged"]),
    ),
    max_size=30,
)


@given(STEPS)
def test_a_history_only_grows_forward(steps: list[tuple[int, ChangeType, int, str | None]]) -> None:
    """Start-dates and transactions strictly increase, whatever comes, and no neighbours say the same."""
    history = grown(
        *(
            (
                transaction(number, change, time=START + timedelta(seconds=seconds)),
                None if flag is None else photograph(flag),
            )
            for number, change, seconds, flag in steps
        )
    )
    for before, after in pairwise(history):
        assert before.start < after.start
        assert before.transaction < after.transaction
        assert (before.deleted, before.photograph) != (after.deleted, after.photograph)
        assert not (before.deleted and after.deleted)
        if before.deleted:
            assert after.change is ChangeType.CREATED
    for state in history:
        assert state.deleted == (state.change is ChangeType.DELETED)


@given(STEPS)
def test_replay_changes_nothing(steps: list[tuple[int, ChangeType, int, str | None]]) -> None:
    """Recording transactions a second time, in any part, adds nothing to a history that holds them."""
    taken = [
        (transaction(number, change, time=START + timedelta(seconds=at)), flag and photograph(flag))
        for number, change, at, flag in steps
    ]
    taken.sort(key=lambda pair: pair[0].transaction)
    once = grown(*taken)
    if once:
        last = once[-1].transaction
        again = [pair for pair in taken if pair[0].transaction <= last]
        assert all(next_state(once[-1], step, picture) is None for step, picture in again)


def test_an_equal_photograph_makes_no_state() -> None:
    """What looks as before is no transaction; what differs in metadata or content is."""
    history = grown(
        (transaction(1, ChangeType.CREATED), photograph("a")),
        (transaction(2), photograph("a")),
        (transaction(3), photograph("b")),
        (transaction(4), photograph("b", "digest")),
    )
    assert [state.transaction for state in history] == [1, 3, 4]


def test_a_deletion_keeps_the_last_photograph() -> None:
    """A deleted item's last state shows what it was, and is deleted only once."""
    history = grown(
        (transaction(1, ChangeType.CREATED), photograph("a", "digest")),
        (transaction(2, ChangeType.DELETED), None),
        (transaction(3, ChangeType.DELETED), None),
    )
    assert [(state.transaction, state.deleted) for state in history] == [(1, False), (2, True)]
    assert history[1].photograph == history[0].photograph


def test_an_item_that_comes_back_is_created_again() -> None:
    """After a deletion any change is a creation, even with the photograph it went with."""
    history = grown(
        (transaction(1, ChangeType.CREATED), photograph("a")),
        (transaction(2, ChangeType.DELETED), None),
        (transaction(3, ChangeType.MODIFIED), photograph("a")),
    )
    assert [state.change for state in history] == [ChangeType.CREATED, ChangeType.DELETED, ChangeType.CREATED]


def test_an_item_first_heard_of_by_its_deletion_is_recorded() -> None:
    """The fact that an unknown item went is kept, without metadata."""
    (state,) = grown((transaction(1, ChangeType.DELETED), None))
    assert (state.deleted, state.metadata, state.digest) == (True, {}, None)


def test_a_late_event_comes_after_the_last_state() -> None:
    """An event older than the last state gets the next microsecond, and keeps its own time as observed."""
    first, late = grown(
        (transaction(1, ChangeType.CREATED), photograph("a")),
        (transaction(2, time=START - timedelta(days=1)), photograph("b")),
    )
    assert late.start == first.start + MICROSECOND
    assert late.observed == START - timedelta(days=1)
    assert first.observed is None


def test_only_a_cut_name_carries_the_items_id() -> None:
    """A state repeats the item's id only where the file's name can't tell it."""
    assert next_state(None, transaction(1), photograph()).item == ""
    long = msgspec.structs.replace(transaction(1), key=ItemKey("a", Kind.MESSAGE, "x" * 300))
    assert next_state(None, long, photograph()).item == "x" * 300


def test_a_state_is_written_with_the_specifications_keys() -> None:
    """On disk the start is `start-date`, defaults are left out, and everything is read back."""
    state = next_state(None, transaction(1, ChangeType.CREATED, events=("s#1",)), photograph("a", "digest"))
    raw = msgspec.json.decode(msgspec.json.encode(state))
    assert list(raw) == [
        "transaction", "kind", "start-date", "change", "origin", "digest", "size", "metadata", "events",
    ]  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state


def test_the_state_at_a_moment() -> None:
    """A state holds from its start until the next one's; before the first there is none."""
    one, two = grown((transaction(1, ChangeType.CREATED), photograph("a")), (transaction(2), photograph("b")))
    history = [one, two]
    assert state_at(history, one.start - MICROSECOND) is None
    assert state_at(history, one.start) is one
    assert state_at(history, two.start - MICROSECOND) is one
    assert state_at(history, two.start) is two
    assert state_at(history, two.start + timedelta(days=9999)) is two
    assert state_at([], START) is None


@given(STEPS, st.integers(-10, 10))
def test_the_state_at_a_moment_is_the_last_begun(
    steps: list[tuple[int, ChangeType, int, str | None]], seconds: int
) -> None:
    """Bisection finds what a walk over the whole history finds."""
    history = grown(
        *((transaction(number, change), flag and photograph(flag)) for number, change, _, flag in steps)
    )
    when: datetime = START + timedelta(seconds=seconds)
    begun = [state for state in history if state.start <= when]
    assert state_at(history, when) == (begun[-1] if begun else None)


@pytest.mark.parametrize("number", [1, 2])
def test_a_transaction_that_is_not_newer_adds_nothing(number: int) -> None:
    """The recorder may meet a change twice: the history stays as it is."""
    (state,) = grown((transaction(2, ChangeType.CREATED), photograph("a")))
    assert next_state(state, transaction(number), photograph("b")) is None
