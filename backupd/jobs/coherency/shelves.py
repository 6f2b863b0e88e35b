"""Shelves: the folders of a Backup Path that hold histories or blobs, as steps that can be taken one by one.

There are two rings, walked in the order of names: the shelves of histories (the server's, then account by
account) and those of blobs. A step is one shelf, the unit of work for a worker and of a bounded run, which
goes on behind the step where the last one ended. What stands between shelves and is none is found here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

import msgspec

from backupd.jobs.coherency.findings import Finding
from backupd.store import layout
from backupd.store.foreign_files import ENTRIES_PER_DIRECTORY_MAX, Tree, why_unreadable

GROUP_AND_OTHERS = 0o077
_FORMS = {stat.S_IFLNK: "file.link", stat.S_IFREG: "file.unknown", stat.S_IFDIR: "file.unknown"}
ACCOUNT_PARTS = (layout.ITEMS, layout.DOCUMENTS)


class Ring(StrEnum):
    """What a shelf holds."""

    BLOBS = "blobs"
    HISTORIES = "histories"


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One shelf. `is_account`: an account's own folder, with its history and the files beside it.

    `names`: only these files of it.
    """

    ring: Ring
    path: str
    account: str = ""
    is_account: bool = False
    names: tuple[str, ...] = ()


class Entry(NamedTuple):
    """A name in a folder: its form and mode, its bytes, when it was last written (seconds since 1970)."""

    name: str
    form: int
    mode: int
    size: int
    modified: float

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.form == stat.S_IFREG

    @property
    def is_directory(self) -> bool:
        """Whether it is a folder."""
        return self.form == stat.S_IFDIR


def entries(tree: Tree, relative: str) -> list[Entry]:
    """Return what stands in a folder, by name. Raises `OSError`."""
    found: list[Entry] = []
    with tree.directory(relative) as descriptor, os.scandir(descriptor) as names:
        for name in names:
            try:
                facts = name.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # renamed or removed since it was listed
            found.append(
                Entry(
                    name.name,
                    stat.S_IFMT(facts.st_mode),
                    stat.S_IMODE(facts.st_mode),
                    facts.st_size,
                    facts.st_mtime,
                )
            )
            if len(found) > ENTRIES_PER_DIRECTORY_MAX:
                raise OSError(f"it holds more than {ENTRIES_PER_DIRECTORY_MAX:,} names")
    return sorted(found)


def there(tree: Tree, relative: str, code: str) -> tuple[list[Entry], list[Finding]]:
    """Return what stands in a folder, none where it is not there; one that can't be read is a finding."""
    try:
        return entries(tree, relative), []
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [Finding(code=code, path=relative, detail=why_unreadable(error))]


def stranger(relative: str, entry: Entry) -> Finding:
    """Return the finding for what does not belong where it stands."""
    return Finding(code=_FORMS.get(entry.form, "file.special"), path=joined(relative, entry.name))


def open_to_others(relative: str, found: list[Entry]) -> list[Finding]:
    """Return one finding for all names of a folder that other users may read or write."""
    open_ = [one.name for one in found if one.mode & GROUP_AND_OTHERS and (one.is_file or one.is_directory)]
    if not open_:
        return []
    rest = f" and {len(open_) - 3:,} more" if len(open_) > 3 else ""  # noqa: PLR2004 - three are named
    detail = f"{len(open_):,} in it: {', '.join(open_[:3])}{rest}"
    return [Finding(code="file.mode", path=relative, detail=detail)]


def joined(relative: str, name: str) -> str:
    """Return the path of a name in a folder."""
    return f"{relative}/{name}" if relative else name


class Walk:
    """The rings of one Backup Path. `findings` gathers what stands between shelves and is none."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.findings: list[Finding] = []

    def blob_shelves(self) -> list[Step]:
        """Return the shelves of blobs."""
        return [Step(Ring.BLOBS, path) for path in self._folders(layout.BLOBS, "blob.unreadable")]

    def account_folders(self) -> list[str]:
        """Return the names of all accounts' folders."""
        paths = self._folders(layout.ACCOUNTS, "history.unreadable")
        return [path.rpartition("/")[2] for path in paths]

    def server_shelves(self) -> list[Step]:
        """Return the shelves of domains, classes of service and mailing lists."""
        return [
            Step(Ring.HISTORIES, f"{layout.SERVERS}/{name}")
            for name in sorted(layout.SERVER_DIRECTORIES.values())
        ]

    def shelves_of(self, account: str) -> Iterator[Step]:
        """Yield the shelves of the account with this folder, its own folder first."""
        own = f"{layout.ACCOUNTS}/{account}"
        yield Step(Ring.HISTORIES, own, account, is_account=True)
        for part in ACCOUNT_PARTS:
            for path in self._folders(f"{own}/{part}", "history.unreadable"):
                yield Step(Ring.HISTORIES, path, account)

    def _folders(self, relative: str, code: str) -> list[str]:
        found, problems = there(self._tree, relative, code)
        self.findings += problems
        self.findings += [stranger(relative, one) for one in found if not one.is_directory]
        self.findings += open_to_others(relative, found)
        return [joined(relative, one.name) for one in found if one.is_directory]
