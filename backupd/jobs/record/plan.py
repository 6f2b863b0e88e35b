"""What the recorder decides before it acts: pure functions over journal entries and last states.

Words: an entry is *ripe* when it came more than a coalescing window ago, so that what belongs to the same
moment is there too; a group is *held back* until its first entry is ripe. A *need* is a photograph that
only the AppServer can give. Invariant: the cursor never passes an entry of a group that was held back; what
is read again because of that is recognised by its sequence number or event identifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import msgspec

from backupd.coalescing import Entry, Group, coalesce
from backupd.events import Change
from backupd.items import CONTENT_KINDS, ItemKey
from backupd.states import ChangeType, Photograph, State, Transaction

GAP_EMPTIED = "folder_emptied"
GAP_HOLE = "sequence_hole"


class GapFound(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of missed changes of an account."""

    account: str
    reason: str
    detail: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to record now, in order, and up to where the journal is then done with."""

    groups: Sequence[Group]
    cursor: int


class Recent(msgspec.Struct, frozen=True):
    """What is known of an item's history: its last state and the event identifiers of its recent states."""

    last: State | None
    events: frozenset[str]


class Sifted(msgspec.Struct, frozen=True, kw_only=True):
    """Fresh entries, items with entries recorded before, and how many events came again."""

    fresh: list[Entry]
    recorded: frozenset[ItemKey]
    duplicates: int


def sift(entries: Sequence[Entry], recent: Callable[[ItemKey], Recent]) -> Sifted:
    """Leave out what histories already hold, by sequence number or by the identifier of an event."""
    fresh = []
    recorded: set[ItemKey] = set()
    duplicates = 0
    seen: set[tuple[ItemKey, str]] = set()
    for entry in entries:
        change = entry.change
        key = change.key
        known = recent(key)
        if known.last is not None and entry.sequence <= known.last.transaction:
            recorded.add(key)
            continue
        if change.event:
            if change.event in known.events or (key, change.event) in seen:
                duplicates += 1
                continue
            seen.add((key, change.event))
        fresh.append(entry)
    return Sifted(fresh=fresh, recorded=frozenset(recorded), duplicates=duplicates)


def plan_groups(
    entries: Sequence[Entry], *, read_through: int, ripe_through: int, cut: bool, window: timedelta
) -> Plan:
    """Group entries and hold back those groups that may still grow.

    `read_through` is the last sequence number read; `cut` says that the journal goes on behind it, so that
    groups reaching to its end are held back too, unless nothing else is left to do.
    """
    groups = fold_unphotographed(coalesce(entries, window))
    held = [group for group in groups if group.last.basis is None and group.first > ripe_through]
    if cut and window:
        border = max((entry.change.time for entry in entries), default=None)
        growing = [
            group
            for group in groups
            if border is not None and group.last.basis is None and border - group.transaction.time <= window
        ]
        if len(growing) < len(groups):
            held.extend(group for group in growing if group not in held)
    if not held:
        return Plan(groups=groups, cursor=read_through)
    kept_items = {id(group) for group in held}
    first_held: dict[ItemKey, int] = {}
    for group in held:
        key = group.transaction.key
        first_held[key] = min(group.first, first_held.get(key, group.first))
    ready = [
        group
        for group in groups
        if id(group) not in kept_items
        and group.transaction.transaction < first_held.get(group.transaction.key, 1 << 62)
    ]
    ready_ids = {id(group) for group in ready}
    cursor = min(group.first for group in groups if id(group) not in ready_ids) - 1
    return Plan(groups=ready, cursor=cursor)


def fold_unphotographed(groups: Sequence[Group]) -> list[Group]:
    """Merge a group that nobody photographed into the item's next one: its moment is over."""
    result: list[Group] = []
    waiting: dict[ItemKey, Group] = {}
    last_place = {group.transaction.key: place for place, group in enumerate(groups)}
    for place, group in enumerate(groups):
        key = group.transaction.key
        earlier = waiting.pop(key, None)
        merged = group if earlier is None else _folded(earlier, group)
        bare = merged.photographed is None and merged.transaction.change is not ChangeType.DELETED
        if bare and place != last_place[key]:
            waiting[key] = merged
        else:
            result.append(merged)
    return result


