"""Manifests: what a purge took away, as JSON lines in `purged/<moment>.jsonl`, written before anything goes.

A line is durable before what it tells of is touched, so the list may name something that a crash saved, never
lack something that went. Lists are kept `KEPT`, and never more than `BYTES_MAX` of them beside the newest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from backupd import durable
from backupd.clock import written
from backupd.store.layout import PURGED, Layout
from backupd.volumes.disk import full_disk_told

KEPT = timedelta(days=800)
BYTES_MAX = 1 << 30
_MOMENT = "%Y%m%dT%H%M%SZ"


class Manifest:
    """The list of one purge; nothing is made until there is a line."""

    def __init__(self, layout: Layout, moment: datetime, facts: dict[str, Any]) -> None:
        self._directory = layout.root / PURGED
        self._moment = moment
        self._facts = facts
        self._descriptor = -1
        self.path: Path | None = None
        self._unsynced = False

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """Write lines; `sync` makes them durable. Raises `SpaceExhausted`, `OSError`."""
        content = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        if not content:
            return
        with full_disk_told(self._directory):
            if self._descriptor < 0:
                self._begin()
            durable.write_all(self._descriptor, content)
            self._unsynced = True

    def sync(self) -> None:
        """Make what was written durable."""
        if self._unsynced:
            with full_disk_told(self._directory):
                os.fsync(self._descriptor)
            self._unsynced = False
            durable.step("purge.listed")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _begin(self) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        durable.sync_directory(self._directory.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        count = 0
        while self._descriptor < 0:
            name = f"{self._moment:{_MOMENT}}{f'-{count}' if count else ''}.jsonl"
            try:
                self._descriptor = os.open(self._directory / name, flags, 0o600)
            except FileExistsError:
                count += 1
                continue
            self.path = self._directory / name
        durable.sync_directory(self._directory)
        begun = {"what": "purge", "begun": written(self._moment), **self._facts}
        durable.write_all(self._descriptor, msgspec.json.encode(begun) + b"\n")


def forget_old(layout: Layout, now: datetime) -> int:
    """Remove lists that are too old or too many; return how many. The newest always stays."""
    directory = layout.root / PURGED
    if not directory.is_dir():
        return 0
    removed, kept_bytes = 0, 0
    for place, path in enumerate(sorted(directory.glob("*.jsonl"), reverse=True)):
        found = path.stat()
        kept_bytes += found.st_size
        age = now.timestamp() - found.st_mtime
        if place and (age > KEPT.total_seconds() or kept_bytes > BYTES_MAX):
            path.unlink()
            removed += 1
    return removed
