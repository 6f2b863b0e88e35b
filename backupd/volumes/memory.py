"""Volume in memory: the reference implementation, for tests and as the meaning of `base.Volume`.

Its content ends with the process. It never fails but by a name that is missing or refused.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from backupd.volumes.base import ByteSource, NameMissing, check_name


class MemoryVolume:
    """Contents in a dict."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self._staged: dict[str, bytes] = {}
        self._count = 0
        self._lock = threading.Lock()

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content; see `Volume.put`."""
        check_name(name)
        taken = _whole(content)
        with self._lock:
            if name in self._contents:
                return False
            self._contents[name] = taken
            return True

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open content; see `Volume.get`."""
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"offset {offset} or length {length} is negative")
        content = self._content(name)
        return io.BytesIO(content[offset:] if length is None else content[offset : offset + length])

    def exists(self, name: str) -> bool:
        """Tell whether content rests under a name; see `Volume.exists`."""
        check_name(name)
        return name in self._contents

    def delete(self, name: str) -> bool:
        """Remove content; see `Volume.delete`."""
        check_name(name)
        with self._lock:
            return self._contents.pop(name, None) is not None

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield names; see `Volume.names`."""
        with self._lock:
            names = sorted(name for name in self._contents if name.startswith(prefix))
        yield from names

    def size(self, name: str) -> int:
        """Return the bytes under a name; see `Volume.size`."""
        return len(self._content(name))

    def stage(self, content: bytes | ByteSource) -> str:
        """Keep content under a token; see `StagingVolume.stage`."""
        taken = _whole(content)
        with self._lock:
            self._count += 1
            token = f"staged-{self._count}"
            self._staged[token] = taken
        return token

    def publish(self, tokens: Sequence[tuple[str, str]]) -> None:
        """Name staged contents; see `StagingVolume.publish`."""
        for _, name in tokens:
            check_name(name)
        with self._lock:
            for token, name in tokens:
                content = self._staged.pop(token, None)
                if content is not None:
                    self._contents.setdefault(name, content)
                elif name not in self._contents:
                    raise NameMissing(token)

    def discard(self, tokens: Sequence[str]) -> None:
        """Drop staged contents; see `StagingVolume.discard`."""
        with self._lock:
            for token in tokens:
                self._staged.pop(token, None)

    def _content(self, name: str) -> bytes:
        check_name(name)
        try:
            return self._contents[name]
        except KeyError:
            raise NameMissing(name) from None


def _whole(content: bytes | ByteSource) -> bytes:
    if isinstance(content, bytes):
        return content
    return b"".join(iter(lambda: content.read(1 << 20), b""))
