"""Messages: what is told of operations, problems, gaps and missed runs, at which level and in which words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from backupd.operations import ItemError, Operation, OperationStatus
from backupd.store.ledger import Gap
from backupd.views import Problem, ScheduleView, Severity
from daemon import condition, messages
from daemon.messages import Level
from tests.world.clocks import START

S = OperationStatus
MAIL = "mail.example.com"
SCAN = Operation(
    uuid="0192f3c4", order=1, type="doSmartScan", started_by="schedule", submitted=START, started=START
)
GAP = Gap(7, "alice", "sequence_hole", "events 2 to 3", START, START, None)


def operation(status: S, **facts: Any) -> Operation:
    return msgspec.structs.replace(SCAN, status=status, **facts)


@pytest.mark.parametrize(
    ("status", "level"),
    [
        (S.RUNNING, Level.INFORMATION),
        (S.SUCCESSFUL, Level.INFORMATION),
        (S.FAILED, Level.ERROR),
        (S.INTERRUPTED, Level.ERROR),
        (S.STOPPED, Level.WARNING),
        (S.REMOVED, Level.WARNING),
    ],
)
def test_start_and_every_end_have_their_level(status: S, level: Level) -> None:
    """A start and each way to end are told, the worse the louder; waiting and stopping are not told."""
    message = messages.of_operation(operation(status), MAIL)
    assert message is not None
    assert message.level is level
    assert message.operation == SCAN.uuid
    assert MAIL in message.subject
    assert messages.of_operation(operation(S.QUEUED), MAIL) is None
    assert messages.of_operation(operation(S.STOPPING), MAIL) is None


def test_levels_are_ordered() -> None:
    """Information is less than a warning, an error more, critical the most."""
    assert [level.rank for level in (Level.INFORMATION, Level.WARNING, Level.ERROR, Level.CRITICAL)] == [
        0, 1, 2, 3,
    ]  # fmt: skip


def test_an_end_says_what_an_admin_needs() -> None:
    """Verdict, counts, the first failed items with reasons, what to do and where to look are in the text."""
    errors = tuple(ItemError(f"alice/{number}", "unreadable") for number in range(30))
    failed = operation(
        S.FAILED,
        verdict="no such root",
        hint="mount it",
        counts={"stored": 8095},
        errors=errors,
        errors_total=99,
    )
    message = messages.of_operation(failed, MAIL)
    assert message is not None
    for words in ("no such root", "mount it", "8,095 stored", "alice/9: unreadable", "and 89 more", MAIL):
        assert words in message.text
    assert "alice/10:" not in message.text
    assert f"backupctl core getOperationLog {SCAN.uuid}" in message.text
    assert message.facts["errors_total"] == 99
    assert len(message.facts["errors"]) == messages.ERRORS_TOLD_MAX


def test_healing_scans_are_told_only_where_they_fail() -> None:
    """A scan queued to heal a gap makes no noise but for a failure, which is equal to the next one."""
    healing = {"type": "doAccountScan", "started_by": "healing", "parameters": {"account": "alice"}}
    quiet = (S.RUNNING, S.SUCCESSFUL, S.INTERRUPTED, S.REMOVED, S.STOPPED)
    assert [messages.of_operation(operation(status, **healing), MAIL) for status in quiet] == [None] * 5
    one = messages.of_operation(operation(S.FAILED, **healing), MAIL)
    two = messages.of_operation(operation(S.FAILED, **{**healing, "uuid": "other"}), MAIL)
    assert one is not None
    assert two is not None
    assert one.once
    assert one.once == two.once
    assert messages.of_operation(operation(S.FAILED), MAIL).once == ""


def test_own_recipients_are_the_addresses_given_with_it() -> None:
    """Addresses in `notifications` get the messages of that operation; what is none is left out."""
    given = operation(S.RUNNING, parameters={"notifications": ["you@example.com", "no address", 7]})
    assert messages.own_recipients(given) == ("you@example.com",)
    assert messages.own_recipients(operation(S.RUNNING, parameters={"notifications": "a@b"})) == ()


def test_what_comes_from_outside_breaks_no_line() -> None:
    """A newline or control character in a verdict neither begins a line nor a header."""
    nasty = operation(S.FAILED, type="doX\r\nBcc: evil@example.com", verdict="one\nWhat to do: pay\x1b[2J")
    message = messages.of_operation(nasty, MAIL)
    assert message is not None
    assert "\n" not in message.subject
    assert "\r" not in message.subject
    assert not any(line.startswith(("Bcc", "What to do: pay")) for line in message.text.splitlines())
    assert "\x1b" not in message.text
    long = messages.of_operation(operation(S.FAILED, verdict="x" * 100_000), MAIL)
    assert len(long.text) < messages.TEXT_CHARACTERS_MAX + 10


@pytest.mark.parametrize(
    ("name", "severity", "level"),
    [
        (condition.NO_BACKUP, Severity.DANGER, Level.CRITICAL),
        (condition.INTAKE_PAUSED, Severity.DANGER, Level.CRITICAL),
        (condition.RECORDING_PAUSED, Severity.DANGER, Level.CRITICAL),
        (condition.DAMAGED, Severity.DANGER, Level.ERROR),
        ("another", Severity.DANGER, Level.ERROR),
        ("another", Severity.ATTENTION, Level.WARNING),
    ],
)
def test_problems_have_the_level_of_their_kind(name: str, severity: Severity, level: Level) -> None:
    """That no backup is made, or nothing taken in, is critical; a damaged file is an error."""
    problem = Problem(severity=severity, name=name, message="it is so", hint="do this")
    message = messages.of_problem(name, problem, MAIL)
    assert message.level is level
    assert "it is so" in message.subject
    assert "do this" in message.text


def test_the_end_of_a_problem_is_information() -> None:
    """A problem that went away is told as such, and says which."""
    message = messages.of_problem_over("damaged", "items/7 is torn", MAIL)
    assert (message.level, message.is_over) == (Level.INFORMATION, True)
    assert "over: items/7 is torn" in message.subject


def test_open_gaps_warn_and_healed_ones_inform() -> None:
    """Gaps that are open are a warning with whose they are; that all are healed is information."""
    opened = messages.of_gaps([GAP], 14, 0, 14, MAIL)
    assert opened.level is Level.WARNING
    assert "account alice (sequence_hole): events 2 to 3" in opened.text
    assert "and 13 more" in opened.text
    assert messages.of_gaps([], 0, 14, 0, MAIL).level is Level.INFORMATION


def test_a_missed_run_names_job_and_time() -> None:
    """A missed run is a warning that says which job was due when, and when the next one is."""
    schedule = ScheduleView(job="SmartScan", missed=1, last_missed=START, next=START + timedelta(days=1))
    message = messages.of_missed_run(schedule, MAIL)
    assert message.level is Level.WARNING
    assert "SmartScan did not run at 2026-11-23 20:55" in message.subject
    assert "2026-11-24 20:55" in message.text
