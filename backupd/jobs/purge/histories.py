"""Removing histories and whole accounts, in steps that each are durable or undone.

A step runs between two rounds of the recorder: it judges again, lists what goes, and takes it away. Accounts
are read beforehand, without holding anybody up; then one step sees that nothing came since and moves the
account out of the backup at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

import msgspec
import structlog

from backupd.clock import Clock
from backupd.items import ItemKey
from backupd.jobs.purge import judging
from backupd.jobs.purge.judging import Judged, RecordingBehind, line_of
from backupd.jobs.purge.plan import KnownAccount
from backupd.jobs.purge.seams import Rounds
from backupd.operations import Run
from backupd.retention import AccountStanding, Cutoffs, Stay
from backupd.store import purging
from backupd.store.manifests import Manifest
from backupd.store.store import Store
from backupd.timekeeping import Marks

HISTORIES_AT_ONCE = 256
LINES_AT_ONCE = 500
BEHIND_TRIES = 60
"""How often a purge waits a second for a recorder that is behind before it gives up."""

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Done(msgspec.Struct):
    """What a purge has done so far."""

    histories: int = 0
    accounts: int = 0
    account_items: int = 0
    archives: int = 0
    blobs: int = 0
    freed_bytes: int = 0
    condemned: int = 0
    segments: int = 0
    kept: Counter[Stay] = msgspec.field(default_factory=Counter)
    """What the plan chose and judging again saved, or found damaged."""


class Remover:
    """Takes histories and accounts away. `standing_of` tells what protects accounts when it is asked."""

    def __init__(
        self,
        store: Store,
        rounds: Rounds,
        *,
        clock: Clock,
        run: Run,
        at: Cutoffs,
        standing_of: Callable[[], Callable[[str], AccountStanding]],
        marks: Marks,
        forget: Callable[[str], None],
        manifest: Manifest,
        done: Done,
    ) -> None:
        self._forget = forget
        self._store = store
        self._rounds = rounds
        self._clock = clock
        self._run = run
        self._at = at
        self._standing_of = standing_of
        self._marks = marks
        self._manifest = manifest
        self._done = done

    async def remove_items(self, keys: Iterator[ItemKey], total: int) -> None:
        """Remove the histories that still go when they are judged again. Raises `OperationStopped`."""
        while batch := await asyncio.to_thread(lambda: list(islice(keys, HISTORIES_AT_ONCE))):
            self._run.check()
            await self.in_a_step(partial(self._remove_batch, batch))
            self._run.report(self._done.histories, total, unit="histories")

    async def remove_account(self, known: KnownAccount) -> None:
        """Remove an account with everything in it, if it still goes and none of its histories is damaged."""
        self._run.check()
        newest, items = await asyncio.to_thread(self._list_account, known)
        if newest < 0:
            return
        removed = await self.in_a_step(partial(self._move_account, known, newest))
        if removed is None:
            return
        await asyncio.to_thread(self._forget, known.account)
        self._done.accounts += 1
        self._done.account_items += items
        log.info("account_purged", account=known.account, name=known.name, items=items)
        await self.empty_what_was_moved()

    async def empty_what_was_moved(self) -> None:
        """Free the room of accounts that are out of the backup."""
        for place in await asyncio.to_thread(purging.moved_aside, self._store.layout):
            try:
                self._done.freed_bytes += await asyncio.to_thread(purging.empty, place)
            except OSError as error:
                self._run.note_error(str(place), str(error))

    async def in_a_step(self, work: Callable[[], T]) -> T:
        """Run a step; while the recorder is far behind, wait for it, within bounds."""
        for _ in range(BEHIND_TRIES):
            try:
                return await self._rounds.between_rounds(work)
            except RecordingBehind:
                self._run.check()
                await self._clock.sleep(1.0)
        return await self._rounds.between_rounds(work)

    def _remove_batch(self, keys: Sequence[ItemKey]) -> None:
        store = self._store
        store.catch_up()
        waits = judging.pending(store, self._rounds.cursor)
        judged = judging.judge_items(store, keys, waits, self._standing_of(), self._at, self._marks)
        if store.index.is_recording:
            store.index.commit(store.index.cursor())
        going = self._going(judged)
        if not going:
            return
        why = "deleted longer ago than retention"
        self._manifest.add(
            line_of(one.key, one.last, why=why, cutoff=self._at.data) for one in going if one.last
        )
        self._manifest.sync()
        freed = purging.remove_histories(store, [one.key for one in going])
        self._done.histories += len(going)
        self._done.freed_bytes += sum(freed.values())

    def _going(self, judged: Iterable[Judged]) -> list[Judged]:
        going = []
        for one in judged:
            if one.stay is None:
                going.append(one)
                continue
            self._done.kept[one.stay] += 1
            if one.stay is Stay.CORRUPT:
                self._run.note_error(str(one.key), f"not purged: {one.reason}")
        return going

    def _list_account(self, known: KnownAccount) -> tuple[int, int]:
        """List an account's histories; return the newest transaction (-1: it can't go) and their number."""
        newest, items = 0, 0
        lines = []
        for found in self._store.histories.walk_account(known.account):
            if found.damage:
                self._done.kept[Stay.CORRUPT] += 1
                self._run.note_error(known.name or known.account, f"not purged: {found.damage}")
                return -1, items
            last = found.states[-1]
            newest = max(newest, last.transaction)
            items += 1
            why = "its account was deleted longer ago than retention"
            lines.append(line_of(found.key, last, why=why, cutoff=self._at.accounts))
            if len(lines) >= LINES_AT_ONCE:
                self._run.check()
                self._manifest.add(lines)
                lines.clear()
        self._manifest.add(lines)
        return newest, items

    def _move_account(self, known: KnownAccount, newest: int) -> int | None:
        store = self._store
        store.catch_up()
        if store.index.is_recording:
            store.index.commit(store.index.cursor())
        waits = judging.pending(store, self._rounds.cursor)
        judged = judging.judge_account(
            store, known.account, waits, self._standing_of(), self._at, self._marks
        )
        if judged.stay is None and store.index.newest_transaction(known.account) > newest:
            judged = msgspec.structs.replace(judged, stay=Stay.CHANGED_SINCE)
        if not self._going([judged]):
            self._manifest.add([{"what": "kept", "account": known.account, "reason": judged.stay}])
            return None
        self._manifest.sync()
        return purging.remove_account(store, known.account)
