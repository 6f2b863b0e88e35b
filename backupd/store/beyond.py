"""Beyond the Backup Path: what `Blobs` asks of an external volume, and of the AppServer in blobless mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

import msgspec

from backupd.errors import VolumeError
from backupd.store.outside.catalog import Catalog


class Staged(msgspec.Struct, frozen=True):
    """Content on the volume without its name yet; `place` is empty where the blob is there already.

    Sizes in bytes.
    """

    digest: str
    size: int
    stored_size: int
    place: str


class Outside(Protocol):
    """What `Blobs` asks of the external volume; any thread may call."""

    def stored_size(self, digest: str) -> int | None:
        """Return the bytes a content takes outside, None if it is not confirmed there."""
        ...

    def open(self, digest: str, bytes_max: int | None) -> BinaryIO:
        """Open a content, as `Blobs.open` does."""
        ...

    def digests(self) -> Iterator[str]:
        """Yield the digest of every content outside."""
        ...

    def only_outside(self) -> int:
        """Return how many contents are outside and not in the Backup Path; quick."""
        ...

    def forget(self, digests: Sequence[str]) -> int:
        """Let contents be dead outside, for nothing refers to them any more; return how many were there.

        To be called behind the removal of their files in the Backup Path.
        """
        ...

    def note_committed(self, staged: Sequence[Staged]) -> None:
        """Take notice, without waiting for anything, of blobs that are new in the Backup Path."""
        ...

    def note_used(self, digest: str) -> None:
        """Take notice, without waiting for anything, that a blob of the Backup Path was read."""
        ...


class Elsewhere(Protocol):
    """Where contents may be found that have no blob, as they are."""

    def open(self, digest: str) -> BinaryIO | None:
        """Open a content, None where it is not there; nothing is verified."""
        ...

    def contains(self, digest: str) -> bool:
        """Tell whether a content is there."""
        ...


class LookedUp:
    """What a worker process knows of the outside: whether a content is there."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def stored_size(self, digest: str) -> int | None:
        """Return the bytes a content takes outside, None if it is not there."""
        located = self._catalog.locate(digest)
        return None if located is None else located.share

    def open(self, digest: str, bytes_max: int | None) -> BinaryIO:  # noqa: ARG002 - as `Outside`
        """Refuse."""
        raise VolumeError(f"{digest} is on the external volume, which only the daemon reads", permanent=True)

    def digests(self) -> Iterator[str]:
        """Yield the digest of every content outside."""
        return self._catalog.digests()

    def only_outside(self) -> int:
        """Return how many contents are outside and not cached."""
        return self._catalog.only_outside()

    def forget(self, digests: Sequence[str]) -> int:
        """Refuse."""
        raise VolumeError(f"{len(digests)} contents: only the daemon forgets", permanent=True)

    def note_committed(self, staged: Sequence[Staged]) -> None:
        """Nothing: the daemon commits."""

    def note_used(self, digest: str) -> None:
        """Nothing: the daemon reads."""
