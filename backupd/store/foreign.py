"""A Backup Path that somebody else wrote, read from its histories and blobs alone, without believing it.

Neither index nor ledger, journal or statistics of it are looked at: they may be missing, stale or of another
version, and opening them might write. It may be read while its own daemon writes. Every history is read for
one moment, line by line, and must lie where the item that it tells of belongs. What can't be used is told
by `on_strange` with its path and a reason, and passed over.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from backupd.decoding import decoded
from backupd.durable import free_bytes
from backupd.errors import BackupPathRefused, BlobMissing, CorruptBlob, UsageError, VolumeError
from backupd.items import ItemKey, Kind, identifier_of, is_digest
from backupd.states import State
from backupd.store import foreign_states, layout
from backupd.store.blob_reading import open_verified
from backupd.store.foreign_files import OnStrange, Tree, why_unreadable
from backupd.store.ownership import FORMAT_VERSION, Identity

MAP = "map_"
MAP_BYTES_MAX = 64 << 20
_SERVER_KIND_OF = {directory: kind for kind, directory in layout.SERVER_DIRECTORIES.items()}


class Archive(Protocol):
    """Contents of a Backup Path that rest elsewhere; they are verified as they are read."""

    def open(self, digest: str, bytes_max: int | None) -> BinaryIO:
        """Open a content. Raises `BlobMissing`, `CorruptBlob`, `VolumeError`."""
        ...


class FoundItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item as of the moment asked for; `bytes` is what its state takes on disk."""

    key: ItemKey
    state: State
    first: datetime
    bytes: int


class ForeignPath:
    """Another server's Backup Path."""

    def __init__(self, path: Path, own: Path, archive: Archive | None = None) -> None:
        """Look whose it is; contents that are not in it are taken from `archive`.

        Raises `UsageError` for our own, `BackupPathRefused` for what can't be read.
        """
        _check_apart(path, own)
        self._tree = Tree(path)
        self.root = path
        self.identity = _identity(self._tree)
        self.blobs = ForeignBlobs(self._tree, archive)

    def entries(self, kind: Kind, when: datetime, on_strange: OnStrange) -> Iterator[FoundItem]:
        """Yield the domains, classes of service or lists of a moment."""
        directory = f"{layout.SERVERS}/{layout.SERVER_DIRECTORIES[kind]}"
        for name in self._tree.files(directory, on_strange):
            found = self._found(f"{directory}/{name}", "", when, on_strange, kind=kind)
            if found is not None:
                yield found

    def accounts(self, when: datetime, on_strange: OnStrange) -> Iterator[FoundItem]:
        """Yield the accounts of a moment, deleted ones too."""
        for name in self._tree.directories(layout.ACCOUNTS, on_strange):
            path = f"{layout.ACCOUNTS}/{name}/{layout.ACCOUNT_HISTORY}"
            account = identifier_of(name)
            found = self._found(path, account, when, on_strange, kind=Kind.ACCOUNT)
            if found is not None:
                yield found

    def count(self, account: str) -> int:
        """Return about how many histories an account has."""
        return sum(1 for _ in self._item_paths(account, _silent))

    def items(self, account: str, when: datetime, on_strange: OnStrange) -> Iterator[FoundItem]:
        """Yield an account's items of a moment, deleted ones too, one in memory at a time."""
        for path in self._item_paths(account, on_strange):
            found = self._found(path, account, when, on_strange)
            if found is not None:
                yield found

    def _item_paths(self, account: str, on_strange: OnStrange) -> Iterator[str]:
        for part in (layout.ITEMS, layout.DOCUMENTS):
            directory = f"{layout.account_directory(account)}/{part}"
            for bucket in self._tree.directories(directory, on_strange):
                for name in self._tree.files(f"{directory}/{bucket}", on_strange):
                    yield f"{directory}/{bucket}/{name}"

    def _found(
        self, path: str, account: str, when: datetime, on_strange: OnStrange, *, kind: Kind | None = None
    ) -> FoundItem | None:
        try:
            with self._tree.open(path) as file:
                read = foreign_states.state_of(file, when)
        except FileNotFoundError:
            if kind is Kind.ACCOUNT:
                on_strange(path, "the account has no history of its own: passed")
            return None
        except OSError as error:
            on_strange(path, why_unreadable(error))
            return None
        except ValueError as error:
            on_strange(path, str(error))
            return None
        if read.damage:
            on_strange(path, f"{read.damage}; the others are used")
        state = read.state
        if state is None or read.first is None:
            return None
        item = state.item or (account if kind is Kind.ACCOUNT else identifier_of(path.rpartition("/")[2]))
        key = ItemKey(item if kind is Kind.ACCOUNT else account, state.kind, item)
        reason = _why_misplaced(key, path, kind) or foreign_states.why_unusable(state)
        if reason:
            on_strange(path, reason)
            return None
        return FoundItem(key=key, state=state, first=read.first, bytes=read.bytes)


