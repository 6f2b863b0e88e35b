# PTH: every file of an account is looked at: text and os calls serve, Path objects cost too much.
# ruff: noqa: PTH116
"""Directories of single files: address books, calendars and documents, looked at without opening.

vdir: each item is a file (`.vcf`, `.ics`) in a folder; names that begin with a dot are other software's.
Documents: every regular file, hidden ones too. Links, sockets, pipes and devices are passed over. Editing a
file in place does not touch its directory, so a folder's fingerprint is made from every file in it.
"""

from __future__ import annotations

import mimetypes
import os
from hashlib import blake2b
from typing import NamedTuple

from backupd.appservers.maildir import received_of
from backupd.appservers.naming import shown
from backupd.items import Area

DIRECTORY_OF_AREA = {
    Area.MAIL: "Maildir",
    Area.CONTACTS: "contacts",
    Area.CALENDARS: "calendars",
    Area.FILES: "files",
}
COS_DIRECTORY, LISTS_DIRECTORY = "cos", "lists"
"""Beside the domains, below the root: the classes of service and the mailing lists."""
SUFFIX_OF_AREA = {Area.CONTACTS: ".vcf", Area.CALENDARS: ".ics"}
ASIDE_PREFIX = ".backupd-"
"""Files of this prefix are being written by backupd itself."""


class TreeFile(NamedTuple):
    """One regular file."""

    name: str
    inode: int
    size: int
    mtime: int


class TreeFolder(NamedTuple):
    """One directory: its place, its files, its fingerprint, and the latest change (ns) that went into it."""

    directory: str
    inode: int
    files: list[TreeFile]
    fingerprint: str
    changed: int


def is_item_name(area: Area, name: str) -> bool:
    """Tell whether a file of this name is an item of the area."""
    if area is Area.FILES:
        return not name.startswith(ASIDE_PREFIX)
    return name[0] != "." and name.lower().endswith(SUFFIX_OF_AREA[area])


def is_folder_name(area: Area, name: str) -> bool:
    """Tell whether a directory of this name is a folder of the area."""
    return area is Area.FILES or name[0] != "."


def stem_of(area: Area, name: str) -> str:
    """Return a vdir file's name without its suffix: the item's id."""
    return name[: -len(SUFFIX_OF_AREA[area])] or name


def walk(top: str, area: Area) -> dict[str, TreeFolder]:
    """Return folder path → folder of a tree, the top one as the empty path; raises `OSError`."""
    found: dict[str, TreeFolder] = {}
    waiting = [("", top)]
    while waiting:
        path, directory = waiting.pop()
        folder, below = look(directory, area)
        found[path] = folder
        waiting += [
            (f"{path}/{shown(name)}" if path else shown(name), f"{directory}/{name}") for name in below
        ]
    return found


def look(directory: str, area: Area) -> tuple[TreeFolder, list[str]]:
    """Return one directory with its files, and the names of the directories in it; raises `OSError`."""
    own = os.stat(directory, follow_symlinks=False)
    files: list[TreeFile] = []
    below: list[str] = []
    changed = max(own.st_mtime_ns, own.st_ctime_ns)
    parts = [str(own.st_ino)]
    with os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                if is_folder_name(area, name):
                    below.append(name)
            elif entry.is_file(follow_symlinks=False) and is_item_name(area, name):
                try:
                    facts = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                files.append(TreeFile(name, facts.st_ino, facts.st_size, facts.st_mtime_ns))
                changed = max(changed, facts.st_ctime_ns)
                parts.append(f"{name}/{facts.st_ino}/{facts.st_size}/{facts.st_mtime_ns}/{facts.st_ctime_ns}")
    parts.sort()
    text = "\0".join(parts).encode("utf-8", "surrogateescape")
    fingerprint = blake2b(text, digest_size=12).hexdigest()
    return TreeFolder(directory, own.st_ino, files, fingerprint, changed), below


def tree_item_metadata(area: Area, folder: str, name: str, mtime_ns: int, size: int) -> dict[str, object]:
    """Return what a listing tells of a contact, an appointment or a document without opening it.

    `bytes` is among it, since two edits within one tick of the clock leave the same time.
    """
    metadata: dict[str, object] = {"folder": folder, "modified": received_of(mtime_ns), "bytes": size}
    if area is Area.FILES:
        metadata["name"] = shown(name)
    return metadata


def document_type(name: str) -> str:
    """Return a document's media type as its name tells it."""
    return mimetypes.guess_type(shown(name), strict=False)[0] or "application/octet-stream"
