"""Which seen file is which known item: pure, so that every case is a test of values.

A file is the item that was known at its place; else the one of the same base that is gone from another
folder (a move); else the one of the same file number, size and modification time that is gone (Dovecot's
MOVE links the file under a new base, then removes the old name); else it is new.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from backupd.appservers.identity import FolderRow, Row


class Seen(NamedTuple):
    """A file as a listing sees it; `kind` is empty where only opening it would tell."""

    area: str
    folder: str
    base: str
    inode: int
    size: int
    mtime: int
    kind: str
    name: str


class Match(NamedTuple):
    """A seen file with its id. `origin` is what was known of the item, None for a new one.

    `same_content` is False where the bytes may be others than those known before.
    """

    row: Row
    origin: Row | None
    same_content: bool


def match(
    known: Iterable[Row],
    seen: Sequence[Seen],
    *,
    derive: Callable[[Seen], str],
    is_taken: Callable[[str], bool],
    by_base: bool = True,
) -> tuple[list[Match], list[Row]]:
    """Return the seen files with their ids, in order, and the known rows whose places are to be forgotten.

    `known` are all rows of the listed folders, and of folders that are gone. `derive` gives the id a new
    file asks for; `is_taken` tells whether an id belongs to an item outside of `known`. `by_base` says that
    a base means the same item in another folder.
    """
    at_place = {(row.folder, row.base): row for row in known}
    found: list[Match | None] = [None] * len(seen)
    for number, one in enumerate(seen):
        row = at_place.pop((one.folder, one.base), None)
        if row is not None:
            found[number] = _matched(one, row)
    gone = list(at_place.values())
    moved = bool(gone) and None in found
    free = _match_moved(seen, found, gone, by_base=by_base) if moved else {}
    taken = {one.row.id for one in found if one is not None}
    for number, one in enumerate(seen):
        if found[number] is None:
            identifier = _free_id(derive(one), taken, is_taken, free)
            taken.add(identifier)
            found[number] = Match(_row(one, identifier), None, same_content=False)
    return [one for one in found if one is not None], gone


def _match_moved(
    seen: Sequence[Seen], found: list[Match | None], gone: Sequence[Row], *, by_base: bool
) -> dict[str, None]:
    """Match what moved; return the ids of known items that are found nowhere, which may be given again."""
    free = {row.id: row for row in gone}
    if by_base:
        bases: dict[str, list[Row]] = {}
        for row in gone:
            bases.setdefault(row.base, []).append(row)
        for number, one in enumerate(seen):
            candidates = [row for row in bases.get(one.base, ()) if row.id in free]
            if found[number] is None and candidates:
                best = max(candidates, key=lambda row: (row.inode == one.inode, row.folder))
                found[number] = _matched(one, free.pop(best.id))
    inodes = {(row.inode, row.size, row.mtime): row for row in free.values()}
    for number, one in enumerate(seen):
        candidate = inodes.get((one.inode, one.size, one.mtime))
        if found[number] is None and candidate is not None and candidate.id in free:
            origin = free.pop(candidate.id)
            found[number] = Match(_row(one, origin.id), origin, same_content=False)
    return dict.fromkeys(free)


def _matched(one: Seen, row: Row) -> Match:
    same = row.size == one.size and row.mtime == one.mtime
    kept = _row(one, row.id)
    if same and not kept.kind:
        kept = kept._replace(kind=row.kind)
    return Match(kept, row, same_content=same)


def _row(one: Seen, identifier: str) -> Row:
    return Row(one.area, one.folder, one.base, one.inode, one.size, one.mtime, identifier, one.kind, one.name)


def suffixed(wanted: str) -> Iterator[str]:
    """Yield an id, then the same with each suffix it may get where it is taken."""
    yield wanted
    for number in itertools.count(2):
        yield f"{wanted}~{number}"


def _free_id(wanted: str, taken: set[str], is_taken: Callable[[str], bool], free: dict[str, None]) -> str:
    """Return the first id that is not taken. An id whose item is gone is free."""
    return next(
        each for each in suffixed(wanted) if each not in taken and (each in free or not is_taken(each))
    )


def match_folders(
    known: Sequence[FolderRow],
    seen: Sequence[tuple[str, str, int]],
    *,
    derive: Callable[[str, str], str],
    may_be: Callable[[str, str, str], bool],
) -> list[FolderRow]:
    """Return the seen folders (area, folder, file number) with their ids.

    A folder is the one known under its path; else one of its file number that is gone, where `may_be`
    (area, folder of before, folder of now) agrees, since file numbers are used again; else it is new.
    """
    at_place = {(row.area, row.folder): row for row in known}
    found = {(area, folder): at_place.pop((area, folder), None) for area, folder, _ in seen}
    gone = {(row.area, row.inode): row for row in at_place.values()}
    taken = {row.id for row in found.values() if row is not None}
    matched: list[FolderRow] = []
    for area, folder, inode in seen:
        row = found[area, folder]
        if row is None:
            candidate = gone.get((area, inode))
            if candidate is not None and may_be(area, candidate.folder, folder):
                row = gone.pop((area, inode))
                taken.add(row.id)
        identifier = row.id if row is not None else _free_id(derive(area, folder), taken, lambda _: False, {})
        taken.add(identifier)
        matched.append(FolderRow(area, folder, inode, identifier))
    return matched
