"""Who may change the backup during a repair: an open store, and the way to be alone with it."""

from __future__ import annotations

import os
import pwd
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from backupd.clock import Clock
from backupd.errors import (
    AppServerUnavailable,
    BackupPathRefused,
    BlobMissing,
    CorruptBlob,
    VolumeError,
)
from backupd.items import ItemKey, Kind, identifier_of
from backupd.states import State
from backupd.store import index_audit, ownership, unwritten
from backupd.store.layout import Layout
from backupd.store.lock import PathLock
from backupd.store.outside.catalog import Catalog
from backupd.store.store import Store

T = TypeVar("T")
Refetch = Callable[[str, Sequence[ItemKey]], bool]


class Between(Protocol):
    """Runs something while nobody writes to the backup."""

    def __call__(self, work: Callable[[], T], /) -> T:
        """Return what `work` returns."""
        ...


def _alone(work: Callable[[], T], /) -> T:
    return work()


def _never(_digest: str, _items: Sequence[ItemKey]) -> bool:
    return False


class StoreKeeper:
    """Changes an open store. `between` lends the time in which nobody else does; without it nobody may."""

    def __init__(
        self,
        store: Store,
        *,
        between: Between = _alone,
        refetch: Refetch = _never,
    ) -> None:
        self._store = store
        self._between = between
        self.refetch = refetch

    @property
    def is_alone(self) -> bool:
        """Whether no daemon has the path open."""
        return self._between is _alone

    def between(self, work: Callable[[], T]) -> T:
        """Run something while nobody writes histories, blobs and index."""
        return self._between(work)

    def known(self, key: ItemKey) -> list[State]:
        """Return the states that the index knows of an item."""
        try:
            connection = self._reading()
            try:
                return index_audit.states_of(connection, key)
            finally:
                connection.close()
        except sqlite3.Error:
            return []

    def kinds_of(self, account: str, item: str) -> list[Kind]:
        """Return the kinds under which the index knows an id."""
        return [kind for kind in Kind if self._store.index.item(account, item, kind) is not None]

    def take_in(self, key: ItemKey, states: Sequence[State]) -> None:
        """Make the index say of an item what its history does, at once."""
        index = self._store.index
        index.forget(key)
        if states:
            index.record(key, states)
        index.commit(index.cursor())
        # What was told since the start as damaged is mended now.
        place = str(self._store.layout.history(key))
        self._store.damaged[:] = [told for told in self._store.damaged if not told.startswith(f"{place}:")]

    def users_of(self, digest: str) -> list[ItemKey]:
        """Return the items with states that need a content."""
        return self._store.index.blob_references(digest)

    def is_awaited(self, digest: str) -> bool:
        """Tell whether a content is referred to now, by the index or by what is not recorded yet."""
        store = self._store
        # In the order in which a change moves on, so that none slips by.
        behind = store.journal.stretches(store.index.cursor())
        if any(entry.change.digest == digest for entries in behind for entry in entries):
            return True
        pages = store.ledger.waiting_pages()
        if any(digest.encode() in bytes(row.change) for rows in pages for row in rows):
            return True
        return store.index.known_blob(digest)

    def is_beyond(self, digest: str) -> bool:
        """Tell whether a content without a good file rests outside; one that is held is stored."""
        blobs = self._store.blobs
        if blobs.outside is None and self._rests_outside(digest):
            return True
        try:
            with blobs.open(digest) as content:
                staged = blobs.stage(content)
        except (BlobMissing, CorruptBlob, AppServerUnavailable):
            return False
        except VolumeError:
            return True  # it rests there, as far as anybody can tell now
        self._between(lambda: blobs.commit([staged]))
        return True

    def _rests_outside(self, digest: str) -> bool:
        """Ask the catalog of a path whose daemon does not run."""
        path = self._store.layout.catalog
        if not path.exists():
            return False
        try:
            catalog = Catalog(path, writable=False)
        except BackupPathRefused:
            return False
        try:
            return catalog.locate(digest) is not None
        finally:
            catalog.close()

    def settle(self) -> None:
        """Make what was taken in durable: every step was."""

    def _reading(self) -> sqlite3.Connection:
        return unwritten.opened(
            unwritten.located(Layout(self._store.layout.root).index, self._store.layout.root, live=True)
        )


def opened_alone(root: Path, clock: Clock, *, rebuild_index: bool) -> Store:
    """Open a path whose daemon does not run, for a repair: takes the lock, as a start of the daemon does.

    `rebuild_index`: do not trust the index that is there. Raises `BackupPathRefused`, `ConfigError`.
    """
    maps = Layout(root).map_files()
    if len(maps) != 1:
        raise BackupPathRefused(
            f"{root} can't be repaired: it holds {len(maps)} files map_<server id>, not one",
            hint="put the right one back first",
            path=str(root),
        )
    if os.geteuid() != root.stat().st_uid:
        raise BackupPathRefused(
            f"{root} belongs to {_owner(root)}: what another user writes there its daemon can't read",
            hint=f"run it as that user: sudo -u {_owner(root)} backupctl …",
            path=str(root),
        )
    server = identifier_of(maps[0].name.removeprefix("map_"))
    identity = ownership.check(Layout(root), server, writable=True)
    assert identity is not None
    if rebuild_index:
        lock = PathLock(Layout(root).lock, clock.now())
        (root / ".index.sqlite.damaged").touch(mode=0o600)
        lock.release()
    try:
        return Store.open(root, server_id=server, server_name=identity.name, clock=clock)
    except sqlite3.Error as error:
        raise BackupPathRefused(
            f"{root} can't be repaired: {error}", hint="see its ledger.corrupt finding", path=str(root)
        ) from error


def _owner(root: Path) -> str:
    number = root.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
