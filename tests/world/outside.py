"""A small world of blobs outside: a Backup Path, a volume that can fail, and who sends.

`FaultyVolume` stands before another and fails as stores do: it is away, it answers with an error although it
did what was asked, it gives back wrong bytes, it refuses for good. Faults are rolled from a seed.
"""

from __future__ import annotations

import io
import random
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from backupd.errors import VolumeError
from backupd.jobs.upload.upload import Upload
from backupd.store.blobs import Blobs
from backupd.store.layout import PACKS, Layout
from backupd.store.outside.cache import Cache
from backupd.store.outside.catalog import Catalog
from backupd.store.outside.reading import BlobsOutside, External
from backupd.store.outside.rebuilding import read_places
from backupd.store.outside.sending import Sender
from backupd.volumes.base import ByteSource, Volume
from backupd.volumes.calls import CountingVolume
from backupd.volumes.local import LocalVolume
from backupd.volumes.memory import MemoryVolume
from tests.world.clocks import FakeClock


class FaultyVolume:
    """A volume before a volume. `part` of the calls fail, in ways that take turns by chance."""

    def __init__(self, inner: Volume, *, part: float = 0.0, seed: int = 0) -> None:
        self.inner = inner
        self.part = part
        self.away = False
        self.refusing = ""
        self.calls: Counter[str] = Counter()
        self.order: list[str] = []
        """Names in the order in which they were put."""
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        fault = self._fault("put")
        if fault == "before":
            raise VolumeError("connection reset")
        stored = self.inner.put(name, content)
        self.order.append(name)
        if fault:
            raise VolumeError("no reply")
        return stored

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        fault = self._fault("get")
        if fault == "before":
            raise VolumeError("503")
        with self.inner.get(name, offset=offset, length=length) as file:
            content = file.read()
        if fault == "wrong" and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        elif fault:
            content = content[: len(content) // 2]
        return io.BytesIO(content)

    def exists(self, name: str) -> bool:
        self._fault("exists")
        return self.inner.exists(name)

    def delete(self, name: str) -> bool:
        fault = self._fault("delete")
        gone = self.inner.delete(name)
        if fault:
            raise VolumeError("no reply")
        return gone

    def names(self, prefix: str = "") -> Iterator[str]:
        self._fault("names")
        return self.inner.names(prefix)

    def size(self, name: str) -> int:
        self._fault("size")
        return self.inner.size(name)

    def _fault(self, call: str) -> str:
        with self._lock:
            self.calls[call] += 1
            if self.refusing:
                raise VolumeError(self.refusing, permanent=True, hint="mend the credentials")
            if self.away:
                raise VolumeError("the store is away")
            if self._random.random() >= self.part:
                return ""
            return self._random.choice(["before", "after", "wrong"])


class OutsideWorld:
    """Blobs with an external volume. Time stands until the test moves `now`, or the clock it gave."""

    def __init__(
        self,
        root: Path,
        volume: Volume | None = None,
        *,
        is_remote: bool = True,
        clock: FakeClock | None = None,
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.clock = clock or FakeClock()
        self.memory = MemoryVolume()
        self.volume = volume if volume is not None else FaultyVolume(self.memory)
        self.counted = CountingVolume(self.volume)
        self.catalog = Catalog(Layout(root).catalog)
        self.external = External(
            identity="bucket-1", title="bucket one", volume=self.counted, is_remote=is_remote
        )
        self.outside = BlobsOutside(self.catalog, self.external, now=lambda: self.now)
        self.blobs = Blobs(LocalVolume(root), outside=self.outside)
        self.cache = Cache(root)
        self.sender = Sender(self.outside, self.cache, now=lambda: self.now)
        self.upload = Upload(self.outside, self.cache, self.sender, now=lambda: self.now)

    @property
    def now(self) -> datetime:
        return self.clock.now()

    @now.setter
    def now(self, when: datetime) -> None:
        self.clock.tick((when - self.clock.now()).total_seconds())

    def keep(self, *contents: bytes) -> list[str]:
        """Commit contents as the recorder does, and let a moment pass."""
        staged = [self.blobs.stage(content) for content in contents]
        self.blobs.commit(staged)
        self.now += timedelta(milliseconds=1)
        return [one.digest for one in staged]

    def send(self, *, cache_bytes_max: int = 1 << 40, seconds: float = 10.0) -> int:
        """Let time pass and send everything that waits; return how many were confirmed."""
        self.upload.tend(cache_bytes_max)
        self.now += timedelta(seconds=seconds)
        sent = 0
        while True:
            round_ = self.upload.round()
            sent += round_.objects
            if round_.wait_seconds != 0:
                break
        self.upload.tend(cache_bytes_max)
        return sent

    def is_cached(self, digest: str) -> bool:
        return digest in set(self.blobs.cached_digests())

    def dead_copies(self) -> int:
        """Return how many contents lie on the volume without living there: forgotten ones, or sent twice."""
        dead = 0
        for number, name, live in self.catalog.rows("SELECT id, name, live FROM objects"):
            is_pack = name.startswith(PACKS)
            contents = len(read_places(self.memory, name, self.memory.size(name))) if is_pack else 1
            assert live == len(self.sender.objects.places_in(number)) <= contents
            dead += contents - live
        return dead

    def close(self) -> None:
        self.catalog.close()
