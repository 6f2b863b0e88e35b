"""What a scan decides: pure functions over a listing and what the index knows.

Words: an item is *fresh* when the backup does not know it (or knows it as deleted), *altered* when the
listing alone tells how it differs, *doubtful* when it must be read to know, *gone* when a listed folder no
longer holds it. A listing is *suspicious* when it lost so much that a broken mount is likelier than a
user's wish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from backupd.appservers.base import ListedItem, Listing
from backupd.events import Change
from backupd.items import CONTENT_KINDS, ItemKey, Kind
from backupd.states import ChangeType, Origin
from backupd.store.index_queries import KnownItem

SUSPICIOUS_ITEMS_MIN = 10
"""Fewer losses than this are never suspicious."""
SUSPICIOUS_SHARE = 0.5
"""A listing that lost more than this share of an account is suspicious."""


class ToRead(msgspec.Struct, frozen=True):
    """An item that must be opened: not known yet, or its content may have changed."""

    listed: ListedItem
    type: ChangeType
    recorded: KnownItem | None = None


class AccountPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The difference between a listing and the index.

    `unplaced` items are in no folder that the backup knows: a listing of some folders can't tell of them.
    """

    read: Sequence[ToRead]
    altered: Sequence[Change]
    gone: Sequence[KnownItem]
    unplaced: Sequence[KnownItem]
    unchanged: int


def plan_account(
    listing: Listing,
    known: Mapping[str, KnownItem],
    *,
    account: str,
    basis: int,
    moment: datetime,
    deep: bool = False,
) -> AccountPlan:
    """Compare a listing with the known items of its scope.

    `known` holds the live ones, and each listed one that is known at all. `basis` is the journal's last
    sequence number before the listing began. `deep` reads every item with content again.
    """
    read: list[ToRead] = []
    altered: list[Change] = []
    listed_ids: set[str] = set()
    unchanged = 0
    for listed in listing.items:
        listed_ids.add(listed.item)
        recorded = known.get(listed.item)
        if recorded is None or recorded.deleted or recorded.kind is not listed.kind:
            if listed.kind in CONTENT_KINDS:
                read.append(ToRead(listed, ChangeType.CREATED))
            else:
                altered.append(_change(account, listed, listed.metadata, ChangeType.CREATED, basis, moment))
            continue
        same = _agrees(listed.metadata, recorded.metadata) and not recorded.lacking
        type_ = _type_of(listed, recorded)
        has_content = listed.kind in CONTENT_KINDS
        if deep and has_content:
            read.append(ToRead(listed, type_, recorded))
        elif same:
            unchanged += 1
        elif has_content and not (listed.content_fixed and not recorded.lacking):
            read.append(ToRead(listed, type_, recorded))
        else:
            altered.append(_altered(account, listed, recorded, type_, basis, moment))
    missing = [
        item
        for item in known.values()
        if not item.deleted and item.kind is not Kind.ACCOUNT and item.item not in listed_ids
    ]
    is_placed = listing.scope is None
    return AccountPlan(
        read=read,
        altered=altered,
        gone=[item for item in missing if is_placed or _has_place(item)],
        unplaced=[item for item in missing if not (is_placed or _has_place(item))],
        unchanged=unchanged,
    )


def fingerprint(metadata: Mapping[str, Any], digest: str | None) -> bytes:
    """Return what two photographs must agree in to be equal, as bytes that are cheap to hand around."""
    return msgspec.json.encode((metadata, digest), order="sorted")


def recorded_fingerprint(recorded: KnownItem | None) -> bytes | None:
    """Return the fingerprint of an item's last photograph; None where it has none, or an incomplete one."""
    if recorded is None or recorded.deleted or recorded.lacking:
        return None
    return fingerprint(recorded.metadata, recorded.digest)


def suspicion(gone: int, known_live: int, *, noun: str = "items") -> str | None:
    """Return why a listing is not to be believed, or None. `known_live`: what the backup holds as living."""
    if gone < SUSPICIOUS_ITEMS_MIN or gone <= known_live * SUSPICIOUS_SHARE:
        return None
    return f"{gone} of {known_live} known {noun} are missing from the listing"


def suspicion_of_accounts(gone: int, known_live: int) -> str | None:
    """Return why a list of accounts is not to be believed: more than half are missing, or the only one."""
    if gone <= known_live * SUSPICIOUS_SHARE:
        return None
    return f"{gone} of {known_live} known accounts are missing from the list of accounts"


def suspicion_of_entries(gone: int, known_live: int) -> str | None:
    """Return why a list of domains, COS and mailing lists is not to be believed; a single one may go."""
    if gone < 2 or gone <= known_live * SUSPICIOUS_SHARE:  # noqa: PLR2004 - one may go
        return None
    return f"{gone} of {known_live} known domains, COS and mailing lists are missing from the listing"


def deletion(item: KnownItem, *, basis: int, moment: datetime) -> Change:
    """Return the finding that an item is no longer there; its history keeps the last photograph."""
    return Change(
        account=item.account,
        kind=item.kind,
        item=item.item,
        type=ChangeType.DELETED,
        time=moment,
        origin=Origin.SMARTSCAN,
        basis=basis,
    )


def entry_change(
    key: ItemKey, metadata: dict[str, Any], known: KnownItem | None, *, basis: int, moment: datetime
) -> Change | None:
    """Return the finding about an account's attributes, a domain, COS or list; None if nothing differs."""
    if known is not None and not known.deleted and known.metadata == metadata:
        return None
    fresh = known is None or known.deleted
    return Change(
        account=key.account,
        kind=key.kind,
        item=key.item,
        type=ChangeType.CREATED if fresh else ChangeType.MODIFIED,
        time=moment,
        origin=Origin.SMARTSCAN,
        metadata=metadata,
        basis=basis,
    )


def doubt(item: KnownItem, *, moment: datetime) -> Change:
    """Return the finding that makes the recorder look whether an item is there: older than all it knows."""
    return deletion(item, basis=0, moment=moment)


def _has_place(item: KnownItem) -> bool:
    return item.kind is Kind.FOLDER or isinstance(item.metadata.get("folder"), str)


def _agrees(listed: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    return all(recorded.get(name) == value for name, value in listed.items())


def _type_of(listed: ListedItem, recorded: KnownItem) -> ChangeType:
    moved = "folder" in listed.metadata and listed.metadata["folder"] != recorded.metadata.get("folder")
    return ChangeType.MOVED if moved else ChangeType.MODIFIED


def _altered(
    account: str, listed: ListedItem, recorded: KnownItem, type_: ChangeType, basis: int, moment: datetime
) -> Change:
    """Return the finding about an item whose listing alone tells how it differs."""
    content = listed.kind in CONTENT_KINDS
    metadata = {**recorded.metadata, **listed.metadata} if content else listed.metadata
    return _change(
        account, listed, metadata, type_, basis, moment, digest=recorded.digest, size=recorded.size
    )


def _change(
    account: str,
    listed: ListedItem,
    metadata: dict[str, Any],
    type_: ChangeType,
    basis: int,
    moment: datetime,
    digest: str | None = None,
    size: int | None = None,
) -> Change:
    return Change(
        account=account,
        kind=listed.kind,
        item=listed.item,
        type=type_,
        time=moment,
        origin=Origin.SMARTSCAN,
        metadata=metadata,
        digest=digest,
        size=size,
        basis=basis,
    )
