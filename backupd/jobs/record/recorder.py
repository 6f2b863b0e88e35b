"""Recorder: the effects around the plan. One thread of its own touches journal, blobs, histories and index.

A round reads a batch behind the cursor, decides (plan.py), reads from the AppServer what nobody
photographed, writes blobs, then histories, then the index. The durable cursor follows at a checkpoint,
after everything it covers is synced; a crash before that repeats the rounds since, which changes nothing.
If a round fails (a full disk, say) nothing is counted as done and the next round starts from the cursor
again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import msgspec
import structlog

from backupd.appservers.base import AppServer, Reading
from backupd.clock import Clock
from backupd.coalescing import WINDOW, Entry, Group
from backupd.errors import (
    AppServerRefused,
    AppServerUnavailable,
    CorruptHistory,
    CorruptJournal,
    ItemVanished,
)
from backupd.items import ItemKey
from backupd.jobs.record import plan
from backupd.jobs.record.plan import Recent
from backupd.jobs.record.waiting import WaitingRoom
from backupd.states import ChangeType, Photograph, State, Transaction, next_state
from backupd.store.blobs import Staged
from backupd.store.store import Store

ENTRIES_MAX = 4_000
BATCH_BYTES_MAX = 16 << 20
RECENT_ITEMS_MAX = 8_192
READS_AT_ONCE = 8
CHECKPOINT_SECONDS = 1.0

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What one round did. `more`: the journal goes on behind what was read."""

    entries: int = 0
    transactions: int = 0
    more: bool = False


class RecorderCounts(msgspec.Struct, kw_only=True):
    """Counts since the recorder began."""

    transactions: int = 0
    vanished: int = 0
    duplicates: int = 0
    gaps: int = 0
    journal_errors: int = 0


class _Round(msgspec.Struct):
    entries: int
    planned: plan.Plan
    needs: list[int]
    more: bool


