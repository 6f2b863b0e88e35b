"""Item restore: puts one item back as it was at a moment, and proves it by reading it back.

The content is checked against its digest before the AppServer sees it. What was restored is remembered in
the ledger by source item, state and target: doing it again skips while the restored item is still there, and
reads it again where it did not read back as it was to be. That it begins is remembered, too: after a crash
between the AppServer's work and our note of it, the item is looked for before another one is made. An
AppServer that is away is waited for.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, BinaryIO, cast

import msgspec

from backupd.appservers.base import AppServer
from backupd.clock import Clock, written
from backupd.errors import (
    AppServerRefused,
    BackupdError,
    BlobMissing,
    ItemVanished,
    UnknownAccount,
    UnknownItem,
    UsageError,
)
from backupd.items import CONTENT_KINDS, Area, ItemKey, Kind
from backupd.jobs.restore.memory import in_doubt
from backupd.jobs.restore.patience import Patience
from backupd.jobs.restore.plan import without_deletion_mark
from backupd.jobs.restore.proof import digest_of_reading, why_not_equal
from backupd.operations import Run
from backupd.states import Photograph, State, state_at
from backupd.store.index_queries import KnownItem
from backupd.store.store import Store

SPOOL_BYTES_MAX = 16 << 20
COPY_BYTES = 1 << 20


Place = tuple[str, str, int, str]
"""Account, item, transaction and target: by what a restore is remembered."""


class RestoredItem(msgspec.Struct, frozen=True, kw_only=True):
    """How a restore of one item ended. `skipped`: it had been restored before and is still there."""

    item: str
    folder: str
    transaction: int
    skipped: bool

    def sentence(self) -> str:
        """Return the counted verdict."""
        if self.skipped:
            return (
                f"1 expected, 0 restored, 1 skipped, 0 unrestored; "
                f"restored before as item {self.item} in folder {self.folder!r}"
            )
        return (
            f"1 expected, 1 restored as item {self.item} in folder {self.folder!r}, 0 skipped, 0 unrestored; "
            "read back and equal"
        )


def find_item(store: Store, account: str, item: str) -> tuple[KnownItem, ItemKey]:
    """Return the account's row and the item's key; `account` is an address or id.

    Raises `UnknownAccount` and `UnknownItem`.
    """
    owner = store.index.find_account(account)
    account_id = owner.item if owner is not None else account
    known = store.index.item(account_id, item)
    if known is None and owner is None:
        raise UnknownAccount(
            f"no account {account!r} in the backup", hint="give its address or id, see doItemSearch"
        )
    if known is None:
        raise UnknownItem(
            f"account {account!r} has no item {item!r} in the backup",
            hint="find ids with: backupctl backup doItemSearch; what a purge removed is listed in purged/",
        )
    return owner or known, ItemKey(account_id, known.kind, item)


def choose_state(history: Sequence[State], when: datetime | None, *, what: str) -> State:
    """Return the state valid at a moment (None: the last). Raises `UnknownItem` before the first state."""
    if not history:
        raise UnknownItem(f"{what} has no history")
    if when is None:
        return history[-1]
    state = state_at(history, when)
    if state is None:
        raise UnknownItem(
            f"{what} had no state at {written(when)}", hint=f"its first is of {written(history[0].start)}"
        )
    return state


class ItemRestore:
    """Restores single items from a store into an AppServer."""

    def __init__(self, store: Store, appserver: AppServer, *, clock: Clock) -> None:
        self._store = store
        self._appserver = appserver
        self._clock = clock
        self._patience = Patience(appserver, clock)

    async def foresee(self, account: str, item: str, *, when: datetime | None, folder: str | None) -> str:
        """Return in words what `run` would do, changing nothing. Raises as it does for what can't be."""
        wanted = await asyncio.to_thread(self._wanted, account, item, when, folder)
        into = wanted.folder
        what = f"{wanted.key.kind.value} {item} as of {written(wanted.state.start)}"
        if wanted.key.kind is Kind.FOLDER:
            there = await self._folder_there(wanted)
            done = "is there" if there else "would be made"
            return f"dry run: folder {into!r} {done}"
        before, _ = await self._restored_before(wanted, keep=False)
        if before is not None:
            return f"dry run: {what} is there as item {before} since an earlier restore, in folder {into!r}"
        self._check_blob(wanted.state)
        return f"dry run: {what} would be restored into folder {into!r}"

    async def run(
        self, account: str, item: str, *, when: datetime | None, folder: str | None, run: Run | None = None
    ) -> RestoredItem:
        """Put the item back as it was at `when` (None: its last state), into `folder` or that of then.

        While the AppServer is waited for, `run` can stop it.
        """
        run = Run(self._clock) if run is None else run
        wanted = await asyncio.to_thread(self._wanted, account, item, when, folder)
        if wanted.key.kind is Kind.FOLDER:
            return await self._patience.wait(run, partial(self._restore_folder, wanted))
        before, is_doubtful = await self._patience.wait(run, partial(self._restored_before, wanted))
        if before is not None:
            if is_doubtful:
                await self._prove(run, wanted, before)
            return wanted.restored(before, skipped=True)
        basis = self._store.journal.last_sequence
        await asyncio.to_thread(self._store.ledger.set_restoring, *wanted.place, basis)
        tries = 0

        async def put() -> str:
            # A try that failed may have put it all the same: a storage that is away takes nothing back.
            nonlocal tries
            tries += 1
            made = await self._made_since(basis, wanted.key, wanted.photograph) if tries > 1 else None
            return await self._put(wanted) if made is None else made

        new = await self._patience.wait(run, put)
        # In doubt until it was read back: a crash in between must not make it a restored one.
        await asyncio.to_thread(self._store.ledger.set_restored, *wanted.doubt, new)
        await asyncio.to_thread(self._store.ledger.set_restored, *wanted.place, new)
        await self._prove(run, wanted, new)
        return wanted.restored(new, skipped=False)

    def _wanted(self, account: str, item: str, when: datetime | None, folder: str | None) -> _Wanted:
        """Return what is to be restored. Raises for what can't be; see `choose_state`."""
        if when is not None and when > self._clock.now():
            raise UsageError(f"{written(when)} is in the future", hint="give a moment that has been")
        _, key = find_item(self._store, account, item)
        state = choose_state(self._store.histories.read(key), when, what=f"item {item!r}")
        if key.kind not in CONTENT_KINDS | {Kind.FOLDER}:
            hint = "bring accounts back by doRestoreOnNewAccount" if key.kind is Kind.ACCOUNT else ""
            raise AppServerRefused(
                f"{item!r} is no item of a mailbox: its kind is {key.kind.value}", hint=hint
            )
        if "metadata" in state.lacking:
            raise UnknownItem(f"item {item!r} was never photographed: it was gone before it could be read")
        metadata = dict(state.metadata)
        if key.kind is Kind.FOLDER:
            path = str(metadata.get("folder") or metadata.get("path") or "")
            metadata["folder"] = path if folder is None else f"{folder}/{path.rpartition('/')[2]}"
        else:
            metadata = without_deletion_mark(metadata)
            metadata |= {} if folder is None else {"folder": folder}
        photograph = Photograph(metadata=metadata, digest=state.digest, size=state.size)
        return _Wanted(key=key, state=state, photograph=photograph)

    async def _put(self, wanted: _Wanted) -> str:
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES_MAX) as content:
            await asyncio.to_thread(self._copy_blob, wanted.state, content)
            key = wanted.key
            return await self._appserver.put(
                key.account, key.kind, wanted.photograph, cast("BinaryIO", content)
            )

    async def _restored_before(self, wanted: _Wanted, *, keep: bool = True) -> tuple[str | None, bool]:
        """Return the item that an earlier restore made, if it is there, and whether it is in doubt."""
        ledger, key = self._store.ledger, wanted.key
        before = await asyncio.to_thread(ledger.restored, *wanted.place)
        if before is not None and await self._is_there(ItemKey(key.account, key.kind, before)):
            return before, await asyncio.to_thread(ledger.restored, *wanted.doubt) == before
        basis = await asyncio.to_thread(ledger.restoring, *wanted.place)
        if basis is None:
            return None, False
        made = await self._made_since(basis, key, wanted.photograph)
        if made is not None and keep:
            await asyncio.to_thread(ledger.set_restored, *wanted.place, made)
        return made, False

    async def _made_since(self, basis: int, key: ItemKey, photograph: Photograph) -> str | None:
        """Return an item of this content and folder that was not there at a journal entry."""
        listing = await self._appserver.changes(key.account, None)
        for listed in listing.items:
            folder = listed.metadata.get("folder", photograph.metadata.get("folder"))
            if listed.kind is not key.kind or folder != photograph.metadata.get("folder"):
                continue
            found = ItemKey(key.account, key.kind, listed.item)
            if await asyncio.to_thread(self._was_there, found, basis):
                continue
            try:
                reading = await self._appserver.read(found)
            except (ItemVanished, AppServerRefused):
                continue
            if reading.content is None:
                continue
            if await asyncio.to_thread(digest_of_reading, reading) == photograph.digest:
                return listed.item
        return None

    def _was_there(self, key: ItemKey, basis: int) -> bool:
        states = [one for one in self._store.histories.read(key) if one.transaction <= basis]
        return bool(states) and not states[-1].deleted

    async def _restore_folder(self, wanted: _Wanted) -> RestoredItem:
        there = await self._folder_there(wanted)
        account, area = wanted.key.account, _area_of(wanted.photograph)
        new = await self._appserver.create_folder(account, area, wanted.folder)
        return wanted.restored(new, skipped=there)

    async def _folder_there(self, wanted: _Wanted) -> bool:
        listing = await self._appserver.changes(wanted.key.account, None)
        return any(
            one.kind is Kind.FOLDER
            and one.metadata.get("folder") == wanted.folder
            and Area(one.metadata.get("area", Area.MAIL)) is _area_of(wanted.photograph)
            for one in listing.items
        )

    async def _is_there(self, key: ItemKey) -> bool:
        try:
            await self._appserver.read(key)
        except (ItemVanished, AppServerRefused):
            return False
        return True

    def _check_blob(self, state: State) -> str:
        if state.digest is None or "content" in state.lacking:
            raise BlobMissing("the item's content was never stored", hint="choose another date with getItem")
        return state.digest

    def _copy_blob(self, state: State, target: Any) -> None:
        with self._store.blobs.open(self._check_blob(state)) as source:
            while piece := source.read(COPY_BYTES):
                target.write(piece)
        target.seek(0)

    async def _prove(self, run: Run, wanted: _Wanted, item: str) -> None:
        """Read the restored item back. Raises `BackupdError` where it differs: then it stays in doubt."""
        key = ItemKey(wanted.key.account, wanted.key.kind, item)
        reading = await self._patience.wait(run, partial(self._appserver.read, key))
        reason = await asyncio.to_thread(why_not_equal, wanted.photograph, reading)
        if reason:
            raise BackupdError(f"restored as item {item!r}, but {reason}")
        await asyncio.to_thread(self._store.ledger.set_restored, *wanted.doubt, "")


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One state of an item, and how it shall be."""

    key: ItemKey
    state: State
    photograph: Photograph

    @property
    def folder(self) -> str:
        """Where it goes."""
        return str(self.photograph.metadata.get("folder", ""))

    @property
    def place(self) -> Place:
        """By what the ledger remembers that it was restored."""
        key = self.key
        return key.account, key.item, self.state.transaction, f"{key.account}:{self.folder}"

    @property
    def doubt(self) -> Place:
        """By what the ledger remembers that it is in doubt."""
        account, item, transaction, target = self.place
        return account, *in_doubt((item, transaction, target))

    def restored(self, item: str, *, skipped: bool) -> RestoredItem:
        """Return how it ended."""
        transaction = self.state.transaction
        return RestoredItem(item=item, folder=self.folder, transaction=transaction, skipped=skipped)


def _area_of(photograph: Photograph) -> Area:
    return Area(photograph.metadata.get("area", Area.MAIL))
