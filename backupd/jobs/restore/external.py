"""External restore: another server's Backup Path comes into this AppServer, beside what is there.

The order is that of the specification: phase 1 makes domains, classes of service, lists and accounts, from
where on the accounts can be used; phase 2 puts all items, several accounts at a time; phase 3 sets, for each
account once its items are there, what refers to its folders. Nothing on the target is deleted or changed,
nothing in the source is written or believed (`store.foreign`). It can be given again at any time: what came
in is skipped, a killed run goes on.
"""

from __future__ import annotations

import asyncio
import itertools
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from backupd.appservers.base import AppServer
from backupd.clock import Clock, written
from backupd.errors import UsageError
from backupd.items import SERVER_KINDS
from backupd.jobs.restore import importing
from backupd.jobs.restore.account_import import AccountImport
from backupd.jobs.restore.accounts import AFTER_ALL
from backupd.jobs.restore.counting import Counted
from backupd.jobs.restore.importing import Choice, ExternalWanted
from backupd.jobs.restore.provisioning import Provisioned, Provisioning
from backupd.jobs.restore.within import Shared
from backupd.operations import Run, Verdict
from backupd.store import ownership
from backupd.store.foreign import Archive, ForeignPath, FoundItem
from backupd.store.store import Store

MAP_ENTRIES_MAX = 200_000

log = structlog.get_logger(__name__)


class ExternalRestore:
    """Restores from other servers' Backup Paths."""

    def __init__(self, store: Store, appserver: AppServer, *, clock: Clock) -> None:
        self._store = store
        self._appserver = appserver
        self._clock = clock

    async def run(self, run: Run, asked: ExternalWanted, archive: Archive | None = None) -> Verdict:
        """Bring a backup in; contents that are not in it come from `archive`.

        Raises `BackupPathRefused`, `UsageError`, `AppServerUnavailable`.
        """
        if asked.when is not None and asked.when > self._clock.now():
            raise UsageError(f"{written(asked.when)} is in the future", hint="give a moment that has been")
        when = AFTER_ALL if asked.when is None else asked.when
        source = await asyncio.to_thread(self._source, asked, archive)
        shared = Shared(run)
        choice = await asyncio.to_thread(_choice, source, when, shared, asked)
        for what, reason in choice.problems:
            run.note_error(what, reason)
        counts = await asyncio.to_thread(_counts, source, choice)
        shared.total = sum(counts.values())
        accounts = AccountImport(
            self._store, self._appserver, source, when=when, asked=asked, shared=shared, clock=self._clock
        )
        if asked.dry_run:
            return await self._foresee(run, source, choice, shared, accounts, asked)
        provisioning = Provisioning(self._store, self._appserver, accounts.putting(), origin=accounts.origin)
        provisioned = await provisioning.run(run, choice, asked)
        await self._keep_map(source, provisioned)
        # From here on the accounts can be used; mail that comes meanwhile is not in the way of the items.
        log.info("phase_1_complete", accounts=len(provisioned.targets), made=provisioned.created)
        done = Counted()
        if not asked.provisioning_only:
            chosen = [one for one in choice.accounts if one.key.item in provisioned.targets]
            done = await self._items(chosen, counts, provisioned, provisioning, accounts, asked)
            await self._keep_map(source, provisioned)
        return _verdict(source, choice, provisioned, done, shared, asked)

    def _source(self, asked: ExternalWanted, archive: Archive | None) -> ForeignPath:
        source = ForeignPath(Path(asked.source_path), self._store.layout.root, archive)
        if source.identity.server == self._store.identity.server and not asked.force:
            raise UsageError(
                f"{asked.source_path} is a backup of this very server",
                hint="what it lost comes back by doRestoreOnNewAccount or doUndelete; where this server was "
                "made anew, add force_as_external_restore true",
            )
        return source

    async def _foresee(
        self,
        run: Run,
        source: ForeignPath,
        choice: Choice,
        shared: Shared,
        accounts: AccountImport,
        asked: ExternalWanted,
    ) -> Verdict:
        """Return what would come in; all of it is read, but for contents."""
        listed = await accounts.putting().patiently(run, self._appserver.accounts)
        there = {one.name.casefold(): one.id for one in listed}
        wanted = [
            one
            for one in choice.accounts
            if not asked.skip_account_provisioning or importing.name_of(one).casefold() in there
        ]
        done = Counted()
        for found in wanted if not asked.provisioning_only else ():
            done.add(await accounts.foresee(found, there.get(importing.name_of(found).casefold())))
        new = sum(importing.name_of(one).casefold() not in there for one in wanted)
        items = done.foreseen(f"in {len(wanted):,} accounts of server {_name(source)}")
        sentence = (
            f"{items}; {new:,} of them would be made, and of {len(choice.domains):,} domains, "
            f"{len(choice.coses):,} classes of service and {len(choice.lists):,} lists what is not there"
        )
        passed = f"; {shared.unusable:,} files of the source could not be used" if shared.unusable else ""
        counts = done.counts() | {"accounts": len(wanted), "unusable": shared.unusable}
        return Verdict(sentence=sentence + passed, counts=counts)

    async def _items(
        self,
        chosen: list[FoundItem],
        counts: dict[str, int],
        provisioned: Provisioned,
        provisioning: Provisioning,
        accounts: AccountImport,
        asked: ExternalWanted,
    ) -> Counted:
        """Bring the items of accounts in, several accounts at a time."""
        waiting = iter(chosen)
        done = Counted()

        async def work() -> None:
            for found in waiting:
                done.add(await accounts.run(found, counts[found.key.item], provisioned, provisioning))

        at_once = max(1, min(asked.concurrent_accounts, importing.CONCURRENT_ACCOUNTS_MAX, len(chosen)))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(at_once):
                    group.create_task(work(), name=f"import-{number}")
        except BaseExceptionGroup as errors:
            # The first one ended the others; a caller expects it as it is.
            raise errors.exceptions[0] from None
        return done

    async def _keep_map(self, source: ForeignPath, provisioned: Provisioned) -> None:
        entries = dict(itertools.islice(provisioned.entries.items(), MAP_ENTRIES_MAX))
        server = self._store.identity.server
        await asyncio.to_thread(
            ownership.note_import, self._store.layout, server, source.identity.server, entries
        )


