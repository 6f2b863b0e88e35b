"""Freshness: what the moment of each account is, and how many accounts are how far behind."""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from daemon.freshness import AGES_SECONDS, Doubt, base_moment, doubt_of_gap, freshness
from tests.world.clocks import START as NOW


def ago(seconds: float):
    return NOW - timedelta(seconds=seconds)


def test_the_base_is_now_less_the_lag():
    """With live changes the base follows the recorder; without them the last scan's beginning holds it."""
    scanned = ago(7_200)
    live = base_moment(now=NOW, last_scan_began=scanned, is_live=True, lag_seconds=30)
    dead = base_moment(now=NOW, last_scan_began=scanned, is_live=False, lag_seconds=30)
    slow = base_moment(now=NOW, last_scan_began=ago(10), is_live=False, lag_seconds=30)
    assert (live, dead, slow) == (ago(30), scanned, ago(30))
    assert base_moment(now=NOW, last_scan_began=None, is_live=True, lag_seconds=0) is None


def test_before_a_first_scan_every_account_is_infinitely_old():
    """Nothing is promised, and no doubt makes a promise of it."""
    fresh = freshness(now=NOW, base=None, accounts=7, doubts=[Doubt("a", ago(5))])
    assert (fresh.worst, fresh.worst_seconds) == (None, None)
    assert fresh.at_most() == [*((float(bound), 0) for bound in AGES_SECONDS), (math.inf, 7)]


def test_a_doubt_lowers_its_account_alone():
    """The worst account counts for the whole; the others stay where they are."""
    doubts = [Doubt("a", ago(100)), Doubt("a", ago(400)), Doubt("b", ago(4)), Doubt("c", ago(0))]
    fresh = freshness(now=NOW, base=ago(2), accounts=10, doubts=doubts)
    assert fresh.behind == {"a": ago(400), "b": ago(4)}
    assert fresh.worst == ago(400)
    assert dict(fresh.at_most([1, 2, 5, 399, 400])) == {1: 0, 2: 8, 5: 9, 399: 9, 400: 10, math.inf: 10}


def test_a_doubt_of_all_lowers_everybody():
    """A gap of the whole server takes every account back, but none forward that is further behind."""
    fresh = freshness(now=NOW, base=NOW, accounts=3, doubts=[Doubt("a", ago(90)), Doubt(None, ago(50))])
    assert fresh.at_most([49, 50, 90]) == [(49, 0), (50, 2), (90, 3), (math.inf, 3)]


def test_a_gap_reaches_back_to_the_scan_before_it():
    """What a gap missed was made after the account's last scan; a later scan does not make it younger."""
    assert doubt_of_gap("a", ago(50), ago(300)) == Doubt("a", ago(300))
    assert doubt_of_gap("a", ago(50), ago(10)) == Doubt("a", ago(50))
    assert doubt_of_gap("", ago(50), None) == Doubt(None, ago(50))


def test_a_clock_set_back_makes_no_negative_age():
    """Moments of the future count as now."""
    assert freshness(now=NOW, base=ago(-60), accounts=1).ages() == [(0.0, 1)]


@given(
    accounts=st.integers(0, 50),
    base=st.floats(0, 1e6),
    doubts=st.lists(st.tuples(st.sampled_from([None, "a", "b", "c"]), st.floats(0, 1e6)), max_size=8),
)
def test_every_account_is_counted_once(accounts, base, doubts):
    """Groups only grow, the last one holds all accounts, and it is the worst that is in nobody's earlier."""
    made = [Doubt(account, ago(seconds)) for account, seconds in doubts]
    fresh = freshness(now=NOW, base=ago(base), accounts=accounts, doubts=made)
    counts = [count for _, count in fresh.at_most()]
    assert all(before <= after for before, after in pairwise(counts))
    assert counts[-1] == fresh.accounts >= accounts
    assert fresh.worst_seconds is not None
    assert fresh.worst_seconds >= base - 1e-3
    if fresh.accounts > len(fresh.behind):
        assert max(age for age, count in fresh.ages() if count) == fresh.worst_seconds
