"""States: photographs of an item over time, and the pure rules by which a history grows and is read.

A history is a list of states with strictly increasing start-dates and transactions. A state is valid from
its start-date until the next one's. A photograph is an item's whole restore-relevant metadata, with the
digest and size of its content.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from backupd.clock import MICROSECOND
from backupd.items import ItemKey, Kind, name_is_cut


class ChangeType(StrEnum):
    """What happened to an item. `emptied` concerns a folder whose items went without being listed."""

    CREATED = "created"
    MODIFIED = "modified"
    MOVED = "moved"
    DELETED = "deleted"
    EMPTIED = "emptied"


class Origin(StrEnum):
    """Who found the change."""

    REALTIME = "realtime"
    SMARTSCAN = "smartscan"
    RESTORE = "restore"
    IMPORT = "import"


class Photograph(msgspec.Struct, frozen=True, kw_only=True):
    """An item at one moment. `digest` and `size` (bytes) describe its content; None where there is none."""

    metadata: dict[str, Any]
    digest: str | None = None
    size: int | None = None


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"start": "start-date"}):
    """One element of a history, as it stands on disk (docs/formats.md).

    `observed` is the event's own time where it arrived late. `lacking` names what could not be photographed
    (`metadata`, `content`) because the item was gone. `actor` is who did it, where the event said so.
    `item` is the item's id, only where the file name had to cut it. `held`: the content was left with the
    AppServer, which holds it; that the backup has no blob of it is no damage.
    """

    transaction: int
    kind: Kind
    item: str = ""
    start: datetime
    observed: datetime | None = None
    change: ChangeType
    deleted: bool = False
    origin: Origin
    digest: str | None = None
    size: int | None = None
    metadata: dict[str, Any] = {}
    events: tuple[str, ...] = ()
    actor: dict[str, Any] | None = None
    lacking: tuple[str, ...] = ()
    held: bool = False

    @property
    def photograph(self) -> Photograph:
        """The photograph this state holds."""
        return Photograph(metadata=self.metadata, digest=self.digest, size=self.size)


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of one item that became one, before they meet the item's last state."""

    transaction: int
    key: ItemKey
    time: datetime
    change: ChangeType
    origin: Origin
    events: tuple[str, ...] = ()
    actor: dict[str, Any] | None = None
    lacking: tuple[str, ...] = ()


def next_state(last: State | None, transaction: Transaction, photograph: Photograph | None) -> State | None:
    """Return the state that a transaction adds to a history ending in `last`, or None if it adds nothing.

    `photograph` None means there is no newer one: a deletion keeps the last known. Nothing is added when
    the transaction is not newer than the last state, when what is deleted was deleted before, or when the
    photograph equals the last one's and that one lacked nothing that this one has. An item never
    photographed gets a state without metadata: the fact that it was there, or went, is not dropped.
    """
    if last is not None and transaction.transaction <= last.transaction:
        return None
    deleted = transaction.change is ChangeType.DELETED
    if photograph is None:
        photograph = last.photograph if last is not None else Photograph(metadata={})
    if last is not None and last.deleted == deleted:
        completes = bool(last.lacking) and not transaction.lacking
        if deleted or (last.photograph == photograph and not completes):
            return None
    start = transaction.time if last is None else max(transaction.time, last.start + MICROSECOND)
    change = transaction.change
    if not deleted and (last is None or last.deleted):
        change = ChangeType.CREATED
    elif change is ChangeType.CREATED:
        # Who found it late calls an item created that the history knows: to the item it is a change.
        change = ChangeType.MODIFIED
    return State(
        transaction=transaction.transaction,
        kind=transaction.key.kind,
        item=transaction.key.item if name_is_cut(transaction.key.item) else "",
        start=start,
        observed=None if start == transaction.time else transaction.time,
        change=change,
        deleted=deleted,
        origin=transaction.origin,
        digest=photograph.digest,
        size=photograph.size,
        metadata=photograph.metadata,
        events=transaction.events,
        actor=transaction.actor,
        lacking=transaction.lacking,
    )


def state_at(history: Sequence[State], when: datetime) -> State | None:
    """Return the state valid at a moment (it may say `deleted`), or None before the item's first."""
    place = bisect_right(history, when, key=lambda state: state.start)
    return history[place - 1] if place else None
