"""What a purge decides before it acts: which histories and accounts go, and why everything else stays. Pure.

A plan is made from facts that the index streams, in memory that does not grow with the number of items. The
histories themselves are judged again, by the same rules, before anything is removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

import msgspec

from backupd.clock import microseconds, moment
from backupd.items import ItemKey, Kind
from backupd.retention import (
    AccountStanding,
    Cutoffs,
    Stay,
    account_stays,
    item_stays,
)
from backupd.store.index_purging import IndexedItem
from backupd.timekeeping import Marks

SHARE_ITEMS_MIN = 500
SHARE_ACCOUNTS_MIN = 5
SHARE_BYTES_MIN = 1 << 30
"""Fewer than these are never an unusual share."""
FUTURE_ITEMS_MIN = 20
FUTURE = timedelta(hours=1)
"""So many items that changed later than this from now put the clock in doubt; few are another's clock."""
ACCOUNTS_LISTED_MAX = 10_000


class KnownAccount(msgspec.Struct, frozen=True, kw_only=True):
    """An account that the backup holds, with what retention must know of it."""

    account: str
    name: str
    standing: AccountStanding


class Tally:
    """What a plan came to, counted while it is made."""

    def __init__(self) -> None:
        self.items = 0
        self.bytes = 0
        self.accounts = 0
        self.going_items = 0
        """All that go: by themselves, or with their accounts."""
        self.going_bytes = 0
        self.going_accounts: list[KnownAccount] = []
        self.going_by_kind: Counter[str] = Counter()
        self.staying: Counter[Stay] = Counter()
        self.staying_accounts: Counter[Stay] = Counter()
        self.by_account: dict[str, Counter[str]] = {}
        """Of each account with anything deleted, what goes and why the rest stays; up to a bound."""
        self.future_items = 0

    def note(self, account: str, what: str) -> None:
        """Count something of an account for the list."""
        counted = self.by_account.get(account)
        if counted is None:
            if len(self.by_account) >= ACCOUNTS_LISTED_MAX:
                return
            counted = self.by_account[account] = Counter()
        counted[what] += 1

    def unusual(self, share_max: int) -> str:
        """Return what share is unusual, in words, or an empty text. `share_max` in percent; 100: none is."""
        for going, total, minimum, noun in (
            (self.going_items, self.items, SHARE_ITEMS_MIN, "items"),
            (len(self.going_accounts), self.accounts, SHARE_ACCOUNTS_MIN, "accounts"),
            (self.going_bytes, self.bytes, SHARE_BYTES_MIN, "bytes of contents"),
        ):
            if going >= minimum and going * 100 > total * share_max:
                return f"{going:,} of {total:,} {noun} would go, more than {share_max}%"
        return ""


def going_accounts(
    accounts: Iterable[KnownAccount], at: Cutoffs, tally: Tally
) -> dict[str, AccountStanding | None]:
    """Return the standing of each account that must be known of, None for those that go as a whole."""
    standings: dict[str, AccountStanding | None] = {}
    for known in accounts:
        tally.accounts += 1
        why = account_stays(known.standing, at)
        if why is None:
            tally.going_accounts.append(known)
            standings[known.account] = None
            continue
        tally.staying_accounts[why] += 1
        standings[known.account] = known.standing
    return standings


def going_items(
    facts: Iterable[IndexedItem],
    standings: Mapping[str, AccountStanding | None],
    unknown: Callable[[str], AccountStanding],
    at: Cutoffs,
    tally: Tally,
    now: datetime,
    *,
    marks: Marks,
) -> Iterator[ItemKey]:
    """Yield the items whose histories go by themselves, and count everything else.

    `standings` holds None for accounts that go as a whole; `unknown` tells of one that has no history itself.
    """
    future = microseconds(now + FUTURE)
    for fact in facts:
        tally.items += 1
        tally.bytes += fact.size
        tally.future_items += fact.last > future
        account, kind = fact.account, fact.kind
        standing = standings[account] if account in standings else unknown(account)
        if standing is None:
            tally.going_items += 1
            tally.going_bytes += fact.size
            continue
        if kind == Kind.ACCOUNT:
            # An account goes whole or not at all, and is counted as one.
            continue
        gone = marks.gone_since(moment(fact.last), fact.transaction) if fact.deleted else None
        why = item_stays(gone, standing, at)
        if why is None:
            tally.going_items += 1
            tally.going_bytes += fact.size
            tally.going_by_kind[kind] += 1
            tally.note(account, "goes")
            yield ItemKey(account, Kind(kind), fact.item)
            continue
        tally.staying[why] += 1
        if why is not Stay.LIVE:
            tally.note(account, why.value)
