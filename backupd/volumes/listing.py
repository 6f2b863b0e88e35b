"""Listings that go on where an earlier one broke off: from a name on instead of from the beginning.

A volume that can begin a listing in its middle has `names_after`; of any other one the beginning is skipped.
Both give the same names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from backupd.volumes.base import Volume


@runtime_checkable
class ListsFromMiddle(Protocol):
    """A volume that can list the names after a given one without listing those before it."""

    def names_after(self, prefix: str, after: str) -> Iterator[str]:
        """Yield every name that starts with `prefix` and sorts after `after`, sorted."""
        ...


def names_after(volume: Volume, prefix: str, after: str) -> Iterator[str]:
    """Yield every name that starts with `prefix` and sorts after `after`, sorted. Raises `VolumeError`."""
    if isinstance(volume, ListsFromMiddle):
        yield from volume.names_after(prefix, after)
        return
    for name in volume.names(prefix):
        if name > after:
            yield name
