"""SmartScan's effects: list, compare, read in workers, journal; then wait and keep the cursors.

A scan writes nothing but blobs and journal entries. An account's cursor is kept only once everything that
its listing told is recorded, so that an interrupted scan repeats at most the accounts it was busy with, and
loses nothing. Accounts share chunks and flushes, so that many small accounts cost no more than a few large
ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime

import msgspec

from backupd.appservers.base import Account, AppServer, Listing
from backupd.clock import Clock
from backupd.enrolment import Enrolment, Everyone
from backupd.errors import AppServerRefused, AppServerUnavailable, BackupdError, UnknownAccount
from backupd.items import ItemKey, Kind
from backupd.jobs.smartscan import plan
from backupd.jobs.smartscan.fetching import count_held, fetch_held
from backupd.jobs.smartscan.tally import ALL_ACCOUNTS, ALL_ENTRIES, ScanOptions
from backupd.jobs.smartscan.work import Finished, Work
from backupd.jobs.smartscan.workers import ChunkItem
from backupd.operations import Run
from backupd.store.index_queries import KnownItem
from backupd.store.store import Store

GAP_EMPTIED = "folder_emptied"
"""The reason of the gap that an emptied folder opens, as the recorder names it."""


class SmartScan:
    """One scan at a time over a store and an AppServer.

    `recorded_through(sequence)` waits until the recorder has durably recorded a journal entry, `journaled` is
    called whenever there is more for it to do. `workers` 0 reads in this process. `dump_configuration` keeps
    today's configuration where nobody has yet; it blocks. `enrolment` says who is backed up, `skips_lists`
    whether mailing lists are left as they are.
    """

    def __init__(
        self,
        store: Store,
        appserver: AppServer,
        *,
        clock: Clock,
        recorded_through: Callable[[int], Awaitable[None]],
        journaled: Callable[[], None] = lambda: None,
        workers: int = 2,
        dump_configuration: Callable[[datetime], object] = lambda _moment: None,
        enrolment: Enrolment | None = None,
        skips_lists: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._appserver = appserver
        self._clock = clock
        self._recorded_through = recorded_through
        self._journaled = journaled
        self._workers = workers
        self._dump_configuration = dump_configuration
        self._enrolment = enrolment or Everyone()
        self._skips_lists = skips_lists

    async def run_all(self, run: Run, options: ScanOptions) -> str:
        """Scan accounts, then domains, COS and lists; dump the configuration; return the verdict.

        Raises `AppServerUnavailable` where nothing can be listed, `SuspiciousListing` after everything else
        was done.
        """
        basis = self._store.journal.last_sequence
        moment = self._clock.now()
        accounts = await self._appserver.accounts()
        left_before = await asyncio.to_thread(count_held, self._store) if options.deep else 0
        work = self._begin(run, options)
        async with work:
            known = await asyncio.to_thread(
                lambda: {item.item: item for item in self._store.index.accounts()}
            )
            await self._account_entries(work, accounts, known, basis, moment)
            for place, account in enumerate(accounts):
                work.estimate(place, len(accounts))
                if self._enrolment.is_enabled(account.id, account.metadata):
                    await self._scan_account(work, account)
                else:
                    work.tally.not_enabled += 1
            await self._directory_entries(work)
        try:
            await asyncio.to_thread(self._dump_configuration, moment)
        except (OSError, BackupdError) as error:
            work.undumped(str(error))
        if options.deep:
            # Before the verdict, which raises: one item that can't be read must not keep contents from home.
            fetched = await fetch_held(run, self._store, moment, left_before)
            work.tally.fetched, work.tally.not_fetched = fetched.contents, fetched.failed
        verdict = work.verdict()
        await asyncio.to_thread(self._keep_statistics, moment, verdict, deep=options.deep)
        return verdict

    async def run_account(self, run: Run, account: str, options: ScanOptions) -> str:
        """Scan one account, given by id or address; return the verdict sentence."""
        basis = self._store.journal.last_sequence
        moment = self._clock.now()
        accounts = await self._appserver.accounts()
        index = self._store.index
        chosen = [one for one in accounts if account == one.id or account.casefold() == one.name.casefold()]
        if not chosen:
            # Under an address that it had before, say: what is listed was not deleted, whatever it is called.
            known = await asyncio.to_thread(index.find_account, account)
            chosen = [one for one in accounts if known is not None and one.id == known.item]
        if not chosen:
            return await self._scan_missing(run, account, options, {one.id for one in accounts})
        if not any(self._enrolment.is_enabled(one.id, one.metadata) for one in chosen):
            return f"account {account} is not backed up (backupEnabled is false): nothing was scanned"
        work = self._begin(run, options)
        async with work:
            for one in chosen:
                key = ItemKey(one.id, Kind.ACCOUNT, one.id)
                known = await asyncio.to_thread(index.item, key.account, key.item, key.kind)
                finding = plan.entry_change(key, one.metadata, known, basis=basis, moment=moment)
                if finding is not None:
                    work.count(finding)
                    await work.add([finding])
                await self._scan_account(work, one)
        return work.verdict()

    async def run_directory(self, run: Run, options: ScanOptions) -> str:
        """Compare domains, COS and mailing lists alone; return the verdict sentence."""
        work = self._begin(run, options)
        async with work:
            await self._directory_entries(work)
        work.verdict()
        tally = work.tally
        counted = f"{tally.created:,} new, {tally.changed:,} changed, {tally.deleted:,} deleted"
        return f"domains, COS and mailing lists: {counted}"

    async def _scan_missing(
        self, run: Run, account: str, options: ScanOptions, listed: Collection[str]
    ) -> str:
        """Mark an account as deleted that the AppServer does not list. Raises `UnknownAccount`."""
        basis, moment, index = self._store.journal.last_sequence, self._clock.now(), self._store.index
        known = await asyncio.to_thread(index.find_account, account)
        if known is None:
            raise UnknownAccount(
                f"no account {account!r}, neither on the AppServer nor in the backup",
                hint="give its address or id; getBackupInfo counts the accounts there are",
            )
        if known.deleted:
            return f"account {account} is gone from the AppServer and recorded as deleted: nothing to scan"
        live = await asyncio.to_thread(index.accounts)
        gone = [item for item in live if item.item not in listed]
        work = self._begin(run, options)
        async with work:
            work.tally.accounts += 1
            reason = plan.suspicion_of_accounts(len(gone), len(live))
            if reason is not None and not options.force:
                work.refuse(ALL_ACCOUNTS, reason)
            else:
                work.tally.deleted += 1
                await work.add([plan.deletion(known, basis=basis, moment=moment)])
        return work.verdict()

    def _begin(self, run: Run, options: ScanOptions) -> Work:
        return Work(
            store=self._store,
            reader=self._appserver.reader(),
            read=self._appserver.read,
            workers=self._workers,
            recorded_through=self._recorded_through,
            journaled=self._journaled,
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
            work.refuse(ALL_ACCOUNTS, reason)
            gone = []
        findings = []
        for account in accounts:
            if not self._is_followed(account, known.get(account.id)):
                continue
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

    def _is_followed(self, account: Account, known: KnownItem | None) -> bool:
        """Tell whether an account's entry is compared: of one not backed up only what led to that is."""
        if self._enrolment.is_enabled(account.id, account.metadata):
            return True
        if known is None:
            self._enrolment.note(account.id, account.metadata)
            return False
        return self._enrolment.is_enabled(account.id)

    async def _scan_account(self, work: Work, one: Account) -> None:
        work.run.check()
        account, name = one.id, one.name or one.id
        basis = self._store.journal.last_sequence
        moment = self._clock.now()
        statistics = await asyncio.to_thread(self._store.statistics.account, account)
        since = None if work.options.deep else statistics.cursor
        try:
            listing = await self._appserver.changes(account, since)
        except AppServerUnavailable as error:
            work.unlisted(name, error.message)
            return
        except AppServerRefused as error:
            work.account_vanished(name, error.message)
            return
        work.tally.accounts += 1
        if listing.scope is not None and not listing.scope:
            work.tally.unchanged_accounts += 1
            return
        deep = work.options.deep
        planned = await asyncio.to_thread(self._plan, account, listing, basis, moment, deep)
        reason = await asyncio.to_thread(self._suspicion, account, planned)
        if reason is not None and not work.options.force:
            # Deletions that were told and not recorded yet explain themselves.
            await work.wait_until_recorded(self._store.journal.last_sequence)
            planned = await asyncio.to_thread(self._plan, account, listing, basis, moment, deep)
            reason = await asyncio.to_thread(self._suspicion, account, planned)
        if reason is not None and not work.options.force:
            work.refuse(name, reason)
            return
        work.tally.unchanged += planned.unchanged
        work.done += planned.unchanged
        findings = [
            *planned.altered,
            *(plan.deletion(item, basis=basis, moment=moment) for item in planned.gone),
        ]
        for finding in findings:
            work.count(finding)
        await work.add([*findings, *(plan.doubt(item, moment=moment) for item in planned.unplaced)])
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
        unknown = [listed.item for listed in listing.items if listed.item not in known]
        known |= {item.item: item for item in index.items_of(account, unknown)}
        known.pop(account, None)
        return plan.plan_account(listing, known, account=account, basis=basis, moment=moment, deep=deep)

    def _suspicion(self, account: str, planned: plan.AccountPlan) -> str | None:
        """Return why a listing is not to be believed.

        An emptied folder explains any loss, and so does that the account was deleted since and made anew.
        """
        if len(planned.gone) < plan.SUSPICIOUS_ITEMS_MIN:
            return None
        if any(gap.reason == GAP_EMPTIED for gap in self._store.ledger.gaps(account=account)):
            return None
        history = self._store.histories.read(ItemKey(account, Kind.ACCOUNT, account))
        former_until = max((state.start for state in history if state.deleted), default=None)
        former = [item for item in planned.gone if former_until is not None and item.last <= former_until]
        live, _ = self._store.index.account_counts(account)
        known_live = sum(count for kind, count in live.items() if kind != Kind.ACCOUNT)
        return plan.suspicion(len(planned.gone) - len(former), known_live - len(former))

    async def _directory_entries(self, work: Work) -> None:
        basis = self._store.journal.last_sequence
        moment = self._clock.now()
        try:
            entries = await self._appserver.directory()
        except (AppServerUnavailable, AppServerRefused) as error:
            work.unlisted("domains, COS and mailing lists", error.message)
            return
        kinds = [Kind.DOMAIN, Kind.COS, *([] if self._skips_lists() else [Kind.MAILING_LIST])]
        listed = {ItemKey("", entry.kind, entry.id): entry for entry in entries if entry.kind in kinds}
        known = {
            ItemKey("", item.kind, item.item): item
            for kind in kinds
            for item in await asyncio.to_thread(self._store.index.entries, kind)
        }
        findings = [
            finding
            for key, entry in listed.items()
            if (finding := plan.entry_change(key, entry.metadata, known.get(key), basis=basis, moment=moment))
            is not None
        ]
        gone = [item for key, item in known.items() if key not in listed]
        reason = plan.suspicion_of_entries(len(gone), len(known))
        if reason is not None and not work.options.force:
            work.refuse(ALL_ENTRIES, reason)
            gone = []
        findings += [plan.deletion(item, basis=basis, moment=moment) for item in gone]
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
