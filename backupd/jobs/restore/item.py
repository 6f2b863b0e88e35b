"""Item restore: puts one item back as it was at a moment, and proves it by reading it back.

The content is checked against its digest before the AppServer sees it. What was restored is remembered in
the ledger by source item, state and target: doing it again skips while the restored item is still there.
That it begins is remembered, too: after a crash between the AppServer's work and our note of it, the item is
looked for before another one is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Sequence
from datetime import datetime
from typing import Any, BinaryIO, cast

import msgspec

from backupd.appservers.base import AppServer
from backupd.clock import written
from backupd.errors import (
    AppServerRefused,
    BackupdError,
    BlobMissing,
    CorruptBlob,
    ItemVanished,
    UnknownAccount,
    UnknownItem,
)
from backupd.items import CONTENT_KINDS, Area, ItemKey, Kind, digest_text
from backupd.states import Photograph, State, state_at
from backupd.store.index_queries import KnownItem
from backupd.store.store import Store

SPOOL_BYTES_MAX = 16 << 20
COPY_BYTES = 1 << 20
MARKED_DELETED = "deleted"
PROVEN_KEYS = ("folder", "flags", "tags", "received", "uid")
"""What a restored item must agree in with its photograph, where both have it, besides the content."""


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

    def __init__(self, store: Store, appserver: AppServer) -> None:
        self._store = store
        self._appserver = appserver

    async def foresee(self, account: str, item: str, *, when: datetime | None, folder: str | None) -> str:
        """Return in words what `run` would restore. Raises what it would raise for what can't be."""
        _, key = await asyncio.to_thread(find_item, self._store, account, item)
        history = await asyncio.to_thread(self._store.histories.read, key)
        state = choose_state(history, when, what=f"item {item!r}")
        into = folder if folder is not None else str(state.metadata.get("folder", ""))
        what = f"{key.kind.value} {item} as of {written(state.start)}"
        return f"dry run: {what} would be restored into folder {into!r}"

    async def run(
        self, account: str, item: str, *, when: datetime | None, folder: str | None
    ) -> RestoredItem:
        """Put the item back as it was at `when` (None: its last state), into `folder` or that of then."""
        _, key = await asyncio.to_thread(find_item, self._store, account, item)
        history = await asyncio.to_thread(self._store.histories.read, key)
        state = choose_state(history, when, what=f"item {item!r}")
        if key.kind is Kind.ACCOUNT or key.kind not in CONTENT_KINDS | {Kind.FOLDER}:
            raise AppServerRefused(f"a {key.kind.value} is not restored as an item")
        metadata = dict(state.metadata)
        if key.kind is Kind.FOLDER:
            return await self._restore_folder(key, state, metadata, folder)
        if "metadata" in state.lacking:
            raise UnknownItem(f"item {item!r} was never photographed: it was gone before it could be read")
        if state.deleted:
            metadata = _without_deletion_mark(metadata)
        if folder is not None:
            metadata["folder"] = folder
        into = str(metadata.get("folder", ""))
        target = f"{key.account}:{into}"
        place = (key.account, key.item, state.transaction, target)
        photograph = Photograph(metadata=metadata, digest=state.digest, size=state.size)
        before = await self._restored_before(key, place, photograph)
        if before is not None:
            return RestoredItem(item=before, folder=into, transaction=state.transaction, skipped=True)
        basis = self._store.journal.last_sequence
        await asyncio.to_thread(self._store.ledger.set_restoring, *place, basis)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES_MAX) as content:
            await asyncio.to_thread(self._copy_blob, state, content)
            new = await self._appserver.put(key.account, key.kind, photograph, cast("BinaryIO", content))
        await asyncio.to_thread(self._store.ledger.set_restored, *place, new)
        await self._prove(ItemKey(key.account, key.kind, new), photograph)
        return RestoredItem(item=new, folder=into, transaction=state.transaction, skipped=False)

    async def _restored_before(self, key: ItemKey, place: Place, photograph: Photograph) -> str | None:
        """Return the item that an earlier restore of the same made and that is still there."""
        ledger = self._store.ledger
        before = await asyncio.to_thread(ledger.restored, *place)
        if before is not None and await self._is_there(ItemKey(key.account, key.kind, before)):
            return before
        basis = await asyncio.to_thread(ledger.restoring, *place)
        if basis is None:
            return None
        made = await self._made_since(basis, key, photograph)
        if made is not None:
            await asyncio.to_thread(ledger.set_restored, *place, made)
        return made

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
            if await asyncio.to_thread(_digest_of_content, reading.content.open) == photograph.digest:
                return listed.item
        return None

    def _was_there(self, key: ItemKey, basis: int) -> bool:
        states = [one for one in self._store.histories.read(key) if one.transaction <= basis]
        return bool(states) and not states[-1].deleted

    async def _restore_folder(
        self, key: ItemKey, state: State, metadata: dict[str, Any], parent: str | None
    ) -> RestoredItem:
        path = str(metadata.get("folder") or metadata.get("path") or "")
        if parent is not None:
            path = f"{parent}/{path.rpartition('/')[2]}"
        area = Area(metadata.get("area", Area.MAIL))
        new = await self._appserver.create_folder(key.account, area, path)
        return RestoredItem(item=new, folder=path, transaction=state.transaction, skipped=False)

    async def _is_there(self, key: ItemKey) -> bool:
        try:
            await self._appserver.read(key)
        except (ItemVanished, AppServerRefused):
            return False
        return True

    def _copy_blob(self, state: State, target: Any) -> None:
        if state.digest is None or "content" in state.lacking:
            raise BlobMissing("the item's content was never stored", hint="choose another date with getItem")
        with self._store.blobs.open(state.digest) as source:
            while piece := source.read(COPY_BYTES):
                target.write(piece)
        target.seek(0)

    async def _prove(self, key: ItemKey, photograph: Photograph) -> None:
        """Read the restored item back. Raises `CorruptBlob` or `BackupdError` where it differs."""
        reading = await self._appserver.read(key)
        if reading.content is not None:
            digest = await asyncio.to_thread(_digest_of_content, reading.content.open)
            if digest != photograph.digest:
                raise CorruptBlob(f"restored item {key.item!r} reads back with other content", item=key.item)
        for name in PROVEN_KEYS:
            wanted, found = photograph.metadata.get(name), reading.metadata.get(name)
            if name in photograph.metadata and name in reading.metadata and wanted != found:
                raise BackupdError(
                    f"restored item {key.item!r} reads back with {name} {found!r} instead of {wanted!r}"
                )


def _without_deletion_mark(metadata: dict[str, Any]) -> dict[str, Any]:
    r"""Return a deleted message's photograph without IMAP's mark of it: \Deleted, RFC 9051, 2.3.2.

    The mark was the beginning of its deletion: with it the next EXPUNGE would take the restored one too.
    """
    if MARKED_DELETED not in metadata.get("flags", ()):
        return metadata
    return {**metadata, "flags": [flag for flag in metadata["flags"] if flag != MARKED_DELETED]}


def _digest_of_content(opened: Any) -> str:
    sha256 = hashlib.sha256()
    file: BinaryIO
    with opened() as file:
        while piece := file.read(COPY_BYTES):
            sha256.update(piece)
    return digest_text(sha256.digest())
