"""Statistics beside the histories: small JSON files for scans and for people, replaced atomically.

`account_stat` says up to where an account was scanned; it is written only once everything listed is
recorded. `backupstat`, one of the whole backup and one per account, is for people. A file that is missing or
can't be read counts as never written: the next scan is a whole one and writes it anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from backupd import durable
from backupd.decoding import decoded
from backupd.store.layout import Layout, account_directory
from backupd.volumes.disk import Directories, full_disk_told

_WRITTEN_SINGLY_MAX = 2


class AccountStatistics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What scans keep of an account. `cursor` is the AppServer's own text, None before a first whole scan.

    `last_item` is the last one SmartScan stored, `last_transaction` the sequence number it got.
    """

    cursor: str | None = None
    last_item: str | None = None
    last_transaction: int | None = None
    last_scan: datetime | None = None
    last_deep_scan: datetime | None = None
    last_change: datetime | None = None


class BackupStatistics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What people want to know of the backup or of one account; counts are of the last scan's end."""

    first_run: datetime | None = None
    last_scan_started: datetime | None = None
    last_scan_ended: datetime | None = None
    last_scan_verdict: str = ""
    last_deep_scan_ended: datetime | None = None
    last_purge_ended: datetime | None = None
    items: dict[str, int] = {}
    deleted: dict[str, int] = {}
    blobs: int = 0
    blob_bytes: int = 0


_Statistics = TypeVar("_Statistics", AccountStatistics, BackupStatistics)


class Statistics:
    """Reads and writes the statistics files; any thread may call, one at a time writes a file."""

    def __init__(self, layout: Layout, directories: Directories) -> None:
        self._layout = layout
        self._directories = directories

    def account(self, account: str) -> AccountStatistics:
        """Return an account's scan statistics; empty ones where there are none."""
        return _read(self._layout.account_statistics(account), AccountStatistics)

    def write_account(self, account: str, statistics: AccountStatistics) -> None:
        """Replace an account's scan statistics, durably. Raises `SpaceExhausted`, `OSError`."""
        self.write_accounts({account: statistics})

    def write_accounts(self, statistics: Mapping[str, AccountStatistics]) -> None:
        """Replace those of many accounts, durably as a group, each atomically.

        Raises `SpaceExhausted`, `OSError`; then some may be new and some old.
        """
        contents: dict[Path, bytes] = {}
        for account, one in statistics.items():
            self._directories.make(account_directory(account))
            contents[self._layout.account_statistics(account)] = _encoded(one)
        _replace_files(self._layout.root, contents)

    def account_backup(self, account: str) -> BackupStatistics:
        """Return what people want to know of an account."""
        return _read(self._layout.account_backup_statistics(account), BackupStatistics)

    def write_account_backups(self, statistics: Mapping[str, BackupStatistics]) -> None:
        """Replace what people want to know of accounts, durably as a group."""
        contents: dict[Path, bytes] = {}
        for account, one in statistics.items():
            self._directories.make(account_directory(account))
            contents[self._layout.account_backup_statistics(account)] = _encoded(one)
        _replace_files(self._layout.root, contents)

    def backup(self) -> BackupStatistics:
        """Return what people want to know of the backup."""
        return _read(self._layout.statistics, BackupStatistics)

    def write_backup(self, statistics: BackupStatistics) -> None:
        """Replace what people want to know of the backup, durably. Raises `SpaceExhausted`, `OSError`."""
        _replace_files(self._layout.root, {self._layout.statistics: _encoded(statistics)})


def _encoded(statistics: AccountStatistics | BackupStatistics) -> bytes:
    return msgspec.json.format(msgspec.json.encode(statistics), indent=2) + b"\n"


def _read(path: Path, kind: type[_Statistics]) -> _Statistics:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return decoded(file.read(), kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return kind()


def _replace_files(root: Path, contents: Mapping[Path, bytes]) -> None:
    with full_disk_told(root):
        if len(contents) <= _WRITTEN_SINGLY_MAX:
            for path, content in contents.items():
                durable.replace_file(path, content)
            return
        asides: list[tuple[Path, Path]] = []
        for path, content in contents.items():
            aside = path.with_name(f".{path.name}.new")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(aside, flags, 0o600)
            try:
                durable.write_all(descriptor, content)
            finally:
                os.close(descriptor)
            asides.append((aside, path))
        durable.sync_file_system(root)
        durable.step("statistics.written")
        for aside, path in asides:
            aside.replace(path)
        durable.step("statistics.renamed")
        durable.sync_file_system(root)
