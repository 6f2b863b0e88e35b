"""Coalescing: changes of one item at the same moment become one transaction (docs/formats.md).

"The same moment" is `window` from the time of the group's first change. A group keeps the identifiers of
all its events and the last photograph among its changes; its transaction is its last change's sequence
number, its time its first change's. Creation followed by changes stays a creation; anything followed by a
deletion is a deletion that keeps the last known photograph. Pure: the same entries give the same groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import msgspec

from backupd.events import Change
from backupd.items import ItemKey
from backupd.states import ChangeType, Transaction

WINDOW = timedelta(milliseconds=100)
"""Default of `coalesce_window`."""


class Entry(msgspec.Struct, frozen=True):
    """A change with the sequence number that the journal gave it."""

    sequence: int
    change: Change


class Group(msgspec.Struct, frozen=True):
    """What becomes one transaction, and the change whose photograph it carries (None: none has one)."""

    first: int
    transaction: Transaction
    photographed: Change | None
    last: Change


def coalesce(entries: Iterable[Entry], window: timedelta = WINDOW) -> list[Group]:
    """Group entries, given in sequence order, into transactions ordered by their last sequence number.

    Changes from scans are never merged with each other or with events: they are photographs of their own
    moment. `emptied` is no change of an item and must have been taken out before.
    """
    open_groups: dict[ItemKey, list[Entry]] = {}
    closed: list[list[Entry]] = []
    for entry in entries:
        key = entry.change.key
        group = open_groups.get(key)
        if group is not None and _same_moment(group, entry, window):
            group.append(entry)
            continue
        if group is not None:
            closed.append(group)
        open_groups[key] = [entry]
    closed.extend(open_groups.values())
    closed.sort(key=lambda group: group[-1].sequence)
    return [_merged(group) for group in closed]


def _same_moment(group: Sequence[Entry], entry: Entry, window: timedelta) -> bool:
    first = group[0].change
    if not window or first.basis is not None or entry.change.basis is not None:
        return False
    if group[-1].change.type is ChangeType.DELETED and entry.change.type is not ChangeType.DELETED:
        return False
    return abs(entry.change.time - first.time) <= window


def _merged(group: Sequence[Entry]) -> Group:
    first, last = group[0].change, group[-1].change
    photographed = None
    for entry in group:
        if entry.change.metadata is not None:
            photographed = entry.change
        elif entry.change.type is not ChangeType.DELETED:
            photographed = None
    actors = [entry.change.actor for entry in group if entry.change.actor is not None]
    return Group(
        first=group[0].sequence,
        transaction=Transaction(
            transaction=group[-1].sequence,
            key=last.key,
            time=first.time,
            change=_merged_type([entry.change.type for entry in group]),
            origin=last.origin,
            events=tuple(dict.fromkeys(event for entry in group for event in entry.change.events)),
            actor=actors[-1] if actors else None,
            lacking=last.lacking,
        ),
        photographed=photographed,
        last=last,
    )


def _merged_type(types: Sequence[ChangeType]) -> ChangeType:
    if types[-1] is ChangeType.DELETED:
        return ChangeType.DELETED
    if ChangeType.CREATED in types:
        return ChangeType.CREATED
    return ChangeType.MOVED if ChangeType.MOVED in types else types[-1]
