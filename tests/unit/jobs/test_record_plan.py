"""The recorder's plan: any journal, cut and replayed anywhere, gives an equal history."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.coalescing import WINDOW, Entry, coalesce
from backupd.events import Change
from backupd.items import ItemKey
from backupd.jobs.record import plan
from backupd.jobs.record.plan import Recent
from backupd.jobs.record.recollection import Recollection
from backupd.states import ChangeType, Photograph, State, next_state
from tests.unit.jobs.worlds import ALICE, change, finding

DELETED, CREATED, EMPTIED = ChangeType.DELETED, ChangeType.CREATED, ChangeType.EMPTIED


class ModelRecorder:
    """Recorder without disk: histories in a dictionary, the AppServer's truth given, crashes at will."""

    def __init__(self, journal: Sequence[Entry], window: timedelta) -> None:
        self.journal = journal
        self.window = window
        self.histories: dict[ItemKey, list[State]] = {}
        self.cursor = 0
        self.durable = 0
        self.seen_through: dict[ItemKey, int] = {}
        self.recollection = Recollection(0)

    def crash(self) -> None:
        self.cursor = self.durable
        self.recollection = Recollection(0)
        for entry in self.journal:
            if entry.sequence <= self.cursor and entry.change.event:
                self.recollection.came_before(entry)

    def recent(self, key: ItemKey) -> Recent:
        states = self.histories.get(key, [])
        events = frozenset(event for state in states for event in state.events)
        return Recent(states[-1] if states else None, events)

    def round(self, entries_max: int, ripe_through: int) -> None:
        entries = [entry for entry in self.journal if entry.sequence > self.cursor][:entries_max]
        if not entries:
            return
        sifted = plan.sift(entries, self.recent, self.recollection.came_before)
        planned = plan.plan_groups(
            sifted.fresh,
            after=self.cursor,
            read_through=entries[-1].sequence,
            ripe_through=ripe_through,
            cut=entries[-1].sequence < self.journal[-1].sequence,
            window=self.window,
        )
        done = set()
        for group in planned.groups:
            key = group.transaction.key
            last = self.recent(key).last
            transaction, photograph = group.transaction, plan.told_photograph(group)
            if transaction.change is DELETED:
                transaction, photograph = plan.at_deletion(group, last, lambda _: True)
            elif photograph is None:
                photograph = truth_at(self.journal, key, transaction.transaction)
            state = next_state(last, transaction, photograph)
            if state is not None:
                self.histories.setdefault(key, []).append(state)
            done |= {
                entry.sequence
                for entry in entries
                if entry.change.key == key and entry.sequence <= group.transaction.transaction
            }
        fresh = {entry.sequence for entry in sifted.fresh}
        assert all(
            entry.sequence in done
            for entry in entries
            if entry.sequence in fresh and entry.sequence <= planned.cursor
        ), "the cursor passed what was not recorded"
        assert self.cursor <= planned.cursor <= entries[-1].sequence
        self.cursor = planned.cursor


def truth_at(journal: Sequence[Entry], key: ItemKey, sequence: int) -> Photograph:
    """Return what the AppServer shows of an item whose changes the journal tells: told or not."""
    for entry in reversed(journal):
        if entry.change.key == key and entry.sequence <= sequence and entry.change.type is not DELETED:
            folder = (entry.change.metadata or {}).get("folder", f"read-{entry.sequence}")
            return Photograph(metadata={"folder": folder})
    raise AssertionError


entries_told = st.tuples(
    st.sampled_from(["1", "2", "3"]),
    st.sampled_from([CREATED, ChangeType.MODIFIED, ChangeType.MOVED, DELETED]),
    st.sampled_from([0.0, 0.03, 0.08, 0.2, -0.05]),
    st.sampled_from(["A", "B", None]),
    st.booleans(),
)


@st.composite
def journals(draw: st.DrawFn) -> list[Entry]:
    """Return a journal of three items, with events delivered again a little later."""
    told = draw(st.lists(entries_told, min_size=1, max_size=24))
    entries: list[Entry] = []
    moment = 0.0
    for item, type_, step, folder, again in told:
        moment = max(0.0, moment + step)
        sequence = len(entries) + 1
        one = change(item, type_, event=f"e{sequence}", at=moment, folder=folder, body=None)
        entries.append(Entry(sequence, one))
        if again:
            earlier = draw(st.sampled_from(entries))
            entries.append(Entry(len(entries) + 1, earlier.change))
    return entries


