"""What the recorder decides before it acts: pure functions over journal entries and last states.

Words: an entry is *ripe* when it came more than a coalescing window ago, so that what belongs to the same
moment is there too; a group is *held back* until its first entry is ripe. A *need* is a photograph that
only the AppServer can give. A *finding* is a change with a `basis`: it is a photograph of a moment not after
that sequence number, and whatever the journal says of the item behind it wins. Invariant: the cursor never
passes an entry of a group that was held back; what is read again because of that is recognised by its
sequence number or event identifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import msgspec

from backupd.coalescing import Entry, Group, coalesce
from backupd.events import Change
from backupd.items import CONTENT_KINDS, ItemKey, Kind
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
    """Fresh entries, and how many events came again."""

    fresh: list[Entry]
    duplicates: int


def sift(
    entries: Sequence[Entry],
    recent: Callable[[ItemKey], Recent],
    came_before: Callable[[Entry], bool],
) -> Sifted:
    """Leave out what histories already hold, by sequence number or by the identifier of an event.

    `came_before` knows the events that were journaled lately, also those that changed nothing.
    """
    fresh = []
    duplicates = 0
    for entry in entries:
        change = entry.change
        known = recent(change.key)
        repeated = bool(change.event) and came_before(entry)
        if known.last is not None and entry.sequence <= known.last.transaction:
            continue
        if repeated or (change.event and change.event in known.events):
            duplicates += 1
            continue
        fresh.append(entry)
    return Sifted(fresh=fresh, duplicates=duplicates)


def plan_groups(
    entries: Sequence[Entry],
    *,
    after: int,
    read_through: int,
    ripe_through: int,
    cut: bool,
    window: timedelta,
) -> Plan:
    """Group entries and hold back those groups that may still grow.

    Read was from behind `after`, the cursor, up to `read_through`; `cut` says that the journal goes on
    behind it, so that groups reaching to its end are held back too, unless the cursor would stand still.
    """
    groups = fold_unphotographed(coalesce(entries, window))
    unripe = [group for group in groups if group.last.basis is None and group.first > ripe_through]
    if cut:
        planned = _without(groups, [*unripe, *_growing(groups, entries, window)], read_through)
        if planned.cursor > after:
            return planned
    return _without(groups, unripe, read_through)


def _without(groups: Sequence[Group], held: Sequence[Group], read_through: int) -> Plan:
    """Hold groups back, and what is behind them of the same item, so that each item keeps its order."""
    held_from: dict[ItemKey, int] = {}
    for group in held:
        key = group.transaction.key
        held_from[key] = min(group.first, held_from.get(key, group.first))
    ready, waiting = list[Group](), list[Group]()
    for group in groups:
        from_here = held_from.get(group.transaction.key)
        is_ready = from_here is None or group.transaction.transaction < from_here
        (ready if is_ready else waiting).append(group)
    cursor = min((group.first for group in waiting), default=read_through + 1) - 1
    return Plan(groups=ready, cursor=cursor)


def _growing(groups: Sequence[Group], entries: Sequence[Entry], window: timedelta) -> list[Group]:
    """Return the groups that entries behind the newest may belong to."""
    if not window or not entries:
        return []
    border = max(entry.change.time for entry in entries) - window
    return [group for group in groups if group.last.basis is None and group.transaction.time >= border]


def fold_unphotographed(groups: Sequence[Group]) -> list[Group]:
    """Merge a group that nobody photographed into the item's next one: its moment is over.

    Not into a finding, which may be older than the change it would have to stand for.
    """
    result: list[Group] = []
    waiting: dict[ItemKey, Group] = {}
    last_place = {group.transaction.key: place for place, group in enumerate(groups)}
    for place, group in enumerate(groups):
        key = group.transaction.key
        earlier, merged = waiting.pop(key, None), group
        if earlier is not None and group.last.basis is None:
            merged = _folded(earlier, group)
        elif earlier is not None:
            result.append(earlier)
        deleted = merged.transaction.change is ChangeType.DELETED
        bare = merged.photographed is None and not deleted and merged.last.basis is None
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


def needs_reading(group: Group, newest: int, has_blob: Callable[[str], bool]) -> bool:
    """Tell whether only the AppServer can say what the item is now.

    So it is where no change brought a photograph, where the content is not at hand, and where a finding is
    older than what is known since: `newest` is the last sequence number known of the item before the group.
    """
    change = group.last
    if change.basis is not None and newest > change.basis:
        return True
    if change.lacking or group.transaction.change is ChangeType.DELETED:
        return False
    photographed = group.photographed
    return photographed is None or not is_complete(photographed, has_blob)


def is_complete(change: Change, has_blob: Callable[[str], bool]) -> bool:
    """Tell whether a change holds a photograph whose content, if it has any, is stored."""
    if change.metadata is None:
        return False
    return change.kind not in CONTENT_KINDS or (change.digest is not None and has_blob(change.digest))


def told_photograph(group: Group) -> Photograph | None:
    """Return the photograph that the group's changes brought along, or None."""
    change = group.photographed
    if change is None or change.metadata is None:
        return None
    return Photograph(metadata=change.metadata, digest=change.digest, size=change.size)


def at_deletion(
    group: Group, last: State | None, has_blob: Callable[[str], bool]
) -> tuple[Transaction, Photograph | None]:
    """Return what to record of a deletion: a last whole photograph counts more than one without content."""
    told = group.photographed
    if told is None or is_complete(told, has_blob):
        return group.transaction, told_photograph(group)
    if last is not None and last.digest is not None and not last.lacking:
        return msgspec.structs.replace(group.transaction, lacking=()), None
    lacking = lacking_of(told, told.kind, has_blob)
    return msgspec.structs.replace(group.transaction, lacking=lacking), told_photograph(group)


def after_vanishing(
    group: Group, last: State | None, has_blob: Callable[[str], bool]
) -> tuple[Transaction, Photograph | None]:
    """Return what to record of an item that was gone before it could be read: what the changes said.

    Of an item whose history says that it is deleted nothing comes to life again: its end is known, and the
    change is late. A finding about a known item that is gone now is a deletion.
    """
    transaction = group.transaction
    if last is not None and (last.deleted or group.last.basis is not None):
        return msgspec.structs.replace(transaction, change=ChangeType.DELETED), None
    photograph = told_photograph(group)
    return msgspec.structs.replace(
        transaction, lacking=lacking_of(group.photographed, group.last.kind, has_blob)
    ), photograph


def lacking_of(photographed: Change | None, kind: Kind, has_blob: Callable[[str], bool]) -> tuple[str, ...]:
    """Return what a photograph lacks of an item that can't be read any more."""
    lacking = []
    if photographed is None or photographed.metadata is None:
        lacking.append("metadata")
    if kind in CONTENT_KINDS:
        digest = photographed.digest if photographed is not None else None
        if digest is None or not has_blob(digest):
            lacking.append("content")
    return tuple(lacking)


Place = tuple[str, str]
"""Source and account: where a publisher counts."""


def place_of(change: Change) -> Place:
    """Return where an event was counted."""
    return change.event.rpartition("#")[0], change.account


def gaps_of(
    entries: Sequence[Entry], numbers: Mapping[Place, int]
) -> tuple[list[GapFound], dict[Place, int]]:
    """Find emptied folders and holes in the publishers' counts; return them with the counts that are new.

    `numbers` holds the last count by (source, account). A source not met before starts at 1: a first event
    with a higher number means that earlier ones were missed.
    """
    gaps: list[GapFound] = []
    counts: dict[Place, int] = {}
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
        place = source, _ = place_of(change)
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
