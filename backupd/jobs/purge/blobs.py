"""Blobs that nothing refers to: condemned when they are first seen, removed once grace is over.

A blob is removed only if no history file holds its digest, whatever the index says; every file is read for
that, once, and one that can't be read saves them all. What comes meanwhile is in the index, in the journal
behind the cursor, or waits; each is looked at in the very step that removes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from backupd.clock import written
from backupd.errors import AppServerUnavailable, VolumeError
from backupd.items import digest_text
from backupd.jobs.purge import judging
from backupd.jobs.purge.histories import Done, Remover
from backupd.jobs.purge.seams import BlobPlaces, Rounds
from backupd.operations import Run
from backupd.retention import Stay
from backupd.store.index_queries import digest_bytes
from backupd.store.ledger_tables import Condemned
from backupd.store.manifests import Manifest
from backupd.store.store import Store

DIGESTS_AT_ONCE = 2_000
BLOBS_AT_ONCE = 500
CANDIDATES_MAX = 500_000
"""So many blobs are proven in one pass over the histories: about 60 MB of memory."""
_QUOTED = re.compile(rb'"([A-Za-z0-9+,]{43}=)"')


class BlobPurge:
    """The part of a purge that frees contents."""

    def __init__(
        self,
        store: Store,
        rounds: Rounds,
        places: BlobPlaces,
        *,
        run: Run,
        remover: Remover,
        manifest: Manifest,
        done: Done,
    ) -> None:
        self._store = store
        self._rounds = rounds
        self._places = places
        self._run = run
        self._remover = remover
        self._manifest = manifest
        self._done = done
        self._condemned = Condemned(store.ledger)

    async def condemn(self, now: datetime) -> None:
        """Condemn every blob that the index does not know; let off those that it knows again."""
        digests = await asyncio.to_thread(self._places.digests)
        seen = 0
        try:
            while page := await asyncio.to_thread(lambda: list(islice(digests, DIGESTS_AT_ONCE))):
                self._run.check()
                await asyncio.to_thread(self._condemn_page, page, now)
                seen += len(page)
                self._run.report(seen, unit="blobs looked at")
        except (VolumeError, AppServerUnavailable) as error:
            self._run.note_error("blobs", f"not all were looked at: {error}")
        await asyncio.to_thread(self._let_off_known)

    async def remove(self, now: datetime, grace: timedelta) -> None:
        """Remove what was condemned before grace began and is still without a reference."""
        while True:
            ripe = await asyncio.to_thread(partial(self._condemned.ripe, now - grace, limit=CANDIDATES_MAX))
            if not ripe:
                break
            candidates = {digest_text(digest) for digest in ripe}
            del ripe
            if not await self._prove(candidates):
                break
            left = iter(sorted(candidates))
            while batch := list(islice(left, BLOBS_AT_ONCE)):
                self._run.check()
                await self._remover.in_a_step(partial(self._remove_batch, batch, now))
                self._run.report(self._done.blobs, len(candidates), unit="blobs removed")
        self._done.condemned = await asyncio.to_thread(self._condemned.count)
        if self._done.condemned:
            self._done.kept[Stay.BLOB_IN_GRACE] = self._done.condemned - self._done.kept[Stay.UNPROVEN]

    def _condemn_page(self, page: Sequence[str], now: datetime) -> None:
        raw = [digest_bytes(digest) for digest in page]
        known = self._store.index.known_digests(raw)
        self._condemned.add((digest for digest in raw if digest not in known), now)

    def _let_off_known(self) -> None:
        last = b""
        while page := self._condemned.after(last, limit=DIGESTS_AT_ONCE):
            last = page[-1]
            saved = self._store.index.known_digests(page)
            self._condemned.remove(saved)

    async def _prove(self, candidates: set[str]) -> bool:
        """Take out of the candidates what any history file names; False where that can't be told."""
        try:
            referenced = await asyncio.to_thread(self._referenced, candidates)
        except OSError as error:
            self._run.note_error("blobs", f"none removed, because a history can't be read: {error}")
            self._done.kept[Stay.UNPROVEN] += len(candidates)
            return False
        if referenced:
            self._done.kept[Stay.BLOB_REFERENCED] += len(referenced)
            candidates -= referenced
            await asyncio.to_thread(self._condemned.remove, [digest_bytes(one) for one in referenced])
        return True

    def _referenced(self, candidates: set[str]) -> set[str]:
        found: set[str] = set()
        for content in self._store.histories.contents():
            for quoted in _QUOTED.findall(content):
                digest = quoted.decode("ascii")
                if digest in candidates:
                    found.add(digest)
            if self._run.stop_requested:
                self._run.check()
        return found

    def _remove_batch(self, batch: Sequence[str], now: datetime) -> None:
        store = self._store
        store.catch_up()
        if store.index.is_recording:
            store.index.commit(store.index.cursor())
        waits = judging.pending(store, self._rounds.cursor)
        raw = {digest_bytes(digest): digest for digest in batch}
        known = store.index.known_digests(list(raw))
        saved = [one for one in raw if one in known or raw[one] in waits.digests]
        going = [digest for one, digest in raw.items() if one not in saved]
        self._done.kept[Stay.BLOB_REFERENCED] += len(saved)
        moment = written(now)
        self._manifest.add({"what": "blob", "digest": digest, "at": moment} for digest in going)
        self._manifest.sync()
        try:
            self._done.freed_bytes += self._places.remove(going)
        except (VolumeError, AppServerUnavailable) as error:
            self._run.note_error("blobs", f"{len(going)} not all removed: {error}")
            self._done.kept[Stay.UNPROVEN] += len(going)
        else:
            self._done.blobs += len(going)
        self._condemned.remove(raw)
