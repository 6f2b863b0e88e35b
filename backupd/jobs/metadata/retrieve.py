"""Retrieving metadata: a Backup Path built from what was sent to an external volume, without its daemon.

In order: the newest summary that can be read says whose backup it is; of every account the newest archive
that can be read is unpacked; then the parcels bring each history up to the last minute that was sent; then
the journal's newest stretch, the archives of `servers/` and, out of the newest of these, the ledger are put
in place. Contents stay outside: `rebuild_catalog` notes where each one rests.

The destination is a new directory or one of the same server, also a half-retrieved one: what is there stays,
histories only grow. It must not be in use. Nothing on the volume is changed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog

from backupd import durable
from backupd.clock import Clock, written
from backupd.decoding import converted
from backupd.errors import BackupPathRefused, CorruptHistory
from backupd.items import ItemKey, Kind, identifier_of
from backupd.jobs.metadata import names, parcels, plan
from backupd.jobs.metadata.names import ArchiveObject
from backupd.jobs.metadata.summary import Summary, newest_summary
from backupd.operations import Run, Verdict
from backupd.states import State
from backupd.store import archives, history_format, ownership
from backupd.store.archives import ArchiveType, CorruptArchive
from backupd.store.history import Histories
from backupd.store.layout import ACCOUNT_HISTORY, ACCOUNTS, DIRECTORIES, SERVERS, Layout, history_place
from backupd.store.lock import PathLock
from backupd.store.store import Store
from backupd.volumes.base import NameMissing, ObjectDamaged, Volume
from backupd.volumes.disk import Directories, full_disk_told

THREADS = 10
THREADS_MAX = 64
_LEDGER_MEMBER = "backupd/state.sqlite"
_LEDGER_BYTES_MAX = 4 << 30
_JOURNAL_ASIDE = ".journal"
_STATISTICS = frozenset({"account_stat", "backupstat", "id_mapper.log"})

log = structlog.get_logger(__name__)
RebuildCatalog = Callable[[Volume, Path, Run], int]
"""Notes below a Backup Path where each content rests outside; returns how many there are."""


class Retrieved(msgspec.Struct):
    """What came back."""

    accounts: int = 0
    unreadable_accounts: int = 0
    histories: int = 0
    states: int = 0
    contents: int = 0
    newest: datetime | None = None


class Retrieval:
    """One retrieval. All methods block."""

    def __init__(
        self,
        volume: Volume,
        destination: Path,
        *,
        clock: Clock,
        rebuild_catalog: RebuildCatalog,
        threads: int = THREADS,
    ) -> None:
        self._volume = volume
        self._layout = Layout(destination.resolve())
        self._clock = clock
        self._rebuild_catalog = rebuild_catalog
        self._threads = max(1, min(threads, THREADS_MAX))
        self._directories = Directories(self._layout.root)
        self._histories = Histories(self._layout.root, self._directories)
        self._through: dict[str, int] = {}
        """Of each folder of archives, up to which journal entry the unpacked one holds everything."""
        self._archived_through = 0
        """Up to which journal entry the archives that could be read hold everything together."""
        self._done = Retrieved()
        self._counting = threading.Lock()

    def run(self, run: Run) -> Verdict:
        """Build the path. Raises `BackupPathRefused`, `VolumeError`, `SpaceExhausted`, `OSError`."""
        summary = self._summary()
        self._archived_through = summary.through
        identity = converted(summary.map, ownership.Identity)
        layout = self._layout
        ownership.check(layout, identity.server, writable=True)
        with full_disk_told(layout.root):
            ownership.make_directory(layout.root)
            lock = PathLock(layout.lock, self._clock.now())
            try:
                self._prepare(summary, identity.server)
                self._archives(run)
                self._parcels(run, identity.server)
                self._journal(run)
                self._server_archives(run)
                self._ledger()
                self._done.contents = self._rebuild_catalog(self._volume, layout.root, run)
                if not layout.statistics.exists():
                    content = msgspec.json.format(msgspec.json.encode(summary.statistics), indent=2)
                    durable.replace_file(layout.statistics, content + b"\n")
                durable.sync_file_system(layout.root)
            finally:
                lock.release()
        self._index(identity)
        return self._verdict(run, summary, identity)

    def _summary(self) -> Summary:
        found, reason = newest_summary(self._volume)
        if found is not None:
            return found
        reason = reason or "there is no summary of a backup on it"
        raise BackupPathRefused(
            f"no metadata can be retrieved from the volume: {reason}",
            hint="check bucket, prefix and volume_prefix; a summary is written once a SmartScan has sent all "
            "metadata",
        )

    def _prepare(self, summary: Summary, server: str) -> None:
        map_file = self._layout.map_file(server)
        if not map_file.exists():
            content = msgspec.json.format(msgspec.json.encode(summary.map), indent=2)
            durable.replace_file(map_file, content + b"\n")
        for name in DIRECTORIES:
            (self._layout.root / name).mkdir(mode=0o700, exist_ok=True)
        # Derived from histories that are about to change: the next start builds it anew.
        for suffix in ("", "-wal", "-shm"):
            self._layout.index.with_name(self._layout.index.name + suffix).unlink(missing_ok=True)

    # ----------------------------------------------------------------- archives

    def _archives(self, run: Run) -> None:
        outside = names.archive_objects(self._names(names.ACCOUNTS, names.ENTRIES))
        folders = plan.archives_to_take(outside)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="retrieve") as pool:
            futures = [pool.submit(self._unpack_one, run, folder) for folder in folders]
            try:
                for place, future in enumerate(futures, 1):
                    future.result()
                    run.report(place, len(folders), unit="accounts")
                    run.check()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _unpack_one(self, run: Run, newest_first: tuple[ArchiveObject, ...]) -> None:
        """Unpack an account's newest archive that can be read."""
        for one in newest_first:
            run.check()
            try:
                with self._volume.get(one.name) as file:
                    self._unpack(file, one.name)
            except (CorruptArchive, NameMissing, ObjectDamaged) as error:
                run.note_error(one.name, error.message)
                continue
            with self._counting:
                self._through[one.folder] = one.through
                if one is not newest_first[0]:
                    self._archived_through = min(self._archived_through, one.through)
                self._done.accounts += one.folder != names.ENTRIES
            return
        with self._counting:
            self._done.unreadable_accounts += 1

    def _unpack(self, file: BinaryIO, name: str) -> None:
        histories = Histories(self._layout.root, Directories(self._layout.root))
        for path, content in parcels.read_archive(file, name):
            directory, _, file_name = path.rpartition("/")
            with self._counting:
                self._directories.make(directory)
            if (
                file_name in _STATISTICS
                and directory.count("/") == 1
                and directory.startswith(f"{ACCOUNTS}/")
            ):
                _complete(self._layout.root / path, content)
            else:
                self._grow(histories, path, content)

    def _grow(self, histories: Histories, path: str, content: bytes) -> None:
        """Put a history in place, or add to the one that is there what it lacks."""
        target = self._layout.root / path
        try:
            _write(target, content)
        except FileExistsError:
            try:
                states = history_format.parse(content, path).states
            except CorruptHistory:
                states = history_format.salvage(content)
            if states and not self._add(histories, states, path):
                return
        with self._counting:
            self._done.histories += 1

    def _add(self, histories: Histories, states: list[State], path: str) -> int:
        present = self._layout.root / path
        try:
            known = history_format.parse(present.read_bytes(), path).states
        except CorruptHistory:
            known = history_format.salvage(present.read_bytes())
        last = known[-1].transaction if known else 0
        fresh = [state for state in states if state.transaction > last]
        if fresh:
            key = _key_of(path, fresh[-1])
            if "/".join(history_place(key)) != path:
                raise CorruptArchive(f"{path} tells of another item: {key}")
            histories.append(key, fresh)
        return len(fresh)

    # ------------------------------------------------------------------ changes

    def _parcels(self, run: Run, server: str) -> None:
        """Bring histories up to what was sent last."""
        outside = names.range_objects(self._volume.names(names.STATES))
        for first, last in plan.holes(outside, self._archived_through):
            run.note_error(names.STATES, f"no parcel holds what entries {first:,} to {last:,} brought")
        for place, one in enumerate(outside, 1):
            run.check()
            run.report(place, len(outside), unit="parcels")
            try:
                for item in parcels.decode_parcel(self._content(one.name), one.name, server):
                    self._take(item, one.last)
            except (CorruptArchive, NameMissing, ObjectDamaged) as error:
                run.note_error(one.name, error.message)

    def _take(self, item: parcels.ItemStates, sent_through: int) -> None:
        last, _ = self._last(item.key)
        if last is None and sent_through <= self._through.get(names.account_folder(item.account), -1):
            return  # The archive was made behind that and lacks it: it was purged meanwhile.
        fresh = [state for state in item.states if last is None or state.transaction > last.transaction]
        if fresh:
            self._histories.append(item.key, fresh)
            self._done.states += len(fresh)
            self._done.histories += last is None
        newest = item.states[-1].start if item.states else None
        if newest is not None and (self._done.newest is None or newest > self._done.newest):
            self._done.newest = newest

    def _last(self, key: ItemKey) -> tuple[State | None, frozenset[str]]:
        try:
            return self._histories.last(key)
        except CorruptHistory:
            known = self._histories.salvage(key)
            return (known[-1] if known else None), frozenset()

    def _journal(self, run: Run) -> None:
        """Put the newest unbroken stretch of the journal in place; a journal that is there stays.

        All at once: half a journal would stay, and what it lacks be taken for missed.
        """
        if any(self._layout.journal.iterdir()):
            return
        aside = self._layout.journal.with_name(_JOURNAL_ASIDE)
        _emptied(aside)
        for one in plan.stretches_to_take(names.range_objects(self._volume.names(names.JOURNAL))):
            try:
                content = parcels.decode_stretch(self._content(one.name), one.name, one.first)
            except (CorruptArchive, NameMissing, ObjectDamaged) as error:
                run.note_error(one.name, error.message)
                _emptied(aside)  # it is the hole that nothing before can be replayed over
                continue
            durable.replace_file(aside / f"{one.first:020d}.journal", content)
        aside.replace(self._layout.journal)

    def _server_archives(self, run: Run) -> None:
        for file_name, name in names.server_archives(self._volume.names(names.SERVER)).items():
            target = self._layout.servers / file_name
            if target.exists():
                continue
            run.check()
            aside = target.with_name(f".{file_name}.new")
            try:
                with self._volume.get(name) as source, aside.open("wb") as file:
                    aside.chmod(0o600)
                    while chunk := source.read(1 << 20):
                        file.write(chunk)
            except (NameMissing, ObjectDamaged) as error:
                aside.unlink(missing_ok=True)
                run.note_error(name, error.message)
                continue
            aside.replace(target)

    def _ledger(self) -> None:
        """Take the ledger out of the newest configuration dump that has one, where there is none."""
        if self._layout.ledger.exists():
            return
        for archive in archives.archives(self._layout, ArchiveType.CONFIGURATION):
            try:
                for member in archives.members(
                    archive, wanted=lambda name: name == _LEDGER_MEMBER, bytes_max=_LEDGER_BYTES_MAX
                ):
                    if member.content is not None:
                        durable.replace_file(self._layout.ledger, member.content)
                        return
            except CorruptArchive as error:
                log.warning("archive_unreadable", archive=archive.path.name, reason=error.message)

    def _index(self, identity: ownership.Identity) -> None:
        """Build the index, so that the path can be looked into at once, by `backup_path`."""
        Store.open(
            self._layout.root, server_id=identity.server, server_name=identity.name, clock=self._clock
        ).close()

    # ------------------------------------------------------------------ verdict

    def _verdict(self, run: Run, summary: Summary, identity: ownership.Identity) -> Verdict:
        done = self._done
        expected = sum(summary.accounts.values())
        there = sum(1 for found in self._histories.walk() if found.states)
        missing = max(0, expected - there)
        as_of = f", as of {written(done.newest)}" if done.newest else ""
        counts = {
            "accounts": done.accounts,
            "histories": there,
            "expected": expected,
            "missing": missing,
            "states_from_parcels": done.states,
            "contents": done.contents,
            "unreadable_accounts": done.unreadable_accounts,
        }
        return Verdict(
            sentence=f"server {identity.name or identity.server}: {there:,} histories of {done.accounts:,} "
            f"accounts are there{as_of}, {expected:,} were expected, {missing:,} are missing; "
            f"{done.contents:,} contents rest outside",
            counts=counts,
            successful=not missing and not done.unreadable_accounts and not run.errors_total,
        )

    def _content(self, name: str) -> bytes:
        with self._volume.get(name) as file:
            content = file.read(parcels.PARCEL_BYTES_MAX + 1)
        if len(content) > parcels.PARCEL_BYTES_MAX:
            raise CorruptArchive(f"{name} is larger than {parcels.PARCEL_BYTES_MAX:,} bytes")
        return content

    def _names(self, *prefixes: str) -> Iterator[str]:
        for prefix in prefixes:
            yield from self._volume.names(prefix)


