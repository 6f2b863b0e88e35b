"""Cache: the blobs in the Backup Path, as those see them who send them away and make room.

Nothing leaves it that is not confirmed outside: a file is removed inside the transaction that sees it
confirmed, and purge, which lets contents be dead, needs the same lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from backupd import durable
from backupd.errors import BlobMissing, CorruptBlob
from backupd.items import is_digest
from backupd.store.blob_reading import HEADER_BYTES_MAX, content_size, open_verified
from backupd.store.layout import BLOBS, blob_name
from backupd.store.outside.catalog import Catalog, Queued
from backupd.store.packs import digest_bytes
from backupd.volumes.base import NameMissing
from backupd.volumes.local import LocalVolume

SWEEP_PAGE = 1000
EVICTED_AT_ONCE_MAX = 500
LOW_WATER = 0.95
"""Making room goes on until so much of the bound is used, so that it need not be done for every blob."""


class Cache:
    """The files `items/XX/<digest>` of a Backup Path."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # A volume of its own: what is removed here need not be synced with the recorder's next blobs.
        self._volume = LocalVolume(root)

    def file(self, digest: str) -> tuple[BinaryIO, int]:
        """Open a blob's file as it is, and return its bytes. Raises `BlobMissing`, `VolumeError`."""
        try:
            file = self._volume.get(blob_name(digest))
        except NameMissing:
            raise BlobMissing(f"no blob {digest} in the Backup Path", digest=digest) from None
        return file, os.fstat(file.fileno()).st_size

    def content(self, digest: str, bytes_max: int) -> bytes:
        """Return a content, verified. Raises `BlobMissing`, `CorruptBlob`, `VolumeError`."""
        file, _ = self.file(digest)
        with open_verified(file, digest, str(self._root / blob_name(digest)), bytes_max) as content:
            return content.read()

    def verify(self, digest: str) -> int:
        """Read a blob to its end; return the bytes of its file. Raises as `content` does."""
        file, stored = self.file(digest)
        with open_verified(file, digest, str(self._root / blob_name(digest)), None) as content:
            while content.read(1 << 20):
                pass
        return stored

    def sweep(self, catalog: Catalog, *, stop: Callable[[], bool] = lambda: False) -> int:
        """Let every blob wait that is neither confirmed outside nor queued; return how many those were.

        So what a crash took from the queue is found again, and what was there before a volume was set.
        """
        found = 0
        digests = self._digests()
        while (page := list(islice(digests, SWEEP_PAGE))) and not stop():
            unknown = catalog.unknown(page)
            if unknown:
                waiting = [queued for one in unknown if (queued := self._queued(one)) is not None]
                found += catalog.enqueue(waiting)
        return found

    def make_room(self, catalog: Catalog, bytes_max: int, lacking: int = 0) -> int:
        """Remove confirmed blobs, the longest unused first, until the bound is kept; return the bytes.

        `lacking` bytes are wanted on the file system in any case: the cache stands back for what is new.
        """
        backlog = catalog.backlog()
        excess = backlog.bytes + backlog.cached_bytes - bytes_max
        if max(excess, lacking) <= 0 or not backlog.cached_bytes:
            return 0
        freed, wanted = 0, lacking
        if excess > 0:
            wanted = max(lacking, excess + int(bytes_max * (1 - LOW_WATER)))
        while freed < wanted:
            gone = self._evict(catalog, wanted - freed)
            if not gone:
                break
            freed += gone
        return freed

    def _evict(self, catalog: Catalog, wanted: int) -> int:
        freed = 0
        evicted: list[str] = []
        candidates = catalog.least_used(EVICTED_AT_ONCE_MAX)
        with catalog.transaction() as connection:
            for digest, cached in candidates:
                if freed >= wanted:
                    break
                confirmed = connection.execute(
                    "SELECT 1 FROM places WHERE volume = ? AND digest = ?",
                    (catalog.current, digest_bytes(digest)),
                ).fetchone()
                if confirmed is None:
                    continue
                durable.step("cache.evict")
                self._volume.delete(blob_name(digest))
                evicted.append(digest)
                freed += cached
            catalog.note_evicted(evicted)
        return freed

    def _digests(self) -> Iterator[str]:
        for name in self._volume.names(f"{BLOBS}/"):
            digest = name.rpartition("/")[2]
            if is_digest(digest) and blob_name(digest) == name:
                yield digest

    def _queued(self, digest: str) -> Queued | None:
        """Return a blob as it would wait: since its file is there. None for what is no blob, or gone."""
        try:
            file, stored = self.file(digest)
        except BlobMissing:
            return None
        with file:
            since = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
            try:
                size = content_size(file.read(HEADER_BYTES_MAX), stored, blob_name(digest), digest)
            except CorruptBlob:
                size = stored
        return Queued(digest, size, stored, since)
