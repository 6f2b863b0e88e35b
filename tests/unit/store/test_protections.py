"""Protections: holds and suspensions are durable, all or nothing, and say why an account is protected."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backupd.store.ledger import Ledger
from backupd.store.protections import ALL, HoldRefused, Protections, Reason, Suspension
from tests.unit.store.making import START

LOST = Suspension(account="alice", since=START, lost=300, total=400, hours=24, through=70)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.sqlite"


@pytest.fixture
def protections(path):
    ledger = Ledger(path)
    yield Protections(ledger)
    ledger.close()


def test_a_hold_is_kept_with_who_and_when(protections, path):
    """A hold survives the process, says who set it and when, and setting it again changes neither."""
    assert protections.set_holds(["alice", "bob"], by="root", now=START) == ["alice", "bob"]
    assert protections.set_holds(["alice"], by="eve", now=START + timedelta(days=1)) == []
    other = Protections(Ledger(path, writable=False))
    (why,) = other.why("alice")
    assert why.reason is Reason.LEGAL_HOLD
    assert why.since == START
    assert "set by root" in why.sentence
    assert other.why("carol") == ()


def test_a_hold_of_all_covers_those_that_come_later(protections):
    """With `all` set, an account nobody named is held; its own hold outlives that of all."""
    protections.set_holds([ALL], by="root", now=START)
    protections.set_holds(["alice"], by="root", now=START)
    assert protections.now_in_force().is_held("born tomorrow")
    assert protections.unset_holds([ALL]) == [ALL]
    assert not protections.now_in_force().is_held("born tomorrow")
    assert protections.now_in_force().is_held("alice")
    assert protections.unset_holds([ALL]) == ["alice"]
    assert not protections.now_in_force().is_held("alice")


def test_none_is_taken_out_of_the_hold_of_all(protections):
    """While all are held, unsetting one is refused with what to do, and nothing changes."""
    protections.set_holds([ALL], by="root", now=START)
    protections.set_holds(["alice"], by="root", now=START)
    with pytest.raises(HoldRefused, match="legalHold unset all"):
        protections.unset_holds(["alice"])
    assert {hold.account for hold in protections.holds()} == {ALL, "alice"}


def test_unsetting_tells_what_there_was(protections):
    """Only holds that there were are returned as taken away."""
    protections.set_holds(["alice"], by="root", now=START)
    assert protections.unset_holds(["alice", "bob"]) == ["alice"]


def test_a_suspension_holds_until_it_is_lifted(protections, path):
    """A suspension is durable and says what was lost; lifted, it protects no more and keeps how far."""
    assert protections.suspend([LOST]) == [LOST]
    (why,) = Protections(Ledger(path, writable=False)).why("alice")
    assert why.reason is Reason.SUSPENDED
    assert "300 of 400 items (75 %) were deleted within 24 hours" in why.sentence
    (lifted,) = protections.lift(["alice", "bob"], by="root", now=START + timedelta(days=1), through=90)
    assert lifted.lifted_by == "root"
    assert protections.why("alice") == ()
    assert [one.through for one in protections.suspensions(lifted=True)] == [90]
    assert protections.lift(["alice"], by="root", now=START, through=91) == []


def test_a_suspension_in_force_stays_as_it_is(protections):
    """What was found first stays; after it was lifted, a new loss suspends anew."""
    protections.suspend([LOST])
    later = Suspension(account="alice", since=START + timedelta(days=2), lost=1, total=1, hours=24)
    assert protections.suspend([later]) == []
    protections.lift(["alice"], by="root", now=START, through=70)
    assert protections.suspend([later]) == [later]
    assert protections.suspensions() == [later]


def test_only_lifted_suspensions_are_forgotten(protections):
    """Forgetting an account drops what was lifted and keeps what is in force."""
    protections.suspend([LOST])
    protections.forget(["alice"])
    assert protections.suspensions() == [LOST]
    protections.lift(["alice"], by="root", now=START, through=70)
    protections.forget(["alice"])
    assert protections.suspensions(lifted=True) == []
