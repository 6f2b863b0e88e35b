# PTH: every item is opened here: text and os calls serve, Path objects cost too much.
# ruff: noqa: PTH115, PTH116, PTH120
"""Reads items from the files of a mail host: photograph and content, without the event loop or a database.

A *locator* says where an item was last seen: area, folder, and the path below the root, split by NUL. A
message whose file was renamed meanwhile (its flags changed) is looked for under its base in the same folder.

Nothing outside of the root is ever read: an item that is a link, no regular file, or reached through a link
counts as vanished. The reader can be pickled and used in worker processes.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from backupd.appservers.base import BytesContent, Reading
from backupd.appservers.content_lines import CONTENT_BYTES_MAX, photograph_calendar_item, photograph_contact
from backupd.appservers.file_trees import document_type, tree_item_metadata
from backupd.appservers.headers import HEADER_BYTES_MAX, photograph_headers
from backupd.appservers.maildir import Found, Keywords, base_of, message_metadata, read_keywords, scan_folder
from backupd.appservers.naming import raw, shown
from backupd.errors import AppServerUnavailable, ItemVanished
from backupd.items import Area, Kind

WHOLE_BYTES_MAX = 8 << 20
"""Content up to this size is read at once; larger is streamed."""
_KEYWORD_FOLDERS_MAX = 64
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR})


class Locator(NamedTuple):
    """Where an item is: `path` is relative to the root, as the file system names it."""

    area: Area
    folder: str
    path: str

    def text(self) -> str:
        """Return the locator as a listing carries it."""
        return f"{self.area.value}\0{self.folder}\0{shown(self.path)}"

    @staticmethod
    def parse(text: str) -> Locator:
        """Read a locator; raises `ValueError` for what is none."""
        area, folder, path = text.split("\0")
        return Locator(Area(area), folder, raw(path))


class FileContent(msgspec.Struct, frozen=True):
    """Content that is read from its file when it is asked for."""

    root: str
    path: str
    size: int
    is_fixed: bool = False
    """Whether its software never writes into the file (Maildir)."""

    def open(self) -> BinaryIO:
        """Open the file, wherever a change of flags has renamed it to. Raises `ItemVanished`."""
        return os.fdopen(open_current(self.root, self.path), "rb")


class ReadFile(BytesContent, frozen=True):
    """Content that was read from its file already; the file may have gone since."""

    root: str
    path: str
    is_fixed: bool = False


def open_regular(root: str, path: str) -> tuple[int, os.stat_result]:
    """Open a regular file below the root, by no link. Raises `ItemVanished`, `AppServerUnavailable`."""
    full = f"{root}/{path}"
    descriptor = -1
    try:
        descriptor = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        facts = os.fstat(descriptor)
        # The kernel tells where the opened file really is: its directory must be the one that was meant.
        really = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        if error.errno in _GONE:
            raise ItemVanished(f"{shown(path)} is gone", path=shown(path)) from error
        raise AppServerUnavailable(
            f"{shown(path)} can't be read: {error.strerror}", path=shown(path)
        ) from error
    if not stat.S_ISREG(facts.st_mode) or os.path.dirname(really) != os.path.dirname(full):
        os.close(descriptor)
        raise ItemVanished(f"{shown(path)} is no regular file of its folder", path=shown(path))
    return descriptor, facts


def _open_found(root: str, path: str) -> tuple[int, str]:
    """Open a file, or the message it became; return the descriptor and the path that served."""
    try:
        return open_regular(root, path)[0], path
    except ItemVanished:
        found = renamed_message(root, path)
        if found is None:
            raise
        return open_regular(root, found)[0], found


def open_current(root: str, path: str) -> int:
    """Open a file of the root, or the message it became; return the descriptor. Raises `ItemVanished`."""
    return _open_found(root, path)[0]


def renamed_message(root: str, path: str) -> str | None:
    """Return where the message of this path is now within its folder, None if nowhere or no message."""
    directory, _, name = path.rpartition("/")
    folder, _, place = directory.rpartition("/")
    if place not in ("cur", "new"):
        return None
    base = base_of(name)
    try:
        found = scan_folder(f"{root}/{folder}").get(base)
    except OSError:
        return None
    return None if found is None else f"{folder}/{found.place}/{found.name}"


class DirectoryReader:
    """The `ItemReader` of a directory AppServer. `root` must hold no link itself (`os.path.realpath`)."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._keywords: dict[str, tuple[tuple[int, int], Keywords]] = {}

    def __reduce__(self) -> tuple[type[DirectoryReader], tuple[str]]:
        return DirectoryReader, (self._root,)

    def read(self, kind: Kind, item: str, locator: str) -> Reading:
        """Return photograph and content of a listed item. Raises `ItemVanished`, `AppServerUnavailable`."""
        try:
            place = Locator.parse(locator)
        except ValueError as error:
            raise ItemVanished(f"{kind.value} {item} has no place {locator!r}") from error
        return self.read_at(place)[1]

    def read_at(self, place: Locator, *, with_headers: bool = True) -> tuple[Kind, Reading]:
        """Return kind, photograph and content of what is at a place."""
        descriptor, path = _open_found(self._root, place.path)
        try:
            facts = os.fstat(descriptor)
            whole = facts.st_size <= WHOLE_BYTES_MAX
            head = _read(descriptor, facts.st_size if whole else max(HEADER_BYTES_MAX, CONTENT_BYTES_MAX))
        except OSError as error:
            raise AppServerUnavailable(
                f"{shown(path)} can't be read: {error.strerror}", path=shown(path)
            ) from error
        finally:
            os.close(descriptor)
        is_fixed = place.area is Area.MAIL
        content = (
            ReadFile(head, self._root, path, is_fixed)
            if whole
            else FileContent(self._root, path, facts.st_size, is_fixed)
        )
        kind, metadata = self._photograph(place._replace(path=path), facts, head, with_headers=with_headers)
        return kind, Reading(metadata=metadata, content=content)

    def _photograph(
        self, place: Locator, facts: os.stat_result, head: bytes, *, with_headers: bool
    ) -> tuple[Kind, dict[str, Any]]:
        directory, _, name = place.path.rpartition("/")
        if place.area is Area.MAIL:
            folder_directory, _, where = directory.rpartition("/")
            keywords = self.keywords(f"{self._root}/{folder_directory}")
            found = Found(where, name, 0)
            listed = message_metadata(place.folder, found, facts.st_mtime_ns, keywords)
            return Kind.MESSAGE, {**listed, **photograph_headers(head)} if with_headers else listed
        listed = tree_item_metadata(place.area, place.folder, name, facts.st_mtime_ns, facts.st_size)
        if place.area is Area.FILES:
            return Kind.DOCUMENT, {**listed, "type": document_type(name)}
        photograph = photograph_contact if place.area is Area.CONTACTS else photograph_calendar_item
        kind, told = photograph(head)
        return kind, {**told, **listed}

    def keywords(self, directory: str) -> Keywords:
        """Return the keywords of a mail folder's directory, read again only where the file changed."""
        try:
            facts = os.stat(f"{directory}/dovecot-keywords", follow_symlinks=False)
        except OSError:
            return {}
        version = (facts.st_ino, facts.st_mtime_ns)
        known = self._keywords.get(directory)
        if known is not None and known[0] == version:
            return known[1]
        if len(self._keywords) >= _KEYWORD_FOLDERS_MAX:
            self._keywords.clear()
        keywords = read_keywords(directory)
        self._keywords[directory] = (version, keywords)
        return keywords

    def kind_of(self, place: Locator) -> Kind:
        """Return the kind of a vdir item, which only its content tells."""
        return self.read_at(place)[0]


def _read(descriptor: int, size: int) -> bytes:
    """Read up to `size` bytes, and what a growing file may have got meanwhile is left out."""
    first = os.read(descriptor, size)
    if len(first) == size or not first:
        return first
    parts = [first]
    rest = size - len(first)
    while rest and (part := os.read(descriptor, rest)):
        parts.append(part)
        rest -= len(part)
    return b"".join(parts)


def real_root(root: Path) -> str:
    """Return the root without links in it; it need not exist yet."""
    return os.path.realpath(root)
