"""Judging again what a plan chose, from the histories themselves, while nobody writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec

from backupd.clock import written
from backupd.decoding import decoded
from backupd.errors import BackupdError, CorruptHistory
from backupd.events import Change
from backupd.items import ItemKey, Kind
from backupd.retention import AccountStanding, Cutoffs, Stay, account_stays, item_stays
from backupd.states import State
from backupd.store.store import Store
from backupd.timekeeping import Marks

PENDING_ENTRIES_MAX = 20_000


class RecordingBehind(BackupdError):
    """So much in the journal is not recorded yet that it can't be looked through between two rounds."""


class Pending(msgspec.Struct):
    """What is journaled or waits, and is in no history yet."""

    keys: set[ItemKey] = msgspec.field(default_factory=set)
    accounts: set[str] = msgspec.field(default_factory=set)
    digests: set[str] = msgspec.field(default_factory=set)

    def take(self, change: Change) -> None:
        """Take a change in."""
        self.keys.add(change.key)
        self.accounts.add(change.account)
        if change.digest is not None:
            self.digests.add(change.digest)


def pending(store: Store, cursor: int) -> Pending:
    """Return what is behind the cursor, and what waits for its photograph. Raises `RecordingBehind`."""
    found = Pending()
    read = 0
    for entries in store.journal.stretches(cursor):
        read += len(entries)
        if read > PENDING_ENTRIES_MAX:
            raise RecordingBehind(
                f"more than {PENDING_ENTRIES_MAX:,} journal entries are not recorded yet",
                hint="purge again once recording has caught up: backupctl status says how far it is",
            )
        for entry in entries:
            found.take(entry.change)
    for waiting in store.ledger.waiting_pages():
        for row in waiting:
            found.take(decoded(row.change, Change))
    return found


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A history as it was read: its last state where it goes, else why it stays."""

    key: ItemKey
    last: State | None = None
    stay: Stay | None = None
    reason: str = ""


def judge_items(
    store: Store,
    keys: Iterable[ItemKey],
    waits: Pending,
    standing_of: Callable[[str], AccountStanding],
    at: Cutoffs,
    marks: Marks,
) -> list[Judged]:
    """Read each history and judge it; one that is gone already is forgotten by the index and left out."""
    judged = []
    for key in keys:
        if key in waits.keys:
            judged.append(Judged(key=key, stay=Stay.CHANGE_WAITS))
            continue
        try:
            states = store.histories.read(key)
        except CorruptHistory as error:
            judged.append(Judged(key=key, stay=Stay.CORRUPT, reason=error.message))
            continue
        if not states:
            store.catch_up([key])
            continue
        last = states[-1]
        gone = marks.gone_since(last.start, last.transaction) if last.deleted else None
        stay = item_stays(gone, standing_of(key.account), at)
        if last.kind is not key.kind or stay in (Stay.LIVE, Stay.WITHIN_RETENTION):
            stay = Stay.CHANGED_SINCE
        judged.append(Judged(key=key, last=last, stay=stay))
    return judged


def judge_account(
    store: Store,
    account: str,
    waits: Pending,
    standing_of: Callable[[str], AccountStanding],
    at: Cutoffs,
    marks: Marks,
) -> Judged:
    """Read an account's own history and judge whether all of it goes."""
    key = ItemKey(account, Kind.ACCOUNT, account)
    if account in waits.accounts:
        return Judged(key=key, stay=Stay.CHANGE_WAITS)
    try:
        states = store.histories.read(key)
    except CorruptHistory as error:
        return Judged(key=key, stay=Stay.CORRUPT, reason=error.message)
    if not states:
        return Judged(key=key, stay=Stay.CHANGED_SINCE)
    last = states[-1]
    standing = standing_of(account)
    gone = standing.gone_since
    if last.deleted:
        since = marks.gone_since(last.start, last.transaction)
        gone = since if gone is None else max(gone, since)
    elif gone is None:
        return Judged(key=key, last=last, stay=Stay.CHANGED_SINCE)
    told = AccountStanding(gone_since=gone, protection=standing.protection)
    return Judged(key=key, last=last, stay=account_stays(told, at))


def line_of(key: ItemKey, last: State, *, why: str, cutoff: datetime | None, **more: Any) -> dict[str, Any]:
    """Return a history's line in the manifest."""
    metadata = last.metadata
    return {
        "what": "account" if key.kind is Kind.ACCOUNT else "history",
        "account": key.account,
        "kind": key.kind.value,
        "item": key.item,
        "name": next(
            (value for name in ("name", "subject", "path") if isinstance(value := metadata.get(name), str)),
            "",
        ),
        "folder": metadata.get("folder") if isinstance(metadata.get("folder"), str) else None,
        "deleted": written(last.start) if last.deleted else None,
        "transaction": last.transaction,
        "digest": last.digest,
        "size": last.size,
        "reason": why,
        "cutoff": None if cutoff is None else written(cutoff),
        **more,
    }
