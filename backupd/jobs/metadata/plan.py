"""What of the metadata has to go out, what outside is no longer needed, and what a retrieval takes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby

import msgspec

from backupd.jobs.metadata.names import (
    ArchiveObject,
    RangeObject,
    SummaryObject,
    account_folder,
    mark_of,
)

ARCHIVES_KEPT = 2
"""Of each account: the newest, and one more in case that one can't be read."""
GONE_ACCOUNT_KEPT = timedelta(days=7)
"""How long the archives of an account that was purged stay."""


class AccountMark(msgspec.Struct, frozen=True):
    """What the index says of an account's histories: highest transaction, histories, states."""

    account: str
    highest: int
    histories: int
    states: int

    @property
    def mark(self) -> str:
        """A text that is another one as soon as anything was recorded or purged."""
        return mark_of(self.highest, self.histories, self.states)


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass over all accounts has to do: archives to make, and objects nobody needs any more."""

    changed: tuple[AccountMark, ...]
    unchanged: int
    gone: tuple[ArchiveObject, ...]


def plan_pass(marks: Iterable[AccountMark], outside: Sequence[ArchiveObject], now: datetime) -> Pass:
    """Return the accounts whose newest archive is not of what they are now, and archives of purged ones."""
    newest = {folder: archives[-1] for folder, archives in _by_folder(outside).items()}
    changed, known, unchanged = [], set(), 0
    for one in marks:
        folder = account_folder(one.account)
        known.add(folder)
        if folder in newest and newest[folder].mark == one.mark:
            unchanged += 1
        else:
            changed.append(one)
    gone = [
        one
        for one in outside
        if one.folder not in known and now - newest[one.folder].moment > GONE_ACCOUNT_KEPT
    ]
    return Pass(changed=tuple(changed), unchanged=unchanged, gone=tuple(gone))


def obsolete_archives(outside: Sequence[ArchiveObject]) -> list[ArchiveObject]:
    """Return the archives behind which enough newer ones of the same account stand."""
    return [one for archives in _by_folder(outside).values() for one in archives[:-ARCHIVES_KEPT]]


def obsolete_ranges(summaries: Sequence[SummaryObject], ranges: Iterable[RangeObject]) -> list[RangeObject]:
    """Return the parcels and stretches that the archives of the last pass but one hold already.

    One pass more is kept, because an archive may turn out to be unreadable.
    """
    if len(summaries) < ARCHIVES_KEPT:
        return []
    through = summaries[-ARCHIVES_KEPT].through
    return [one for one in ranges if one.last <= through]


def obsolete_summaries(summaries: Sequence[SummaryObject]) -> Sequence[SummaryObject]:
    """Return the summaries behind which enough newer ones stand."""
    return summaries[: -ARCHIVES_KEPT - 1]


def archives_to_take(outside: Sequence[ArchiveObject]) -> list[tuple[ArchiveObject, ...]]:
    """Return each account's archives, the newest first: the next is for where one is unreadable."""
    return [tuple(reversed(archives)) for archives in _by_folder(outside).values()]


def holes(ranges: Sequence[RangeObject], after: int) -> list[tuple[int, int]]:
    """Return the sequence numbers behind one that lie between ranges and in none: first and last of each."""
    found = []
    for one in ranges:
        if one.first > after + 1:
            found.append((after + 1, one.first - 1))
        after = max(after, one.last)
    return found


def stretches_to_take(ranges: Sequence[RangeObject]) -> list[RangeObject]:
    """Return the stretches that together hold the newest unbroken run of the journal, in order.

    A stretch that another one holds whole is left out. What lies before a hole is left out too: it could not
    be replayed, and its states are in the parcels and archives.
    """
    taken: list[RangeObject] = []
    for one in ranges:
        if taken and taken[-1].first == one.first:
            taken[-1] = one
        elif taken and one.last <= taken[-1].last:
            continue
        elif taken and one.first > taken[-1].last + 1:
            taken = [one]
        else:
            taken.append(one)
    return taken


def _by_folder(archives: Sequence[ArchiveObject]) -> Mapping[str, list[ArchiveObject]]:
    ordered = sorted(archives)
    return {folder: list(found) for folder, found in groupby(ordered, key=lambda one: one.folder)}
