"""Failures: which operations ended badly and nothing has mended that since. Pure.

The last operation of a type counts, and of each account where it is about one: that another account could be
scanned mends nothing. One about all that succeeds mends those about single accounts, a SmartScan every
account's scan. One that was stopped or taken out of the queue, that only tried (`dry_run`), or that was about
another Backup Path, says nothing. What no schedule repeats, a restore for example, is told for some days:
whoever gave it knows how it ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from backupd.operations import OperationStatus
from backupd.schedules import JOBS

SMARTSCAN_TYPE = "doSmartScan"
ACCOUNT_SCAN_TYPE = "doAccountScan"
PURGE_TYPE = "doPurge"
SCAN_TYPES = frozenset({SMARTSCAN_TYPE, ACCOUNT_SCAN_TYPE})
TOLD_FOR = timedelta(days=3)
"""So long a failure is told of what nothing repeats by itself."""
_REPEATED = frozenset({job.operation for job in JOBS if job.operation} | SCAN_TYPES)
_ABOUT = ("account", "source_account", "accountIds")
_BAD = frozenset({OperationStatus.FAILED, OperationStatus.INTERRUPTED})
_TELLING = _BAD | {OperationStatus.SUCCESSFUL}


class Ended(Protocol):
    """What is asked of an operation."""

    @property
    def type(self) -> str: ...  # noqa: D102 - as operations have it
    @property
    def status(self) -> OperationStatus: ...  # noqa: D102 - as operations have it
    @property
    def parameters(self) -> dict[str, Any]: ...  # noqa: D102 - as operations have it
    @property
    def ended(self) -> datetime | None: ...  # noqa: D102 - as operations have it


One = TypeVar("One", bound=Ended)


def last_of_each(operations: Iterable[One], now: datetime) -> list[One]:
    """Return the last operation of each type that tells something, in the order given, the oldest first."""
    last: dict[tuple[str, str], One] = {}
    for one in operations:
        if one.status not in _TELLING or one.parameters.get("dry_run") or _is_elsewhere(one):
            continue
        place = (one.type, _subject(one))
        if one.status is OperationStatus.SUCCESSFUL and not _subject(one):
            mended = SCAN_TYPES if one.type == SMARTSCAN_TYPE else {one.type}
            last = {key: kept for key, kept in last.items() if kept.type not in mended}
        last.pop(place, None)
        last[place] = one
    return [one for one in last.values() if not _is_past(one, now)]


def _subject(one: Ended) -> str:
    """Return what an operation is about, an account or some; empty: all there is."""
    return next((str(one.parameters[name]) for name in _ABOUT if one.parameters.get(name)), "")


def _is_elsewhere(one: Ended) -> bool:
    return one.type == PURGE_TYPE and bool(one.parameters.get("backup_path"))


def _is_past(one: Ended, now: datetime) -> bool:
    is_repeated = one.type in _REPEATED and (one.type == ACCOUNT_SCAN_TYPE or not _subject(one))
    return not is_repeated and one.ended is not None and now - one.ended > TOLD_FOR


def failures(last: Iterable[One]) -> list[One]:
    """Return those of the last operations that ended badly."""
    return [one for one in last if one.status in _BAD]


def failing_scan(last: Sequence[One], account: str = "") -> One | None:
    """Return the scan that should have looked at an account (empty: at all) and failed."""
    for one in reversed(failures(last)):
        if one.type == SMARTSCAN_TYPE:
            return one
        if account and one.type == ACCOUNT_SCAN_TYPE and one.parameters.get("account") == account:
            return one
    return None
