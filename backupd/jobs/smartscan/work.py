"""What a running scan carries: chunks being read, findings not yet journaled, accounts whose cursor waits.

A *flush* gives contents their names and journals findings; it runs in a thread, one at a time, while workers
read on. Bounds: at most `CHUNKS_AHEAD` chunks per worker are being read, at most `FLUSH_ITEMS` findings or
`FLUSH_BYTES_MAX` bytes of contents wait for a flush and as many are in one, and the scan waits when the
recorder is more than `UNRECORDED_ENTRIES_MAX` entries behind.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog

from backupd.appservers.base import ItemReader, Reading
from backupd.clock import Clock
from backupd.errors import AppServerUnavailable, BackupdError, SuspiciousListing
from backupd.events import Change, encode_change
from backupd.items import ItemKey
from backupd.jobs.smartscan import workers
from backupd.jobs.smartscan.tally import ScanOptions, Tally, believing
from backupd.jobs.smartscan.workers import ChunkItem, ChunkResult, ItemProblem
from backupd.operations import Run
from backupd.states import ChangeType
from backupd.store.keeping import Kept
from backupd.store.store import Store
from backupd.worker_processes import worker_end_told

CHUNK_ITEMS = 128
CHUNKS_AHEAD = 4
"""Enough to keep a worker busy while an account is listed."""
FLUSH_ITEMS = 1_024
FLUSH_BYTES_MAX = 64 << 20
POOL_ITEMS_MIN = 400
"""With fewer items to read, starting worker processes costs more than it saves."""
UNRECORDED_ENTRIES_MAX = 50_000
STOP_LOOK_SECONDS = 0.5
"""How often a scan that waits for the recorder looks whether it shall stop."""

log = structlog.get_logger(__name__)


class Finished(msgspec.Struct, frozen=True):
    """An account whose findings are on their way; its cursor waits for them."""

    account: str
    cursor: str
    moment: datetime
    last_item: str


class Flush(msgspec.Struct, frozen=True):
    """Contents and findings on their way to the disk, and the accounts that are complete with them.

    `stored` becomes the last sequence number; 0 where there was nothing to journal.
    """

    stored: asyncio.Future[int]
    staged: Sequence[Kept]
    accounts: Sequence[Finished]


class Work:
    """The moving parts of one scan; leaving it waits until all is recorded and keeps the cursors."""

    def __init__(
        self,
        *,
        store: Store,
        reader: ItemReader | None,
        read: Callable[[ItemKey], Awaitable[Reading]],
        workers: int,
        recorded_through: Callable[[int], Awaitable[None]],
        journaled: Callable[[], None],
        run: Run,
        options: ScanOptions,
        clock: Clock,
    ) -> None:
        self._store = store
        self._reader = reader
        self._read_one = read
        self._workers = workers
        self._recorded_through = recorded_through
        self._tell_journaled = journaled
        self._clock = clock
        self.run = run
        self.options = options
        self.tally = Tally()
        self.done = 0
        self._listed: dict[str, Finished] = {}
        self._unread: Counter[str] = Counter()
        self._journaled: list[tuple[int, Finished]] = []
        self._unreadable_accounts: set[str] = set()
        self._refusals: dict[str, str] = {}
        self._chunk: list[ChunkItem] = []
        self._moment: datetime | None = None
        self._reading: dict[asyncio.Future[ChunkResult], list[ChunkItem]] = {}
        self._payloads: list[bytes] = []
        self._staged: list[Kept] = []
        self._bytes = 0
        self._last_sequence = 0
        self._to_read = 0
        self._total: int | None = None
        self._pool: Executor | None = None
        self._flushing: Flush | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._finish()
        finally:
            # A daemon that ends waits for nothing: what is left behind goes with the next start.
            await self._end(waits=not isinstance(error, asyncio.CancelledError))

    async def _end(self, *, waits: bool) -> None:
        """End the workers; of a scan that ended early, drop what was staged and nobody wants any more."""
        if self._pool is not None:
            await asyncio.to_thread(self._pool.shutdown, wait=waits, cancel_futures=True)
        if self._reading and waits:
            await asyncio.wait(self._reading)
        if self._flushing is not None:
            if waits:
                await asyncio.wait([self._flushing.stored])
            if _is_done_well(self._flushing.stored):
                self._tell_journaled()
            else:
                self._staged += self._flushing.staged
        for future in self._reading:
            if _is_done_well(future):
                self._staged += future.result().staged
        await asyncio.to_thread(self._store.keeping.discard, self._staged)

    def estimate(self, accounts_done: int, accounts: int) -> None:
        """Estimate all items of the scan from those of the accounts listed so far, and report."""
        listed = self.done + self._to_read
        self._total = round(listed * accounts / accounts_done) if accounts_done else None
        self.run.report(self.done, self._total, unit="items")

    def count(self, finding: Change) -> None:
        """Count a finding that needs no reading."""
        match finding.type:
            case ChangeType.CREATED:
                self.tally.created += 1
            case ChangeType.DELETED:
                self.tally.deleted += 1
            case _:
                self.tally.changed += 1

    def refuse(self, what: str, reason: str) -> None:
        """Note a listing that is not believed; the scan goes on and fails at its end."""
        self.tally.refused += 1
        self._refusals[what] = reason
        self.run.note_error(what, f"suspicious listing: {reason}")
        log.warning("listing_refused", what=what, reason=reason)

    def unlisted(self, account: str, reason: str) -> None:
        """Note an account that could not be listed: nothing of it is marked as deleted."""
        self.tally.unlisted += 1
        self.run.note_error(account, reason)
        log.warning("account_not_listed", account=account, reason=reason)

    def account_vanished(self, account: str, reason: str) -> None:
        """Note an account that went while the scan was on its way; the next one finds it gone."""
        self.tally.vanished += 1
        self.run.note_error(account, reason)

    def undumped(self, reason: str) -> None:
        """Note that the configuration could not be dumped; all else is as it should be."""
        self.tally.is_undumped = True
        self.run.note_error("configuration dump", reason)
        log.error("configuration_not_dumped", reason=reason)

    async def add(self, findings: Sequence[Change]) -> None:
        """Take findings that are complete."""
        self._payloads += [encode_change(finding) for finding in findings]
        self.done += len(findings)
        await self._flush_if_full()

    async def finish(self, account: Finished, items: Sequence[ChunkItem], moment: datetime) -> None:
        """Take an account's last findings: items that must be read, in chunks, a bounded number at a time.

        The account's cursor is kept as soon as all its findings are durably recorded.
        """
        self._listed[account.account] = account
        self._unread[account.account] += len(items)
        self._to_read += len(items)
        self._moment = moment
        for item in items:
            self._chunk.append(item)
            if len(self._chunk) >= CHUNK_ITEMS:
                await self._read_chunk()

    def verdict(self) -> str:
        """Return the counted sentence. Raises `SuspiciousListing`, `AppServerUnavailable` if incomplete."""
        sentence = self.tally.sentence()
        if self._refusals:
            told = "; ".join(f"{what}: {reason}" for what, reason in list(self._refusals.items())[:5])
            raise SuspiciousListing(
                f"{sentence}. Not believed: {told}",
                hint=f"is the mail mounted as ever? if the loss is real: {believing(self._refusals)}",
            )
        if self.tally.unlisted:
            raise AppServerUnavailable(f"{sentence}. Accounts that could not be listed are in the error list")
        if self.tally.unreadable:
            raise AppServerUnavailable(
                f"{sentence}. Unreadable items are in the error list; the next scan tries again"
            )
        return sentence

    async def _read_chunk(self) -> None:
        if not self._chunk:
            return
        self.run.check()
        chunk, self._chunk = self._chunk, []
        moment = self._moment or self._clock.now()
        if self._reader is None:
            self._take(await self._read_here(chunk, moment), chunk)
            await self._flush_if_full()
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ChunkResult]
        if self._many():
            read_chunk, blobless = workers.read_chunk_in_worker, self._store.keeping.is_blobless
            with worker_end_told():
                future = loop.run_in_executor(self._workers_pool(), read_chunk, chunk, moment, blobless)
        else:
            read = copy_context().run
            future = loop.run_in_executor(
                None, read, workers.read_chunk, chunk, moment, self._reader, self._store.keeping
            )
        self._reading[future] = chunk
        if len(self._reading) >= max(2, CHUNKS_AHEAD * self._workers):
            await self._collect(asyncio.FIRST_COMPLETED)

    def _many(self) -> bool:
        return self._workers > 0 and (self._pool is not None or self._to_read >= POOL_ITEMS_MIN)

    def _workers_pool(self) -> Executor:
        if self._pool is None:
            if self._reader is None:
                message = "no reader for worker processes"
                raise BackupdError(message)
            store = self._store
            self._pool = workers.worker_pool(
                self._workers, self._reader, store.layout.root, store.blobs.level, store.keeping.holder
            )
        return self._pool

    async def _read_here(self, chunk: Sequence[ChunkItem], moment: datetime) -> ChunkResult:
        """Read a chunk through the AppServer object, for those that have no reader."""
        result = ChunkResult()
        for item in chunk:
            try:
                reading = await self._read_one(ItemKey(item.account, item.kind, item.item))
                await asyncio.to_thread(
                    workers.take_reading, result, item, moment, reading, self._store.keeping
                )
            except workers.READING_ERRORS as error:
                result.problems.append(workers.problem_of(item, error))
            except BaseException:
                await asyncio.to_thread(self._store.keeping.discard, result.staged)
                raise
        return result

    async def _collect(self, return_when: str) -> None:
        if not self._reading:
            return
        done, _ = await asyncio.wait(self._reading, return_when=return_when)
        for future in done:
            chunk = self._reading.pop(future)
            with worker_end_told():
                result = future.result()
            self._take(result, chunk)
        await self._flush_if_full()

    def _take(self, result: ChunkResult, chunk: Sequence[ChunkItem]) -> None:
        self._unread.subtract(item.account for item in chunk)
        self._payloads += result.payloads
        self._staged += result.staged
        self._bytes += result.content_bytes
        self.tally.content_bytes += result.content_bytes
        self.tally.created += result.created
        self.tally.changed += len(result.payloads) - result.created
        self.tally.unchanged += result.unchanged
        read = len(result.payloads) + result.unchanged
        self.done += read
        self._to_read -= read + len(result.problems)
        for problem in result.problems:
            self._note(problem)

    def _note(self, problem: ItemProblem) -> None:
        if problem.vanished:
            self.tally.vanished += 1
        else:
            self.tally.unreadable += 1
            self._unreadable_accounts.add(problem.account)
        self.run.note_error(f"{problem.account}/{problem.item}", problem.reason)
        bound = self.options.read_errors_max
        if bound is not None and self.tally.unreadable > bound:
            raise AppServerUnavailable(
                f"more than {bound} items could not be read; the last: {problem.reason}"
            )

    async def _flush_if_full(self) -> None:
        if len(self._payloads) >= FLUSH_ITEMS or self._bytes >= FLUSH_BYTES_MAX:
            await self._flush()

    async def _flush(self) -> None:
        """Begin to flush what waits, once the flush before has ended."""
        await self._end_flush()
        payloads, staged = self._payloads, self._staged
        self._payloads, self._staged, self._bytes = [], [], 0
        read = [account for account in self._listed if self._unread[account] <= 0]
        loop = asyncio.get_running_loop()
        self._flushing = Flush(
            loop.run_in_executor(None, copy_context().run, self._store_findings, payloads, staged),
            staged,
            [self._listed.pop(account) for account in read],
        )

    async def _end_flush(self) -> None:
        if self._flushing is None:
            return
        flush = self._flushing
        stored = await asyncio.shield(flush.stored)
        self._flushing = None
        self._last_sequence = max(self._last_sequence, stored)
        self._tell_journaled()
        self.run.report(self.done, self._total, unit="items")
        self._journaled += [(self._last_sequence, account) for account in flush.accounts]
        await asyncio.to_thread(self._keep_cursors)
        await self.wait_until_recorded(self._last_sequence - UNRECORDED_ENTRIES_MAX)

    def _store_findings(self, payloads: list[bytes], staged: list[Kept]) -> int:
        if not payloads and not staged:
            return 0
        self._store.check_space()
        self._store.keeping.commit(staged)
        return self._store.journal.append(payloads) + len(payloads) - 1 if payloads else 0

    async def wait_until_recorded(self, sequence: int) -> None:
        """Wait for the recorder. Raises `OperationStopped` where that takes long and the scan shall stop."""
        if sequence <= 0:
            return None
        while True:
            try:
                async with asyncio.timeout(STOP_LOOK_SECONDS):
                    return await self._recorded_through(sequence)
            except TimeoutError:
                self.run.check()

    async def _finish(self) -> None:
        await self._read_chunk()
        while self._reading:
            await self._collect(asyncio.FIRST_COMPLETED)
        await self._flush()
        await self._end_flush()
        await self.wait_until_recorded(self._last_sequence)
        await asyncio.to_thread(self._keep_cursors)

    def _keep_cursors(self) -> None:
        """Keep the cursors of accounts all of whose findings are durably recorded."""
        recorded = self._store.index.cursor()
        ready = [account for sequence, account in self._journaled if sequence <= recorded]
        self._journaled = [one for one in self._journaled if one[0] > recorded]
        statistics = self._store.statistics
        statistics.write_accounts(
            {
                one.account: msgspec.structs.replace(
                    statistics.account(one.account),
                    cursor=one.cursor,
                    last_scan=one.moment,
                    last_item=one.last_item or None,
                )
                for one in ready
                if one.account not in self._unreadable_accounts
            }
        )


def _is_done_well(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
