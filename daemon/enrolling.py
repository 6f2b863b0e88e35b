"""Enrolling: knows which accounts are not backed up, and since when; implements `Enrolment` by the settings.

What is left out is kept in the ledger with its COS and the moment it began, from which on retention counts.
An account that is followed again gets a gap, and so the scan that finds what was missed; one that is left
out needs no healing any more. Where nothing is left out, which is usual, nothing costs anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
import structlog

from backupd.attribute import Attribute, Level
from backupd.attributes import Settings
from backupd.decoding import decoded
from backupd.enrolment import Rule
from backupd.events import Change
from backupd.items import Kind
from backupd.states import ChangeType
from backupd.store.ledger import Ledger
from backupd.store.ledger_tables import Remembered
from backupd.store.store import Store

ATTRIBUTE = "backupEnabled"
GAP_REASON = "was_not_enabled"
KEPT = "accounts_not_enabled"
GAPS_MAX = 20
"""Where more accounts than this are enabled again at once, one scan of all finds what was missed."""

log = structlog.get_logger(__name__)


class LeftOut(msgspec.Struct, frozen=True):
    """An account that is not backed up: since when, and its COS as it was last known."""

    since: datetime
    cos: str = ""


class Enrolling:
    """Any thread may ask; `refresh` and changes block while the ledger writes.

    `now` is asked from when an account is left out, for retention counts from then: a clock in doubt must not
    tell it.
    """

    def __init__(self, store: Store, settings: Settings, *, now: Callable[[], datetime]) -> None:
        self._store = store
        self._settings = settings
        self._now = now
        self._remembered = Remembered(store.ledger)
        self._lock = threading.RLock()
        self._rule = Rule()
        self._cos_of: dict[str, str] = {}
        self._left_out: Mapping[str, LeftOut] = kept_left_out(store.ledger)
        self.refresh()
        settings.on_change(self._setting_changed)

    # -------------------------------------------------------------------- asking

    def is_enabled(self, account: str, metadata: Mapping[str, Any] | None = None) -> bool:
        """Tell whether an account is backed up; `metadata` is the account's, where it is at hand."""
        if not self._rule.restricts:
            return True
        if metadata is not None:
            return self._rule.enables(account, _cos(metadata))
        return account not in self._left_out and self._rule.enables(account, self._cos_of.get(account, ""))

    def disabled_since(self, account: str) -> datetime | None:
        """Return since when an account is not backed up; None where it is."""
        left_out = self._left_out.get(account)
        return None if left_out is None else left_out.since

    @property
    def left_out(self) -> Mapping[str, LeftOut]:
        """The accounts that are not backed up."""
        return self._left_out

    def is_wanted(self, change: Change) -> bool:
        """Tell whether a change is to be recorded; see `Enrolment`."""
        if not self._rule.restricts or not change.account:
            return True
        account = change.account
        if change.kind is not Kind.ACCOUNT:
            return self._is_before(change)
        if change.metadata is not None and change.type is not ChangeType.DELETED:
            self.note(account, change.metadata)
        if account not in self._left_out:
            return True
        # The last thing recorded of an account that was followed is what led to its being left out.
        is_last = change.type is ChangeType.DELETED or self._is_before(change)
        return is_last and self._store.index.item(account, account, Kind.ACCOUNT) is not None

    def _is_before(self, change: Change) -> bool:
        """Tell whether a change was made before its account was left out."""
        left_out = self._left_out.get(change.account)
        return left_out is None or change.time <= left_out.since

    # ------------------------------------------------------------------- changing

    def note(self, account: str, metadata: Mapping[str, Any]) -> None:
        """Take in what an account's attributes are now: its COS may be another one."""
        if not self._rule.restricts:
            return
        with self._lock:
            cos = _cos(metadata)
            if self._cos_of.get(account) == cos and (account in self._left_out) is not self._rule.enables(
                account, cos
            ):
                return
            self._cos_of[account] = cos
            self._settle({account: cos})

    def refresh(self) -> None:
        """Read the settings again, and let them count."""
        with self._lock:
            self._rule = self._read_rule()
            if self._rule.restricts or self._left_out:
                accounts = self._store.index.accounts(deleted=None)
                self._cos_of = {one.item: _cos(one.metadata) for one in accounts}
                others = {
                    account: one.cos for account, one in self._left_out.items() if account not in self._cos_of
                }
                self._settle({**self._cos_of, **others})

    def _setting_changed(self, attribute: Attribute) -> None:
        if attribute.name == ATTRIBUTE:
            self.refresh()

    def _read_rule(self) -> Rule:
        stored = self._settings.stored(ATTRIBUTE)
        disabled = {scope for (level, scope), value in stored.items() if level is Level.COS and not value}
        if disabled:
            entries = self._store.index.entries(Kind.COS)
            disabled |= {str(one.metadata.get("name") or one.item) for one in entries if one.item in disabled}
        accounts = {scope: bool(value) for (level, scope), value in stored.items() if level is Level.ACCOUNT}
        return Rule(cos=frozenset(disabled), accounts=accounts)

    def _settle(self, accounts: Mapping[str, str]) -> None:
        """Keep which of these accounts (with their COS) are left out now."""
        now = self._now()
        left_out = dict(self._left_out)
        for account, cos in accounts.items():
            if self._rule.enables(account, cos):
                left_out.pop(account, None)
            else:
                since = left_out[account].since if account in left_out else now
                left_out[account] = LeftOut(since, cos)
        if left_out == self._left_out:
            return
        going = left_out.keys() - self._left_out.keys()
        coming = [one for one in self._left_out if one not in left_out and one in self._cos_of]
        with self._store.ledger.batch():
            self._remembered.keep(KEPT, msgspec.json.encode(left_out))
            for gap in self._store.ledger.gaps() if going else []:
                if gap.account in going:
                    self._store.ledger.close_gap(gap.id, now)
            for account in coming if len(coming) <= GAPS_MAX else [""]:
                detail = "the account was not backed up" if account else "accounts were not backed up"
                self._store.ledger.open_gap(account, GAP_REASON, detail, now)
        self._left_out = left_out
        log.info("enrolment_changed", left_out=len(left_out), newly=len(going), again=len(coming))


def kept_left_out(ledger: Ledger) -> dict[str, LeftOut]:
    """Return the accounts that a ledger says are not backed up."""
    if not ledger.rows("SELECT 1 FROM sqlite_master WHERE name = 'remembered'"):
        return {}  # an older version wrote it
    kept = Remembered(ledger).get(KEPT)
    return {} if kept is None else decoded(kept, dict[str, LeftOut])


def _cos(metadata: Mapping[str, Any]) -> str:
    return str(metadata.get("cos") or "")
