"""What a restore wants: items with the place, flags and tags they shall have, as pure values.

A `Wanted` says which state of which item goes where. Plans are made from an account's past, can be printed
(`dry_run`), and hold nothing that would change when they are made again: that is what makes a restore that is
run twice, or goes on after a crash, restore nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from backupd.items import AREA_OF_KIND, Area, ItemKey, Kind
from backupd.jobs.restore.past import AccountThen
from backupd.states import Photograph
from backupd.store.index_queries import KnownItem

MARKED_DELETED = "deleted"
UNDELETE_TAG = "undelete_%d_%m_%y"
UNKNOWN_FOLDER = "unknown_%s"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One state to be put back: `source` is whose, `photograph` how it shall be in the target account."""

    source: ItemKey
    transaction: int
    photograph: Photograph
    lacking: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """What it is."""
        return self.source.kind

    @property
    def folder(self) -> str:
        """Where it shall go."""
        return str(self.photograph.metadata.get("folder", ""))

    def target(self, account: str) -> str:
        """Return where it goes in an account, as the ledger remembers it."""
        return f"{account}:{self.folder}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Folders to make, each after those above it, and items to put."""

    folders: tuple[tuple[Area, str], ...]
    items: tuple[Wanted, ...]


def plan_account(then: AccountThen) -> Plan:
    """Return what brings an account back as it was: its folders, empty ones too, and its live items."""
    return Plan(folders=then.folders, items=tuple(wanted(item) for item in then.items))


def plan_undelete(
    deleted: Iterable[KnownItem],
    *,
    tag_moment: datetime,
    dedicated_folder: str | None = None,
) -> Plan:
    """Return what brings deleted items back to the folders they were in, tagged with the day of the undelete.

    An item of no known folder goes to `unknown_XX`, XX its kind. With `dedicated_folder` all go below that
    folder instead of their own.
    """
    items = []
    tag = tag_moment.strftime(UNDELETE_TAG)
    for item in deleted:
        metadata = without_deletion_mark(item.metadata)
        folder = metadata.get("folder")
        if not isinstance(folder, str):
            folder = UNKNOWN_FOLDER % item.kind.value
        if dedicated_folder is not None:
            folder = f"{dedicated_folder}/{folder}" if folder else dedicated_folder
        metadata = {**metadata, "folder": folder}
        if item.kind is Kind.MESSAGE:
            metadata["tags"] = sorted({*(metadata.get("tags") or ()), tag})
        items.append(wanted(item, metadata))
    folders = {(AREA_OF_KIND[one.kind], one.folder) for one in items}
    ordered = sorted(folders, key=lambda folder: (folder[0], folder[1].count("/"), folder[1]))
    return Plan(folders=tuple(ordered), items=tuple(items))


def deleted_between(
    items: Sequence[KnownItem], start: datetime | None, end: datetime | None
) -> list[KnownItem]:
    """Return the items that are deleted and went in a window (bounds included; None: open), oldest first."""
    found = [
        item
        for item in items
        if item.kind in AREA_OF_KIND
        and item.deleted_at is not None
        and (start is None or item.deleted_at >= start)
        and (end is None or item.deleted_at <= end)
    ]
    return sorted(found, key=lambda item: (item.deleted_at or item.last, item.item))


def merged(first: Plan, second: Plan) -> Plan:
    """Return both plans as one; an item that both want is wanted as the first does."""
    known = {one.source for one in first.items}
    items = (*first.items, *(one for one in second.items if one.source not in known))
    folders = dict.fromkeys((*first.folders, *second.folders))
    return Plan(folders=tuple(folders), items=items)


def wanted(item: KnownItem, metadata: Mapping[str, Any] | None = None) -> Wanted:
    """Return an item's state as something to put back."""
    return Wanted(
        source=item.key,
        transaction=item.transaction,
        photograph=Photograph(
            metadata=dict(item.metadata if metadata is None else metadata),
            digest=item.digest,
            size=item.size,
        ),
        lacking=item.lacking,
    )


def without_deletion_mark(metadata: Mapping[str, Any]) -> dict[str, Any]:
    r"""Return a deleted message's photograph without IMAP's mark of it: \Deleted, RFC 9051, 2.3.2.

    The mark was the beginning of its deletion: with it the next EXPUNGE would take the restored one too.
    """
    if MARKED_DELETED not in (metadata.get("flags") or ()):
        return dict(metadata)
    return {**metadata, "flags": [flag for flag in metadata["flags"] if flag != MARKED_DELETED]}
