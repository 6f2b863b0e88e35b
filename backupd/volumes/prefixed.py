"""Prefixed: a volume in a part of another one, so that several servers share one without meeting.

Every name goes below the prefix and comes back without it; what lies elsewhere is neither seen nor touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from backupd.volumes.base import ByteSource, NameMissing, NameRefused, Volume, check_name
from backupd.volumes.listing import names_after


class Prefixed:
    """The part of a volume below a prefix, which is a name itself. Raises `NameRefused` if it is none."""

    def __init__(self, volume: Volume, prefix: str) -> None:
        check_name(prefix)
        self.volume = volume
        self.prefix = prefix
        self._start = f"{prefix}/"

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content; see `Volume.put`."""
        return self.volume.put(self._full(name), content)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open content; see `Volume.get`."""
        full = self._full(name)
        try:
            return self.volume.get(full, offset=offset, length=length)
        except NameMissing:
            raise NameMissing(name) from None

    def exists(self, name: str) -> bool:
        """Tell whether content rests under a name; see `Volume.exists`."""
        return self.volume.exists(self._full(name))

    def delete(self, name: str) -> bool:
        """Remove content; see `Volume.delete`."""
        return self.volume.delete(self._full(name))

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield names below the prefix, without it; see `Volume.names`."""
        return self.names_after(prefix, "")

    def names_after(self, prefix: str, after: str) -> Iterator[str]:
        """Yield names after a given one; see `listing.ListsFromMiddle`."""
        full_after = self._start + after if after else ""
        for full in names_after(self.volume, self._start + prefix, full_after):
            yield full[len(self._start) :]

    def size(self, name: str) -> int:
        """Return the bytes under a name; see `Volume.size`."""
        full = self._full(name)
        try:
            return self.volume.size(full)
        except NameMissing:
            raise NameMissing(name) from None

    def _full(self, name: str) -> str:
        check_name(name)
        full = self._start + name
        try:
            check_name(full)
        except NameRefused:
            raise NameRefused(name) from None
        return full
