"""The guard's rule: what an unusual loss is, over the lives of an account's items."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from backupd.clock import microseconds
from backupd.jobs.guard.rule import Limits, Loss, judge, look_backs
from backupd.store.index_losses import Gone, Lives
from tests.world.clocks import FakeClock

NOW = FakeClock().now()
LIMITS = Limits(share=30, hours=24, minimum=10)


def ago(hours: float) -> int:
    return microseconds(NOW - timedelta(hours=hours))


def gone(count: int, *, born: float = 1000, died: float, number: int = 1) -> list[Gone]:
    """Return so many items that were born and died so many hours ago."""
    return [Gone(str(place), ago(born), ago(died), number + place) for place in range(count)]


def judged(
    living: int, *lost: list[Gone], living_born: list[float] | None = None, limits: Limits = LIMITS, **more
):
    later = tuple(sorted(ago(hours) for hours in living_born or []))
    every = tuple(one for group in lost for one in group)
    lives = Lives(living_before=living, living_since=later, gone=every)
    return judge(lives, limits, NOW, marks=more.pop("marks", {}), **more)


def test_an_emptied_account_is_unusual():
    """Everything gone within an hour is seen, with the figures."""
    assert judged(0, gone(50, died=1)) == Loss(50, 50, 24)


def test_the_share_is_a_border():
    """Thirty of a hundred are too many, twenty-nine of them are not."""
    assert judged(70, gone(30, died=1)) == Loss(30, 100, 24)
    assert judged(71, gone(29, died=1)) is None


def test_few_items_are_never_unusual():
    """Below the minimum even the whole account may go."""
    assert judged(0, gone(9, died=1)) is None
    assert judged(0, gone(10, died=1)) is not None


def test_mail_that_comes_and_goes_is_no_loss():
    """A mailbox through which a thousand messages pass in a day, one after the other, has lost nothing."""
    passing = [Gone(str(n), ago(20 - n / 60), ago(20 - n / 60 - 0.1), n + 1) for n in range(1000)]
    assert judged(20, passing) is None


def test_new_mail_does_not_dilute_a_loss():
    """Who empties a mailbox and fills it with other mail is seen all the same."""
    assert judged(0, gone(100, died=2), living_born=[1.0] * 1000) == Loss(100, 100, 24)


def test_an_account_filled_and_emptied_on_one_day_is_seen():
    """What was alive before the window is not all that counts; one early deletion hides nothing."""
    early = gone(1, died=20)
    assert judged(5, early, gone(200, born=10, died=1)) == Loss(200, 205, 24)


def test_a_slow_loss_is_seen_by_a_longer_look_back():
    """Some of the account every day stays below the share of a day and is seen before a week has passed."""
    daily = [gone(200, died=24 * day + 1, number=1000 * day + 1) for day in range(4)]
    assert judged(500, daily[0]) is None
    assert judged(500, *daily) == Loss(800, 1300, 24 * 7)


def test_old_deletions_are_none_of_a_window():
    """What went before the longest look-back is not counted."""
    assert judged(0, gone(500, died=24 * 31)) is None


def test_a_deletion_that_claims_to_be_old_counts_by_when_it_was_recorded():
    """Backdated deletions are seen where the mark says that they were recorded within the window."""
    backdated = gone(50, born=3000, died=2000, number=100)
    assert judged(0, backdated, marks={24: 99}) == Loss(50, 50, 24)
    assert judged(0, backdated, marks={24: 200, 168: 200, 720: 200}) is None


def test_what_an_admin_has_seen_counts_no_more():
    """Deletions up to the lifted transaction don't suspend again; later ones do."""
    first, second = gone(50, died=3, number=1), gone(40, died=1, number=100)
    assert judged(10, first, second, lifted_through=99) == Loss(40, 50, 24)
    assert judged(10, first, second, lifted_through=200) is None
    assert judged(0, first, lifted_through={str(place): 60 for place in range(50)}) is None


def test_a_share_of_zero_turns_the_guard_off():
    """Nothing is unusual then."""
    off = Limits(share=0, hours=24, minimum=1)
    assert look_backs(off) == []
    assert judged(0, gone(500, died=1), limits=off) is None


def test_longer_look_backs_want_more():
    """Shares grow with the look-back, are bounded, and never fall below that of the window."""
    assert [(one.hours, one.share) for one in look_backs(LIMITS)] == [(24, 30), (168, 60), (720, 90)]
    assert [one.share for one in look_backs(Limits(share=95))] == [95, 95, 95]


@given(
    living=st.integers(0, 300),
    born=st.lists(st.floats(0.0, 900), max_size=30),
    lost=st.lists(st.tuples(st.floats(0.1, 900), st.floats(0.0, 1.0)), max_size=60),
    share=st.integers(1, 100),
    minimum=st.integers(1, 20),
)
def test_the_rule_agrees_with_looking_at_every_moment(living, born, lost, share, minimum):
    """The loss found is that of looking at each moment at which anything was born or died, one by one."""
    limits = Limits(share=share, hours=24, minimum=minimum)
    items = [Gone(str(n), ago(birth), ago(birth * part), n + 1) for n, (birth, part) in enumerate(lost)]
    items = [one for one in items if one.first < one.last]
    later = tuple(sorted(ago(hours) for hours in born))
    found = judge(Lives(living_before=living, living_since=later, gone=tuple(items)), limits, NOW, marks={})
    naive = any(
        _is_unusual_at(moment, living, later, items, minimum, back.share, microseconds(back.start(NOW)))
        for back in look_backs(limits)
        for moment in [microseconds(back.start(NOW)), *later, *(one.first for one in items)]
    )
    assert (found is not None) is naive
    if found is not None:
        assert minimum <= found.lost <= found.total


def _is_unusual_at(moment, living, later, items, minimum, share, start):
    if moment < start:
        return False
    gone_now = sum(1 for one in items if one.first <= moment < one.last and one.last >= start)
    total = gone_now + living + sum(1 for born in later if born <= moment)
    return gone_now >= minimum and gone_now * 100 >= share * total