def _choice(source: ForeignPath, when: datetime, shared: Shared, asked: ExternalWanted) -> Choice:
    accounts = list(source.accounts(when, shared.strange))
    entries = {kind: list(source.entries(kind, when, shared.strange)) for kind in SERVER_KINDS}
    choice = importing.choose(accounts, entries, asked)
    if asked.when is not None and not accounts:
        problem = (written(asked.when), "no account was in that backup yet")
        return msgspec.structs.replace(choice, problems=(*choice.problems, problem))
    return choice


def _counts(source: ForeignPath, choice: Choice) -> dict[str, int]:
    return {one.key.item: source.count(one.key.item) for one in choice.accounts}


def _name(source: ForeignPath) -> str:
    return source.identity.name or source.identity.server


def _verdict(
    source: ForeignPath,
    choice: Choice,
    provisioned: Provisioned,
    done: Counted,
    shared: Shared,
    asked: ExternalWanted,
) -> Verdict:
    made = ", ".join(f"{number:,} {kind}" for kind, number in sorted(provisioned.created.items()))
    items = "only provisioning was asked for" if asked.provisioning_only else done.sentence()
    passed = f"; {shared.unusable:,} files of the source could not be used" if shared.unusable else ""
    failed = f"; {provisioned.failed:,} entries failed" if provisioned.failed else ""
    problems = (
        len(choice.problems) + provisioned.failed + shared.unusable + done.unrestored + done.folders_failed
    )
    counts = done.counts() | {
        "accounts": len(provisioned.targets),
        "unusable": shared.unusable,
        "failed_entries": provisioned.failed,
    }
    sentence = (
        f"server {_name(source)}: {len(provisioned.targets):,} of "
        f"{len(choice.accounts):,} accounts ready since phase 1 (made: {made or 'nothing'}); {items}"
    )
    return Verdict(
        sentence=f"{sentence}{failed}{passed}", counts=counts, successful=not problems and done.is_whole
    )
