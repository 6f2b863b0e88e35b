"""Content of an object as a file: it ends where the object does, and is what was put, or the end says so."""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO

from backupd.volumes.failures import CorruptObject, VolumeUnreachable
from backupd.volumes.s3_client import READ_AT_ONCE_BYTES, S3Body


class Expected:
    """What a content must be: how long, and which SHA-256 (hexadecimal; empty if that is not known)."""

    def __init__(self, name: str, size: int, sha256: str) -> None:
        self.name = name
        self.size = size
        self.sha256 = sha256

    def check(self, size: int, sha256: str) -> None:
        """Raise `VolumeUnreachable` for content that ended early, `CorruptObject` for other bytes."""
        if size != self.size:
            raise VolumeUnreachable(
                f"{self.name!r} ended after {size:,} of {self.size:,} bytes", name=self.name, size=size
            )
        if self.sha256 and sha256 != self.sha256:
            raise CorruptObject(
                f"{self.name!r} was read with the SHA-256 {sha256}, but was stored with {self.sha256}",
                hint="if it stays so, the object is damaged at the store: a coherency check names it",
                name=self.name,
            )


def whole(content: bytes, expected: Expected) -> BinaryIO:
    """Return content that was read at once as a file. Raises as `Expected.check`."""
    expected.check(len(content), hashlib.sha256(content).hexdigest() if expected.sha256 else "")
    return io.BytesIO(content)


class S3Reader(io.RawIOBase):
    """Reads a body; the read that comes to its end raises if it was not what was expected."""

    def __init__(self, body: S3Body, expected: Expected) -> None:
        super().__init__()
        self._body = body
        self._expected = expected
        self._digest = hashlib.sha256()
        self._size = 0
        self._chunk = memoryview(b"")
        self._ended = False

    @classmethod
    def over(cls, body: S3Body, expected: Expected) -> BinaryIO:
        """Return the body as a buffered file."""
        return io.BufferedReader(cls(body, expected), READ_AT_ONCE_BYTES)

    def readable(self) -> bool:
        """Tell that this can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: WriteableBuffer
        """Fill a buffer from the chunk at hand, or the next one; 0 at the end."""
        if not self._chunk:
            self._chunk = memoryview(self._next())
        size = min(len(buffer), len(self._chunk))
        buffer[:size] = self._chunk[:size]
        self._chunk = self._chunk[size:]
        return size

    def readall(self) -> bytes:
        """Return everything that is left."""
        chunks = [bytes(self._chunk)]
        self._chunk = memoryview(b"")
        while chunk := self._next():
            chunks.append(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        """Close the body too."""
        self._body.close()
        super().close()

    def _next(self) -> bytes:
        if self._ended:
            return b""
        chunk = self._body.read()
        self._size += len(chunk)
        self._digest.update(chunk)
        # The last chunk is handed out only when everything is right: nobody takes wrong bytes for whole.
        if not chunk or self._size >= self._expected.size:
            self._ended = True
            self._body.close()
            self._expected.check(self._size, self._digest.hexdigest())
        return chunk
