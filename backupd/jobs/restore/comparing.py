"""Comparing: the past side by side. An item's life line by line, and an account at two moments; pure.

Both sides of an account come as items in the order of their ids, as the index yields them, and are merged as
they come: memory holds what differs, not what is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from backupd.differences import Difference, Way, differences, in_words
from backupd.items import AREA_OF_KIND, Kind
from backupd.states import State
from backupd.store.index_queries import KnownItem

_REFLAGGED = frozenset({Way.FLAG_ADDED, Way.FLAG_REMOVED})
_RETAGGED = frozenset({Way.TAG_ADDED, Way.TAG_REMOVED})


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One state of an item with what it brought."""

    state: State
    found: tuple[Difference, ...]
    words: str


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """An item that differs between two moments; `item` is its later side, `groups` what is counted."""

    item: KnownItem
    groups: tuple[str, ...]
    found: tuple[Difference, ...]
    words: str


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """What differs: counts by group, all items that do, folders and the account itself first."""

    counts: dict[str, int]
    items: tuple[Changed, ...]


GROUPS = {
    "appeared": "items that came",
    "vanished": "items that went",
    "moved": "items in another folder",
    "moved_with_folder": "items whose folder has another name, not listed",
    "reflagged": "items with other flags",
    "retagged": "items with other tags",
    "content_changed": "items with other content",
    "changed": "items changed otherwise",
    "folders_made": "folders made",
    "folders_renamed": "folders renamed",
    "folders_removed": "folders removed",
    "attributes_changed": "attributes of the account changed",
}
"""What is counted, in the order in which it is shown."""


def turns_of(history: Sequence[State]) -> list[Turn]:
    """Return an item's states with what each brought, oldest first."""
    turns = []
    before: State | None = None
    for state in history:
        found = differences(before, state, state.kind)
        turns.append(Turn(state=state, found=found, words=in_words(found)))
        before = state
    return turns


def compare(before: Iterable[KnownItem], after: Iterable[KnownItem]) -> Compared:
    """Return what differs between an account at two moments; both sides are in the order of item and kind."""
    pairs = [(old, new) for old, new in _paired(before, after) if not _is_same(old, new)]
    renamed = _renamed_folders(pairs)
    counts: Counter[str] = Counter()
    changed: list[Changed] = []
    for old, new in pairs:
        found = differences(old, new, new.kind)
        if _is_carried(old, found, new.kind, renamed):
            counts["moved_with_folder"] += 1
            found = tuple(one for one in found if one.way is not Way.MOVED)
        if not found:
            continue
        groups = _groups(new.kind, found)
        counts.update(dict.fromkeys(groups, 1))
        if new.kind is Kind.ACCOUNT and "attributes_changed" in groups:
            counts["attributes_changed"] += sum(one.way is Way.ATTRIBUTE for one in found) - 1
        changed.append(Changed(item=new, groups=groups, found=found, words=in_words(found)))
    changed.sort(key=_order)
    return Compared(counts={name: counts[name] for name in GROUPS}, items=tuple(changed))


def _paired(
    before: Iterable[KnownItem], after: Iterable[KnownItem]
) -> Iterator[tuple[KnownItem | None, KnownItem]]:
    """Yield each item of the later side with its earlier one; what was there before is there after, too."""
    earlier = iter(before)
    old = next(earlier, None)
    for new in after:
        while old is not None and (old.item, old.kind) < (new.item, new.kind):
            old = next(earlier, None)
        if old is not None and (old.item, old.kind) == (new.item, new.kind):
            yield old, new
            old = next(earlier, None)
        else:
            yield None, new


def _is_same(old: KnownItem | None, new: KnownItem) -> bool:
    return (old is None and new.deleted) or (old is not None and old.transaction == new.transaction)


def _renamed_folders(pairs: Sequence[tuple[KnownItem | None, KnownItem]]) -> set[tuple[str, Any, Any]]:
    """Return area, former and later path of the folders that were renamed."""
    return {
        (str(new.metadata.get("area")), old.metadata.get("folder"), new.metadata.get("folder"))
        for old, new in pairs
        if old is not None and new.kind is Kind.FOLDER and not old.deleted and not new.deleted
    }


def _is_carried(
    old: KnownItem | None,
    found: Sequence[Difference],
    kind: Kind,
    renamed: set[tuple[str, Any, Any]],
) -> bool:
    """Tell whether an item is elsewhere only because its folder has another name."""
    moved = next((one for one in found if one.way is Way.MOVED), None)
    if old is None or moved is None or kind not in AREA_OF_KIND:
        return False
    return (AREA_OF_KIND[kind].value, moved.before, moved.after) in renamed


def _groups(kind: Kind, found: Sequence[Difference]) -> tuple[str, ...]:
    ways = {one.way for one in found}
    came, went = bool(ways & {Way.CREATED, Way.RETURNED}), Way.DELETED in ways
    if kind is Kind.FOLDER:
        named = {"folders_made": came, "folders_removed": went, "folders_renamed": not came and not went}
        return tuple(name for name, is_so in named.items() if is_so)
    if kind is Kind.ACCOUNT:
        return ("appeared",) if came else ("vanished",) if went else ("attributes_changed",)
    if came or went:
        return ("appeared",) if came else ("vanished",)
    grouped = {
        "moved": Way.MOVED in ways,
        "reflagged": bool(ways & _REFLAGGED),
        "retagged": bool(ways & _RETAGGED),
        "content_changed": Way.CONTENT in ways,
        "changed": Way.COMPLETED in ways or (Way.ATTRIBUTE in ways and Way.CONTENT not in ways),
    }
    return tuple(name for name, is_so in grouped.items() if is_so)


def _order(one: Changed) -> tuple[int, str, datetime, str]:
    rank = {Kind.ACCOUNT: 0, Kind.FOLDER: 1}.get(one.item.kind, 2)
    return rank, str(one.item.metadata.get("folder") or ""), one.item.last, one.item.item
