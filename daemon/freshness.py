"""Freshness: up to which moment each account can be brought back, and how the accounts spread. Pure.

Nearly all accounts share one moment, the *base*: now, less what the recorder still has to do; or, where the
Realtime Scanner does not work, the beginning of the last scan. An account may be *behind* the base: it has a
gap, or a photograph of it waits. A *doubt* is one such reason; one without an account is about all of them.
Only accounts with doubts are looked at singly, so that the cost does not grow with the number of accounts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import msgspec

AGES_SECONDS = (1, 5, 15, 60, 300, 900, 3_600, 21_600, 86_400, 129_600, 604_800)
"""Upper bounds of the ages that accounts are counted by; above them is one more group."""


class Doubt(msgspec.Struct, frozen=True):
    """Changes made after `until` may not be recorded, of one account or (None) of all."""

    account: str | None
    until: datetime


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """Up to when accounts can be brought back. `base` None: not at all yet, for no scan has succeeded.

    `behind` has the accounts that are behind the base, with their moments.
    """

    now: datetime
    base: datetime | None
    accounts: int
    behind: Mapping[str, datetime] = {}

    @property
    def worst(self) -> datetime | None:
        """The moment up to which every account can be brought back."""
        return None if self.base is None else min([self.base, *self.behind.values()])

    @property
    def worst_seconds(self) -> float | None:
        """How long before now that is."""
        worst = self.worst
        return None if worst is None else self._age(worst)

    def ages(self) -> list[tuple[float, int]]:
        """Return how many accounts are how many seconds behind now; infinitely many before a first scan."""
        if self.base is None:
            return [(math.inf, self.accounts)]
        shared = max(0, self.accounts - len(self.behind))
        singly = [(self._age(moment), 1) for moment in self.behind.values()]
        return [(self._age(self.base), shared), *singly]

    def at_most(self, bounds: Iterable[float] = AGES_SECONDS) -> list[tuple[float, int]]:
        """Return how many accounts are at most so many seconds behind, for each bound and for infinity."""
        ages = self.ages()
        return [(bound, sum(count for age, count in ages if age <= bound)) for bound in (*bounds, math.inf)]

    def _age(self, moment: datetime) -> float:
        return max(0.0, (self.now - moment).total_seconds())


def base_moment(
    *, now: datetime, last_scan_began: datetime | None, is_live: bool, lag_seconds: float
) -> datetime | None:
    """Return up to when an account without doubts can be brought back.

    A scan counts from its beginning, for it looks at each account only once.
    """
    if last_scan_began is None:
        return None
    recorded = now - timedelta(seconds=lag_seconds)
    return min(now, recorded) if is_live else min(now, recorded, last_scan_began)


def freshness(
    *, now: datetime, base: datetime | None, accounts: int, doubts: Iterable[Doubt] = ()
) -> Freshness:
    """Return how fresh the backup is: a doubt of all lowers the base, one of an account that account."""
    if base is None:
        return Freshness(now=now, base=None, accounts=accounts)
    singly: dict[str, datetime] = {}
    for doubt in doubts:
        if doubt.account is None:
            base = min(base, doubt.until)
        else:
            singly[doubt.account] = min(doubt.until, singly.get(doubt.account, doubt.until))
    behind = {account: until for account, until in singly.items() if until < base}
    return Freshness(now=now, base=base, accounts=max(accounts, len(behind)), behind=behind)


def doubt_of_gap(account: str, opened: datetime, last_scan: datetime | None) -> Doubt:
    """Return the doubt of a gap (the empty account: of all): what it missed was made since the last scan."""
    return Doubt(account or None, opened if last_scan is None else min(opened, last_scan))
