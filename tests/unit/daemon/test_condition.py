"""Condition: which facts are problems, how bad, and that each says what to do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from backupd.keeping_views import SuspensionView
from backupd.operations import OperationStatus
from backupd.views import BrokerView, GapView, OperationView, RecorderView, ScheduleView, Severity, SpaceView
from daemon.condition import CLOCK_IN_DOUBT, FAILURES_MAX, RUN_MISSED, problems
from daemon.keeping_condition import MASS_DELETION, MASS_DELETION_MORE, SUSPENSIONS_MAX
from tests.unit.daemon.making import well
from tests.world.clocks import START

WELL = well(
    START,
    last_scan=START - timedelta(hours=2),
    started=START - timedelta(days=9),
    broker=BrokerView(url="mqtt://broker", connected=True),
    space=SpaceView(free_bytes=10 << 30, threshold_bytes=1 << 30),
)
FAILED = OperationView(
    uuid="u", type="doSmartScan", status=OperationStatus.FAILED, submitted=START, verdict="no such root"
)
REFUSING = BrokerView(url="mqtt://b", error="refused")
GAP = GapView(id=1, account="alice", reason="sequence_hole", detail="events 2 to 3", opened=START)


def test_all_well_is_no_problem() -> None:
    """Nothing is said where nothing is wrong."""
    assert problems(WELL) == []


@pytest.mark.parametrize(
    ("changed", "severity", "words"),
    [
        ({"realtime_enabled": False, "smartscan_enabled": False}, Severity.DANGER, "NO BACKUP"),
        ({"accounts": 3, "not_enabled": 3}, Severity.DANGER, "every account is left out"),
        ({"realtime_active": False, "realtime_trouble": "port taken"}, Severity.DANGER, "port taken"),
        ({"realtime_active": False, "broker": REFUSING}, Severity.DANGER, "refused"),
        ({"last_scan": None}, Severity.DANGER, "no SmartScan has succeeded"),
        ({"last_scan": START - timedelta(days=2)}, Severity.ATTENTION, "last successful SmartScan"),
        ({"intake_paused": "disk full"}, Severity.DANGER, "disk full"),
        ({"recorder": RecorderView(paused="I/O error")}, Severity.DANGER, "I/O error"),
        ({"recorder": RecorderView(lag_entries=9, lag_seconds=90.0)}, Severity.ATTENTION, "9 entries"),
        ({"gaps": (GAP,)}, Severity.ATTENTION, "account alice"),
        ({"gaps": (msgspec.structs.replace(GAP, account=""),)}, Severity.ATTENTION, "all accounts"),
        ({"waiting_photographs": 3}, Severity.ATTENTION, "3 photographs wait"),
        ({"space": SpaceView(free_bytes=1 << 20, threshold_bytes=1 << 30)}, Severity.DANGER, "1 MB free"),
        ({"damaged": ("items/7: torn",)}, Severity.DANGER, "items/7: torn"),
        ({"last_operations": (FAILED,)}, Severity.ATTENTION, "no such root"),
    ],
)  # fmt: skip
def test_each_trouble_is_one_sentence_with_what_to_do(
    changed: dict[str, Any], severity: Severity, words: str
) -> None:
    """One changed fact makes one problem, of its severity, with its words and a hint."""
    (problem,) = problems(msgspec.structs.replace(WELL, **changed))
    assert problem.severity is severity
    assert words in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    "changed",
    [
        {"last_scan": None, "scanning": True},
        {"last_scan": START - timedelta(days=2), "scanning": True},
        {"last_scan": START - timedelta(days=2), "smartscan_enabled": False},
        {"realtime_active": False, "started": START - timedelta(seconds=2)},
        {"realtime_enabled": False, "realtime_active": False},
        {"last_operations": (msgspec.structs.replace(FAILED, status=OperationStatus.STOPPED),)},
        {"space": SpaceView(free_bytes=0, threshold_bytes=0)},
    ],
)
def test_what_is_meant_or_has_only_begun_is_no_problem(changed: dict[str, Any]) -> None:
    """A scan that runs, a start a moment ago, and what an admin turned off or stopped are left alone."""
    assert problems(msgspec.structs.replace(WELL, **changed)) == []


def test_dangers_come_first_and_lists_are_bounded() -> None:
    """Of many gaps and damages the first are told, behind what is worse."""
    facts = msgspec.structs.replace(
        WELL, gaps=(GAP,) * 50, damaged=tuple(f"file {number}" for number in range(50)), intake_paused="x"
    )
    found = problems(facts)
    severities = [problem.severity for problem in found]
    assert severities == sorted(severities, key=lambda one: one is not Severity.DANGER)
    assert len(found) == 3 + 5 + 1


def test_each_account_that_lost_much_is_a_problem_up_to_a_few() -> None:
    """Status names five accounts with their command, and counts those beyond; the names of the two differ."""
    suspensions = tuple(
        SuspensionView(id=f"id{n}", name=f"u{n}@x", since=START, lost=9, total=9, hours=24) for n in range(7)
    )
    found = problems(msgspec.structs.replace(WELL, suspensions=suspensions))
    assert [one.name for one in found] == [MASS_DELETION] * SUSPENSIONS_MAX + [MASS_DELETION_MORE]
    assert "u0@x" in found[0].message
    assert "doResumeRetention id0" in found[0].hint
    assert "2 more accounts" in found[-1].message


def test_a_missed_purge_is_told_until_one_ended() -> None:
    """A purge by hand makes up for a missed one; a doubt about the clock stands before what was missed."""
    missed = well(START, schedules=(ScheduleView(job="purge", last_missed=START - timedelta(hours=1)),))
    assert [one.name for one in problems(missed)] == [RUN_MISSED]
    doubted = msgspec.structs.replace(missed, clock_doubt="it jumped")
    assert [one.name for one in problems(doubted)] == [CLOCK_IN_DOUBT, RUN_MISSED]
    assert problems(msgspec.structs.replace(missed, last_purge=START)) == []


def test_what_a_clock_that_was_ahead_missed_is_not_told() -> None:
    """A run that was missed in what is the future again, since the clock was set right, is no problem."""
    ahead = ScheduleView(job="SmartScan", last_missed=START + timedelta(days=30))
    assert problems(well(START, schedules=(ahead,))) == []


def test_a_success_under_a_clock_that_was_ahead_makes_up_for_nothing() -> None:
    """What claims to be of the future hides no run that was missed since; a job turned off is left alone."""
    missed = ScheduleView(
        job="SmartScan", last_missed=START - timedelta(hours=1), last=START + timedelta(days=9)
    )
    ahead = well(START, schedules=(missed,), last_scan=START + timedelta(days=9))
    assert RUN_MISSED in [one.name for one in problems(ahead)]
    off = (msgspec.structs.replace(missed, enabled=False),)
    assert RUN_MISSED not in [one.name for one in problems(msgspec.structs.replace(ahead, schedules=off))]


SCAN = msgspec.structs.replace(FAILED, type="doAccountScan", hint="mount it", verdict="none there (mount it)")


def test_a_gap_whose_scan_fails_does_not_heal_by_itself() -> None:
    """Where the scan of an account failed, its gap says so with the cure; another account's is none of it."""
    gap = msgspec.structs.replace(GAP, detail="changes may have been missed")
    for account, failing in (("alice", True), ("bob", False)):
        scan = msgspec.structs.replace(SCAN, parameters={"account": account})
        told, failure = problems(msgspec.structs.replace(WELL, gaps=(gap,), last_operations=(scan,)))
        assert told.message == "changes of account alice may have been missed (sequence_hole)"
        assert ("mount it; its errors: backupctl backup monitor u" in told.hint) is failing
        assert failure.message == "the last doAccountScan failed: none there"
        assert failure.hint.startswith("mount it; ")


def test_many_failed_operations_are_told_up_to_a_few() -> None:
    """The latest five are told, the rest is counted."""
    many = tuple(msgspec.structs.replace(SCAN, uuid=f"u{number}") for number in range(9))
    found = problems(msgspec.structs.replace(WELL, last_operations=many))
    assert len(found) == FAILURES_MAX + 1
    assert "monitor u8" in found[FAILURES_MAX - 1].hint
    assert found[-1].message.startswith("4 more operations")