def _folded(earlier: Group, later: Group) -> Group:
    created = earlier.transaction.change is ChangeType.CREATED
    change = later.transaction.change
    if created and change is not ChangeType.DELETED:
        change = ChangeType.CREATED
    events = tuple(dict.fromkeys((*earlier.transaction.events, *later.transaction.events)))
    return msgspec.structs.replace(
        later,
        first=min(earlier.first, later.first),
        transaction=msgspec.structs.replace(later.transaction, change=change, events=events),
    )


def needs_reading(group: Group, last: State | None, has_blob: Callable[[str], bool]) -> bool:
    """Tell whether only the AppServer can say what the item is now.

    So it is where no change brought a photograph, where the content is not at hand, and where a scan's
    finding is older than what the history has learnt since the listing began.
    """
    change = group.last
    if change.lacking:
        return False
    if change.basis is not None and last is not None and last.transaction > change.basis:
        return True
    if group.transaction.change is ChangeType.DELETED:
        return False
    photographed = group.photographed
    if photographed is None:
        return True
    if change.kind not in CONTENT_KINDS:
        return False
    return photographed.digest is None or not has_blob(photographed.digest)


def told_photograph(group: Group) -> Photograph | None:
    """Return the photograph that the group's changes brought along, or None."""
    change = group.photographed
    if change is None or change.metadata is None:
        return None
    return Photograph(metadata=change.metadata, digest=change.digest, size=change.size)


def after_vanishing(
    group: Group, last: State | None, has_blob: Callable[[str], bool]
) -> tuple[Transaction, Photograph | None]:
    """Return what to record of an item that was gone before it could be read: what the changes said.

    A scan's finding about a vanished item is a deletion if the item was known: the listing is not older
    than the item's end.
    """
    transaction = group.transaction
    if group.last.basis is not None and last is not None:
        return msgspec.structs.replace(transaction, change=ChangeType.DELETED), None
    photograph = told_photograph(group)
    lacking = []
    if photograph is None:
        lacking.append("metadata")
    if transaction.key.kind in CONTENT_KINDS:
        digest = photograph.digest if photograph is not None else None
        if digest is None or not has_blob(digest):
            lacking.append("content")
    return msgspec.structs.replace(transaction, lacking=tuple(lacking)), photograph


def gaps_of(
    entries: Sequence[Entry], numbers: Mapping[tuple[str, str], int]
) -> tuple[list[GapFound], dict[tuple[str, str], int]]:
    """Find emptied folders and holes in the publishers' counts; return them with the counts that are new.

    `numbers` holds the last count by (source, account). A source not met before starts at 1: a first event
    with a higher number means that earlier ones were missed.
    """
    gaps: list[GapFound] = []
    counts: dict[tuple[str, str], int] = {}
    for entry in entries:
        change = entry.change
        if change.type is ChangeType.EMPTIED:
            gaps.append(
                GapFound(
                    account=change.account,
                    reason=GAP_EMPTIED,
                    detail=f"folder {_folder_of(change)} was emptied without a list of its items",
                )
            )
        if change.number is None or not change.event:
            continue
        source = change.event.rpartition("#")[0]
        place = (source, change.account)
        before = counts.get(place, numbers.get(place, 0))
        if change.number <= before:
            continue
        if change.number > before + 1:
            gaps.append(
                GapFound(
                    account=change.account,
                    reason=GAP_HOLE,
                    detail=f"events {before + 1} to {change.number - 1} of {source} did not come",
                )
            )
        counts[place] = change.number
    return gaps, counts


def _folder_of(change: Change) -> str:
    return str((change.metadata or {}).get("folder") or change.item)
