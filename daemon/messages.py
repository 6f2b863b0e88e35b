"""Messages: what admins are told of operations, problems, gaps and missed runs, in words. Pure.

A message has a level, a subject of one line, a text that says what happened and what to do, and facts for
programs. Scans that the daemon queued by itself to heal gaps are told only where they fail. `once` names what
a message is about: equal ones within an hour are sent once. An operation's own recipients get every message
about it, whatever the level in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from backupd.operations import Operation, OperationStatus
from backupd.parameters import is_e_mail
from backupd.store.ledger import Gap
from backupd.views import Problem, ScheduleView, Severity
from daemon import condition, keeping_condition
from daemon.healing import HEALING
from daemon.subscription import EMBEDDED_RESTART

ERRORS_TOLD_MAX = 10
GAPS_TOLD_MAX = 10
ACCOUNTS_TOLD_MAX = 20
SUBJECT_CHARACTERS_MAX = 180
TEXT_CHARACTERS_MAX = 16_000
OWN_RECIPIENTS_MAX = 50
GAPS = "gaps"
"""What the facts of a message about gaps say that it is about."""


class Level(StrEnum):
    """How much a message matters, the least first."""

    INFORMATION = "information"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Its place among the levels, the least first."""
        return list(Level).index(self)


LEVEL_OF_PROBLEM = {
    condition.NO_BACKUP: Level.CRITICAL,
    condition.INTAKE_PAUSED: Level.CRITICAL,
    condition.RECORDING_PAUSED: Level.CRITICAL,
    condition.SPACE_LOW: Level.CRITICAL,
    condition.BACKUP_PATH_GONE: Level.CRITICAL,
    condition.DAMAGED: Level.ERROR,
    keeping_condition.MASS_DELETION: Level.CRITICAL,
    keeping_condition.MASS_DELETION_MORE: Level.CRITICAL,
}
"""Problems with a level of their own; of others a danger is an error and what wants attention a warning."""

