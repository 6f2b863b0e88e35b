"""Blobs: every content once, named by its digest, compressed by zstd where that pays (docs/formats.md).

A blob file is one zstd frame that tells its content's size, or the bytes as they are. Which of both, the
first four bytes say: content that itself begins like a frame is always compressed, and so is no content at
all, so that a file of no bytes is never a blob but what a crash of the file system left.

`stage` may run in any process; `commit` gives staged contents their names, in groups, durably. Reading
verifies: decompression stops at the size the frame tells, and the digest is compared at the end.

With an external volume the Backup Path holds what is not confirmed outside yet, and a cache: `outside` knows
the rest. A blob that is only outside is there like any other: it is not staged again, and it can be read.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import zstandard

from backupd import durable
from backupd.errors import BlobMissing, CorruptBlob, VolumeError
from backupd.items import digest_text, is_digest
from backupd.store.beyond import Elsewhere, LookedUp, Outside, Staged
from backupd.store.blob_reading import looks_compressed, open_plain_verified, open_verified
from backupd.store.layout import BLOBS, Layout, blob_name
from backupd.store.outside.catalog import Catalog
from backupd.volumes.base import ByteSource, NameMissing
from backupd.volumes.local import LocalVolume

LEVEL = 3
CONTENT_BYTES_MAX_IN_MEMORY = 8 << 20
"""Content beyond this is never whole in memory."""
_CHUNK_BYTES = 1 << 20
_PAYS_OFF = 0.97
"""Compression pays where it leaves less than this part of the content."""


class Blobs:
    """The blobs of one Backup Path, and of the external volume where there is one."""

    def __init__(self, volume: LocalVolume, *, level: int = LEVEL, outside: Outside | None = None) -> None:
        self._volume = volume
        self.outside = outside
        """The external volume; set once it is known, before anything is read or staged."""
        self.elsewhere: Elsewhere | None = None
        """Where what has no blob is read from; `contains` and `stored_size` know nothing of it."""
        self.level = level
        """How hard contents are compressed from now on: zstd's 1 to 22."""
        self._threads = threading.local()

    @classmethod
    def at(cls, backup_path: Path, *, level: int = LEVEL) -> Blobs:
        """Return the blobs of a Backup Path without opening its store: for `stage` in worker processes.

        What is only outside is looked up in the catalog, but not read. Raises `BackupPathRefused`.
        """
        catalog = Layout(backup_path).catalog
        outside = LookedUp(Catalog(catalog, writable=False)) if catalog.exists() else None
        return cls(LocalVolume(backup_path), level=level, outside=outside)

    def stage(self, content: bytes | ByteSource) -> Staged:
        """Hash, compress and store content without a name; does nothing but hash where the blob exists.

        Reads a file from where it stands to its end, with bounded memory. Raises `SpaceExhausted`,
        `VolumeError`, and what reading `content` raises.
        """
        if not isinstance(content, bytes):
            begun = _begun(content)
            if len(begun) > CONTENT_BYTES_MAX_IN_MEMORY:
                return self._stage_big(begun, content)
            content = begun
        digest = digest_text(hashlib.sha256(content).digest())
        stored = self._existing(digest)
        if stored:
            return Staged(digest, len(content), stored, "")
        packed = self._compressor().compress(content)
        if len(packed) >= len(content) * _PAYS_OFF and content and not looks_compressed(content):
            packed = content
        return Staged(digest, len(content), len(packed), self._volume.stage(packed))

    def commit(self, staged: Sequence[Staged]) -> None:
        """Give staged contents their names; contents and names are durable on return.

        A blob that is there stays as it is. Raises `BlobMissing` where a blob that was there at `stage` is
        gone since, or what was staged is: stage again. Raises `SpaceExhausted`, `VolumeError`.
        """
        if not staged:
            return
        durable.step("blobs.commit")
        for one in staged:
            if not one.place and not self._existing(one.digest):
                raise _missing(one.digest)
            if one.place and self._cached(one.digest) == 0:
                self._volume.delete(blob_name(one.digest))
        new = [one for one in staged if one.place]
        try:
            self._volume.publish([(one.place, blob_name(one.digest)) for one in new])
        except NameMissing as error:
            raise BlobMissing(f"staged content is gone: {error.message}", hint="stage it again") from error
        durable.step("blobs.committed")
        if self.outside is not None and new:
            self.outside.note_committed(new)

    def discard(self, staged: Sequence[Staged]) -> None:
        """Drop staged contents that are not wanted after all. Raises `VolumeError`."""
        self._volume.discard([one.place for one in staged if one.place])

    def contains(self, digest: str) -> bool:
        """Tell whether the blob is there; nothing is verified. Raises `VolumeError`."""
        return bool(self._existing(digest))

    def stored_size(self, digest: str) -> int:
        """Return the bytes the blob takes. Raises `BlobMissing`, `VolumeError`."""
        stored = self._existing(digest)
        if not stored:
            raise _missing(digest)
        return stored

    def open(self, digest: str, *, bytes_max: int | None = None) -> BinaryIO:
        """Open a content for reading; the caller closes. Not seekable.

        The last read raises `CorruptBlob` if digest or size differ; whoever uses the bytes before must be
        able to take that back. A content larger than `bytes_max` raises `CorruptBlob` at once. Raises
        `BlobMissing`, `VolumeError`.
        """
        try:
            file = self._volume.get(blob_name(_checked(digest)))
        except NameMissing:
            return self._opened_beyond(digest, bytes_max)
        if self.outside is not None:
            self.outside.note_used(digest)
        return open_verified(file, digest, str(self._volume.root / blob_name(digest)), bytes_max)

    @contextmanager
    def stored(self, digest: str) -> Iterator[tuple[BinaryIO, int]]:
        """Give a content as it is to be stored elsewhere, with the bytes that makes: for large ones.

        The file of the Backup Path as it is, once it was verified; one that is only outside goes through the
        Backup Path as staged content. Raises as `open` does, `SpaceExhausted`.
        """
        place, file, name = "", None, blob_name(_checked(digest))
        if self._cached(digest):
            with self.open(digest) as content:
                while content.read(_CHUNK_BYTES):
                    pass
            with suppress(NameMissing):  # it may leave the cache while it is read
                file = self._volume.get(name)
        try:
            if file is None:
                with self.open(digest) as content:
                    place = Blobs(self._volume, level=self.level).stage(content).place
                file = self._volume.staged_file(place) if place else self._volume.get(name)
            with file:
                size = file.seek(0, io.SEEK_END)
                file.seek(0)
                yield file, size
        finally:
            if place:
                self._volume.discard([place])

    def read(self, digest: str, *, bytes_max: int | None = None) -> bytes:
        """Return a whole content, verified. Raises as `open` does."""
        with self.open(digest, bytes_max=bytes_max) as file:
            return file.read()

    def digests(self) -> Iterator[str]:
        """Yield the digest of every blob: those of the Backup Path by place, then those only outside.

        One that leaves the cache meanwhile may come twice, none is left out. Raises `VolumeError`.
        """
        yield from self.cached_digests()
        if self.outside is not None:
            yield from (one for one in self.outside.digests() if not self._cached(one))

    def cached_digests(self) -> Iterator[str]:
        """Yield the digest of every blob in the Backup Path, sorted by place. Raises `VolumeError`."""
        for name in self._volume.names(f"{BLOBS}/"):
            digest = name.rpartition("/")[2]
            if is_digest(digest) and blob_name(digest) == name:
                yield digest

    def remove(self, digests: Iterable[str]) -> int:
        """Remove blobs that nothing refers to, durably; return the bytes they took. Raises `VolumeError`.

        Outside they are only forgotten: the room there is given back later. Only the purge may call this, and
        only while nothing records.
        """
        removed = 0
        gone = list(digests)
        for digest in gone:
            removed += self._existing(digest) or 0
            durable.step("blobs.remove")
            self._volume.delete(blob_name(digest))
        durable.step("blobs.removed")
        self._volume.sync_deletions()
        if self.outside is not None:
            self.outside.forget(gone)
        return removed

    def remove_leftovers(self) -> int:
        """Remove what dead processes staged; return how many files that were."""
        return self._volume.remove_leftovers()

    def is_readable(self, digest: str) -> bool:
        """Tell whether `open` finds a content, here or elsewhere; nothing is verified."""
        return self.contains(digest) or (self.elsewhere is not None and self.elsewhere.contains(digest))

    def check_readable(self, digest: str) -> None:
        """Raise `BlobMissing` where `open` would; nothing is read."""
        if not self.is_readable(digest):
            raise _missing(digest)

    def _opened_beyond(self, digest: str, bytes_max: int | None) -> BinaryIO:
        """Open what has no file here: from the external volume, or from where the AppServer holds it."""
        if self.outside is not None:
            try:
                return self.outside.open(digest, bytes_max)
            except BlobMissing:
                if self.elsewhere is None or not self.elsewhere.contains(digest):
                    raise
        return self._from_elsewhere(digest, bytes_max)

    def _from_elsewhere(self, digest: str, bytes_max: int | None) -> BinaryIO:
        file = None if self.elsewhere is None else self.elsewhere.open(digest)
        if file is None:
            raise _missing(digest)
        return open_plain_verified(file, digest, f"the content held as {digest}", bytes_max)

    def _existing(self, digest: str) -> int | None:
        """Return the bytes a blob takes, here or outside; None or 0 if there is none."""
        cached = self._cached(digest)
        if cached or self.outside is None:
            return cached
        return self.outside.stored_size(digest)

    def _cached(self, digest: str) -> int | None:
        """Return the bytes of a blob's file in the Backup Path, None without one; 0 is no blob either."""
        try:
            return self._volume.size(blob_name(_checked(digest)))
        except NameMissing:
            return None

    def _compressor(self) -> zstandard.ZstdCompressor:
        level, compressor = getattr(self._threads, "compressor", (0, None))
        if compressor is None or level != self.level:
            level = self.level
            compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
            self._threads.compressor = (level, compressor)
        return compressor

    def _stage_big(self, begun: bytes, rest: ByteSource) -> Staged:
        """Stage in two steps: as it is, which tells digest and size, then compressed from there."""
        tee = _HashingReader(begun, rest)
        plain = self._volume.stage(tee)
        digest, size = digest_text(tee.hash.digest()), tee.size
        keep = ""
        try:
            stored = self._existing(digest)
            if stored:
                return Staged(digest, size, stored, "")
            is_like_frame = looks_compressed(begun)
            with self._volume.staged_file(plain) as source:
                packed = _CompressingReader(self._compressor(), source, size)
                token = self._volume.stage(packed)
            if packed.stored >= size * _PAYS_OFF and not is_like_frame:
                self._volume.discard([token])
                keep = plain
                return Staged(digest, size, size, plain)
            return Staged(digest, size, packed.stored, token)
        finally:
            if not keep:
                self._volume.discard([plain])


