"""What the purge needs of others: who writes history, what protects accounts, where blobs rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from backupd.clock import Clock
from backupd.retention import Stay
from backupd.store.store import Store

T = TypeVar("T")


class Rounds(Protocol):
    """The one writer of histories, between whose rounds others may change them."""

    @property
    def cursor(self) -> int:
        """The sequence number up to which the journal is in the histories."""
        ...

    async def between_rounds(self, work: Callable[[], T]) -> T:
        """Run `work` while nobody writes histories, blobs or the index; return what it returns."""
        ...


class Alone:
    """Of a store that nobody records into: another server's, or one without a daemon."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def cursor(self) -> int:
        """The cursor as it was left."""
        return self._store.index.cursor()

    async def between_rounds(self, work: Callable[[], T]) -> T:
        """Run `work`; what it left open of the index is rolled back where it fails."""
        try:
            return await asyncio.to_thread(work)
        except BaseException:
            await asyncio.to_thread(self._store.index.rollback)
            raise


class Keeping(Protocol):
    """What keeps accounts from being purged, or lets them be purged though they live; as of now.

    The account of domains, COS and mailing lists is the empty one.
    """

    def protection(self, account: str) -> Stay | None:
        """Return why nothing of an account may go (`LEGAL_HOLD`, `SUSPENDED`), None where nothing says so."""
        ...

    def disabled_since(self, account: str) -> datetime | None:
        """Return since when an account is not recorded any more, None where it is."""
        ...

    def forget(self, account: str) -> None:
        """Forget what is kept of an account that was purged."""
        ...


class NothingKept:
    """No account is protected, none is disabled."""

    def protection(self, account: str) -> Stay | None:
        """Return None."""
        return _NONE.get(account)

    def disabled_since(self, account: str) -> datetime | None:
        """Return None."""
        return _NONE.get(account)

    def forget(self, account: str) -> None:
        """Do nothing."""


_NONE: Mapping[str, None] = {}


class BlobPlaces(Protocol):
    """Where blobs rest; `remove` is called only while nothing records.

    Both raise `AppServerUnavailable` too.
    """

    def digests(self) -> Iterator[str]:
        """Yield the digest of every blob. Raises `VolumeError`."""
        ...

    def remove(self, digests: Sequence[str]) -> int:
        """Remove blobs durably, wherever they are; return the bytes that this freed. Raises `VolumeError`."""
        ...


class StorePlaces:
    """Contents of a store: on its Backup Path, on its external volume, held for it by the AppServer."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._blobs = store.blobs
        self._keeping = store.keeping
        self._clock = clock

    def digests(self) -> Iterator[str]:
        """Yield the digest of every content; one that is both a blob and held comes twice."""
        yield from self._blobs.digests()
        if self._keeping.holder is not None:
            yield from self._keeping.holder.digests()

    def remove(self, digests: Sequence[str]) -> int:
        """Remove blobs durably, and have the AppServer let go of what it holds."""
        freed = self._blobs.remove(digests)
        holder = self._keeping.holder
        if holder is not None:
            gone = frozenset(digests)
            freed += holder.release(lambda one: one not in gone, before=self._clock.now()).bytes
        return freed
