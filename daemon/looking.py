"""Looking: answers about what the backup holds, of this Backup Path or of another one, read-only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from backupd.clock import Clock
from backupd.control import BackupInfoReply, Reply
from backupd.errors import UsageError
from backupd.jobs.coherency import job
from backupd.replies import BlobReply, DiffReply, ItemReply
from backupd.store.store import Store
from daemon import coherency, holdings, looking_back, server_archives, views
from daemon.answering import Answering, Given
from daemon.peers import Caller, Forbidden

PIECE_BYTES = 1 << 18

Found = TypeVar("Found")


class Looking:
    """Reads a store in threads; changes nothing."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def table(self) -> Mapping[str, Answering]:
        """Return what answers each command, by its title."""
        return {
            "backup getItem": self._get_item,
            "backup doItemSearch": self._reading(looking_back.search),
            "backup history": self._reading(looking_back.history),
            "backup diff": self._reading(self._diff),
            "backup getFolders": self._reading(looking_back.folders),
            "backup getBackupInfo": self._reading(_backup_info),
            "backup getAccountInfo": self._reading(holdings.account),
            "backup getAvailableAccounts": self._reading(holdings.accounts),
            "backup getAvailableDomains": self._reading(holdings.domains),
            "backup getCoherencyFindings": self._coherency,
            "backup getMap": self._get_map,
            "backup getServerConfig": self._get_server_config,
        }

    async def _coherency(self, _given: Given, _caller: Caller) -> Reply:
        known = await asyncio.to_thread(coherency.remembered, self._store)
        return job.reply_of_remembered(self._store.layout.root, known)

    async def blob(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Open a content and return its bytes in pieces; the last comes only once all are verified."""
        file = await asyncio.to_thread(self._store.blobs.open, digest)

        async def pieces() -> AsyncGenerator[bytes, None]:
            with file:
                while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                    yield piece

        return pieces()

    def _reading(self, look: Callable[[Store, Given], Reply]) -> Answering:
        """Return an answer that looks into the Backup Path that is meant."""

        async def answering(given: Given, _caller: Caller) -> Reply:
            return await asyncio.to_thread(self._look, given, lambda store: look(store, given))

        return answering

    def _look(self, given: Given, look: Callable[[Store], Found]) -> Found:
        path = given["backup_path"]
        if path is None or Path(path).resolve() == self._store.layout.root:
            return look(self._store)
        with Store.open(Path(path), server_id="", server_name="", clock=self._clock, writable=False) as store:
            return look(store)

    def _diff(self, store: Store, given: Given) -> DiffReply:
        return looking_back.diff(store, given, self._clock.now())

    async def _get_item(self, given: Given, _caller: Caller) -> ItemReply | BlobReply:
        account, item, date = given["account"], given["item"], given["date"]

        def look(store: Store) -> ItemReply | BlobReply:
            if not given["dump_blob"]:
                return views.item_reply(store, account, item, date)
            if store is not self._store:
                raise UsageError(
                    "contents of another Backup Path are not written out",
                    hint="doExternalRestore brings them in, from a volume with blobs_archive; without "
                    "dump_blob getItem shows the states and where each content lies",
                )
            state = views.state_to_dump(store, account, item, date)
            store.blobs.check_readable(state.digest or "")
            return BlobReply(digest=state.digest or "", size=state.size or 0)

        return await asyncio.to_thread(self._look, given, look)

    async def _get_map(self, given: Given, _caller: Caller) -> Reply:
        own = self._store.layout.map_file(self._store.identity.server)
        path = Path(given["file_path"]) if given["file_path"] is not None else own
        return await asyncio.to_thread(holdings.map_file, path)

    async def _get_server_config(self, given: Given, caller: Caller) -> Reply:
        if server_archives.shows_contents(given) and not caller.may_change:
            raise Forbidden(
                f"user {caller.name} may not read the server's own files",
                hint="their texts are for root and the service's user",
            )
        layout = server_archives.layout_of(given["backup_path"], self._store.layout)
        return await asyncio.to_thread(server_archives.reply, layout, given)


def _backup_info(store: Store, _given: Given) -> BackupInfoReply:
    return views.backup_info(store)
