"""The daemon's coherency checks: queued operations over its own Backup Path, while it goes on recording.

The check runs in a thread of its own. Whatever must be alone with histories and index goes to the recorder's
thread between two rounds; contents that are lost are read from the AppServer on the event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import TimeoutError as NotYet
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import structlog

from backupd.appservers.base import AppServer
from backupd.appservers.opening import opened
from backupd.clock import Clock
from backupd.errors import (
    AppServerRefused,
    AppServerUnavailable,
    BackupdError,
    ItemVanished,
    OperationStopped,
    UnknownAccount,
    UsageError,
)
from backupd.items import CONTENT_KINDS, ItemKey
from backupd.jobs.coherency import job, memory
from backupd.jobs.coherency.check import Check, Wanted
from backupd.jobs.coherency.findings import SORTS, Finding, Weight, in_words
from backupd.jobs.coherency.keeping import StoreKeeper
from backupd.jobs.coherency.memory import Remembered
from backupd.jobs.coherency.repair import Repair
from backupd.keeping_views import CoherencyView
from backupd.operations import Operation, Run, Verdict, Work
from backupd.store.ledger_tables import Remembered as Kept
from backupd.store.store import Store
from daemon.comparison import Comparison
from daemon.operations_queue import Factory
from daemon.recording import Recording
from daemon.works import SCHEDULE

TYPE = "doCoherencyCheck"
LOOK_SECONDS = 0.2
"""How often a check that waits for the event loop looks whether it shall stop."""
END_SECONDS = 10.0
AFTER_SCAN = timedelta(hours=1)
"""An account that a scan met damage in is not checked again so soon."""
T = TypeVar("T")

log = structlog.get_logger(__name__)


class CoherencyWorks:
    """The factory of the queue for checks."""

    def __init__(
        self,
        *,
        store: Store,
        appserver: AppServer,
        recording: Recording,
        clock: Clock,
        workers: int | None,
        scheduled: Callable[[], tuple[str | None, int | None]],
    ) -> None:
        """`scheduled` returns share and minutes of runs that a schedule starts."""
        self._store = store
        self._appserver = appserver
        self._recording = recording
        self._clock = clock
        self._workers = workers
        self._scheduled = scheduled

    def factories(self) -> dict[str, Factory]:
        """Return the factory of this type of operation."""
        return {TYPE: self._check}

    def _check(self, operation: Operation) -> Work:
        given = operation.parameters
        own = self._store.layout.root
        path = Path(given.get("backup_path") or own)
        if not _is_same(path, own):
            raise UsageError(
                f"{path} is not this daemon's Backup Path",
                hint="backupctl on this machine checks any path by itself, without the daemon",
            )
        sample, minutes = given.get("sample"), given.get("max_minutes")
        if operation.started_by == SCHEDULE:
            sample, minutes = self._scheduled()
        named = list(given.get("accountIds") or ())
        job.wanted_of(named, sample, minutes)

        async def work(run: Run) -> Verdict:
            accounts = await asyncio.to_thread(self._accounts, named)
            wanted = job.wanted_of(accounts, sample, minutes)
            return await self._run(
                run, wanted, fix=bool(given.get("fixBackup")), compare=bool(given.get("checkZimbra"))
            )

        return work

    async def _run(self, run: Run, wanted: Wanted, *, fix: bool, compare: bool) -> Verdict:
        loop = asyncio.get_running_loop()
        waited = _Bridge(loop, run).waited

        def between(work: Callable[[], T], /) -> T:
            return waited(self._recording.between_rounds(work))

        def refetch(digest: str, items: Sequence[ItemKey]) -> bool:
            return waited(self._refetched(digest, items))

        def compared(accounts: Sequence[str]) -> list[Finding]:
            return waited(comparison.run(accounts))

        comparison = Comparison(self._store, self._appserver, self._recording, self._clock)
        root = self._store.layout.root
        check = Check(root, clock=self._clock, live=True, calm=between, workers=self._workers)
        keeper = StoreKeeper(self._store, between=between, refetch=refetch)
        work = job.Job(
            check,
            clock=self._clock,
            repair=Repair(root, keeper, clock=self._clock) if fix else None,
            compare=compared if compare else None,
        )
        kept = Kept(self._store.ledger)

        def in_thread() -> Verdict:
            before = memory.decode(kept.get(memory.NAME))

            def keep(known: Remembered) -> None:
                kept.keep(memory.NAME, memory.encode(known))

            return work.run(run, wanted, before, keep).verdict

        # Not awaited as a task is: on the way out the thread must be waited for.
        working = loop.run_in_executor(None, contextvars.copy_context().run, in_thread)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            # The thread must not outlive the store that it reads.
            run.request_stop()
            await asyncio.wait({working}, timeout=END_SECONDS)
            raise

    def _accounts(self, names: Sequence[str]) -> list[str]:
        found = []
        for name in names:
            known = self._store.index.find_account(name)
            folder = self._store.layout.account(name)
            if known is None and not folder.is_dir():
                raise UnknownAccount(f"there is no account {name[:80]!r} in the backup")
            found.append(name if known is None else known.item)
        return found

    async def _refetched(self, digest: str, items: Sequence[ItemKey]) -> bool:
        """Store a content again from the first item that still has it."""
        for key in items:
            if key.kind not in CONTENT_KINDS:
                continue
            try:
                reading = await self._appserver.read(key)
                if reading.content is None:
                    continue
                with opened(reading.content) as content:
                    staged = await asyncio.to_thread(self._store.blobs.stage, content)
            except (AppServerUnavailable, AppServerRefused, ItemVanished, BackupdError, OSError) as error:
                log.info("content_not_read_again", item=str(key), reason=str(error))
                continue
            if staged.digest == digest:
                await asyncio.to_thread(self._store.blobs.commit, [staged])
                return True
            await asyncio.to_thread(self._store.blobs.discard, [staged])
        return False


class _Bridge:
    """From a check's thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run: Run) -> None:
        self._loop = loop
        self._run = run

    def waited(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something on the loop, but not once the run shall stop. Raises what it raises."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while True:
            try:
                return future.result(LOOK_SECONDS)
            except NotYet:
                if self._run.stop_requested:
                    future.cancel()
                    raise OperationStopped("stopped as asked") from None


def remembered(store: Store) -> Remembered:
    """Return what is known of the checks of a path; blocks."""
    return memory.decode(Kept(store.ledger).get(memory.NAME))


def view(store: Store) -> CoherencyView:
    """Return what the status tells of the checks of a path; blocks."""
    known = remembered(store)
    told = {code: count for code, count in known.counts.items() if SORTS[code].weight is Weight.TOLD}
    open_ = {code: count for code, count in known.counts.items() if code not in told}
    return CoherencyView(
        findings=sum(open_.values()),
        dangers=sum(count for code, count in open_.items() if SORTS[code].weight is Weight.DANGER),
        lost=told.get("blob.lost", 0),
        words=in_words(open_),
        counts=known.counts,
        last_run=known.last_run,
        last_whole=known.last_whole,
        share=known.share,
    )


def _is_same(path: Path, own: Path) -> bool:
    try:
        return path.samefile(own)
    except OSError:
        return False
