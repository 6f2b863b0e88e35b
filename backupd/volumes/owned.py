"""Owned: a volume that is only written while its place says that it is this server's.

Looked at once, before the first write; a place whose owner is another one, or none any more (a bucket made
anew under the same name), refuses every write until it is right. Reading asks nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import BinaryIO

from backupd.volumes import ownership
from backupd.volumes.base import ByteSource, Volume
from backupd.volumes.listing import names_after


class OwnedVolume:
    """Passes everything on, writes only where `server_id` is the owner. Raises `PlaceRefused` else."""

    def __init__(self, volume: Volume, server_id: str) -> None:
        self.volume = volume
        self._server_id = server_id
        self._is_ours = False
        self._looking = threading.Lock()

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content; see `Volume.put`."""
        self._check()
        return self.volume.put(name, content)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open content; see `Volume.get`."""
        return self.volume.get(name, offset=offset, length=length)

    def exists(self, name: str) -> bool:
        """Tell whether content rests under a name; see `Volume.exists`."""
        return self.volume.exists(name)

    def delete(self, name: str) -> bool:
        """Remove content; see `Volume.delete`."""
        self._check()
        return self.volume.delete(name)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield names; see `Volume.names`."""
        return self.volume.names(prefix)

    def names_after(self, prefix: str, after: str) -> Iterator[str]:
        """Yield names after a given one; see `listing.ListsFromMiddle`."""
        return names_after(self.volume, prefix, after)

    def size(self, name: str) -> int:
        """Return the bytes under a name; see `Volume.size`."""
        return self.volume.size(name)

    def _check(self) -> None:
        with self._looking:
            if not self._is_ours:
                ownership.require(self.volume, self._server_id)
                self._is_ours = True
