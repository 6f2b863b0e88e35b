"""Counting: a volume that counts what is asked of another one, for metrics; and the tally it counts in.

The same tally counts the HTTP requests below an S3 volume, where one call may take several requests. Errors
are counted by kind: the class's name in snake_case (`volume_unreachable`, `access_refused`, …).
"""

from __future__ import annotations

import io
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import msgspec

from backupd.volumes.base import ByteSource, Volume
from backupd.volumes.listing import names_after

CALLS = ("put", "get", "exists", "delete", "names", "size")
"""What may be asked of a volume, as requests are counted by."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked so far: requests and errors by kind, bytes each way."""

    requests: dict[str, int]
    errors: dict[str, int]
    sent_bytes: int
    received_bytes: int

    @property
    def requests_total(self) -> int:
        """Requests of every kind."""
        return sum(self.requests.values())


def kind_of(error: BaseException) -> str:
    """Return the kind of an error as metrics name it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()


class Tally:
    """Counters that any thread may raise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._sent = 0
        self._received = 0

    def count(self, request: str, *, sent: int = 0, received: int = 0) -> None:
        """Count a request; an empty name counts bytes only."""
        with self._lock:
            if request:
                self._requests[request] += 1
            self._sent += sent
            self._received += received

    def count_error(self, error: BaseException) -> None:
        """Count an error by its kind."""
        with self._lock:
            self._errors[kind_of(error)] += 1

    def counts(self) -> Counts:
        """Return what was counted so far."""
        with self._lock:
            return Counts(
                requests=dict(self._requests),
                errors=dict(self._errors),
                sent_bytes=self._sent,
                received_bytes=self._received,
            )


class Counting:
    """Passes everything on, and counts it."""

    def __init__(self, volume: Volume, tally: Tally | None = None) -> None:
        self.volume = volume
        self.tally = tally or Tally()

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Count a put, and its bytes if it stored them; see `Volume.put`."""
        with self._counted("put"):
            measured = Measured(content)
            stored = self.volume.put(name, measured.content)
            self.tally.count("", sent=measured.size if stored else 0)
            return stored

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Count a get, and the bytes as they are read; see `Volume.get`."""
        with self._counted("get"):
            file = self.volume.get(name, offset=offset, length=length)
        return io.BufferedReader(_CountedReader(file, self.tally))

    def exists(self, name: str) -> bool:
        """Count a look; see `Volume.exists`."""
        with self._counted("exists"):
            return self.volume.exists(name)

    def delete(self, name: str) -> bool:
        """Count a deletion; see `Volume.delete`."""
        with self._counted("delete"):
            return self.volume.delete(name)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Count a listing; see `Volume.names`."""
        return self.names_after(prefix, "")

    def names_after(self, prefix: str, after: str) -> Iterator[str]:
        """Count a listing; see `listing.names_after`."""
        with self._counted("names"):
            yield from names_after(self.volume, prefix, after)

    def size(self, name: str) -> int:
        """Count a look; see `Volume.size`."""
        with self._counted("size"):
            return self.volume.size(name)

    @contextmanager
    def _counted(self, request: str) -> Iterator[None]:
        self.tally.count(request)
        try:
            yield
        except Exception as error:
            self.tally.count_error(error)
            raise


class Measured:
    """Content with its size: known at once, or once a stream that can't be wound back was read."""

    def __init__(self, content: bytes | ByteSource) -> None:
        self.size = 0
        self.content: bytes | ByteSource = content
        file: Any = content
        if isinstance(content, bytes):
            self.size = len(content)
        elif hasattr(content, "seekable") and file.seekable():
            here = file.tell()
            self.size = file.seek(0, io.SEEK_END) - here
            file.seek(here)
        else:
            self._source = content
            self.content = self

    def read(self, size: int, /) -> bytes:
        """Read from the stream."""
        content = self._source.read(size)
        self.size += len(content)
        return content


class _CountedReader(io.RawIOBase):
    """Counts what is read from a file, and errors met there."""

    def __init__(self, file: BinaryIO, tally: Tally) -> None:
        super().__init__()
        self._file = file
        self._tally = tally

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: WriteableBuffer
        try:
            content = self._file.read(len(buffer))
        except Exception as error:
            self._tally.count_error(error)
            raise
        buffer[: len(content)] = content
        self._tally.count("", received=len(content))
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
