"""Blobs outside: contents of the external volume for those who read, and notes for those who send.

A single object is read as a blob file is. Of a pack the block with the content is read, by one range; the
last blocks are kept in memory, for who reads one content mostly reads its neighbours. Nothing is written
back into the cache: a restore of many would drive everything else out of it. Everything is verified by its
digest.

What is committed and used is noted in memory only, so that nobody waits for the catalog; `keep_notes` writes
it down. Notes that are lost with the process are found again by a sweep.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import BinaryIO

import msgspec

from backupd.errors import BlobMissing, CorruptBlob, VolumeError
from backupd.store.beyond import Staged
from backupd.store.blob_reading import open_verified
from backupd.store.outside.catalog import Catalog, Located, Queued
from backupd.store.outside.objects import Objects
from backupd.store.packs import BLOCK_CONTENT_BYTES_MAX, CorruptPack, content_of, open_block
from backupd.volumes.base import NameMissing, ObjectDamaged, Volume

TURN_SECONDS = 0.5
NOTES_MAX = 100_000
"""So many notes are held; a sweep finds what came beyond."""
BLOCKS_BYTES_MAX = 16 << 20
BLOCK_STORED_BYTES_MAX = BLOCK_CONTENT_BYTES_MAX + (64 << 10)


class External(msgspec.Struct, frozen=True, kw_only=True):
    """An external volume: its lasting identity, a title for people, and whether it is a remote store.

    On a remote one small contents are bundled into packs, on a mounted one each is a file.
    """

    identity: str
    title: str
    volume: Volume
    is_remote: bool


class BlobsOutside:
    """What `Blobs.outside` is in the daemon. Any thread may call."""

    def __init__(self, catalog: Catalog, external: External, *, now: Callable[[], datetime]) -> None:
        self.catalog = catalog
        self.external = external
        self.hand = threading.Lock()
        """Who changes the volume holds it: sending and reclaiming take turns, step by step."""
        self.sweep_due = True
        self.rebuild_due = False
        """Whether something was not on the volume that should be: what else is gone is to be looked for."""
        self.evicting = threading.Lock()
        """Who lets blobs leave the Backup Path holds it."""
        self.keeps_all = False
        """Whether nothing may leave the Backup Path; read it with `evicting` in hand."""
        self._now = now
        self._noting = threading.Lock()
        self._committed: list[Queued] = []
        self._used: dict[str, None] = {}
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._blocks_bytes = 0
        catalog.use(external.identity)

    @contextmanager
    def turn(self, check: Callable[[], None]) -> Iterator[None]:
        """Take `hand`; `check` may raise while an upload that hangs has it."""
        while not self.hand.acquire(timeout=TURN_SECONDS):
            check()
        try:
            yield
        finally:
            self.hand.release()

    def stored_size(self, digest: str) -> int | None:
        """Return the bytes a content takes outside, None if it is not confirmed there."""
        located = self.catalog.locate(digest)
        return None if located is None else located.share

    def open(self, digest: str, bytes_max: int | None) -> BinaryIO:
        """Open a content, verified as it is read. Raises `BlobMissing`, `CorruptBlob`, `VolumeError`."""
        for is_last in (False, True):
            located = self.catalog.locate(digest)
            if located is None:
                raise BlobMissing(
                    f"no blob {digest} in the Backup Path or on {self.external.title}",
                    hint="a deep scan stores it again if the item still exists",
                    digest=digest,
                )
            try:
                return self._open(digest, located, bytes_max)
            except ObjectDamaged as error:
                path = f"{self.external.title}/{located.name}"
                raise CorruptBlob(f"{path}: {error.message}", digest=digest, path=path) from error
            except NameMissing:
                # A pack that was just rewritten: the content is elsewhere now.
                if is_last:
                    # Until the catalog is brought to what is there, nobody would store it again.
                    self.rebuild_due = True
                    raise BlobMissing(
                        f"{located.name} with blob {digest} is gone from {self.external.title}",
                        hint="a deep scan stores it again if the item still exists",
                        digest=digest,
                    ) from None
        raise AssertionError("not reached")

    def digests(self) -> Iterator[str]:
        """Yield the digest of every content outside."""
        return self.catalog.digests()

    def only_outside(self) -> int:
        """Return how many contents are outside and not in the Backup Path; quick."""
        return self.catalog.only_outside()

    def forget(self, digests: Sequence[str]) -> int:
        """Let contents be dead outside, for nothing refers to them any more; return how many were there."""
        with self._noting:
            gone = set(digests)
            self._committed = [one for one in self._committed if one.digest not in gone]
        return Objects(self.catalog, self.catalog.number_of(self.external.identity)).forget(digests)

    def note_committed(self, staged: Sequence[Staged]) -> None:
        """Take notice of new blobs in the Backup Path: they are to be sent."""
        now = self._now()
        with self._noting:
            if len(self._committed) + len(staged) > NOTES_MAX:
                self.sweep_due = True
                return
            self._committed += [Queued(one.digest, one.size, one.stored_size, now) for one in staged]

    def note_used(self, digest: str) -> None:
        """Take notice that a blob of the Backup Path was read."""
        with self._noting:
            if len(self._used) < NOTES_MAX:
                self._used[digest] = None

    def keep_notes(self) -> int:
        """Write down what was noted; return how many blobs wait that did not. Raises as the catalog does."""
        with self._noting:
            committed, self._committed = self._committed, []
            used, self._used = list(self._used), {}
        try:
            queued = self.catalog.enqueue(committed) if committed else 0
        except BaseException:
            self.sweep_due = True
            raise
        if used:
            self.catalog.note_uses(used, self._now())
        return queued

    def keep_all(self) -> None:
        """Let nothing leave the Backup Path from now on, however large the cache becomes.

        For who is about to choose another volume: what was seen here must be here then.
        """
        with self.evicting:
            self.keeps_all = True

    def evict_again(self) -> None:
        """Let the cache keep its bound again, also with what came into the Backup Path by other ways."""
        self.keeps_all = False
        self.sweep_due = True

    def _open(self, digest: str, located: Located, bytes_max: int | None) -> BinaryIO:
        path = f"{self.external.title}/{located.name}"
        place = located.place
        if place is None:
            file = self.external.volume.get(located.name)
            return open_verified(file, digest, path, bytes_max, stored=located.stored)
        if bytes_max is not None and place.size > bytes_max:
            raise CorruptBlob(f"{path}: {place.size} bytes, at most {bytes_max} are expected", digest=digest)
        try:
            contents = self._block(located.name, place.block_offset, place.block_bytes)
            return io.BytesIO(content_of(contents, place))
        except CorruptPack as error:
            self._forget_block(located.name, place.block_offset)
            raise CorruptBlob(f"{path}: {error.message}", digest=digest, path=path) from error

    def _block(self, name: str, offset: int, length: int) -> bytes:
        key = (name, offset)
        with self._noting:
            contents = self._blocks.get(key)
            if contents is not None:
                self._blocks.move_to_end(key)
                return contents
        if length > BLOCK_STORED_BYTES_MAX:
            raise CorruptPack(f"a block of {length} bytes can't be")
        with self.external.volume.get(name, offset=offset, length=length) as file:
            stored = read_exactly(file, length)
        contents = open_block(stored)
        with self._noting:
            if key not in self._blocks:
                self._blocks[key] = contents
                self._blocks_bytes += len(contents)
            while self._blocks_bytes > BLOCKS_BYTES_MAX:
                self._blocks_bytes -= len(self._blocks.popitem(last=False)[1])
        return contents

    def _forget_block(self, name: str, offset: int) -> None:
        with self._noting:
            contents = self._blocks.pop((name, offset), None)
            if contents is not None:
                self._blocks_bytes -= len(contents)


def read_exactly(file: BinaryIO, length: int) -> bytes:
    """Return so many bytes of a file. Raises `VolumeError` where it ends before: worth another try."""
    parts: list[bytes] = []
    rest = length
    while rest and (part := file.read(rest)):
        parts.append(part)
        rest -= len(part)
    if rest:
        raise VolumeError(f"an answer ended {rest} bytes before its end")
    return b"".join(parts)