@settings(max_examples=300, deadline=None)
@given(
    journal=journals(),
    rounds=st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 40), st.booleans(), st.booleans()), max_size=30
    ),
    windowed=st.booleans(),
)
def test_any_cut_crash_and_border_gives_an_equal_history(
    journal: list[Entry], rounds: list[tuple[int, int, bool, bool]], *, windowed: bool
) -> None:
    """Each event is in one state at most and in order, and the last photograph is the same."""
    window = WINDOW if windowed else timedelta(0)
    whole = ModelRecorder(journal, window)
    whole.round(10_000, 10_000)
    cut = ModelRecorder(journal, window)
    for entries_max, ripe_through, crashes, checkpoints in rounds:
        cut.round(entries_max, ripe_through)
        if checkpoints:
            cut.durable = cut.cursor
        if crashes:
            cut.crash()
    for _ in range(3 * len(journal)):
        cut.round(5, 10_000)
    assert cut.cursor == journal[-1].sequence
    first_of: dict[str, int] = {}
    for entry in journal:
        first_of.setdefault(entry.change.event, entry.sequence)
    for key in {entry.change.key for entry in journal}:
        one, other = whole.histories.get(key, []), cut.histories.get(key, [])
        assert one[-1].deleted == other[-1].deleted
        # What is kept of an item that went depends on when it was read; of one that lives nothing does.
        assert one[-1].deleted or one[-1].photograph == other[-1].photograph
        for history in (one, other):
            places = [first_of[event] for state in history for event in state.events]
            assert places == sorted(set(places))
            starts = [state.start for state in history]
            assert starts == sorted(set(starts))


def test_a_group_is_not_folded_into_a_finding() -> None:
    """What nobody photographed is merged into the next event's group, and kept before a finding."""
    bare = change("1", CREATED, event="e1", folder=None)
    folded = plan.fold_unphotographed(
        coalesce([Entry(1, bare), Entry(2, change("1", event="e2", at=9))], WINDOW)
    )
    assert [(group.first, group.transaction.change, len(group.transaction.events)) for group in folded] == [
        (1, CREATED, 2)
    ]
    kept = plan.fold_unphotographed(
        coalesce([Entry(1, bare), Entry(2, finding("1", 0, at=9)), Entry(3, change("1", event="e3", at=20))])
    )
    assert [group.transaction.transaction for group in kept] == [1, 2, 3]


def test_progress_is_made_where_everything_may_still_grow() -> None:
    """A batch that is all of one moment is recorded and not held back for ever."""
    entries = [Entry(number, change(str(number), event=f"e{number}")) for number in range(1, 9)]
    planned = plan.plan_groups(entries, after=0, read_through=8, ripe_through=99, cut=True, window=WINDOW)
    assert (len(planned.groups), planned.cursor) == (8, 8)


def test_a_held_group_keeps_later_ones_of_its_item_and_the_cursor() -> None:
    """Behind an unripe change of an item its findings wait too; other items' findings do not."""
    entries = [
        Entry(1, change("1", event="e1")),
        Entry(2, finding("1", 0, at=1)),
        Entry(3, finding("2", 0, at=1)),
    ]
    planned = plan.plan_groups(entries, after=0, read_through=3, ripe_through=0, cut=False, window=WINDOW)
    assert [group.transaction.transaction for group in planned.groups] == [3]
    assert planned.cursor == 0


numbers = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 12)), max_size=12)


@given(numbers)
def test_holes_are_found_once_and_counts_only_grow(told: list[tuple[str, int]]) -> None:
    """A gap is opened exactly where a number is above the highest so far plus one, by source."""
    entries = [
        Entry(
            place, msgspec.structs.replace(change("1", event="x"), event=f"{source}#{place}", number=number)
        )
        for place, (source, number) in enumerate(told, 1)
    ]
    gaps, counts = plan.gaps_of(entries, {("a", ALICE): 2})
    highest = {"a": 2, "b": 0}
    holes = 0
    for source, number in told:
        holes += number > highest[source] + 1
        highest[source] = max(highest[source], number)
    assert len(gaps) == holes
    for (source, _), count in counts.items():
        assert count == highest[source]
    assert plan.gaps_of(entries, {("a", ALICE): highest["a"], ("b", ALICE): highest["b"]}) == ([], {})


def test_what_is_forgotten_counts_as_known() -> None:
    """An item pushed out of the bounded recollection is looked at rather than taken for untouched."""
    recollection = Recollection(0, events_max=2)
    for number in range(1, 4):
        recollection.note(ItemKey(ALICE, change().kind, str(number)), number * 10)
    assert recollection.newest(ItemKey(ALICE, change().kind, "3"), has_history=True) == 30
    assert recollection.newest(ItemKey(ALICE, change().kind, "1"), has_history=True) == 10
    assert recollection.newest(ItemKey(ALICE, change().kind, "1"), has_history=False) == 0


def test_an_identifier_used_for_two_items_is_no_repetition() -> None:
    """A publisher that numbers per item loses nothing."""
    recollection = Recollection(0)
    changes: list[Change] = [change("1", event="same"), change("2", event="same"), change("1", event="same")]
    assert [recollection.came_before(Entry(place, one)) for place, one in enumerate(changes, 1)] == [
        False,
        False,
        True,
    ]
