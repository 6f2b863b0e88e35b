# PTH: every message is looked at here: text and os calls serve, Path objects cost too much.
# ruff: noqa: PTH116
"""Lists an account of a mail host: all of it, or the folders that changed since a cursor.

The order is: survey, scan what changed, survey again until the account stood still meanwhile, then match
what was seen with what is known (`matching`). So a message that is renamed or moved while the listing runs
is neither missed nor taken for deleted. Blocks; may run for several accounts at once in threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from backupd.appservers.base import ListedItem, Listing
from backupd.appservers.directory_reader import DirectoryReader, Locator
from backupd.appservers.file_trees import DIRECTORY_OF_AREA, stem_of, tree_item_metadata
from backupd.appservers.identity import FolderRow, Identity, Row
from backupd.appservers.maildir import (
    Found,
    Keywords,
    mail_folders,
    message_metadata,
    read_keywords,
    scan_folder,
)
from backupd.appservers.matching import Match, Seen, match, match_folders, suffixed
from backupd.appservers.naming import raw, shown
from backupd.appservers.registry import derived_id
from backupd.appservers.survey import (
    FolderKey,
    Survey,
    changed_since,
    cursor_of,
    differing,
    fingerprints_of,
    survey_account,
    unavailable,
)
from backupd.errors import AppServerRefused, ItemVanished
from backupd.items import Area, Kind

ROUNDS_MAX = 4
"""So often folders that change during a listing are listed again; then it is left to the next one."""
ASKED_SINGLY_MAX = 20
"""Above so many new items all ids of the account are loaded at once instead of asked for singly."""
KnownRows = dict[FolderKey, dict[str, Row]]


class Comparison(NamedTuple):
    """A listing, and what was known of the listed folders before it and is known now.

    `directories` tells where the listed folders lie below the root.
    """

    listing: Listing
    before: list[Row]
    now: list[Row]
    folders_before: list[FolderRow]
    folders_now: list[FolderRow]
    directories: dict[FolderKey, str]


class _Scanned(NamedTuple):
    """What one listing saw: files by folder, where folders lie below the root, how they were before."""

    files: dict[FolderKey, list[Seen]]
    directories: dict[FolderKey, str]
    before: Survey


class Lister:
    """Lists accounts below a root, with the ids that `identity` keeps."""

    def __init__(self, root: str, identity: Identity) -> None:
        self._root = root
        self._identity = identity
        self._reader = DirectoryReader(root)

    def list_account(self, account: str, path: str, since: str | None) -> Listing:
        """Return a listing of the account at `path`. Raises `AppServerUnavailable`."""
        return self.compare_account(account, path, since).listing

    def compare_account(self, account: str, path: str, since: str | None) -> Comparison:
        """Return a listing with what was known before and is known now. Raises `AppServerUnavailable`."""
        survey = survey_account(self._root, path)
        known = fingerprints_of(since)
        scope = set(survey) if known is None else changed_since(survey, known)
        if known is not None and not scope:
            return Comparison(Listing(scope=frozenset(), items=(), cursor=since or ""), [], [], [], [], {})
        folder_rows = self._identity.folders(account)
        # A folder that another listing saw since this cursor, and that is gone, may be one of those seen now.
        ever = {(Area(row.area), row.folder) for row in folder_rows}
        scope |= ever if known is None else ever - survey.keys()
        rows = self._rows(account, scope)
        scanned = _Scanned({}, {}, {})
        waiting = set(scope)
        for _ in range(ROUNDS_MAX):
            for key in waiting:
                self._scan(survey, key, rows[key], scanned, deep=known is None)
            later = survey_account(self._root, path)
            waiting = differing(survey, later)
            survey = later
            if not waiting:
                break
            rows |= self._rows(account, waiting - scope)
            scope |= waiting
        items, matches = self._matched(account, rows, scanned)
        folders = self._folders(account, survey, folder_rows, rows, matches)
        # What still moved in the last round is left out of the cursor: the next listing looks again.
        # A fingerprint from before the scan: one that could not be trusted then can't be now.
        calm = {key: scanned.before.get(key, found) for key, found in survey.items() if key not in waiting}
        return Comparison(
            listing=Listing(
                scope=None if known is None else frozenset(scope),
                items=[*map(listed_folder, folders), *items],
                cursor=cursor_of(calm),
            ),
            before=[row for folder in rows.values() for row in folder.values()],
            now=[one.row for one in matches],
            folders_before=folder_rows,
            folders_now=folders,
            directories=scanned.directories,
        )

    def _rows(self, account: str, keys: Iterable[FolderKey]) -> KnownRows:
        return {
            (area, folder): {row.base: row for row in self._identity.rows(account, area, [folder])}
            for area, folder in keys
        }

    def _scan(
        self, survey: Survey, key: FolderKey, rows: dict[str, Row], scanned: _Scanned, *, deep: bool
    ) -> None:
        found = survey.get(key)
        if found is None:
            scanned.files[key] = []
            return
        area, folder = key
        scanned.before[key] = found
        scanned.directories[key] = found.directory[len(self._root) + 1 :]
        if found.tree is None:
            try:
                scanned.files[key] = scan_messages(folder, found.directory, rows, deep=deep)
            except OSError as error:
                raise unavailable(error, self._root, found.directory) from error
            return
        kind = Kind.DOCUMENT.value if area is Area.FILES else ""
        scanned.files[key] = [
            Seen(area.value, folder, name, file.inode, file.size, file.mtime, kind, name)
            for file, name in ((file, shown(file.name)) for file in found.tree.files)
        ]

    def _matched(
        self, account: str, rows: KnownRows, scanned: _Scanned
    ) -> tuple[list[ListedItem], list[Match]]:
        items: list[ListedItem] = []
        kept: list[Match] = []
        forgotten: list[Row] = []
        changed: list[Row] = []
        for area in Area:
            files = [one for key in sorted(scanned.files) if key[0] is area for one in scanned.files[key]]
            known = [row for key in sorted(rows) if key[0] is area for row in rows[key].values()]
            if not files and not known:
                continue
            is_taken = self._id_checker(account, len(files) - len(known), changed)
            matches, gone = match(
                known,
                files,
                derive=lambda one: derived_item_id(account, one),
                is_taken=is_taken,
                by_base=area is not Area.FILES,
            )
            listed, matches = self._listed(area, matches, scanned)
            items += listed
            kept += matches
            forgotten += gone
            changed += [one.row for one in matches if one.row != one.origin]
        self._identity.save(account, gone=forgotten, seen=changed)
        return items, kept

    def _id_checker(self, account: str, new: int, given: Sequence[Row]) -> Callable[[str], bool]:
        """Return what tells whether an id is taken, also by one of `given`, which are not saved yet."""
        if new > ASKED_SINGLY_MAX:
            return (self._identity.all_ids(account) | {row.id for row in given}).__contains__
        here = {row.id for row in given} if new > 0 else frozenset()
        return lambda identifier: identifier in here or self._identity.is_taken(account, identifier)

    def _listed(
        self, area: Area, matches: Sequence[Match], scanned: _Scanned
    ) -> tuple[list[ListedItem], list[Match]]:
        listed: list[ListedItem] = []
        kept: list[Match] = []
        keywords: dict[str, Keywords] = {}
        for one in matches:
            row = one.row
            directory = scanned.directories[area, row.folder]
            if area is Area.MAIL and row.folder not in keywords:
                keywords[row.folder] = read_keywords(f"{self._root}/{directory}")
            locator = Locator(area, row.folder, f"{directory}/{raw(row.name)}")
            kind = self._kind(row, locator)
            if kind is None:
                continue
            kept.append(one if row.kind else one._replace(row=row._replace(kind=kind.value)))
            listed.append(
                ListedItem(
                    kind=kind,
                    item=row.id,
                    metadata=listed_metadata(area, row, keywords.get(row.folder, {})),
                    locator=locator.text(),
                    content_fixed=one.same_content,
                )
            )
        return listed, kept

    def _kind(self, row: Row, locator: Locator) -> Kind | None:
        """Return the kind, opening the item only where nobody did before; None if it vanished."""
        if row.kind:
            return Kind(row.kind)
        try:
            return self._reader.kind_of(locator)
        except ItemVanished:
            return None

    def _folders(
        self, account: str, survey: Survey, known: list[FolderRow], rows: KnownRows, matches: list[Match]
    ) -> list[FolderRow]:
        moves = {
            (one.row.area, one.origin.folder, one.row.folder)
            for one in matches
            if one.origin is not None and one.origin.folder != one.row.folder
        }
        inhabited = {(area.value, folder) for (area, folder), inside in rows.items() if inside}
        matched = match_folders(
            known,
            [(area.value, folder, found.inode) for (area, folder), found in survey.items()],
            derive=lambda area, folder: derived_id(account, "folder", area, folder),
            may_be=lambda area, before, now: (area, before, now) in moves or (area, before) not in inhabited,
        )
        if set(matched) != set(known):
            self._identity.save_folders(account, matched)
        return matched

    def folder_id(self, account: str, path: str, area: Area, folder: str) -> str:
        """Return the id of a folder that is there, giving it one where it has none."""
        known = self._identity.folders(account)
        for row in known:
            if (row.area, row.folder) == (area.value, folder):
                return row.id
        found = survey_account(self._root, path).get((area, folder))
        if found is None:
            # It was made just now: what made it and what lists it understand its name differently.
            raise AppServerRefused(f"the folder {folder!r} is not listed under this name", folder=folder)
        taken = {row.id for row in known}
        wanted = derived_id(account, "folder", area.value, folder)
        identifier = next(each for each in suffixed(wanted) if each not in taken)
        self._identity.save_folders(account, [*known, FolderRow(area.value, folder, found.inode, identifier)])
        return identifier


def folder_directory(root: str, path: str, area: Area, folder: str) -> str:
    """Return where a folder of an account lies below the root; a mail folder is looked for by its name."""
    top = f"{path}/{DIRECTORY_OF_AREA[area]}"
    if area is not Area.MAIL:
        return f"{top}/{raw(folder)}" if folder else top
    try:
        name = mail_folders(f"{root}/{top}").get(folder)
    except OSError:
        name = None
    if name is None:
        raise ItemVanished(f"the folder {folder!r} is gone", folder=folder)
    return f"{top}/{name}" if name else top


def scan_messages(folder: str, directory: str, rows: Mapping[str, Row], *, deep: bool) -> list[Seen]:
    """Return the messages of a mail folder; a known one's size and time are taken as known unless `deep`.

    Raises `OSError`.
    """
    seen: list[Seen] = []
    area, kind = Area.MAIL.value, Kind.MESSAGE.value
    for base, found in scan_folder(directory).items():
        shown_base = shown(base)
        row = rows.get(shown_base)
        if row is not None and row.inode == found.inode and not deep:
            size, mtime = row.size, row.mtime
        else:
            try:
                facts = os.stat(f"{directory}/{found.place}/{found.name}", follow_symlinks=False)
                size, mtime = facts.st_size, facts.st_mtime_ns
            except FileNotFoundError:
                # Renamed or gone since the scan. A new one the next round sees; a known one is not taken
                # for deleted because of a rename.
                if row is None or row.inode != found.inode:
                    continue
                size, mtime = row.size, row.mtime
        name = shown(f"{found.place}/{found.name}")
        seen.append(Seen(area, folder, shown_base, found.inode, size, mtime, kind, name))
    return seen


def derived_item_id(account: str, one: Seen) -> str:
    """Return the id that a new item asks for."""
    if one.area == Area.MAIL:
        return one.base
    if one.area == Area.FILES:
        return derived_id(account, one.area, one.folder, one.base)
    return stem_of(Area(one.area), one.base)


def listed_folder(row: FolderRow) -> ListedItem:
    """Return a folder as a listing carries it."""
    metadata = folder_metadata(row.area, row.folder)
    return ListedItem(kind=Kind.FOLDER, item=row.id, metadata=metadata, content_fixed=True)


def folder_metadata(area: str, folder: str) -> dict[str, Any]:
    """Return a folder's photograph."""
    return {"folder": folder, "area": area}


def listed_metadata(area: Area, row: Row, keywords: Keywords) -> dict[str, Any]:
    """Return what a listing tells of an item."""
    if area is Area.MAIL:
        place, _, name = row.name.partition("/")
        return message_metadata(row.folder, Found(place, name, row.inode), row.mtime, keywords)
    return tree_item_metadata(area, row.folder, row.base, row.mtime, row.size)
