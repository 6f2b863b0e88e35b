"""SmartScan's effects: list, compare, read in workers, journal; then wait and keep the cursors.

A scan writes nothing but blobs and journal entries. An account's cursor is kept only once everything that
its listing told is recorded, so that an interrupted scan repeats at most the accounts it was busy with, and
loses nothing. Accounts share chunks and flushes, so that many small accounts cost no more than a few large
ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import msgspec

from backupd.appservers.base import Account, AppServer, Listing
from backupd.clock import Clock
from backupd.errors import AppServerRefused, AppServerUnavailable, UnknownAccount
from backupd.items import ItemKey, Kind
from backupd.jobs.smartscan import dump, plan
from backupd.jobs.smartscan.work import Finished, ScanOptions, Work
from backupd.jobs.smartscan.workers import ChunkItem
from backupd.operations import Run
from backupd.store.index_queries import KnownItem
from backupd.store.store import Store


class SmartScan:
    """One scan at a time over a store and an AppServer.

    `recorded_through(sequence)` waits until the recorder has durably recorded a journal entry. `workers` 0
    reads in this process.
    """

    def __init__(
        self,
        store: Store,
        appserver: AppServer,
        *,
        clock: Clock,
        recorded_through: Callable[[int], Awaitable[None]],
        workers: int = 2,
        configuration: Callable[[], Sequence[tuple[str, bytes]]] = tuple,
    ) -> None:
        self._store = store
        self._appserver = appserver
        self._clock = clock
        self._recorded_through = recorded_through
        self._workers = workers
        self._configuration = configuration

    async def run_all(self, run: Run, options: ScanOptions) -> str:
        """Scan accounts, then domains, COS and lists; dump the configuration; return the verdict.

        Raises `AppServerUnavailable` where nothing can be listed, `SuspiciousListing` after everything else
        was done.
        """
        basis = self._store.journal.last_sequence
        moment = self._clock.now()
        accounts = await self._appserver.accounts()
        work = self._begin(run, options)
        async with work:
            known = await asyncio.to_thread(
                lambda: {item.item: item for item in self._store.index.accounts()}
            )
            await self._account_entries(work, accounts, known, basis, moment)
            for place, account in enumerate(accounts):
                work.estimate(place, len(accounts))
                await self._scan_account(work, account.id)
            await self._directory_entries(work)
        await asyncio.to_thread(self._dump_configuration, moment)
        verdict = work.verdict()
        await asyncio.to_thread(self._keep_statistics, moment, verdict, deep=options.deep)
        return verdict

    async def run_account(self, run: Run, account: str, options: ScanOptions) -> str:
        """Scan one account, given by id or address; return the verdict sentence."""
        basis = self._store.journal.last_sequence
        moment = self._clock.now()
        accounts = await self._appserver.accounts()
        chosen = [one for one in accounts if account in (one.id, one.name)]
        known = await asyncio.to_thread(self._store.index.find_account, account)
        if not chosen and (known is None or known.deleted):
            raise UnknownAccount(f"no account {account!r} on the AppServer", hint="see getAvailableAccounts")
        work = self._begin(run, options)
        async with work:
            if not chosen and known is not None:
                work.tally.accounts += 1
                work.tally.deleted += 1
                await work.add([plan.deletion(known, basis=basis, moment=moment)])
            for one in chosen:
                finding = plan.entry_change(
                    ItemKey(one.id, Kind.ACCOUNT, one.id), one.metadata, known, basis=basis, moment=moment
                )
                if finding is not None:
                    work.count(finding)
                    await work.add([finding])
                await self._scan_account(work, one.id)
        return work.verdict()

    def _begin(self, run: Run, options: ScanOptions) -> Work:
        return Work(
            store=self._store,
            reader=self._appserver.reader(),
            read=self._appserver.read,
            workers=self._workers,
            recorded_through=self._recorded_through,
            run=run,
            options=options,
            clock=self._clock,
        )

    # ---------------------------------------------------------------- accounts

    async def _account_entries(
        self,
        work: Work,
        accounts: Sequence[Account],
        known: dict[str, KnownItem],
        basis: int,
        moment: datetime,
    ) -> None:
        listed = {account.id for account in accounts}
        gone = [item for item in known.values() if item.item not in listed]
        reason = plan.suspicion_of_accounts(len(gone), len(known))
        if reason is not None and not work.options.force:
            work.refuse("accounts", reason)
            gone = []
        findings = []
        for account in accounts:
            key = ItemKey(account.id, Kind.ACCOUNT, account.id)
            finding = plan.entry_change(
                key, account.metadata, known.get(account.id), basis=basis, moment=moment
            )
            if finding is not None:
                findings.append(finding)
        findings += [plan.deletion(item, basis=basis, moment=moment) for item in gone]
        for finding in findings:
            work.count(finding)
        await work.add(findings)

    async def _scan_account(self, work: Work, account: str) -> None:
        work.run.check()
        basis = self._store.journal.last_sequence
        moment = self._clock.now()
        statistics = await asyncio.to_thread(self._store.statistics.account, account)
        since = None if work.options.deep else statistics.cursor
        try:
            listing = await self._appserver.changes(account, since)
        except (AppServerUnavailable, AppServerRefused) as error:
            work.unlisted(account, error.message)
            return
        work.tally.accounts += 1
        if listing.scope is not None and not listing.scope:
            work.tally.unchanged_accounts += 1
            return
        planned = await asyncio.to_thread(self._plan, account, listing, basis, moment, work.options.deep)
        live, _ = await asyncio.to_thread(self._store.index.account_counts, account)
        whole = sum(count for kind, count in live.items() if kind != Kind.ACCOUNT)
        reason = plan.suspicion(len(planned.gone), whole)
        if reason is not None and not work.options.force and not self._explained(account):
            work.refuse(account, reason)
            return
        work.tally.unchanged += planned.unchanged
        work.done += planned.unchanged
        findings = [
            *planned.altered,
            *(plan.deletion(item, basis=basis, moment=moment) for item in planned.gone),
        ]
        for finding in findings:
            work.count(finding)
        await work.add(findings)
        last_item = listing.items[-1].item if listing.items else ""
        await work.finish(
            Finished(account, listing.cursor, moment, last_item),
            [
                ChunkItem(
                    account,
                    one.listed.kind,
                    one.listed.item,
                    one.listed.locator,
                    one.type,
                    basis,
                    plan.recorded_fingerprint(one.recorded),
                )
                for one in planned.read
            ],
            moment,
        )

    def _plan(
        self,
        account: str,
        listing: Listing,
        basis: int,
        moment: datetime,
        deep: bool,  # noqa: FBT001 - one call
    ) -> plan.AccountPlan:
        index = self._store.index
        known = {item.item: item for item in index.items(account, scope=listing.scope)}
        for listed in listing.items:
            if listed.item not in known:
                elsewhere = index.item(account, listed.item)
                if elsewhere is not None:
                    known[listed.item] = elsewhere
        known.pop(account, None)
        return plan.plan_account(listing, known, account=account, basis=basis, moment=moment, deep=deep)

    def _explained(self, account: str) -> bool:
        """Tell whether an emptied folder explains a loss."""
        return any(gap.reason == "folder_emptied" for gap in self._store.ledger.gaps(account=account))

    async def _directory_entries(self, work: Work) -> None:
        basis = self._store.journal.last_sequence
        moment = self._clock.now()
        try:
            entries = await self._appserver.directory()
        except (AppServerUnavailable, AppServerRefused) as error:
            work.unlisted("domains, COS and mailing lists", error.message)
            return
        listed = {ItemKey("", entry.kind, entry.id): entry for entry in entries}
        known = {
            ItemKey("", item.kind, item.item): item
            for kind in (Kind.DOMAIN, Kind.COS, Kind.MAILING_LIST)
            for item in await asyncio.to_thread(self._store.index.entries, kind)
        }
        findings = [
            finding
            for key, entry in listed.items()
            if (finding := plan.entry_change(key, entry.metadata, known.get(key), basis=basis, moment=moment))
            is not None
        ]
        findings += [
            plan.deletion(item, basis=basis, moment=moment)
            for key, item in known.items()
            if key not in listed
        ]
        for finding in findings:
            work.count(finding)
        await work.add(findings)

    def _keep_statistics(self, began: datetime, verdict: str, *, deep: bool) -> None:
        now = self._clock.now()
        counts = self._store.index.counts()
        before = self._store.statistics.backup()
        self._store.statistics.write_backup(
            msgspec.structs.replace(
                before,
                first_run=before.first_run or began,
                last_scan_started=began,
                last_scan_ended=now,
                last_scan_verdict=verdict,
                last_deep_scan_ended=now if deep else before.last_deep_scan_ended,
                items=counts.items,
                deleted=counts.deleted,
                blobs=counts.blobs,
                blob_bytes=counts.blob_bytes,
            )
        )

    def _dump_configuration(self, moment: datetime) -> None:
        entries = [*self._appserver.configuration(), *self._configuration()]
        dump.write_configuration(self._store.layout, entries, moment)
