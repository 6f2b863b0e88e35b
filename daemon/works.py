"""Works: what each type of operation does, made from its parameters alone, also after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from backupd.clock import Clock, parse_moment
from backupd.errors import AppServerUnavailable, BackupdError, SuspiciousListing, UnknownAccount
from backupd.jobs.archive.configuration import ConfigurationDump
from backupd.jobs.archive.customizations import Customizations
from backupd.jobs.restore import (
    AccountRestore,
    ContentRestore,
    ContentsWanted,
    DrillWanted,
    Export,
    ExternalRestore,
    ExternalWanted,
    ItemRestore,
    NewAccount,
    RestoreDrill,
    Undelete,
    export,
)
from backupd.jobs.restore.drill import ACCOUNTS, ITEMS
from backupd.jobs.restore.importing import CONCURRENT_ACCOUNTS
from backupd.jobs.smartscan.scan import SmartScan
from backupd.jobs.smartscan.tally import ScanOptions
from backupd.operations import Operation, Run, Verdict, Work
from backupd.store.store import Store
from daemon.blob_archives import BlobArchive
from daemon.healing import HEALING, WHOLE_SERVER, close_gaps
from daemon.metadata_sending import MetadataSending
from daemon.operations_queue import Factory

_EXTERNAL_CHOICES = (
    "filter_deleted",
    "skip_system_accounts",
    "skip_aliases",
    "skip_distribution_lists",
    "skip_coses",
    "skip_account_provisioning",
    "skip_domain_provisioning",
    "provisioning_only",
    "restore_datasource",
    "dry_run",
)
"""Parameters of an external restore that are named as the engine names them."""
SCHEDULE = "schedule"
"""Who started an operation that a schedule queued."""

log = structlog.get_logger(__name__)


class Works:
    """The factories of the queue. Scans begin once live changes are gathered: none falls between."""

    def __init__(
        self,
        *,
        store: Store,
        scan: SmartScan,
        restore: ItemRestore,
        accounts: AccountRestore,
        export: Export,
        drill: RestoreDrill,
        external: ExternalRestore,
        contents: ContentRestore,
        dump: ConfigurationDump,
        customizations: Customizations,
        archives_customizations: Callable[[], bool],
        clock: Clock,
        wait_until_gathering: Callable[[], Awaitable[object]],
        metadata: MetadataSending,
        archives_metadata: Callable[[], bool],
        open_archive: Callable[[str, Path], BlobArchive],
    ) -> None:
        """Take the verbs; `archives_customizations` is what the attribute says at the time."""
        self._store = store
        self._scan = scan
        self._restore = restore
        self._accounts = accounts
        self._export = export
        self._drill = drill
        self._external = external
        self._contents = contents
        self._dump = dump
        self._customizations = customizations
        self._archives_customizations = archives_customizations
        self._clock = clock
        self._wait_until_gathering = wait_until_gathering
        self._metadata = metadata
        self._archives_metadata = archives_metadata
        self._open_archive = open_archive

    def factories(self) -> dict[str, Factory]:
        """Return a factory for each type of operation."""
        return {
            "doSmartScan": self._smartscan,
            "doAccountScan": self._account_scan,
            "doItemRestore": self._item_restore,
            "doRestoreOnNewAccount": self._restore_on_new_account,
            "doUndelete": self._undelete,
            "doExport": self._do_export,
            "doRestoreDrill": self._restore_drill,
            "doExternalRestore": self._external_restore,
            "doRestoreBlobs": self._restore_blobs,
            "doBackupServerCustomizations": self._archive_customizations,
            "doBackupCluster": self._record_cluster,
            "doBackupLDAP": self._dump_directory,
        }

    def _smartscan(self, operation: Operation) -> Work:
        options = _scan_options(operation.parameters)

        async def work(run: Run) -> str:
            await self._wait_until_gathering()
            seen = await asyncio.to_thread(self._store.ledger.gaps)
            verdict = await self._scan.run_all(run, options)
            await asyncio.to_thread(close_gaps, self._store, seen, WHOLE_SERVER, self._clock.now())
            verdict += await self._customizations_of_the_day(run)
            if self._archives_metadata() or operation.parameters.get("remote_metadata_upload"):
                verdict += await self._metadata_outside(run)
            return verdict

        return work

    async def _metadata_outside(self, run: Run, account: str | None = None) -> str:
        """Archive what changed on the external volume; what goes wrong is told and fails no scan."""
        within = Run(self._clock, uuid=run.uuid)
        try:
            archived = await self._metadata.archive(within, account)
        except (BackupdError, OSError) as error:
            run.note_error("metadata on the external volume", str(error))
            return "; the metadata could not be archived on the external volume"
        for failed in within.errors:
            run.note_error(failed.item, failed.reason)
        return "" if archived is None else f"; {archived.sentence()}"

    async def _server_archives_outside(self, run: Run, operation: Operation) -> str:
        """Send the server's archives outside where that is asked for."""
        if not operation.parameters.get("remote_metadata_upload"):
            return ""
        try:
            sent = await self._metadata.send_server_archives()
        except (BackupdError, OSError) as error:
            run.note_error("archives on the external volume", str(error))
            return "; they could not be sent to the external volume"
        return f"; {sent:,} archives sent to the external volume" if self._metadata.is_wanted else ""

    async def _customizations_of_the_day(self, run: Run) -> str:
        """Archive the server's own files once a day; what goes wrong is told and fails no scan."""
        now = self._clock.now()
        due = await asyncio.to_thread(self._customizations.is_due, now)
        if not due or not self._archives_customizations():
            return ""
        within = Run(self._clock, uuid=run.uuid)
        try:
            verdict = await asyncio.to_thread(self._customizations.run, within, now)
        except (BackupdError, OSError) as error:
            run.note_error("customizations", str(error))
            return "; the server's own files could not be archived"
        for failed in within.errors:
            run.note_error(failed.item, failed.reason)
        return f"; {verdict.sentence}"

    def _archive_customizations(self, operation: Operation) -> Work:
        async def work(run: Run) -> Verdict:
            verdict = await asyncio.to_thread(self._customizations.run, run, self._clock.now())
            sent = await self._server_archives_outside(run, operation)
            return msgspec.structs.replace(verdict, sentence=verdict.sentence + sent)

        return work

    def _record_cluster(self, operation: Operation) -> Work:
        async def work(run: Run) -> str:
            if operation.started_by == SCHEDULE:
                path = await asyncio.to_thread(self._dump.write_daily, self._clock.now())
                return f"configuration dumped in {path.name}" if path else "today's dump is there already"
            recorded = await self._scan.run_directory(run, ScanOptions())
            path = await asyncio.to_thread(self._dump.write, self._clock.now())
            sent = await self._server_archives_outside(run, operation)
            return f"{recorded}; configuration dumped in {path.name}{sent}"

        return work

    def _dump_directory(self, operation: Operation) -> Work:
        async def work(run: Run) -> str:
            path = await asyncio.to_thread(self._dump.write, self._clock.now())
            sent = await self._server_archives_outside(run, operation)
            return f"the AppServer's directory dumped with the configuration in {path.name}{sent}"

        return work

    def _account_scan(self, operation: Operation) -> Work:
        options = _scan_options(operation.parameters)
        account = operation.parameters["account"]

        async def work(run: Run) -> str:
            await self._wait_until_gathering()
            seen = await asyncio.to_thread(self._store.ledger.gaps)
            try:
                verdict = await self._scan.run_account(run, account, options)
            except UnknownAccount as error:
                if operation.started_by != HEALING:
                    raise
                # An event named an account that is nowhere: there is nothing of it to be found.
                verdict = f"{error.message}: nothing to scan"
            known = await asyncio.to_thread(self._store.index.find_account, account)
            identifier = account if known is None else known.item
            await asyncio.to_thread(close_gaps, self._store, seen, identifier, self._clock.now())
            if operation.parameters.get("remote_metadata_upload"):
                verdict += await self._metadata_outside(run, identifier)
            return verdict

        return work

    def _item_restore(self, operation: Operation) -> Work:
        given = operation.parameters

        async def work(run: Run) -> str:
            account, item, dry = given["account"], given["item_id"], bool(given.get("dry_run"))
            when, folder = _moment(given.get("date")), given.get("restore_folder")
            scanned = await self._safety_scan(run, account, dry=dry)
            if dry:
                return scanned + await self._restore.foresee(account, item, when=when, folder=folder)
            restored = await self._restore.run(account, item, when=when, folder=folder, run=run)
            return scanned + restored.sentence()

        return work

    def _restore_on_new_account(self, operation: Operation) -> Work:
        given = operation.parameters
        wanted = NewAccount(
            source=given["source_account"],
            destination=given["destination_account"],
            when=_moment(given.get("date")),
            undelete=bool(given.get("undelete")),
            undelete_from=_moment(given.get("undelete_start_date")),
            keep_id=bool(given.get("keep_id")),
            dry_run=bool(given.get("dry_run")),
        )

        async def work(run: Run) -> Verdict:
            scanned = await self._safety_scan(run, wanted.source, dry=wanted.dry_run)
            return _prefixed(scanned, await self._accounts.on_new_account(run, wanted))

        return work

    def _undelete(self, operation: Operation) -> Work:
        given = operation.parameters
        wanted = Undelete(
            account=given["account"],
            start=_moment(given.get("start_date")),
            end=_moment(given.get("end_date")),
            to_original_folder=bool(given.get("target_original_folder", True)),
            dry_run=bool(given.get("dry_run")),
        )

        async def work(run: Run) -> Verdict:
            scanned = await self._safety_scan(run, wanted.account, dry=wanted.dry_run)
            return _prefixed(scanned, await self._accounts.undelete(run, wanted))

        return work

    def _do_export(self, operation: Operation) -> Work:
        given = operation.parameters
        wanted = export.Wanted(
            destination=Path(given["destination_path"]),
            accounts=tuple(given.get("accounts") or ()),
            domains=tuple(given.get("domains") or ()),
            cos=tuple(given.get("cos") or ()),
            when=_moment(given.get("date")),
            filter_deleted=bool(given.get("filter_deleted", True)),
            free_bytes_min=max(0, int(given.get("threshold") or 0)) << 20,
            read_errors_max=given.get("read_error_threshold"),
            skip_items=bool(given.get("skip_items")),
            dry_run=bool(given.get("dry_run")),
        )

        async def work(run: Run) -> Verdict:
            gaps = await asyncio.to_thread(self._store.ledger.gaps)
            doubt = f"changes may have been missed ({len(gaps):,} open gaps); " if gaps else ""
            return _prefixed(doubt, await self._export.run(run, wanted))

        return work

    def _restore_drill(self, operation: Operation) -> Work:
        given = operation.parameters
        scratch = given.get("scratch_path")
        wanted = DrillWanted(
            accounts=tuple(given.get("accounts") or ()),
            items=int(given.get("items", ITEMS)),
            account_restores=int(given.get("account_restores", ACCOUNTS)),
            seed=given.get("seed"),
            keep=bool(given.get("keep")),
            scratch_path=None if scratch is None else Path(scratch),
        )

        async def work(run: Run) -> Verdict:
            return await self._drill.run(run, wanted)

        return work

    def _external_restore(self, operation: Operation) -> Work:
        given = operation.parameters
        chosen = {name: bool(given[name]) for name in _EXTERNAL_CHOICES if given.get(name) is not None}
        wanted = ExternalWanted(
            source_path=given["source_path"],
            accounts=tuple(given.get("accounts") or ()),
            domains=tuple(given.get("domains") or ()),
            when=_moment(given.get("date")),
            force=bool(given.get("force_as_external_restore")),
            concurrent_accounts=int(given.get("concurrent_accounts") or CONCURRENT_ACCOUNTS),
            file_bytes_max=given.get("max_file_size"),
            **chosen,
        )

        async def work(run: Run) -> Verdict:
            async with self._archive(given, wanted.source_path) as archive:
                return await self._external.run(run, wanted, archive)

        return work

    @asynccontextmanager
    async def _archive(self, given: Mapping[str, Any], source: str) -> AsyncIterator[BlobArchive | None]:
        """Open the contents of another Backup Path that rest on an external volume, where that is said."""
        wanted = given.get("blobs_archive")
        if not wanted or not source:
            yield None
            return
        archive = await asyncio.to_thread(self._open_archive, wanted, Path(source))
        try:
            yield archive
        finally:
            await asyncio.to_thread(archive.close)

    def _restore_blobs(self, operation: Operation) -> Work:
        given = operation.parameters
        wanted = ContentsWanted(
            volume=given["volume_id"],
            items=given.get("items") or "all",
            accounts=tuple(given.get("accounts") or ()),
            at_once=int(given.get("threads") or 4),
            backup_path=given.get("backup_path") or "",
            dry_run=bool(given.get("dry_run", True)),
        )

        async def work(run: Run) -> Verdict:
            # No scan first: it would record the damage, and what it missed can do no harm here.
            async with self._archive(given, wanted.backup_path) as archive:
                return await self._contents.run(run, wanted, archive)

        return work

    async def _safety_scan(self, run: Run, account: str, *, dry: bool) -> str:
        """Scan an account with an open gap before its restore; a dry run only says that it would be."""
        known = await asyncio.to_thread(self._store.index.find_account, account)
        if known is None:
            return ""
        gaps = await asyncio.to_thread(self._store.ledger.gaps)
        if not any(gap.account in (WHOLE_SERVER, known.item) for gap in gaps):
            return ""
        if dry:
            return "changes may have been missed: the account would be scanned first; "
        log.info("safety_scan", account=known.item)
        try:
            verdict = await self._scan.run_account(run, known.item, ScanOptions())
        except (SuspiciousListing, AppServerUnavailable) as error:
            # What was recorded is there all the same: who needs it back is not made to wait.
            run.note_error("scan before the restore", error.message)
            return "changes may have been missed, and the scan before the restore did not succeed; "
        await asyncio.to_thread(close_gaps, self._store, gaps, known.item, self._clock.now())
        return f"changes may have been missed, so the account was scanned first ({verdict}); "


def _prefixed(words: str, verdict: Verdict) -> Verdict:
    return msgspec.structs.replace(verdict, sentence=words + verdict.sentence)


def _scan_options(given: Mapping[str, Any]) -> ScanOptions:
    return ScanOptions(
        deep=bool(given.get("deep")),
        force=bool(given.get("force")),
        read_errors_max=given.get("read_error_threshold"),
    )


def _moment(date: str | None) -> datetime | None:
    return None if date in (None, "last", "first") else parse_moment(date)
