"""Verdicts: how a check is written down, and what all checks together come to."""

from __future__ import annotations

from collections.abc import Iterable

from backupd.control import DoctorReply
from backupd.views import CheckView, Outcome

_WORST_FIRST = (Outcome.CRITICAL, Outcome.WARNING, Outcome.UNKNOWN, Outcome.OK)
"""A known fault outweighs what could not be found out."""
_CAUSES_FIRST = (
    *("daemon", "checked as", "configuration", "secrets", "state directory"),
    *("broker", "broker session", "AppServer", "restores", "watch"),
    *("Backup Path", "file system", "space", "blobless mode", "scanners", "last scan", "operations"),
    *(
        "proven restore",
        "schedules",
        "gaps",
        "waiting photographs",
        "recorder",
        "damaged files",
        "mass deletions",
        "coherency",
        "notifications",
        "metrics",
    ),
    *("clock", "time zone", "service user", "open files"),
)
"""The order of the lines: who is woken at night reads from the top, and mends the first that is not well."""


def ok(name: str, found: str, better: str = "") -> CheckView:
    """Return a check that found all well; `better` is advice that nobody need be woken for."""
    return CheckView(name=name, outcome=Outcome.OK, found=found, cure=better)


def warning(name: str, found: str, cure: str) -> CheckView:
    """Return a check that found what works but should not stay so."""
    return CheckView(name=name, outcome=Outcome.WARNING, found=found, cure=cure)


def critical(name: str, found: str, cure: str) -> CheckView:
    """Return a check that found what keeps changes out of the backup, or puts the backup at risk."""
    return CheckView(name=name, outcome=Outcome.CRITICAL, found=found, cure=cure)


def unknown(name: str, found: str, cure: str = "") -> CheckView:
    """Return a check that could not find out."""
    return CheckView(name=name, outcome=Outcome.UNKNOWN, found=found, cure=cure)


def worst(checks: Iterable[CheckView]) -> Outcome:
    """Return the worst outcome; of no checks nothing is known."""
    found = {check.outcome for check in checks}
    return next((outcome for outcome in _WORST_FIRST if outcome in found), Outcome.UNKNOWN)


def report(checks: Iterable[CheckView]) -> DoctorReply:
    """Return checks as the answer they are, causes before what follows from them."""
    last = len(_CAUSES_FIRST)
    place = {name: number for number, name in enumerate(_CAUSES_FIRST)}
    made = tuple(sorted(checks, key=lambda check: place.get(check.name, last)))
    return DoctorReply(outcome=worst(made), checks=made)


def megabytes(count: int) -> str:
    """Return bytes as people compare them: in MB, or GB from 10 GB on."""
    return f"{count >> 20:,} MB" if count < 10 << 30 else f"{count / (1 << 30):,.1f} GB"


def some(names: Iterable[str], total: int, *, shown_max: int = 3) -> str:
    """Return the first of `total` names in one phrase."""
    listed = list(names)[:shown_max]
    rest = f" and {total - len(listed):,} more" if total > len(listed) else ""
    return "; ".join(listed) + rest
