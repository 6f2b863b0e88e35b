"""Retention: how long what is deleted stays in the backup, and why a thing stays. Pure.

Words: a *cutoff* is the moment before which something must have gone to be purged; None means that its class
stays for ever. An account is *gone since* it was deleted, or since it is no longer recorded. Everything that
was in an account when it went, and what went from it less than `WITH_ACCOUNT` earlier, stays as long as the
account does, so that it can be brought back whole; what was deleted before that follows the data's retention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

DATA_DAYS = "ZxBackup_DataRetentionDays"
ACCOUNT_DAYS = "backupAccountsRetentionDays"
ARCHIVE_DAYS = "backupServerArchivesRetentionDays"
"""The attributes that say how many days each class stays; 0 is for ever."""
WITH_ACCOUNT = timedelta(days=1)
"""An item deleted less than this before its account counts as gone with it: a server may empty an account
before it removes it, and a scan may find the account's end a night later than events told of its items."""


class Stay(StrEnum):
    """Why something is not purged."""

    LIVE = "live"
    WITHIN_RETENTION = "within_retention"
    FOR_EVER = "for_ever"
    LEGAL_HOLD = "legal_hold"
    SUSPENDED = "retention_suspended"
    ACCOUNT_WITHIN_RETENTION = "account_within_retention"
    NEWEST_ARCHIVE = "newest_archive"
    ARCHIVES_KEPT = "archives_kept"
    CHANGE_WAITS = "change_waits"
    CHANGED_SINCE = "changed_since"
    CORRUPT = "corrupt"
    BLOB_REFERENCED = "blob_referenced"
    BLOB_IN_GRACE = "blob_in_grace"
    UNPROVEN = "not_proven_unreferenced"


WORDS: Mapping[Stay, str] = {
    Stay.LIVE: "not deleted",
    Stay.WITHIN_RETENTION: "deleted within retention",
    Stay.FOR_EVER: "kept for ever",
    Stay.LEGAL_HOLD: "legal hold",
    Stay.SUSPENDED: "retention suspended",
    Stay.ACCOUNT_WITHIN_RETENTION: "of a deleted account within retention",
    Stay.NEWEST_ARCHIVE: "newest of its kind",
    Stay.ARCHIVES_KEPT: "ZxBackup_PurgeCustomizations is false",
    Stay.CHANGE_WAITS: "a change waits to be recorded",
    Stay.CHANGED_SINCE: "changed meanwhile",
    Stay.CORRUPT: "history damaged",
    Stay.BLOB_REFERENCED: "referred to after all",
    Stay.BLOB_IN_GRACE: "in grace",
    Stay.UNPROVEN: "not proven to be without a reference",
}
"""Each reason in words for a verdict."""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How many days each class stays; 0 is for ever, for its own class alone."""

    data_days: int
    account_days: int
    archive_days: int

    @property
    def is_infinite(self) -> bool:
        """Whether nothing at all is ever purged."""
        return not (self.data_days or self.account_days or self.archive_days)

    @property
    def for_ever(self) -> tuple[str, ...]:
        """What stays for ever, in words with the attribute that says so."""
        classes = (
            (self.data_days, f"deleted items ({DATA_DAYS} is 0)"),
            (self.account_days, f"deleted accounts ({ACCOUNT_DAYS} is 0)"),
            (self.archive_days, f"archives of the server ({ARCHIVE_DAYS} is 0)"),
        )
        return tuple(words for days, words in classes if not days)


class Cutoffs(msgspec.Struct, frozen=True, kw_only=True):
    """What went before these moments is purged; None: its class stays for ever."""

    data: datetime | None
    accounts: datetime | None
    archives: datetime | None


class AccountStanding(msgspec.Struct, frozen=True, kw_only=True):
    """What retention must know of an account. `protection` overrides every retention."""

    gone_since: datetime | None = None
    protection: Stay | None = None


LIVING = AccountStanding()
"""An account that is there and that nothing protects."""


def cutoffs(retention: Retention, now: datetime) -> Cutoffs:
    """Return the cutoffs of a moment."""
    return Cutoffs(
        data=_cutoff(retention.data_days, now),
        accounts=_cutoff(retention.account_days, now),
        archives=_cutoff(retention.archive_days, now),
    )


def item_stays(deleted_at: datetime | None, account: AccountStanding, at: Cutoffs) -> Stay | None:
    """Return why an item's history stays, None where it goes. `deleted_at` None: it is not deleted."""
    gone = account.gone_since
    if deleted_at is None and gone is None:
        return Stay.LIVE
    if account.protection is not None:
        return account.protection
    if gone is not None and (deleted_at is None or deleted_at >= gone - WITH_ACCOUNT):
        return Stay.FOR_EVER if at.accounts is None else Stay.ACCOUNT_WITHIN_RETENTION
    assert deleted_at is not None
    return _stays(deleted_at, at.data)


def account_stays(account: AccountStanding, at: Cutoffs) -> Stay | None:
    """Return why an account stays in the backup, None where all of it goes."""
    if account.gone_since is None:
        return Stay.LIVE
    return account.protection or _stays(account.gone_since, at.accounts)


def archives_that_go(
    dates: list[datetime], cutoff: datetime | None, *, follow: bool
) -> tuple[list[datetime], Counter[Stay]]:
    """Return which archives of one kind go, and why the others stay: the newest always does.

    `follow` False: archives do not follow retention at all.
    """
    going: list[datetime] = []
    staying: Counter[Stay] = Counter()
    for place, date in enumerate(sorted(dates, reverse=True)):
        why = _stays(date, cutoff) if follow else Stay.ARCHIVES_KEPT
        if place == 0:
            why = Stay.NEWEST_ARCHIVE
        if why is None:
            going.append(date)
        else:
            staying[why] += 1
    return going, staying


def _stays(gone: datetime, cutoff: datetime | None) -> Stay | None:
    if cutoff is None:
        return Stay.FOR_EVER
    return None if gone < cutoff else Stay.WITHIN_RETENTION


def _cutoff(days: int, now: datetime) -> datetime | None:
    if not days:
        return None
    try:
        return now - timedelta(days=days)
    except OverflowError:
        return None