class _HashingReader:
    """Reads what was begun, then the rest, and hashes all of it."""

    def __init__(self, begun: bytes, rest: ByteSource) -> None:
        self._begun = io.BytesIO(begun)
        self._rest = rest
        self.hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        chunk = self._begun.read(size) or self._rest.read(size)
        self.hash.update(chunk)
        self.size += len(chunk)
        return chunk


class _CompressingReader:
    """Reads a file as one zstd frame that tells its size."""

    def __init__(self, compressor: zstandard.ZstdCompressor, source: BinaryIO, size: int) -> None:
        self._source = compressor.stream_reader(source, size=size, read_size=_CHUNK_BYTES)
        self.stored = 0

    def read(self, size: int, /) -> bytes:
        """Return the next bytes of the frame."""
        try:
            chunk = self._source.read(size)
        except zstandard.ZstdError as error:
            raise VolumeError(f"staged content can't be compressed: {error}") from error
        self.stored += len(chunk)
        return chunk


def _begun(content: ByteSource) -> bytes:
    """Return the beginning of a content, all of it where it fits into memory."""
    parts: list[bytes] = []
    rest = CONTENT_BYTES_MAX_IN_MEMORY + 1
    while rest > 0 and (part := content.read(rest)):
        parts.append(part)
        rest -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _checked(digest: str) -> str:
    if not is_digest(digest):
        raise CorruptBlob(f"{digest[:80]!r} is no digest", digest=digest)
    return digest


def _missing(digest: str) -> BlobMissing:
    return BlobMissing(
        f"no blob {digest} in the Backup Path",
        hint="a deep scan stores it again if the item still exists",
        digest=digest,
    )
