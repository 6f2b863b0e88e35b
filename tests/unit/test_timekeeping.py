"""When the wall clock is in doubt, and when it is believed again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.timekeeping import MARKS_MAX, Marks, Reckoning, Uptime, accepted, reckon

NOW = datetime(2026, 11, 24, 4, tzinfo=UTC)
YEAR = timedelta(days=365)
KNOWN = Reckoning(moment=NOW, boot="one", seconds=1000.0)


def later(days: float, boot: str = "one") -> Uptime:
    return Uptime(boot, 1000.0 + days * 86_400 if boot == "one" else days * 86_400)


@pytest.mark.parametrize("days", [-365.0, -0.5, 365.0, 4.0])
def test_a_clock_that_was_set_is_in_doubt(days: float) -> None:
    """Set back by hours or forward by days, the clock is in doubt, and what is known of time goes on."""
    found = reckon(KNOWN, NOW + timedelta(days=days), later(0.1))
    assert found.doubt
    assert found.moment == NOW + timedelta(days=0.1)


@pytest.mark.parametrize("days", [0.0, 0.003, 5.0, 400.0])
def test_a_clock_that_went_on_is_believed(days: float) -> None:
    """Whatever passed while the machine ran or slept is no jump."""
    found = reckon(KNOWN, NOW + timedelta(days=days), later(days))
    assert not found.doubt
    assert found.moment == NOW + timedelta(days=days)


def test_small_corrections_are_no_doubt() -> None:
    """Half an hour back and two days forward are believed: NTP after a start does as much."""
    assert not reckon(KNOWN, NOW - timedelta(minutes=30), later(0)).doubt
    assert not reckon(KNOWN, NOW + timedelta(days=2), later(0)).doubt


def test_after_another_boot_time_may_have_passed_but_not_run_back() -> None:
    """A machine that was off for long must be vouched for; one that was off for a weekend need not."""
    assert not reckon(KNOWN, NOW + timedelta(days=2), later(0, boot="two")).doubt
    assert "off for long" in reckon(KNOWN, NOW + timedelta(days=40), later(0, boot="two")).doubt
    assert reckon(KNOWN, NOW - YEAR, later(0, boot="two")).doubt


def test_a_doubt_stays_over_restarts_until_the_clock_is_back() -> None:
    """Looks and boots under the wrong clock don't make it right; the right time does, by itself."""
    wrong = NOW + YEAR
    known = KNOWN
    for number in range(1, 200):
        known = reckon(known, wrong + timedelta(minutes=5 * number), later(number * 5 / 1440))
        assert known.doubt
    known = reckon(known, wrong + timedelta(days=1), Uptime("two", 50.0))
    assert known.doubt
    assert known.since == wrong + timedelta(minutes=5)
    right = NOW + timedelta(days=1)
    assert not reckon(known, right, Uptime("two", 200.0)).doubt


def test_an_admin_can_vouch_for_the_clock() -> None:
    """Once accepted, the time as it is counts from then on."""
    known = accepted(NOW + YEAR, later(1))
    assert not reckon(known, NOW + YEAR + timedelta(days=1), later(2)).doubt
    assert reckon(known, NOW + timedelta(days=2), later(2)).doubt


def test_evidence_counts_where_nothing_else_is_known() -> None:
    """A first look believes the clock unless something was recorded later; known time outweighs that."""
    assert not reckon(None, NOW, later(0)).doubt
    assert not reckon(None, NOW, later(0), evidence=NOW - YEAR).doubt
    first = reckon(None, NOW, later(0), evidence=NOW + YEAR)
    assert first.doubt
    assert not reckon(first, NOW + YEAR + timedelta(days=1), later(0.2)).doubt
    assert not reckon(KNOWN, NOW, later(0), evidence=NOW + YEAR).doubt


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(-400, 400)), max_size=20))
def test_the_reckoning_never_runs_back_and_never_outruns_what_passed(
    steps: list[tuple[float, float]],
) -> None:
    """In one boot, whatever is done to the clock, a doubted look moves the reckoning by what truly passed."""
    known, passed = KNOWN, 0.0
    for days, shift in steps:
        passed += days
        before = known
        known = reckon(known, NOW + timedelta(days=passed + shift), later(passed))
        if known.doubt:
            expected = before.moment + timedelta(days=days)
            assert abs((known.moment - expected).total_seconds()) < 1


def test_a_deletion_counts_from_when_it_was_recorded() -> None:
    """What claims to be older than the last mark before it counts from that mark; else as it says."""
    marks = Marks().with_one(NOW - YEAR, 100).with_one(NOW, 200)
    for transaction, since in ((100, NOW - 3 * YEAR), (150, NOW - YEAR), (200, NOW - YEAR), (201, NOW)):
        assert marks.gone_since(NOW - 3 * YEAR, transaction) == since
    assert marks.gone_since(NOW + YEAR, 150) == NOW + YEAR
    assert Marks().gone_since(NOW, 7) == NOW


def test_marks_of_a_clock_that_was_ahead_are_dropped() -> None:
    """Once an earlier time is believed, later marks tell nothing any more."""
    marks = Marks().with_one(NOW, 1).with_one(NOW + YEAR, 2).with_one(NOW + timedelta(days=1), 3)
    assert [mark.moment for mark in marks.marks] == [NOW, NOW + timedelta(days=1)]


def test_marks_are_bounded_and_reach_far_back() -> None:
    """Ten years of marks are at most so many, in order, still from the first day on, and close at the end."""
    marks, hours = Marks(), 10 * 365 * 24
    for passed in range(0, hours, 6):
        marks = marks.with_one(NOW + timedelta(hours=passed), passed)
        marks = marks.with_one(NOW + timedelta(hours=passed + 1), passed + 1)
        assert len(marks.marks) <= MARKS_MAX
    assert marks.marks[0].moment == NOW
    assert list(marks.marks) == sorted(marks.marks, key=lambda mark: (mark.moment, mark.sequence))
    near = [mark for mark in marks.marks if mark.sequence >= hours - 90 * 24]
    assert len(near) == 90 * 4
