"""Owned: a volume that is only written while its place says that it is this server's.

Looked at before the first write, again after some minutes, and wherever the bucket was missing meanwhile. A
place whose owner is another one, or none any more (a bucket made anew under the same name), refuses every
write until it is right. Reading asks nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from backupd.volumes import ownership
from backupd.volumes.base import ByteSource, Volume
from backupd.volumes.failures import BucketMissing
from backupd.volumes.listing import names_after

BELIEVED_SECONDS = 300.0
"""So long a place is believed to be ours: one request in that time is nothing."""


class OwnedVolume:
    """Passes everything on, writes only where `server_id` is the owner. Raises `PlaceRefused` else."""

    def __init__(
        self, volume: Volume, server_id: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.volume = volume
        self._server_id = server_id
        self._monotonic = monotonic
        self._believed_until: float | None = None
        self._looking = threading.Lock()

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content; see `Volume.put`."""
        self._check()
        try:
            return self.volume.put(name, content)
        except BucketMissing:
            # Who makes it anew makes no place of ours of it.
            self._believed_until = None
            raise

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
            if self._believed_until is None or self._monotonic() >= self._believed_until:
                self._believed_until = None
                ownership.require(self.volume, self._server_id)
                self._believed_until = self._monotonic() + BELIEVED_SECONDS
