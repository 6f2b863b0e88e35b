"""The guard's effects: ask the index who lost how much, judge, and suspend retention durably.

*Marks* are pairs of a moment and the last transaction recorded by then, kept in the ledger: with them a
deletion counts by when it was recorded, whatever time it claims. Examining twice changes nothing. Every
method blocks, and raises what index and ledger raise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec
import structlog

from backupd.decoding import decoded
from backupd.jobs.guard.rule import WINDOWS_MAX, Limits, judge, look_backs
from backupd.store.ledger_tables import Remembered
from backupd.store.protections import Protections, Suspension
from backupd.store.store import Store

ACCOUNTS_MIN = 3
"""So many accounts must go together to be unusual; of one or two nobody but an admin can judge."""
ACCOUNTS = "accounts"
MARKS_NAME = "mass_deletion_marks"
MARK_EVERY = timedelta(hours=1)
MARKS_MAX = 2_000

log = structlog.get_logger(__name__)

Mark = tuple[datetime, int]


class Guard:
    """`limits_of(account)` are those in force for an account, `limits_of("")` those of the server.

    `least` returns a `Limits` of the smallest minimum and the longest window of any account, to choose by.
    """

    def __init__(
        self, store: Store, *, limits_of: Callable[[str], Limits], least: Callable[[], Limits]
    ) -> None:
        self._store = store
        self._limits_of = limits_of
        self._least = least
        self._protections = Protections(store.ledger)
        self._remembered = Remembered(store.ledger)

    def examine(self, now: datetime, account: str | None = None) -> list[Suspension]:
        """Look at an account or (None) at all, and suspend where much was lost; return what is new.

        To be run right before anything is purged, and whenever deletions were recorded.
        """
        marks = self._marks(now)
        least = self._least()
        suspended = {one.account for one in self._protections.suspensions()}
        lifted = {one.account: one.through for one in self._protections.suspensions(lifted=True)}
        found = []
        hours = least.hours * WINDOWS_MAX
        since, after = now - timedelta(hours=hours), _recorded_within(marks, now, hours)
        for losing in self._store.index.losing_accounts(since, after, least.minimum, account):
            if losing in suspended:
                continue
            loss = self._judged(losing, now, marks, lifted.get(losing, 0))
            if loss is not None:
                found.append(loss)
        known = suspended | {one.account for one in found}
        found += [one for one in self._accounts_gone(now, marks, lifted) if one.account not in known]
        new = self._protections.suspend(found)
        for one in new:
            log.warning("retention_suspended", account=one.account, reason=one.sentence)
        return new

    def _judged(self, account: str, now: datetime, marks: Sequence[Mark], through: int) -> Suspension | None:
        limits = self._limits_of(account)
        backs = look_backs(limits)
        if not backs:
            return None
        after = {one.hours: _recorded_within(marks, now, one.hours) for one in backs}
        longest = backs[-1]
        lives = self._store.index.lives(account, longest.start(now), after[longest.hours])
        loss = judge(lives, limits, now, marks=after, lifted_through=through)
        if loss is None:
            return None
        return Suspension(
            account=account,
            since=now,
            lost=loss.lost,
            total=loss.total,
            hours=loss.hours,
            through=self._store.index.highest_transaction(),
        )

    def _accounts_gone(
        self, now: datetime, marks: Sequence[Mark], lifted: dict[str, int]
    ) -> list[Suspension]:
        """Judge the accounts that were deleted, as the items of the server."""
        limits = msgspec.structs.replace(self._limits_of(""), minimum=ACCOUNTS_MIN)
        backs = look_backs(limits)
        if not backs:
            return []
        after = {one.hours: _recorded_within(marks, now, one.hours) for one in backs}
        longest = backs[-1]
        lives = self._store.index.account_lives(longest.start(now), after[longest.hours])
        loss = judge(lives, limits, now, marks=after, lifted_through=lifted)
        if loss is None:
            return []
        start, through = now - timedelta(hours=loss.hours), self._store.index.highest_transaction()
        recent = self._store.index.account_lives(start, after[loss.hours]).gone
        return [
            Suspension(
                account=one.item,
                since=now,
                lost=loss.lost,
                total=loss.total,
                hours=loss.hours,
                noun=ACCOUNTS,
                through=through,
            )
            for one in recent
            if one.transaction > lifted.get(one.item, 0)
        ]

    def _marks(self, now: datetime) -> list[Mark]:
        """Return the marks, with a new one where the last is old enough; none of them lies in the future."""
        kept = self._remembered.get(MARKS_NAME)
        before = [] if kept is None else decoded(kept, list[Mark])
        marks = [mark for mark in before if mark[0] <= now]
        if not marks or now - marks[-1][0] >= MARK_EVERY:
            marks.append((now, self._store.index.highest_transaction()))
        if marks != before:
            marks = marks[-MARKS_MAX:]
            self._remembered.keep(MARKS_NAME, msgspec.json.encode(marks))
        return marks


def _recorded_within(marks: Sequence[Mark], now: datetime, hours: int) -> int:
    """Return a transaction behind which everything was recorded within the last `hours`.

    That is of the last mark before them, or, where the marks don't reach back so far, of the first.
    """
    start = now - timedelta(hours=hours)
    place = bisect_right([moment for moment, _ in marks], start)
    return marks[max(0, place - 1)][1]
