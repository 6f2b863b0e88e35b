"""Calls: a volume before a volume that counts what is asked of it, for those who pay by the request."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from backupd.volumes.base import ByteSource, Volume

CALLS = ("put", "get", "exists", "delete", "names", "size")


class CountingVolume:
    """A volume whose calls are counted, also those that fail; a large content may cost a store more."""

    def __init__(self, inner: Volume) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()

    @property
    def calls(self) -> dict[str, int]:
        """How often each call was made."""
        with self._lock:
            return {call: self._calls[call] for call in CALLS}

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content; see `Volume.put`."""
        self._count("put")
        return self._inner.put(name, content)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open content; see `Volume.get`."""
        self._count("get")
        return self._inner.get(name, offset=offset, length=length)

    def exists(self, name: str) -> bool:
        """Tell whether content rests under a name; see `Volume.exists`."""
        self._count("exists")
        return self._inner.exists(name)

    def delete(self, name: str) -> bool:
        """Remove content; see `Volume.delete`."""
        self._count("delete")
        return self._inner.delete(name)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield names; see `Volume.names`."""
        self._count("names")
        return self._inner.names(prefix)

    def size(self, name: str) -> int:
        """Return the bytes under a name; see `Volume.size`."""
        self._count("size")
        return self._inner.size(name)

    def _count(self, call: str) -> None:
        with self._lock:
            self._calls[call] += 1