class Recorder:
    """Turns journal entries into states. `store` must be writable; only one recorder may run on it."""

    def __init__(
        self,
        store: Store,
        appserver: AppServer,
        *,
        clock: Clock,
        window: timedelta = WINDOW,
        blobless: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._appserver = appserver
        self._clock = clock
        self._window = window
        self._blobless = blobless
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._recent: OrderedDict[ItemKey, Recent] = OrderedDict()
        self._cursor = store.index.cursor()
        self._checked_gaps_through = self._cursor
        self._checkpointed = self._cursor
        self._checkpoint_due = 0.0
        self._is_doubtful = False
        self.counts = RecorderCounts()
        self.waiting = WaitingRoom(
            store, appserver, clock=clock, off_loop=self._off_loop, has_blob=self._has_blob
        )

    @property
    def cursor(self) -> int:
        """The sequence number up to which everything is recorded, durable at the next checkpoint."""
        return self._cursor

    @property
    def durable_cursor(self) -> int:
        """The sequence number up to which everything recorded is synced."""
        return self._checkpointed

    async def record_next(self, ripe_through: int) -> Recorded:
        """Record the next batch; entries behind `ripe_through` may be held back. Raises `OSError`."""
        try:
            round_ = await self._off_loop(lambda: self._prepare(ripe_through))
            if not round_.entries:
                return Recorded()
            readings = await self._read_needed(round_)
            transactions = await self._off_loop(lambda: self._write(round_, readings))
        except BaseException:
            await self._off_loop(self._start_over)
            raise
        return Recorded(entries=round_.entries, transactions=transactions, more=round_.more)

    def _start_over(self) -> None:
        """Forget what a failed round did not finish; the next one begins at the cursor again."""
        self._recent.clear()
        self._is_doubtful = True
        self._store.index.rollback()

    async def checkpoint(self, *, force: bool = False) -> None:
        """Sync what was recorded and move the durable cursor, at most once a second unless forced."""
        now = self._clock.monotonic()
        if self._checkpointed == self._cursor or (not force and now < self._checkpoint_due):
            return
        cursor = self._cursor
        await self._off_loop(lambda: self._store.checkpoint(cursor))
        self._checkpointed = cursor
        self._checkpoint_due = now + CHECKPOINT_SECONDS

    def close(self) -> None:
        """End the recorder's thread; everything recorded stays."""
        self._executor.shutdown()

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    # ------------------------------------------------------------------ prepare

    def _prepare(self, ripe_through: int) -> _Round:
        entries = self._read_journal()
        if not entries:
            return _Round(0, plan.Plan(groups=(), cursor=self._cursor), [], more=False)
        read_through = entries[-1].sequence
        self._note_gaps(entries)
        items = [entry for entry in entries if entry.change.type is not ChangeType.EMPTIED]
        sifted = plan.sift(items, self._recent_of)
        self.counts.duplicates += sifted.duplicates
        if self._is_doubtful:
            # The round before failed, perhaps between a history and the index.
            self._store.catch_up(sifted.recorded)
            self._is_doubtful = False
        more = read_through < self._store.journal.last_sequence
        planned = plan.plan_groups(
            sifted.fresh, read_through=read_through, ripe_through=ripe_through, cut=more, window=self._window
        )
        planned = msgspec.structs.replace(planned, groups=self._with_bodies_stored(planned.groups))
        has_blob = self._has_blob
        needs = [
            place
            for place, group in enumerate(planned.groups)
            if plan.needs_reading(group, self._recent_of(group.transaction.key).last, has_blob)
        ]
        return _Round(len(entries), planned, needs, more=more)

    def _read_journal(self) -> list[Entry]:
        while True:
            try:
                return self._store.journal.read(
                    self._cursor, entries_max=ENTRIES_MAX, bytes_max=BATCH_BYTES_MAX
                )
            except CorruptJournal as error:
                # The record is named and skipped; what it said is missing, which a scan of all heals.
                self.counts.journal_errors += 1
                log.error("journal_corrupt", error=error.message, resume_after=error.resume_after)
                self._store.ledger.open_gap("", "journal_corrupt", error.message, self._clock.now())
                if error.resume_after <= self._cursor:
                    raise
                self._cursor = error.resume_after

    def _note_gaps(self, entries: Sequence[Entry]) -> None:
        new = [entry for entry in entries if entry.sequence > self._checked_gaps_through]
        if not any(
            entry.change.number is not None or entry.change.type is ChangeType.EMPTIED for entry in new
        ):
            self._checked_gaps_through = max(self._checked_gaps_through, entries[-1].sequence)
            return
        ledger = self._store.ledger
        gaps, counts = plan.gaps_of(new, ledger.numbers())
        with ledger.batch():
            for gap in gaps:
                ledger.open_gap(gap.account, gap.reason, gap.detail, self._clock.now())
                self.counts.gaps += 1
                log.warning("gap_opened", account=gap.account, reason=gap.reason, detail=gap.detail)
            ledger.set_numbers(counts)
        self._checked_gaps_through = entries[-1].sequence

    def _with_bodies_stored(self, groups: Sequence[Group]) -> list[Group]:
        """Store contents that came along, so that what may have to wait needs no copy of them."""
        staged: list[Staged] = []
        for group in groups:
            change = group.photographed
            if change is not None and change.body is not None and not self._blobless():
                staged.append(self._store.blobs.stage(change.body))
        self._store.blobs.commit(staged)
        return list(groups)

    def _has_blob(self, digest: str) -> bool:
        return self._blobless() or self._store.blobs.contains(digest)

    def _recent_of(self, key: ItemKey) -> Recent:
        recent = self._recent.get(key)
        if recent is not None:
            self._recent.move_to_end(key)
            return recent
        try:
            recent = Recent(*self._store.histories.last(key))
        except CorruptHistory as error:
            log.error("history_corrupt", account=key.account, item=key.item, error=error.message)
            recent = Recent(None, frozenset())
        self._remember(key, recent)
        return recent

    def _remember(self, key: ItemKey, recent: Recent) -> None:
        self._recent[key] = recent
        self._recent.move_to_end(key)
        while len(self._recent) > RECENT_ITEMS_MAX:
            self._recent.popitem(last=False)

    # --------------------------------------------------------------------- read

    async def _read_needed(self, round_: _Round) -> dict[int, Reading | Exception]:
        """Read the needed items, a few at a time; an error stands in the place of a reading."""
        results: dict[int, Reading | Exception] = {}
        places = iter(round_.needs)

        async def reader() -> None:
            for place in places:
                key = round_.planned.groups[place].transaction.key
                try:
                    results[place] = await self._appserver.read(key)
                except (ItemVanished, AppServerUnavailable, AppServerRefused) as error:
                    results[place] = error

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(READS_AT_ONCE, len(round_.needs))):
                tasks.create_task(reader(), name="photograph")
        return results

    # -------------------------------------------------------------------- write

    def _write(self, round_: _Round, readings: dict[int, Reading | Exception]) -> int:
        photographs, staged = self._stage_contents(readings)
        self._store.blobs.commit(staged)
        written: dict[ItemKey, list[State]] = {}
        for place, group in enumerate(round_.planned.groups):
            key = group.transaction.key
            outcome = photographs.get(place)
            if isinstance(outcome, AppServerUnavailable):
                self.waiting.keep_group(group, outcome)
                continue
            recent = self._recent_of(key)
            transaction, photograph = self._decide(group, outcome, recent.last)
            state = next_state(recent.last, transaction, photograph)
            if state is None:
                continue
            written.setdefault(key, []).append(state)
            self._remember(key, Recent(state, recent.events | frozenset(state.events)))
        transactions = 0
        index = self._store.index
        for key, states in written.items():
            try:
                self._store.histories.append(key, states)
            except CorruptHistory as error:
                self._recent.pop(key, None)
                self.waiting.keep_states(key, states, error)
                continue
            index.record(key, states)
            transactions += len(states)
        index.commit(self._checkpointed)
        self._cursor = round_.planned.cursor
        self.counts.transactions += transactions
        return transactions

    def _stage_contents(
        self, readings: dict[int, Reading | Exception]
    ) -> tuple[dict[int, Photograph | Exception], list[Staged]]:
        photographs: dict[int, Photograph | Exception] = {}
        staged: list[Staged] = []
        for place, reading in readings.items():
            if isinstance(reading, Exception):
                photographs[place] = reading
                continue
            if reading.content is None:
                photographs[place] = Photograph(metadata=reading.metadata)
                continue
            try:
                with reading.content.open() as content:
                    blob = self._store.blobs.stage(content)
            except (ItemVanished, AppServerUnavailable) as error:
                photographs[place] = error
                continue
            staged.append(blob)
            photographs[place] = Photograph(metadata=reading.metadata, digest=blob.digest, size=blob.size)
        return photographs, staged

    def _decide(
        self, group: Group, outcome: Photograph | Exception | None, last: State | None
    ) -> tuple[Transaction, Photograph | None]:
        transaction = group.transaction
        match outcome:
            case None:
                return transaction, plan.told_photograph(group)
            case Photograph():
                if transaction.change is ChangeType.DELETED:
                    transaction = msgspec.structs.replace(transaction, change=ChangeType.MODIFIED)
                return transaction, outcome
            case _:
                self.counts.vanished += 1
                log.info("item_vanished", item=str(transaction.key), reason=str(outcome))
                return plan.after_vanishing(group, last, self._has_blob)
