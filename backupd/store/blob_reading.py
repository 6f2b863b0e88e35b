"""Reading a blob so that nothing wrong is taken for right, and nothing small becomes endless.

A frame must tell its content's size, and no more than that is ever produced, so that a forged file can't
fill memory or disk; its window is bounded too. At the end the size, the end of the file and the digest are
compared. Every deviation is `CorruptBlob` with the file's name.
"""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO, cast

import zstandard

from backupd.errors import CorruptBlob
from backupd.items import digest_text
from backupd.volumes.base import ByteSource, ObjectDamaged

MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPED_MAGIC = b"\x2a\x4d\x18"
_SKIPPED_FIRST = 5
"""A skippable frame begins with a byte 0x50 to 0x5F, then these."""
WINDOW_BYTES_MAX = 128 << 20
"""The memory a frame may ask for; what this project writes needs at most 8 MiB."""
HEADER_BYTES_MAX = 18
"""A frame tells the size of its content in its first bytes, so many at most."""
_BUFFER_BYTES = 1 << 17


def looks_compressed(content: bytes) -> bool:
    """Tell whether bytes begin like a zstd frame, or like one that decoders skip."""
    return content.startswith(MAGIC) or (content[1:4] == _SKIPPED_MAGIC and content[0] >> 4 == _SKIPPED_FIRST)


def open_verified(
    file: BinaryIO, digest: str, path: str, bytes_max: int | None, *, stored: int | None = None
) -> BinaryIO:
    """Return a blob file's content as a file that verifies at its end. Raises `CorruptBlob`.

    `stored` are the bytes of the file, where it is one that can only be read from its begin to its end.
    """
    try:
        return io.BufferedReader(_verifying(file, digest, path, bytes_max, stored), _BUFFER_BYTES)
    except ObjectDamaged as error:
        file.close()
        raise _corrupt(path, error.message, digest) from error
    except BaseException:
        file.close()
        raise


def open_plain_verified(file: BinaryIO, digest: str, path: str, bytes_max: int | None) -> BinaryIO:
    """Return a file of a content as it is as one that verifies at its end. Raises `CorruptBlob`."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if bytes_max is not None and size > bytes_max:
        file.close()
        raise _corrupt(path, f"it has {size} bytes, at most {bytes_max} are expected", digest)
    return io.BufferedReader(_VerifyingReader(file, file, digest, size, path), _BUFFER_BYTES)


def content_size(head: bytes, stored: int, path: str, digest: str) -> int:
    """Return the bytes of a content from the first `HEADER_BYTES_MAX` of its file. Raises `CorruptBlob`."""
    if not head:
        raise _corrupt(path, "the file is empty", digest)
    return _told_size(head, path, digest) if looks_compressed(head) else stored


def size_told(file: BinaryIO) -> int | None:
    """Return the size of its content as a blob's file tells it, None where it tells none."""
    head = file.read(HEADER_BYTES_MAX)
    if not looks_compressed(head):
        return file.seek(0, io.SEEK_END)
    try:
        size = zstandard.get_frame_parameters(head).content_size
    except zstandard.ZstdError:
        return None
    return None if size == zstandard.CONTENTSIZE_UNKNOWN else int(size)


def _verifying(
    file: BinaryIO, digest: str, path: str, bytes_max: int | None, stored: int | None
) -> _VerifyingReader:
    head = file.read(HEADER_BYTES_MAX)
    whole: ByteSource = file
    if stored is None:
        stored = file.seek(0, io.SEEK_END)
        file.seek(0)
    else:
        whole = _Begun(head, file)
    size = content_size(head, stored, path, digest)
    source = whole
    if looks_compressed(head):
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        source = decompressor.stream_reader(cast("BinaryIO", whole), read_across_frames=True)
    if bytes_max is not None and size > bytes_max:
        raise _corrupt(path, f"it tells {size} bytes, at most {bytes_max} are expected", digest)
    return _VerifyingReader(file, source, digest, size, path)


class _Begun:
    """A file of which the begin was read already."""

    def __init__(self, begun: bytes, file: BinaryIO) -> None:
        self._begun = begun
        self._file = file

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        if not self._begun:
            return self._file.read(size)
        chunk, self._begun = self._begun[:size], self._begun[size:]
        return chunk


class _VerifyingReader(io.RawIOBase):
    """Counts and hashes what it reads, and compares at the end."""

    def __init__(self, file: BinaryIO, source: ByteSource, digest: str, size: int, path: str) -> None:
        super().__init__()
        self._file = file
        self._source = source
        self._digest = digest
        self._size = size
        self._path = path
        self._read = 0
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        """Tell that this can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer; at the end compare size and digest. Raises `CorruptBlob`."""
        try:
            # One byte more than told shows what would go on without an end.
            chunk = self._source.read(min(len(buffer), self._size - self._read + 1))
        except zstandard.ZstdError as error:
            raise _corrupt(self._path, str(error), self._digest) from error
        except ObjectDamaged as error:
            raise _corrupt(self._path, error.message, self._digest) from error
        self._read += len(chunk)
        if self._read > self._size:
            raise _corrupt(self._path, f"it holds more than the {self._size} bytes it tells", self._digest)
        self._hash.update(chunk)
        buffer[: len(chunk)] = chunk
        if not chunk:
            self._compare()
        return len(chunk)

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()

    def _compare(self) -> None:
        if self._read != self._size:
            raise _corrupt(self._path, f"it holds {self._read} of {self._size} bytes", self._digest)
        if digest_text(self._hash.digest()) != self._digest:
            raise _corrupt(self._path, "its content has another digest", self._digest)


def _told_size(head: bytes, path: str, digest: str) -> int:
    try:
        size = zstandard.get_frame_parameters(head).content_size
    except zstandard.ZstdError as error:
        raise _corrupt(path, str(error), digest) from error
    if size == zstandard.CONTENTSIZE_UNKNOWN:
        raise _corrupt(path, "its frame tells no size", digest)
    return int(size)


def _corrupt(path: str, reason: str, digest: str) -> CorruptBlob:
    return CorruptBlob(f"{path}: {reason}", path=path, digest=digest)
