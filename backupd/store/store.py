"""Store: all of a Backup Path, opened together and in the order that makes it whole after any crash.

Opening for writing takes the lock, claims the path, removes what dead processes staged, cuts a torn journal
tail, builds the index if it can't be used, and brings it up to the histories. `damaged` then names every
history and journal record that can't be read; they stop nothing. Opening for reading takes no lock and
changes nothing, also beside a running daemon.

The order of durability: blobs (`Blobs.commit`), then histories and everything else (`checkpoint`: one sync of
the file system), then the cursor with the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from backupd import durable
from backupd.clock import Clock
from backupd.errors import BackupPathRefused, CorruptHistory, SpaceExhausted
from backupd.items import ItemKey
from backupd.states import State
from backupd.store import index as index_file
from backupd.store import ownership, purging
from backupd.store.blobs import LEVEL, Blobs
from backupd.store.history import Histories
from backupd.store.index import Index, IndexUnusable
from backupd.store.journal import SEGMENT_BYTES_MAX, Journal
from backupd.store.keeping import Keeping
from backupd.store.layout import Layout
from backupd.store.ledger import Ledger
from backupd.store.lock import PathLock
from backupd.store.ownership import Identity
from backupd.store.statistics import Statistics
from backupd.volumes.disk import Directories, full_disk_told
from backupd.volumes.local import LocalVolume

DAMAGED_LISTED_MAX = 10_000


class Store:
    """An open Backup Path. Use `Store.open`, close it or use it as a context."""

    def __init__(
        self, layout: Layout, identity: Identity, lock: PathLock | None, *, space_threshold_bytes: int
    ) -> None:
        self.layout = layout
        self.identity = identity
        self.space_threshold_bytes = space_threshold_bytes
        self.damaged: list[str] = []
        """What can't be read, one sentence each, with file and offset; at most `DAMAGED_LISTED_MAX`."""
        self.index_was_built = False
        self._lock = lock
        self._directories: Directories
        self.journal: Journal
        self.histories: Histories
        self.blobs: Blobs
        self.keeping: Keeping
        self.index: Index
        self.ledger: Ledger
        self.statistics: Statistics

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        server_id: str,
        server_name: str,
        clock: Clock,
        writable: bool = True,
        space_threshold_bytes: int = 0,
        compression_level: int = LEVEL,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
    ) -> Self:
        """Open a Backup Path; make it if there is none yet.

        Raises `BackupPathRefused`, `SpaceExhausted`, `OSError`; then nothing stays open.
        """
        layout = Layout(path.resolve())
        lock: PathLock | None = None
        identity = ownership.check(layout, server_id, writable=writable)
        if writable:
            with full_disk_told(path):
                ownership.make_directory(layout.root)
                lock = PathLock(layout.lock, clock.now())
        elif identity is None:
            raise BackupPathRefused(
                f"Backup Path {path} is refused: there is no backup in it yet",
                hint="start the daemon once",
                path=str(path),
            )
        try:
            if lock is not None:
                identity = ownership.claim(layout, server_id, server_name, clock.now())
            assert identity is not None
            store = cls(layout, identity, lock, space_threshold_bytes=space_threshold_bytes)
            store._open(compression_level, segment_bytes_max, writable=writable)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return store

    def close(self) -> None:
        """Close everything and let go of the lock. What was not checkpointed is recorded again by replay."""
        for part in (getattr(self, name, None) for name in ("index", "ledger", "journal")):
            if part is not None:
                part.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def record(self, key: ItemKey, states: Sequence[State]) -> None:
        """Append states to an item's history and take them into the index, until `checkpoint` not durably.

        Raises `CorruptHistory`, `SpaceExhausted`, `OSError`; the next checkpoint lets the index catch up.
        """
        if key in self.index.stale:
            # A failed write may have reached the history and not the index: its states come first.
            self.catch_up()
        self.index.stale.add(key)
        self.histories.append(key, states)
        self.index.record(key, states)
        self.index.stale.discard(key)

    def checkpoint(self, cursor: int) -> None:
        """Make every history written so far durable, then the index, with `cursor` as the recorder's.

        Does nothing where the cursor did not move and nothing was recorded. Raises `SpaceExhausted`,
        `OSError`: then the cursor is where it was, and the checkpoint may be tried again.
        """
        self.catch_up()
        if not self.index.is_recording and cursor == self.index.cursor():
            return
        with full_disk_told(self.layout.root):
            durable.step("checkpoint.sync")
            durable.sync_file_system(self.layout.root)
            durable.step("checkpoint.synced")
        self.index.commit(cursor)
        durable.step("checkpoint.done")

    def catch_up(self, keys: Iterable[ItemKey] = ()) -> int:
        """Make the index say what the histories of these items do, and of those it rolled back.

        Returns how many differed. What is found is part of the open transaction until the next commit.
        """
        differing = 0
        self.index.stale.update(keys)
        while self.index.stale:
            key = next(iter(self.index.stale))
            states, is_whole = self._states(key)
            last = states[-1].transaction if states else 0
            known = self.index.item(key.account, key.item, key.kind)
            if last != (0 if known is None else known.transaction):
                if known is not None and known.transaction > last and is_whole:
                    # A crash took states of the history that the index had already.
                    self.index.forget(key)
                self.index.record(key, states)
                differing += 1
            self.index.stale.discard(key)
        return differing

    def forget_directories(self) -> None:
        """Look at every directory anew; for when one was removed."""
        self._directories.forget()

    def free_bytes(self) -> int:
        """Return the bytes that can still be written. Raises `OSError`."""
        return durable.free_bytes(self.layout.root)

    def check_space(self) -> None:
        """Raise `SpaceExhausted` below the space threshold."""
        free = self.free_bytes()
        if free < self.space_threshold_bytes:
            raise SpaceExhausted(
                f"{free} bytes are free in {self.layout.root}, less than {self.space_threshold_bytes}",
                hint="free space on its file system or lower ZxBackup_SpaceThreshold",
                free=free,
                threshold=self.space_threshold_bytes,
            )

    def _open(self, compression_level: int, segment_bytes_max: int, *, writable: bool) -> None:
        layout = self.layout
        directories = self._directories = Directories(layout.root)
        self.histories = Histories(layout.root, directories)
        self.blobs = Blobs(LocalVolume(layout.root), level=compression_level)
        self.keeping = Keeping(self.blobs)
        self.statistics = Statistics(layout, directories)
        try:
            self.ledger = Ledger(layout.ledger, writable=writable)
            self.journal = Journal(layout.journal, writable=writable, segment_bytes_max=segment_bytes_max)
            if writable:
                self.blobs.remove_leftovers()
                # What a process that died had written but not synced is relied on from here on.
                durable.sync_file_system(layout.root)
            self._open_index(writable=writable)
            # Damage that the recorder has passed was recorded, or has its gap.
            cursor = self.index.cursor()
            self.damaged += [str(one) for one in self.journal.damaged if one.resume_after > cursor]
            if writable:
                self.journal.begin_after(max(self.index.cursor(), self.index.highest_transaction()))
                if not self.index_was_built:
                    self._catch_up_after_crash()
                purging.complete(self)
        except BaseException:
            self.close()
            raise

    def _open_index(self, *, writable: bool) -> None:
        try:
            self.index = Index(self.layout.index, writable=writable)
        except IndexUnusable as error:
            if not writable:
                raise BackupPathRefused(
                    f"the index can't be used: {error}",
                    hint="start the daemon once, it builds it anew",
                    path=str(self.layout.index),
                ) from error
            cursor = max(self.journal.first_sequence - 1, purging.recorded_through(self.ledger))
            index_file.build(self.layout.index, self._walked(), cursor)
            self.index_was_built = True
            self.index = Index(self.layout.index)

    def _walked(self) -> Iterator[tuple[ItemKey, Sequence[State]]]:
        for found in self.histories.walk():
            if found.damage:
                self._list_damage(found.damage)
            if found.states:
                yield found.key, found.states

    def _catch_up_after_crash(self) -> None:
        """Bring the index up to what was recorded behind the last checkpoint."""
        cursor = self.index.cursor()
        for entries in self.journal.stretches(cursor):
            self.catch_up({entry.change.key for entry in entries})
        for waiting in self.ledger.waiting_pages():
            self.catch_up(one.key for one in waiting)
        if self.index.is_recording:
            self.index.commit(cursor)

    def _states(self, key: ItemKey) -> tuple[list[State], bool]:
        """Return what can be read of a history, and whether that is all of it."""
        try:
            return self.histories.read(key), True
        except CorruptHistory as error:
            self._list_damage(error.message)
            return self.histories.salvage(key), False

    def _list_damage(self, damage: str) -> None:
        if len(self.damaged) < DAMAGED_LISTED_MAX and damage not in self.damaged:
            self.damaged.append(damage)
