"""Recorder: the effects around the plan. One thread of its own touches journal, blobs, histories and index.

A round reads a batch behind the cursor, decides (plan.py), reads from the AppServer what nobody
photographed, writes blobs, then histories, then the index. The durable cursor follows at a checkpoint,
after everything it covers is synced; a crash before that repeats the rounds since, which changes nothing.
If a round fails (a full disk, say) nothing is counted as done and the next round starts from the cursor
again. What can't be read yet waits (waiting.py), and so does whatever comes after it of the same item.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from backupd.appservers.base import AppServer, Reading
from backupd.clock import Clock
from backupd.coalescing import WINDOW, Entry, Group
from backupd.enrolment import Enrolment, Everyone
from backupd.errors import (
    AppServerRefused,
    AppServerUnavailable,
    CorruptHistory,
    CorruptJournal,
    ItemVanished,
)
from backupd.items import ItemKey
from backupd.jobs.record import bodies, plan
from backupd.jobs.record.plan import Recent
from backupd.jobs.record.recollection import Recollection
from backupd.jobs.record.round import Outcome, Recorded, RecorderCounts, Round
from backupd.jobs.record.sieve import Sieve
from backupd.jobs.record.waiting import WaitingRoom
from backupd.states import ChangeType, Photograph, State, Transaction, next_state
from backupd.store.keeping import Kept
from backupd.store.store import Store

ENTRIES_MAX = 4_000
BATCH_BYTES_MAX = 16 << 20
RECENT_ITEMS_MAX = 8_192
RECENT_EVENTS_MAX = 256
"""Of one item, in memory; a single state may have more."""
REMEMBERED_ENTRIES = 5_000
"""Journal entries that are looked through at the start: more than a broker delivers again."""
READS_AT_ONCE = 8
CHECKPOINT_SECONDS = 1.0

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Recorder:
    """Turns journal entries into states. `store` must be writable; only one recorder may run on it."""

    def __init__(
        self,
        store: Store,
        appserver: AppServer,
        *,
        clock: Clock,
        window: timedelta = WINDOW,
        enrolment: Enrolment | None = None,
        damage_met: Callable[[ItemKey], None] = lambda _key: None,
    ) -> None:
        """`damage_met` hears of items whose history can't be read or grown, on the recorder's thread."""
        self._store = store
        self._appserver = appserver
        self._clock = clock
        self._window = window
        self._damage_met = damage_met
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._recent: OrderedDict[ItemKey, Recent] = OrderedDict()
        self._cursor = store.index.cursor()
        self._checked_gaps_through = self._cursor
        self._sieve = Sieve(enrolment or Everyone(), self._cursor)
        self._checkpointed = self._cursor
        self._checkpoint_due = 0.0
        self._recollection: Recollection | None = None
        self._rounds = asyncio.Lock()
        self.counts = RecorderCounts()
        self.waiting = WaitingRoom(
            store, appserver, clock=clock, off_loop=self._off_loop, has_blob=store.keeping.has
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
        async with self._rounds:
            return await self._round(ripe_through)

    async def between_rounds(self, work: Callable[[], T]) -> T:
        """Run `work` on the recorder's thread while no round is under way; return what it returns.

        Histories, blobs and index are its alone meanwhile, and what is recorded so far is committed; what it
        changed is seen by the next round. It should take well under a second: recording waits. Raises what
        `work` raises; an index transaction that it left open is rolled back then.
        """
        async with self._rounds:
            try:
                return await self._off_loop(work)
            except BaseException:
                await self._off_loop(self._store.index.rollback)
                raise
            finally:
                self._recent.clear()

    async def _round(self, ripe_through: int) -> Recorded:
        round_: Round | None = None
        try:
            round_ = await self._off_loop(lambda: self._prepare(ripe_through))
            if not round_.entries:
                return Recorded()
            await self._read_needed(round_)
            prepared = round_
            transactions = await self._off_loop(lambda: self._write(prepared))
        except BaseException:
            staged = round_.staged if round_ is not None else []
            await self._off_loop(lambda: self._start_over(staged))
            raise
        return Recorded(entries=round_.entries, transactions=transactions, more=round_.more)

    def _start_over(self, staged: Sequence[Kept]) -> None:
        """Forget what a failed round did not finish; the next one begins at the cursor again."""
        self._recent.clear()
        self._store.index.rollback()
        self._store.keeping.discard(staged)

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

    def _prepare(self, ripe_through: int) -> Round:
        recollection = self._recollection or self._recollected()
        entries = self._read_journal()
        if not entries:
            return Round(0, plan.Plan(groups=(), cursor=self._cursor))
        read_through = entries[-1].sequence
        self._note_gaps(entries)
        wanted, self.counts.unwanted = self._sieve.wanted(entries), self._sieve.unwanted
        items = [entry for entry in wanted if entry.change.type is not ChangeType.EMPTIED]
        sifted = plan.sift(items, self._recent_of, recollection.came_before)
        self.counts.duplicates += sifted.duplicates
        more = read_through < self._store.journal.last_sequence
        planned = plan.plan_groups(
            sifted.fresh,
            after=self._cursor,
            read_through=read_through,
            ripe_through=ripe_through,
            cut=more,
            window=self._window,
        )
        came_along = bodies.store_bodies(self._store, planned.groups, sifted.fresh)
        needs, joins, newest_of = list[int](), set[int](), dict[ItemKey, int]()
        present = set[str]()
        for place, group in enumerate(planned.groups):
            key = group.transaction.key
            last = self._recent_of(key).last
            newest = max(
                0 if last is None else last.transaction,
                newest_of.get(key, 0),
                recollection.newest(key, has_history=last is not None),
            )
            newest_of[key] = group.transaction.transaction
            if self.waiting.holds(group):
                joins.add(place)
            elif plan.needs_reading(group, newest, partial(self._has, present)):
                needs.append(place)
        return Round(
            len(entries), planned, needs, frozenset(joins), more=more, bodies=came_along, present=present
        )

    def _has(self, present: set[str], digest: str) -> bool:
        """Tell whether a content is kept already, and note it where it is kept as a blob."""
        keeping = self._store.keeping
        is_kept = keeping.has(digest)
        if is_kept and not keeping.is_blobless:
            present.add(digest)
        return is_kept

    def _recollected(self) -> Recollection:
        """Look through the end of the journal, as far as it is recorded."""
        after = max(0, self._cursor - REMEMBERED_ENTRIES)
        recollection = self._recollection = Recollection(after)
        while after < self._cursor:
            try:
                entries = self._store.journal.read(after, bytes_max=BATCH_BYTES_MAX)
            except CorruptJournal as error:
                after = max(after + 1, error.resume_after)
                continue
            if not entries:
                break
            after = entries[-1].sequence
            for entry in entries:
                if entry.change.event and entry.sequence <= self._cursor:
                    recollection.came_before(entry)
                    recollection.note(entry.change.key, entry.sequence)
        return recollection

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
        places = {plan.place_of(entry.change) for entry in new if entry.change.number is not None}
        gaps, counts = plan.gaps_of(new, {place: ledger.number(*place) or 0 for place in places})
        with ledger.batch():
            for gap in filter(self._sieve.is_about_enrolled, gaps):
                ledger.open_gap(gap.account, gap.reason, gap.detail, self._clock.now())
                self.counts.gaps += 1
                log.warning("gap_opened", account=gap.account, reason=gap.reason, detail=gap.detail)
            ledger.set_numbers(counts)
        self._checked_gaps_through = entries[-1].sequence

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
            self._damage_met(key)
        self._remember(key, recent)
        return recent

    def _remember(self, key: ItemKey, recent: Recent) -> None:
        self._recent[key] = recent
        self._recent.move_to_end(key)
        while len(self._recent) > RECENT_ITEMS_MAX:
            self._recent.popitem(last=False)

    # --------------------------------------------------------------------- read

    async def _read_needed(self, round_: Round) -> None:
        """Read the needed items, a few at a time, and stage their contents as they come."""
        places = iter(round_.needs)

        async def reader() -> None:
            for place in places:
                key = round_.planned.groups[place].transaction.key
                try:
                    reading = await self._appserver.read(key)
                    outcome: Outcome = await self._off_loop(partial(self._staged, reading, round_.staged))
                except (ItemVanished, AppServerUnavailable, AppServerRefused) as error:
                    outcome = error
                    if round_.bodies:
                        await self._off_loop(partial(bodies.hold_body, self._store, round_, place))
                round_.outcomes[place] = outcome

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(READS_AT_ONCE, len(round_.needs))):
                    tasks.create_task(reader(), name="photograph")
        except BaseExceptionGroup as group:
            # One error is what happened; the group around it says nothing more.
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise

    def _staged(self, reading: Reading, staged: list[Kept]) -> Photograph:
        if reading.content is None:
            return Photograph(metadata=reading.metadata)
        kept = self._store.keeping.stage(reading.content)
        staged.append(kept)
        return Photograph(metadata=reading.metadata, digest=kept.digest, size=kept.size)

    # -------------------------------------------------------------------- write

    def _write(self, round_: Round) -> int:
        self._store.keeping.commit(round_.staged)
        written: dict[ItemKey, list[State]] = {}
        for place, group in enumerate(round_.planned.groups):
            outcome = round_.outcomes.get(place)
            if isinstance(outcome, AppServerUnavailable):
                self.waiting.keep_group(group, outcome.message)
            elif place in round_.joins or self.waiting.holds(group):
                self.waiting.keep_group(group, "an earlier change of the item waits")
            else:
                self._add_state(written, group, outcome, round_.present)
        transactions = 0
        for key, states in written.items():
            try:
                self._store.record(key, states)
            except CorruptHistory as error:
                self._recent.pop(key, None)
                self.waiting.keep_states(key, states, error)
                self._damage_met(key)
                continue
            transactions += len(states)
            self._sieve.note(key, states[-1])
        self._store.index.commit(self._checkpointed)
        self._cursor = round_.planned.cursor
        self.counts.transactions += transactions
        return transactions

    def _add_state(
        self,
        written: dict[ItemKey, list[State]],
        group: Group,
        outcome: Photograph | AppServerRefused | ItemVanished | None,
        present: set[str],
    ) -> None:
        key = group.transaction.key
        recent = self._recent_of(key)
        state = next_state(recent.last, *self._decide(group, outcome, recent.last))
        if state is not None:
            if state.digest not in present and self._store.keeping.is_left(state, recent.last):
                state = msgspec.structs.replace(state, held=True)
            written.setdefault(key, []).append(state)
            before = recent.events if len(recent.events) < RECENT_EVENTS_MAX else frozenset[str]()
            self._remember(key, Recent(state, before | frozenset(state.events)))
        elif self._recollection is not None and group.last.basis is None:
            self._recollection.note(key, group.transaction.transaction)

    def _decide(
        self,
        group: Group,
        outcome: Photograph | AppServerRefused | ItemVanished | None,
        last: State | None,
    ) -> tuple[Transaction, Photograph | None]:
        transaction = group.transaction
        match outcome:
            case None if transaction.change is ChangeType.DELETED:
                return plan.at_deletion(group, last, self._store.blobs.is_readable)
            case None:
                return transaction, plan.told_photograph(group)
            case Photograph():
                if transaction.change is ChangeType.DELETED:
                    transaction = msgspec.structs.replace(transaction, change=ChangeType.MODIFIED)
                return msgspec.structs.replace(transaction, lacking=()), outcome
            case _:
                self.counts.vanished += 1
                log.info("item_vanished", item=str(transaction.key), reason=str(outcome))
                return plan.after_vanishing(group, last, self._store.blobs.is_readable)