_LEVEL_OF_END = {
    OperationStatus.SUCCESSFUL: Level.INFORMATION,
    OperationStatus.FAILED: Level.ERROR,
    OperationStatus.INTERRUPTED: Level.ERROR,
    OperationStatus.STOPPED: Level.WARNING,
    OperationStatus.REMOVED: Level.WARNING,
}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is said. `about` is the problem it tells of, `is_over` that the problem went away."""

    level: Level
    subject: str
    text: str
    facts: dict[str, Any] = {}
    operation: str = ""
    about: str = ""
    is_over: bool = False
    once: str = ""


class Message(Told, frozen=True, kw_only=True):
    """Something to be told; `own_recipients` are those that the operation itself names."""

    own_recipients: tuple[str, ...] = ()


def of_operation(operation: Operation, server: str) -> Message | None:
    """Return what is told of an operation as it is now; None where that is nothing."""
    status = operation.status
    if status is OperationStatus.RUNNING:
        level = Level.INFORMATION
    elif operation.has_ended:
        level = _LEVEL_OF_END[status]
    else:
        return None
    own = own_recipients(operation)
    if operation.started_by == HEALING and status is not OperationStatus.FAILED and not own:
        return None
    what = "started" if status is OperationStatus.RUNNING else status.value
    return Message(
        level=level,
        subject=_subject(server, f"{operation.type} {what}"),
        text=_text([f"{operation.type} {what} on {server}", "", *_operation_lines(operation)]),
        facts=_operation_facts(operation),
        operation=operation.uuid,
        once=_once(operation),
        own_recipients=own,
    )


def own_recipients(operation: Operation) -> tuple[str, ...]:
    """Return the addresses that were given with an operation, those that are some."""
    given = operation.parameters.get("notifications")
    words = given if isinstance(given, list | tuple) else []
    return tuple(word for word in words if isinstance(word, str) and is_e_mail(word))[:OWN_RECIPIENTS_MAX]


def _once(operation: Operation) -> str:
    """Name what repeats: a healing scan that fails again, and operations taken out of the queue in a row."""
    if operation.started_by == HEALING:
        account = operation.parameters.get("account", "")
        return f"{operation.type} {operation.status.value} {account}"
    if operation.status is OperationStatus.REMOVED:
        return f"{operation.type} removed"
    return ""


def _operation_lines(operation: Operation) -> list[str]:
    fields = (
        ("account", str(operation.parameters.get("account") or "")),
        ("started by", operation.started_by),
        ("submitted", _moment(operation.submitted)),
        ("started", _moment(operation.started)),
        ("ended", _moment(operation.ended)),
        ("verdict", operation.verdict),
        ("counts", ", ".join(f"{count:,} {name}" for name, count in operation.counts.items())),
    )
    lines = [f"{name + ':':<12}{value}" for name, value in fields if value]
    if operation.has_ended and operation.errors_total:
        lines += ["", f"Items that failed: {operation.errors_total:,}"]
        lines += [f"  {error}" for error in operation.errors[:ERRORS_TOLD_MAX]]
        more = operation.errors_total - ERRORS_TOLD_MAX
        lines += [f"  and {more:,} more"] if more > 0 else []
    lines += ["", f"What to do:  {_cure(operation)}"]
    lines += [f"Look further: backupctl core getOperationLog {operation.uuid}"]
    return lines


def _cure(operation: Operation) -> str:
    if operation.hint:
        return operation.hint
    match operation.status:
        case OperationStatus.RUNNING:
            return f"nothing; watch it with: backupctl backup monitor {operation.uuid}"
        case OperationStatus.SUCCESSFUL if operation.errors_total:
            return "see why these items failed; the next scan tries them again"
        case OperationStatus.SUCCESSFUL:
            return "nothing"
        case OperationStatus.FAILED:
            return "mend what the verdict says, then start it again"
        case _:
            return "start it again if it is still wanted"


def _operation_facts(operation: Operation) -> dict[str, Any]:
    return {
        "what": "operation",
        "uuid": operation.uuid,
        "type": operation.type,
        "status": operation.status.value,
        "started_by": operation.started_by,
        "account": operation.parameters.get("account"),
        "submitted": operation.submitted,
        "started": operation.started,
        "ended": operation.ended,
        "verdict": operation.verdict,
        "hint": operation.hint,
        "counts": operation.counts,
        "errors": [str(error) for error in operation.errors[:ERRORS_TOLD_MAX]],
        "errors_total": operation.errors_total,
    }


# ------------------------------------------------------------------------------ problems, gaps, missed runs


def of_problem(about: str, problem: Problem, server: str) -> Message:
    """Return what is told of a problem that has come up."""
    level = LEVEL_OF_PROBLEM.get(problem.name)
    if level is None:
        level = Level.ERROR if problem.severity is Severity.DANGER else Level.WARNING
    return Message(
        level=level,
        subject=_subject(server, problem.message),
        text=_text(
            [
                f"{problem.message} (on {server})",
                "",
                f"What to do:  {problem.hint or 'look further'}",
                "Look further: backupctl status",
            ]
        ),
        facts={"what": "problem", "problem": problem.name, "message": problem.message, "hint": problem.hint},
        about=about,
    )


def of_problem_over(about: str, problem: str, server: str) -> Message:
    """Return what is told of a problem that went away; `problem` is its sentence."""
    return Message(
        level=Level.INFORMATION,
        subject=_subject(server, f"over: {problem}"),
        text=_text([f"This is over on {server}: {problem}", "", "Look further: backupctl status"]),
        facts={"what": "problem over", "message": problem},
        about=about,
        is_over=True,
    )


def of_protection(what: str, names: Sequence[str], by: str, server: str) -> Message:
    """Return what is told of a change in what is protected; `what` says it, for example `legal hold set`."""
    shown = ", ".join(names[:ACCOUNTS_TOLD_MAX])
    more = len(names) - ACCOUNTS_TOLD_MAX
    shown += f" and {more:,} more" if more > 0 else ""
    return Message(
        level=Level.WARNING,
        subject=_subject(server, f"{what}: {shown}"),
        text=_text([f"{what} by {by} on {server}: {shown}", "", "What to do:  nothing, if this was meant"]),
        facts={"what": "protection", "change": what, "by": by, "accounts": list(names[:ACCOUNTS_TOLD_MAX])},
    )


def of_gaps(opened: Sequence[Gap], opened_total: int, healed: int, still_open: int, server: str) -> Message:
    """Return what is told of gaps since they were told last; `opened` are the first of them."""
    what = [f"{opened_total:,} opened"] if opened_total else []
    what += [f"{healed:,} healed"] if healed else []
    open_now = f"{still_open:,} open now" if still_open else "none is open now"
    lines = [f"Gaps on {server}: {', '.join(what)}, {open_now}", ""]
    lines += [
        f"  {_moment(gap.opened)} {f'account {gap.account}' if gap.account else 'all accounts'}"
        f" ({gap.reason}): {gap.detail}"
        for gap in opened[:GAPS_TOLD_MAX]
    ]
    more = opened_total - min(len(opened), GAPS_TOLD_MAX)
    lines += [f"  and {more:,} more"] if more > 0 else []
    lines += [
        "",
        "What to do:  nothing: in a gap changes may have been missed, and a scan heals it by itself",
    ]
    is_expected = bool(opened) and all(gap.reason == EMBEDDED_RESTART for gap in opened)
    return Message(
        level=Level.WARNING if still_open and not is_expected else Level.INFORMATION,
        subject=_subject(server, f"gaps: {', '.join(what)}, {open_now}"),
        text=_text([*lines, "Look further: backupctl status"]),
        facts={
            "what": GAPS,
            "opened": opened_total,
            "healed": healed,
            "open": still_open,
            "gaps": [
                {"account": gap.account, "reason": gap.reason, "detail": gap.detail, "opened": gap.opened}
                for gap in opened[:GAPS_TOLD_MAX]
            ],
        },
    )


def of_missed_run(schedule: ScheduleView, server: str) -> Message:
    """Return what is told of a job that did not run at its time."""
    due, following = _moment(schedule.last_missed), _moment(schedule.next)
    return Message(
        level=Level.WARNING,
        subject=_subject(server, f"{schedule.job} did not run at {due}"),
        text=_text(
            [
                f"{schedule.job} was due on {server} at {due} and did not run: the machine slept or was off,",
                "or its clock was changed. It is not made up for.",
                "",
                f"Next run:    {following or 'none'}",
                "What to do:  nothing, or start it by hand: backupctl backup doSmartScan start",
                "Look further: backupctl status",
            ]
        ),
        facts={
            "what": "missed run",
            "job": schedule.job,
            "due": schedule.last_missed,
            "next": schedule.next,
            "missed": schedule.missed,
        },
    )


def _subject(server: str, what: str) -> str:
    """Return a subject of one line without control characters, of bounded length."""
    return _printable(f"[backupd {server}] {what}", SUBJECT_CHARACTERS_MAX)


def _text(lines: Sequence[str]) -> str:
    """Return lines as a text; what came from outside can't break a line or hide one."""
    text = "\n".join(_printable(line, TEXT_CHARACTERS_MAX) for line in lines) + "\n"
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[:TEXT_CHARACTERS_MAX] + "…\n"


def _printable(line: str, characters_max: int) -> str:
    shown = "".join(character if character.isprintable() else " " for character in line)
    return shown if len(shown) <= characters_max else shown[: characters_max - 1] + "…"


def _moment(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC" if when is not None else ""