def _key_of(path: str, state: State) -> ItemKey:
    """Return the item whose history lies at a relative path."""
    top, folder, *_, name = path.split("/")
    if top == SERVERS:
        return ItemKey("", state.kind, state.item or identifier_of(name))
    account = identifier_of(folder)
    if name == ACCOUNT_HISTORY:
        account = state.item or account
        return ItemKey(account, Kind.ACCOUNT, account)
    return ItemKey(account, state.kind, state.item or identifier_of(name))


def _emptied(directory: Path) -> None:
    """Make a directory, or empty what an ended retrieval left of it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for file in directory.iterdir():
        file.unlink()


def _complete(path: Path, content: bytes) -> None:
    """Write a file that is not there, or holds the beginning of this only: an ended retrieval left it."""
    try:
        _write(path, content)
    except FileExistsError:
        present = path.read_bytes()
        if len(present) < len(content) and content.startswith(present):
            _write(path, content, again=True)


def _write(path: Path, content: bytes, *, again: bool = False) -> None:
    """Write a file that is not there yet, not synced. Raises `FileExistsError` if not `again`."""
    new = 0 if again else os.O_CREAT | os.O_EXCL
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | new, 0o600)
    try:
        durable.write_all(descriptor, content)
    finally:
        os.close(descriptor)
