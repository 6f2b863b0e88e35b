"""Phase 1 of an external restore: domains, classes of service, lists and accounts, empty first, then whole.

What is on the AppServer already is used as it is: nothing of it is changed. What a restore makes is kept in
the ledger before it is made, so that a run that was killed in between is made whole by the next one, and
by no other. Attributes are only ever added.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial

import msgspec
import structlog

from backupd.appservers.base import Account, AppServer, DirectoryEntry
from backupd.errors import AppServerRefused
from backupd.items import Kind
from backupd.jobs.restore.importing import Choice, ExternalWanted, attributes_of, mapped, name_of
from backupd.jobs.restore.putting import Putting
from backupd.operations import Run
from backupd.store.foreign import FoundItem
from backupd.store.ledger_tables import KeptRestores, RestorePlace
from backupd.store.store import Store

log = structlog.get_logger(__name__)


class Provisioned(msgspec.Struct, kw_only=True):
    """What is there after phase 1. `targets` are accounts' ids there and here; `ids` those of everything.

    `made` are accounts (ids of there) that a restore of this backup made, not finished yet.
    """

    targets: dict[str, str] = {}
    ids: dict[str, str] = {}
    entries: dict[str, str] = {}
    made: set[str] = set()
    created: dict[str, int] = {}
    failed: int = 0

    def note(self, found: FoundItem, identifier: str) -> None:
        """Keep as what something is there."""
        self.ids[found.key.item] = identifier
        self.entries[f"{found.key.kind.value}:{found.key.item}"] = identifier


class Provisioning:
    """Makes what items need. `origin` tells the backup apart from others in the ledger."""

    def __init__(self, store: Store, appserver: AppServer, putting: Putting, *, origin: str) -> None:
        self._appserver = appserver
        self._putting = putting
        self._kept = KeptRestores(store.ledger)
        self._journal = store.journal
        self._origin = origin

    async def run(self, run: Run, choice: Choice, asked: ExternalWanted) -> Provisioned:
        """Make everything. What can't be made is noted. Raises `AppServerUnavailable`, `OperationStopped`."""
        done = Provisioned()
        begun = await asyncio.to_thread(self._kept.begun, self._origin)
        entries = (*choice.domains, *choice.coses, *choice.lists)
        made = await self._make_entries(run, entries, begun, done)
        await self._make_accounts(run, choice.accounts, asked, begun, done)
        by_id = {one.key.item: one for one in choice.accounts}
        for source in sorted(done.made):
            first, _ = attributes_of(by_id[source].state.metadata, asked, done.ids)
            await self._complete(run, by_id[source], done.targets[source], first, done)
        for kind in (Kind.DOMAIN, Kind.COS, Kind.MAILING_LIST):
            for found, identifier in made:
                if found.key.kind is kind:
                    metadata = mapped({**found.state.metadata, "name": name_of(found)}, done.ids)
                    if await self._complete(run, found, identifier, metadata, done):
                        await self._end(found, identifier)
        return done

    async def finish(
        self, run: Run, found: FoundItem, target: str, later: Mapping[str, object], done: Provisioned
    ) -> None:
        """Give an account the attributes that need its folders, and keep that it is whole."""
        if not later or await self._complete(run, found, target, later, done):
            await self._end(found, target)

    async def _make_entries(
        self, run: Run, entries: Iterable[FoundItem], begun: Mapping[RestorePlace, int], done: Provisioned
    ) -> list[tuple[FoundItem, str]]:
        listed = await self._putting.patiently(run, self._appserver.directory)
        there = {(one.kind, str(one.metadata.get("name", "")).casefold()): one.id for one in listed}
        made = []
        for found in entries:
            run.check()
            identifier = there.get((found.key.kind, name_of(found).casefold()))
            if identifier is None:
                await self._begin(found)
                empty = DirectoryEntry(kind=found.key.kind, id="", metadata={"name": name_of(found)})
                try:
                    identifier = await self._putting.patiently(run, partial(self._appserver.put_entry, empty))
                except AppServerRefused as error:
                    self._failed(run, found, error.message, done)
                    continue
                done.created[found.key.kind.value] = done.created.get(found.key.kind.value, 0) + 1
                made.append((found, identifier))
            elif self._place(found) in begun:
                made.append((found, identifier))
            done.note(found, identifier)
        return made

    async def _make_accounts(
        self,
        run: Run,
        accounts: Iterable[FoundItem],
        asked: ExternalWanted,
        begun: Mapping[RestorePlace, int],
        done: Provisioned,
    ) -> None:
        listed = await self._putting.patiently(run, self._appserver.accounts)
        there = {one.name.casefold(): one.id for one in listed}
        for found in accounts:
            run.check()
            name = name_of(found)
            target = there.get(name.casefold())
            if target is not None:
                if self._place(found) in begun and not asked.skip_account_provisioning:
                    done.made.add(found.key.item)
            elif asked.skip_account_provisioning:
                self._failed(run, found, "the account is not there, and none was to be made", done)
                continue
            else:
                await self._begin(found)
                account = Account(id="", name=name, metadata={})
                try:
                    target = await self._putting.patiently(
                        run, partial(self._appserver.create_account, account)
                    )
                except AppServerRefused as error:
                    self._failed(run, found, error.message, done)
                    continue
                done.created["account"] = done.created.get("account", 0) + 1
                done.made.add(found.key.item)
            done.targets[found.key.item] = target
            done.note(found, target)

    async def _complete(
        self, run: Run, found: FoundItem, identifier: str, metadata: Mapping[str, object], done: Provisioned
    ) -> bool:
        entry = DirectoryEntry(kind=found.key.kind, id=identifier, metadata=dict(metadata))
        try:
            await self._putting.patiently(run, partial(self._appserver.put_entry, entry))
        except AppServerRefused as error:
            self._failed(run, found, f"its attributes: {error.message}", done)
            return False
        return True

    def _failed(self, run: Run, found: FoundItem, reason: str, done: Provisioned) -> None:
        what = f"{found.key.kind.value} {name_of(found)}"
        run.note_error(what, reason)
        log.warning("entry_not_imported", what=what, reason=reason)
        done.failed += 1

    def _place(self, found: FoundItem) -> RestorePlace:
        return found.key.item, 0, f"{self._origin}{found.key.kind.value}:{name_of(found)}"

    async def _begin(self, found: FoundItem) -> None:
        basis = self._journal.last_sequence
        await asyncio.to_thread(self._kept.begin, self._origin, [self._place(found)], basis)

    async def _end(self, found: FoundItem, identifier: str) -> None:
        await asyncio.to_thread(self._kept.end, self._origin, {self._place(found): identifier})
