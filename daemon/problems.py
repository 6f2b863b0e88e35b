"""Problems as `status` shows them, by how much they matter. Pure."""

from __future__ import annotations

from backupd.views import Problem, Severity


def danger(name: str, message: str, hint: str) -> Problem:
    """Return a problem by which something of the backup is lost, or is going to be."""
    return Problem(severity=Severity.DANGER, name=name, message=message, hint=hint)


def attention(name: str, message: str, hint: str) -> Problem:
    """Return a problem that wants looking at."""
    return Problem(severity=Severity.ATTENTION, name=name, message=message, hint=hint)