class ForeignBlobs:
    """The contents of a foreign Backup Path; every one is verified while it is read."""

    def __init__(self, tree: Tree, archive: Archive | None = None) -> None:
        self._tree = tree
        self._archive = archive

    def open(self, digest: str, *, bytes_max: int | None = None) -> BinaryIO:
        """Open a content as `Blobs.open` does. One that would fill the disk on its way is refused.

        Raises `BlobMissing`, `CorruptBlob`, `VolumeError`.
        """
        if not is_digest(digest):
            raise CorruptBlob(f"{digest[:80]!r} is no digest")
        name = layout.blob_name(digest)
        try:
            file = self._tree.open(name)
        except FileNotFoundError:
            if self._archive is not None:
                return self._archive.open(digest, bytes_max)
            raise BlobMissing(
                f"no blob {digest} in {self._tree.root}",
                hint="where its contents rest on an external volume, give blobs_archive",
            ) from None
        except OSError as error:
            raise VolumeError(f"{self._tree.root}/{name}: {why_unreadable(error)}") from error
        room = free_bytes(Path(tempfile.gettempdir())) // 2
        if bytes_max is not None and bytes_max > room:
            file.close()
            raise VolumeError(f"its {bytes_max:,} bytes find no room in {tempfile.gettempdir()}")
        bytes_max = room if bytes_max is None else bytes_max
        return open_verified(file, digest, f"{self._tree.root}/{name}", bytes_max)


def _silent(_path: str, _reason: str) -> None:
    """Say nothing: who counts is not who reads."""


def _why_misplaced(key: ItemKey, path: str, kind: Kind | None) -> str:
    """Return why a history can't be that of the item, an empty text if it can."""
    if not foreign_states.is_identifier(key.item):
        return "its name is no id of an item"
    if kind is not None and key.kind is not kind:
        return f"it tells of a {key.kind.value}, which does not belong there"
    if kind is None and (key.kind in _SERVER_KIND_OF.values() or key.kind is Kind.ACCOUNT):
        return f"it tells of a {key.kind.value}, which does not belong there"
    if "/".join(layout.history_place(key)) != path:
        return "it does not lie where the item that it tells of belongs"
    return ""


def _check_apart(path: Path, own: Path) -> None:
    if not path.is_absolute():
        raise UsageError(f"{path} is no absolute path", hint="give the whole path of the directory")
    real, ours = path.resolve(), own.resolve()
    if real.is_relative_to(ours) or ours.is_relative_to(real) or _lies_in(real, ours):
        raise UsageError(
            f"{path} is this server's own Backup Path, or lies in it or around it",
            hint="what this server lost comes back by doRestoreOnNewAccount, doUndelete or doItemRestore",
        )


def _lies_in(real: Path, ours: Path) -> bool:
    """Tell whether a directory is ours under another name, as a mount may give it."""
    own = ours.stat()
    return any(
        os.path.samestat(place.stat(), own) for place in (real, *real.parents) if os.access(place, os.F_OK)
    )


def _identity(tree: Tree) -> Identity:
    def refused(reason: str, hint: str) -> BackupPathRefused:
        return BackupPathRefused(f"{tree.root} can't be imported: {reason}", hint=hint, path=str(tree.root))

    strange: list[str] = []
    names = tree.files("", lambda path, reason: strange.append(f"{path}: {reason}"))
    maps = [name for name in names if name.startswith(MAP)]
    if len(maps) != 1:
        what = "it holds no file map_<server id>" if not maps else f"it holds {len(maps)} map files"
        raise refused(
            "; ".join((what, *(one for one in strange[:3] if one))),
            "name the directory of a whole Backup Path of backupd, or put its map file back",
        )
    try:
        with tree.open(maps[0]) as file:
            content = file.read(MAP_BYTES_MAX)
        identity = decoded(content, Identity)
    except OSError as error:
        raise refused(f"{maps[0]}: {why_unreadable(error)}", "make it readable for the daemon") from error
    except (ValueError, RecursionError) as error:
        raise refused(f"{maps[0]} is no map file of backupd: {error}", "is this a Backup Path?") from error
    if identity.format != FORMAT_VERSION:
        raise refused(
            f"its format is {identity.format}, this backupd reads {FORMAT_VERSION}",
            "use the backupd that wrote it",
        )
    if not foreign_states.is_identifier(identity.server) or identity.server != identifier_of(
        maps[0].removeprefix(MAP)
    ):
        raise refused(f"{maps[0]} says that it is the backup of {identity.server[:80]!r}", "use a true copy")
    return identity
