"""Failures: which operations ended badly and nothing has mended that since. Pure.

The last operation of a type counts, of account scans that of each account: that another account could be
scanned mends nothing. A SmartScan that succeeds has scanned every account. One that was stopped, or taken
out of the queue, says nothing about what was wrong before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from backupd.operations import OperationStatus

SMARTSCAN_TYPE = "doSmartScan"
ACCOUNT_SCAN_TYPE = "doAccountScan"
SCAN_TYPES = frozenset({SMARTSCAN_TYPE, ACCOUNT_SCAN_TYPE})
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


One = TypeVar("One", bound=Ended)


def last_of_each(operations: Iterable[One]) -> list[One]:
    """Return the last operation of each type that tells something, in the order given, the oldest first."""
    last: dict[tuple[str, str], One] = {}
    for one in operations:
        if one.status not in _TELLING:
            continue
        if one.type == SMARTSCAN_TYPE and one.status is OperationStatus.SUCCESSFUL:
            last = {key: kept for key, kept in last.items() if kept.type != ACCOUNT_SCAN_TYPE}
        subject = str(one.parameters.get("account", "")) if one.type == ACCOUNT_SCAN_TYPE else ""
        last.pop((one.type, subject), None)
        last[one.type, subject] = one
    return list(last.values())


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
