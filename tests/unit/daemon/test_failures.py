"""Failures: what a later success mends and what it does not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from backupd.operations import OperationStatus
from backupd.views import OperationView
from daemon.failures import TOLD_FOR, failing_scan, failures, last_of_each
from tests.world.clocks import START

OK, FAILED = OperationStatus.SUCCESSFUL, OperationStatus.FAILED
STOPPED, REMOVED, RUNNING = OperationStatus.STOPPED, OperationStatus.REMOVED, OperationStatus.RUNNING
INTERRUPTED = OperationStatus.INTERRUPTED
A, B = {"account": "a"}, {"account": "b"}


def operation(type_: str, status: OperationStatus, parameters: dict[str, Any] | None = None) -> OperationView:
    return OperationView(
        uuid="u", type=type_, status=status, submitted=START, ended=START, parameters=parameters or {}
    )


@pytest.mark.parametrize(
    ("lived", "left"),
    [
        ([("doPurge", FAILED), ("doPurge", OK)], []),
        ([("doPurge", OK), ("doPurge", INTERRUPTED)], ["doPurge"]),
        ([("doPurge", FAILED), ("doSmartScan", OK)], ["doPurge"]),
        (
            [("doPurge", FAILED), ("doPurge", STOPPED), ("doPurge", REMOVED), ("doPurge", RUNNING)],
            ["doPurge"],
        ),
        ([("doAccountScan", FAILED, A), ("doAccountScan", OK, B)], ["doAccountScan"]),
        ([("doAccountScan", FAILED, A), ("doAccountScan", OK, A)], []),
        ([("doAccountScan", FAILED, A), ("doSmartScan", OK)], []),
        ([("doAccountScan", FAILED, A), ("doSmartScan", FAILED)], ["doAccountScan", "doSmartScan"]),
        ([("doSmartScan", OK), ("doAccountScan", FAILED, A)], ["doAccountScan"]),
        ([("doSmartScan", FAILED), ("doAccountScan", OK, A)], ["doSmartScan"]),
        ([("doPurge", FAILED), ("doPurge", OK, {"dry_run": True})], ["doPurge"]),
        ([("doPurge", FAILED), ("doPurge", OK, {"backup_path": "/other"})], ["doPurge"]),
        ([("doPurge", OK), ("doPurge", FAILED, {"backup_path": "/nowhere"})], []),
        ([("doCoherencyCheck", FAILED, {"accountIds": ["a"]}), ("doCoherencyCheck", OK)], []),
        (
            [("doCoherencyCheck", FAILED), ("doCoherencyCheck", OK, {"accountIds": ["a"]})],
            ["doCoherencyCheck"],
        ),
        ([("doUndelete", FAILED, A), ("doUndelete", OK, B)], ["doUndelete"]),
    ],
)
def test_what_is_left_of_failures(lived: list[tuple[Any, ...]], left: list[str]) -> None:
    """A success of its type mends a failure; of an account scan one of that account, or a SmartScan."""
    assert [one.type for one in failures(last_of_each((operation(*one) for one in lived), START))] == left


def test_which_scan_fails_for_an_account() -> None:
    """A failed SmartScan fails for every account, a failed account scan for its own."""
    of_a, of_all = operation("doAccountScan", FAILED, A), operation("doSmartScan", FAILED)
    assert failing_scan([of_a], "a") is of_a
    assert failing_scan([of_a], "b") is None
    assert failing_scan([of_a]) is None
    assert failing_scan([of_all, of_a], "b") is of_all


def test_what_nothing_repeats_is_told_for_some_days() -> None:
    """A failed restore, or check of single accounts, is past after three days; a scan only by a success."""
    whole, part = operation("doCoherencyCheck", FAILED), {"accountIds": ["nobody@example.com"]}
    lived = [operation("doUndelete", FAILED, A), operation("doCoherencyCheck", FAILED, part), whole]
    lived += [operation("doAccountScan", FAILED, A)]
    assert failures(last_of_each(lived, START + TOLD_FOR)) == lived
    assert failures(last_of_each(lived, START + TOLD_FOR + timedelta(seconds=1))) == lived[2:]
