"""Limiting: a volume that asks another one for no more than so many bytes and requests a second.

Threads share one allowance and wait their turn. A second's worth may be taken at once after a pause; what is
larger than that is let through and makes the next ones wait, so that content of any size passes. Streams are
slowed down as they are read: one that a volume reads twice (for its checksum) goes at half the speed.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import msgspec

from backupd.volumes.base import ByteSource, Volume
from backupd.volumes.listing import names_after


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a second; 0 means without limit. Bytes count in both directions together."""

    bytes_per_second: float = 0.0
    requests_per_second: float = 0.0


class Allowance:
    """So many units a second, for all threads together."""

    def __init__(
        self, per_second: float, monotonic: Callable[[], float], sleep: Callable[[float], object]
    ) -> None:
        self._per_second = per_second
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._paid_until = monotonic()

    def take(self, units: int) -> None:
        """Take so many units; waits until those taken before are paid for, but for a second's worth."""
        if not self._per_second or not units:
            return
        with self._lock:
            now = self._monotonic()
            wait = self._paid_until - now - 1.0
            self._paid_until = max(self._paid_until, now) + units / self._per_second
        if wait > 0:
            self._sleep(wait)


class Limiting:
    """Passes everything on, not too fast. A listing counts as one request, whatever it takes below."""

    def __init__(
        self,
        volume: Volume,
        limits: Limits,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.volume = volume
        self._bytes = Allowance(limits.bytes_per_second, monotonic, sleep)
        self._requests = Allowance(limits.requests_per_second, monotonic, sleep)

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content, as fast as may be; see `Volume.put`."""
        self._requests.take(1)
        if isinstance(content, bytes):
            self._bytes.take(len(content))
            return self.volume.put(name, content)
        return self.volume.put(name, _LimitedSource(content, self._bytes))

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open content, read as fast as may be; see `Volume.get`."""
        self._requests.take(1)
        file = self.volume.get(name, offset=offset, length=length)
        return io.BufferedReader(_LimitedReader(file, self._bytes))

    def exists(self, name: str) -> bool:
        """Tell whether content rests under a name; see `Volume.exists`."""
        self._requests.take(1)
        return self.volume.exists(name)

    def delete(self, name: str) -> bool:
        """Remove content; see `Volume.delete`."""
        self._requests.take(1)
        return self.volume.delete(name)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield names; see `Volume.names`."""
        return self.names_after(prefix, "")

    def names_after(self, prefix: str, after: str) -> Iterator[str]:
        """Yield names after a given one; see `listing.ListsFromMiddle`."""
        self._requests.take(1)
        yield from names_after(self.volume, prefix, after)

    def size(self, name: str) -> int:
        """Return the bytes under a name; see `Volume.size`."""
        self._requests.take(1)
        return self.volume.size(name)


class _LimitedSource:
    """A source that is read as fast as may be; it can be wound back if the source can."""

    def __init__(self, source: ByteSource, allowance: Allowance) -> None:
        self._source = source
        self._allowance = allowance

    def __getattr__(self, name: str) -> Any:
        if name in ("seekable", "seek", "tell"):
            return getattr(self._source, name)
        raise AttributeError(name)

    def read(self, size: int, /) -> bytes:
        content = self._source.read(size)
        self._allowance.take(len(content))
        return content


class _LimitedReader(io.RawIOBase):
    def __init__(self, file: BinaryIO, allowance: Allowance) -> None:
        super().__init__()
        self._file = file
        self._allowance = allowance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: WriteableBuffer
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        self._allowance.take(len(content))
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
