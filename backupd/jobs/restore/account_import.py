"""Phases 2 and 3 of an external restore for one account: its items, then what refers to its folders.

States are taken in batches, so that memory does not grow with the account. As which new items those of the
source came in is kept in the target account's `id_mapper.log`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from functools import partial

import structlog

from backupd.appservers.base import AppServer
from backupd.clock import Clock
from backupd.errors import AppServerRefused, AppServerUnavailable
from backupd.items import Area, Kind
from backupd.jobs.restore import importing
from backupd.jobs.restore.counting import Counted
from backupd.jobs.restore.importing import ExternalWanted, name_of
from backupd.jobs.restore.patience import answers
from backupd.jobs.restore.plan import Plan
from backupd.jobs.restore.provisioning import Provisioned, Provisioning
from backupd.jobs.restore.putting import Putting
from backupd.jobs.restore.within import Shared, WithinAccount
from backupd.store.foreign import ForeignPath, FoundItem
from backupd.store.id_mapper import IdMapper, MappedItem
from backupd.store.ledger_tables import KeptRestores
from backupd.store.store import Store

BATCH_ITEMS_MAX = 50_000
BATCH_BYTES_MAX = 64 << 20

log = structlog.get_logger(__name__)


class AccountImport:
    """Brings the items of accounts in; one object for one run over one source."""

    def __init__(
        self,
        store: Store,
        appserver: AppServer,
        source: ForeignPath,
        *,
        when: datetime,
        asked: ExternalWanted,
        shared: Shared,
        clock: Clock,
    ) -> None:
        self._store = store
        self._appserver = appserver
        self._source = source
        self._when = when
        self._asked = asked
        self._shared = shared
        self._clock = clock
        self._kept = KeptRestores(store.ledger)
        self._mapper = IdMapper(store.layout)
        self.origin = f"{source.identity.server}/"

    def putting(self) -> Putting:
        """Return what puts items of the source; each account has its own."""
        return Putting(
            self._store, self._appserver, blobs=self._source.blobs, clock=self._clock, origin=self.origin
        )

    async def run(
        self, found: FoundItem, expected: int, provisioned: Provisioned, provisioning: Provisioning
    ) -> Counted:
        """Bring an account's items in; return its counts.

        Raises `OperationStopped`, and `AppServerUnavailable` where the AppServer stays away.
        """
        target = provisioned.targets[found.key.item]
        name = name_of(found)
        run = WithinAccount(self._shared, name, self._clock)
        done = Counted()
        try:
            folders = await self._items(run, found.key.item, target, done)
            folder_ids = await self._folder_ids(run, found.key.item, target, folders)
            provisioned.entries |= {
                f"{Kind.FOLDER.value}:{found.key.item}/{source}": new for source, new in folder_ids.items()
            }
            if found.key.item in provisioned.made:
                ids = provisioned.ids | folder_ids
                _, later = importing.attributes_of(found.state.metadata, self._asked, provisioned.ids)
                later = {key: importing.mapped(one, ids, characters_min=1) for key, one in later.items()}
                await provisioning.finish(run, found, target, later, provisioned)
        except AppServerRefused as error:
            run.note_error(target, error.message)
            done.unrestored += 1
        except AppServerUnavailable as error:
            if not await answers(self._appserver):
                raise
            # It answers, and takes nothing of this account: the others are not held up by that.
            run.note_error(target, error.message)
            done.unrestored += 1
        self._shared.advance(expected - run.reported)
        log.info("account_imported", account=name, target=target, **done.counts())
        if not done.is_whole:
            run.note_error(target, f"of this account {done.sentence()}")
        return done

    async def _items(
        self, run: WithinAccount, account: str, target: str, done: Counted
    ) -> dict[tuple[Area, str], str]:
        """Put all items, a batch at a time; return the source's folders by place."""
        putting = self.putting()
        found = self._source.items(account, self._when, self._shared.strange)
        folders: dict[tuple[Area, str], str] = {}
        while batch := await asyncio.to_thread(_batch, found):
            run.check()
            folders |= importing.folders_by_place(batch)
            plan = importing.plan_items(self._within_size(run, batch, done), self._asked, self._clock.now())
            await putting.run(run, plan, account, target, done)
            await asyncio.to_thread(self._map_items, plan, account, target)
        return folders

    async def foresee(self, found: FoundItem, target: str | None) -> Counted:
        """Return what `run` would do with an account's items; `target` None is yet to be made."""
        run = WithinAccount(self._shared, name_of(found), self._clock)
        putting = self.putting()
        done = Counted()
        items = self._source.items(found.key.item, self._when, self._shared.strange)
        while batch := await asyncio.to_thread(_batch, items):
            run.check()
            plan = importing.plan_items(self._within_size(run, batch, done), self._asked, self._clock.now())
            await putting.foresee(run, plan, found.key.item, target, done)
            run.report(done.expected)
        return done

    def _within_size(self, run: WithinAccount, batch: list[FoundItem], done: Counted) -> list[FoundItem]:
        limit = self._asked.file_bytes_max
        if limit is None:
            return batch
        large = [one for one in batch if (one.state.size or 0) > limit]
        done.left_out += len(large)
        for one in large:
            run.note_error(one.key.item, f"left out: {one.state.size:,} bytes, max_file_size is {limit:,}")
        return [one for one in batch if (one.state.size or 0) <= limit]

    def _map_items(self, plan: Plan, account: str, target: str) -> None:
        restored = self._kept.restored(account)
        mapped = []
        for one in plan.items:
            new = restored.get((one.source.item, one.transaction, f"{self.origin}{one.target(target)}"))
            if new is not None:
                mapped.append(
                    MappedItem(
                        source=one.source.item, target=new, kind=one.kind, origin=f"{self.origin}{account}"
                    )
                )
        self._mapper.append(target, mapped)

    async def _folder_ids(
        self, run: WithinAccount, account: str, target: str, folders: dict[tuple[Area, str], str]
    ) -> dict[str, str]:
        """Return as which folders here those of the source are, and keep it in the account's map."""
        if not folders:
            return {}
        listing = await self.putting().patiently(run, partial(self._appserver.changes, target, None))
        there = {
            (Area(one.metadata.get("area", Area.MAIL)), str(one.metadata.get("folder"))): one.item
            for one in listing.items
            if one.kind is Kind.FOLDER
        }
        ids = {source: there[place] for place, source in folders.items() if place in there}
        origin = f"{self.origin}{account}"
        mapped = [
            MappedItem(source=source, target=new, kind=Kind.FOLDER, origin=origin)
            for source, new in ids.items()
        ]
        await asyncio.to_thread(self._mapper.append, target, mapped)
        return ids


def _batch(found: Iterator[FoundItem]) -> list[FoundItem]:
    """Take the next items, up to a number of them and of bytes of their states; reads, so it blocks."""
    batch: list[FoundItem] = []
    size = 0
    for one in found:
        batch.append(one)
        size += one.bytes
        if len(batch) >= BATCH_ITEMS_MAX or size >= BATCH_BYTES_MAX:
            break
    return batch
