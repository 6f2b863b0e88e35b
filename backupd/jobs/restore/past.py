"""An account's past: its folders, items and attributes as of a moment, and whether that moment is a good one.

Pure but for `account_at`, which asks the index. *Live* items are those that were in the mailbox then; folders
are those whose item was there, and those that live items were in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from backupd.clock import MICROSECOND
from backupd.errors import UnknownAccount, UnknownItem
from backupd.items import AREA_OF_KIND, CONTENT_KINDS, Area, Kind
from backupd.store.index_queries import KnownItem
from backupd.store.store import Store

EMPTIED_SHARE = 0.1
"""A moment with less than this share of what the account held at its fullest looks like an emptied one."""
EMPTIED_ITEMS_MIN = 10
"""Accounts that never held so many items are never called emptied."""
SYSTEM_MARKS = ("system", "zimbraIsSystemResource", "zimbraIsSystemAccount")
"""Attributes of an account that make it one of the server's own, such as those that collect spam."""
FULL_SHARE = 0.9
"""A moment with at least this share is as good as the fullest."""


class AccountThen(msgspec.Struct, frozen=True, kw_only=True):
    """An account as of a moment. `items` are those with content, `gone` were deleted by then."""

    account: str
    name: str
    attributes: dict[str, Any]
    deleted: bool
    folders: tuple[tuple[Area, str], ...]
    items: tuple[KnownItem, ...]
    gone: tuple[KnownItem, ...]


def account_at(store: Store, name_or_id: str, when: datetime) -> AccountThen:
    """Return an account as of a moment. Raises `UnknownAccount`, `UnknownItem` before its first state."""
    known = store.index.find_account(name_or_id)
    if known is None:
        raise UnknownAccount(
            f"no account {name_or_id!r} in the backup", hint="getAvailableAccounts lists them"
        )
    found = list(store.index.items_at(known.item, when))
    own = next((item for item in found if item.kind is Kind.ACCOUNT), None)
    if own is None:
        raise UnknownItem(
            f"account {name_or_id!r} had no state at that time",
            hint=f"its first is of {known.first:%Y-%m-%d %H:%M:%S} UTC",
        )
    live = [item for item in found if not item.deleted]
    return AccountThen(
        account=known.item,
        name=str(own.metadata.get("name", name_or_id)),
        attributes=own.metadata,
        deleted=own.deleted,
        folders=folders_of(live),
        items=tuple(item for item in live if item.kind in CONTENT_KINDS),
        gone=tuple(item for item in found if item.deleted and item.kind in CONTENT_KINDS),
    )


def is_system(attributes: Mapping[str, Any]) -> bool:
    """Tell whether an account is one of the server's own."""
    return any(str(attributes.get(mark, "")).casefold() == "true" for mark in SYSTEM_MARKS)


def folders_of(live: Iterable[KnownItem]) -> tuple[tuple[Area, str], ...]:
    """Return the folders of live items, empty ones too, each after those above it."""
    folders: set[tuple[Area, str]] = set()
    for item in live:
        folder = item.metadata.get("folder")
        if not isinstance(folder, str):
            continue
        if item.kind is Kind.FOLDER:
            folders.add((Area(item.metadata.get("area", Area.MAIL)), folder))
        elif item.kind in CONTENT_KINDS:
            folders.add((AREA_OF_KIND[item.kind], folder))
    return tuple(sorted(folders, key=lambda folder: (folder[0], folder[1].count("/"), folder[1])))


def better_moment(items: Sequence[KnownItem], when: datetime) -> datetime | None:
    """Return a moment before `when` that holds much more, where `when` holds next to nothing; else None.

    `items` are the account's, as they are known now. It is just before the last deletion that began to empty
    an account as good as full.
    """
    steps: list[tuple[datetime, int]] = []
    for item in items:
        if item.kind not in CONTENT_KINDS or item.first > when:
            continue
        steps.append((item.first, 1))
        if item.deleted_at is not None and item.deleted_at <= when:
            steps.append((item.deleted_at, -1))
    steps.sort(key=lambda step: (step[0], -step[1]))
    live = fullest = 0
    for _, step in steps:
        live += step
        fullest = max(fullest, live)
    if fullest < EMPTIED_ITEMS_MIN or live > fullest * EMPTIED_SHARE:
        return None
    better: datetime | None = None
    live = 0
    for moment, step in steps:
        if step < 0 and live >= fullest * FULL_SHARE:
            better = moment - MICROSECOND
        live += step
    return better
