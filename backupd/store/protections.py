"""Protections: what keeps retention away from accounts: legal holds and suspended retention.

Words: a *hold* is set by an admin, on an account or on all of them (`ALL`: also those that come later), and
keeps every state of it for ever. A *suspension* is set by the mass-deletion guard when an account lost an
unusual share of its items; it holds until an admin lifts it. A lifted one stays, with the last transaction
that it covered, so that the same losses don't suspend again. `Protected` is all of it at one moment, to plan
by. Durable when a method returns; any thread may call; raises what the `Ledger` raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from backupd.clock import microseconds, moment
from backupd.decoding import decoded
from backupd.errors import BackupdError
from backupd.store.ledger import Ledger

ALL = ""
"""Stands for every account, in place of an account's id."""


class HoldRefused(BackupdError):
    """A hold can't be taken away like this."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A legal hold on an account (or `ALL`): since when, and who set it."""

    account: str
    since: datetime
    by: str = ""


class Suspension(msgspec.Struct, frozen=True, kw_only=True):
    """Retention suspended: `lost` of `total` items (or, by `noun`, accounts) went within `hours`.

    `through` is the last transaction that was looked at. Not in force any more once it is `lifted`.
    """

    account: str
    since: datetime
    lost: int
    total: int
    hours: int
    noun: str = "items"
    through: int = 0
    lifted: datetime | None = None
    lifted_by: str = ""

    @property
    def sentence(self) -> str:
        """What happened, without the account's name."""
        share = round(100 * self.lost / self.total) if self.total else 100
        lost = f"{self.lost:,} of {self.total:,} {self.noun} ({share} %)"
        return f"{lost} were deleted within {self.hours} hours"


class Reason(StrEnum):
    """Why retention does not act on an account."""

    LEGAL_HOLD = "legal hold"
    SUSPENDED = "retention suspended"


class Protection(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why nothing of an account may be purged."""

    reason: Reason
    since: datetime
    sentence: str


class Protected(msgspec.Struct, frozen=True, kw_only=True):
    """All holds and suspensions in force at one moment. Pure: purge plans by it."""

    everyone: Hold | None = None
    holds: Mapping[str, Hold] = {}
    suspensions: Mapping[str, Suspension] = {}

    def is_held(self, account: str) -> bool:
        """Tell whether a legal hold covers an account, its own or that of all."""
        return self.hold_of(account) is not None

    def hold_of(self, account: str) -> Hold | None:
        """Return the hold that covers an account: its own before that of all."""
        return self.holds.get(account, self.everyone)

    def why(self, account: str) -> tuple[Protection, ...]:
        """Return why an account is protected; empty where it is not."""
        found = []
        hold = self.hold_of(account)
        if hold is not None:
            whose = "all accounts are" if hold.account == ALL else "the account is"
            by = f", set by {hold.by}" if hold.by else ""
            sentence = f"{whose} under legal hold since {hold.since:%Y-%m-%d %H:%M} UTC{by}"
            found.append(Protection(reason=Reason.LEGAL_HOLD, since=hold.since, sentence=sentence))
        suspension = self.suspensions.get(account)
        if suspension is not None:
            sentence = (
                f"retention is suspended since {suspension.since:%Y-%m-%d %H:%M} UTC: {suspension.sentence}"
            )
            found.append(Protection(reason=Reason.SUSPENDED, since=suspension.since, sentence=sentence))
        return tuple(found)


class Protections:
    """Holds and suspensions in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def now_in_force(self) -> Protected:
        """Return all that is in force; of a ledger that an older version wrote, nothing."""
        if not self._ledger.rows("SELECT 1 FROM sqlite_master WHERE name = 'suspensions'"):
            return Protected()
        holds = {hold.account: hold for hold in self.holds()}
        suspensions = {one.account: one for one in self.suspensions()}
        return Protected(everyone=holds.pop(ALL, None), holds=holds, suspensions=suspensions)

    def why(self, account: str) -> tuple[Protection, ...]:
        """Return why an account is protected now; empty where it is not."""
        return self.now_in_force().why(account)

    # -------------------------------------------------------------------- holds

    def holds(self) -> list[Hold]:
        """Return every hold, that of all accounts first."""
        rows = self._ledger.rows("SELECT account, since, facts FROM holds ORDER BY account")
        return [
            Hold(account=account, since=moment(since), by=msgspec.json.decode(facts).get("by", ""))
            for account, since, facts in rows
        ]

    def set_holds(self, accounts: Iterable[str], *, by: str, now: datetime) -> list[str]:
        """Hold accounts (ids, or `ALL`), together; return which were not held by themselves before."""
        facts = msgspec.json.encode({"by": by}).decode()
        with self._ledger.batch():
            return [
                account
                for account in accounts
                if self._ledger.write(
                    "INSERT OR IGNORE INTO holds VALUES (?, ?, ?)", (account, microseconds(now), facts)
                )
            ]

    def unset_holds(self, accounts: Iterable[str]) -> list[str]:
        """Take holds away, together; return which there were.

        `ALL` takes away the hold of all, and where there is none every single one: a hold that was set on an
        account by itself outlives one that was set on all. Raises `HoldRefused` for an account while all are
        held.
        """
        chosen = list(accounts)
        with self._ledger.batch():
            held = {hold.account for hold in self.holds()}
            if ALL in held and ALL not in chosen:
                raise HoldRefused(
                    "all accounts are under legal hold: none can be taken out of it",
                    hint="first: legalHold set on those that shall stay, then: legalHold unset all",
                )
            going = [ALL] if ALL in held else sorted(held) if ALL in chosen else chosen
            return [
                account
                for account in going
                if self._ledger.write("DELETE FROM holds WHERE account = ?", (account,))
            ]

    # -------------------------------------------------------------- suspensions

    def suspensions(self, *, lifted: bool = False) -> list[Suspension]:
        """Return the suspensions in force, or those that were lifted, the oldest first."""
        rows = self._ledger.rows("SELECT facts FROM suspensions ORDER BY since, account")
        every = [decoded(facts, Suspension) for (facts,) in rows]
        return [one for one in every if (one.lifted is not None) is lifted]

    def suspend(self, suspensions: Sequence[Suspension]) -> list[Suspension]:
        """Suspend retention, in place of lifted suspensions; return what is new.

        One in force stays as it is.
        """
        with self._ledger.batch():
            before = {one.account for one in self.suspensions()}
            new = [one for one in suspensions if one.account not in before]
            for one in new:
                self._keep(one)
        return new

    def lift(self, accounts: Iterable[str], *, by: str, now: datetime, through: int) -> list[Suspension]:
        """Lift suspensions, together; return those that were in force, as they are now.

        What was lost up to the transaction `through` does not suspend again.
        """
        with self._ledger.batch():
            in_force = {one.account: one for one in self.suspensions()}
            lifted = [
                msgspec.structs.replace(in_force[account], lifted=now, lifted_by=by, through=through)
                for account in accounts
                if account in in_force
            ]
            for one in lifted:
                self._keep(one)
        return lifted

    def forget(self, accounts: Iterable[str]) -> None:
        """Forget lifted suspensions of accounts that are purged."""
        gone = set(accounts)
        with self._ledger.batch():
            for one in self.suspensions(lifted=True):
                if one.account in gone:
                    self._ledger.write("DELETE FROM suspensions WHERE account = ?", (one.account,))

    def _keep(self, one: Suspension) -> None:
        self._ledger.write(
            "INSERT OR REPLACE INTO suspensions VALUES (?, ?, ?)",
            (one.account, microseconds(one.since), msgspec.json.encode(one).decode()),
        )
