"""The waiting room: changes whose item could not be read yet, kept durably and tried again with back-off.

One row per item in the ledger, which stands for all changes of the item since it began to wait: whatever
comes meanwhile joins it, so that nothing overtakes. Settled, the row becomes a journal entry with the
photograph it lacked, and the recorder records it like a finding as of the row's sequence number: what the
journal says behind that wins. A crash between the two repeats the entry, which changes nothing. A history
that is corrupt makes its states wait too, until it is repaired or moved aside.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import structlog

from backupd.appservers.base import AppServer, Reading
from backupd.clock import Clock
from backupd.coalescing import Group
from backupd.errors import (
    AppServerRefused,
    AppServerUnavailable,
    BackupdError,
    CorruptHistory,
    ItemVanished,
    SpaceExhausted,
)
from backupd.events import Change, encode_change
from backupd.items import ItemKey
from backupd.jobs.record import plan
from backupd.states import ChangeType, Origin, Photograph, State
from backupd.store.ledger import Waiting
from backupd.store.store import Store

ROWS_AT_ONCE = 200
RETRY_SECONDS_MIN = 2
RETRY_SECONDS_MAX = 3_600
CORRUPT_RETRY_SECONDS = 60

log = structlog.get_logger(__name__)


class Retried(msgspec.Struct, frozen=True, kw_only=True):
    """What a round of trying gave. `reason` is why the rest still waits, empty where nothing failed."""

    settled: int = 0
    more: bool = False
    reason: str = ""


class WaitingRoom:
    """Keeps and settles what waits. `off_loop` runs blocking work on the recorder's thread."""

    def __init__(
        self,
        store: Store,
        appserver: AppServer,
        *,
        clock: Clock,
        off_loop: Callable[[Callable[[], Any]], Awaitable[Any]],
        has_blob: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._appserver = appserver
        self._clock = clock
        self._off_loop = off_loop
        self._has_blob = has_blob
        self._may_hold = True
        self.vanished = 0

    def holds(self, group: Group) -> bool:
        """Tell whether changes of the group's item wait, so that it must join them; blocks."""
        row = self._row(group.transaction.key)
        # An entry that settles a row is the one thing that comes before it.
        return row is not None and group.last.basis != row.sequence

    def keep_group(self, group: Group, reason: str) -> None:
        """Keep a group that could not be photographed, or whose item waits already; blocks."""
        transaction = group.transaction
        row = self._row(transaction.key)
        basis = group.last.basis
        if row is not None and basis is not None and basis < row.sequence:
            return  # The finding is older than what waits, which will be read.
        base = group.photographed or group.last
        change = msgspec.structs.replace(
            base,
            type=transaction.change,
            time=transaction.time,
            event="",
            also=transaction.events,
            number=None,
            body=None,
            actor=transaction.actor,
            lacking=transaction.lacking,
        )
        if row is None and basis is not None:
            # A finding that has to be proved: what it says may be too old.
            change = msgspec.structs.replace(
                change, type=ChangeType.MODIFIED, metadata=None, digest=None, size=None
            )
        self._keep(transaction.key, transaction.transaction, change, reason, seconds=1)
        if row is None:
            log.warning("photograph_waits", item=str(transaction.key), reason=reason)

    def keep_states(self, key: ItemKey, states: Sequence[State], error: CorruptHistory) -> None:
        """Keep what can't be appended to a corrupt history, until it is repaired or moved aside; blocks."""
        for state in states:
            change = Change(
                account=key.account,
                kind=key.kind,
                item=key.item,
                type=state.change,
                time=state.start,
                origin=state.origin,
                also=state.events,
                metadata=state.metadata,
                digest=state.digest,
                size=state.size,
                actor=state.actor,
                lacking=state.lacking,
            )
            self._keep(key, state.transaction, change, error.message, seconds=CORRUPT_RETRY_SECONDS)

    def _row(self, key: ItemKey) -> Waiting | None:
        ledger = self._store.ledger
        if self._may_hold:
            row = ledger.waiting(key)
            self._may_hold = row is not None or bool(ledger.waiting_after(None, limit=1))
            return row
        return None

    def _keep(self, key: ItemKey, sequence: int, change: Change, reason: str, *, seconds: int) -> None:
        row = self._row(key)
        if row is not None and sequence <= row.sequence:
            return  # A replay: it is part of the row.
        if row is not None:
            change = joined(_change_of(row), change)
        waiting = Waiting(
            key=key,
            sequence=sequence,
            change=encode_change(msgspec.structs.replace(change, basis=None)),
            attempts=0,
            next_try=self._clock.now() + timedelta(seconds=seconds),
            reason=reason,
        )
        self._store.ledger.put_waiting(waiting)
        self._may_hold = True

    # ------------------------------------------------------------------- settle

    async def hasten(self) -> None:
        """Let everything be tried at the next retry: what stood in the way may have been mended."""
        now = self._clock.now()
        await self._off_loop(lambda: self._store.ledger.hasten_waiting(now))

    async def retry(self) -> Retried:
        """Settle what is due and can be; what can't be waits longer. Raises `SpaceExhausted`.

        Once the AppServer can't be reached, only what needs no reading is tried.
        """
        now = self._clock.now()
        due = await self._off_loop(lambda: self._store.ledger.waiting_due(now, limit=ROWS_AT_ONCE))
        settled, reason, is_reachable = 0, "", True
        for row in due:
            try:
                settled += await self._settle(row, may_read=is_reachable)
            except SpaceExhausted:
                raise
            except (BackupdError, OSError) as error:
                reason = str(error)
                is_reachable = is_reachable and not isinstance(error, AppServerUnavailable)
                await self._off_loop(partial(self._put_off, row, reason))
        return Retried(settled=settled, more=settled == ROWS_AT_ONCE, reason=reason)

    async def _settle(self, row: Waiting, *, may_read: bool) -> bool:
        """Journal a waiting change with the photograph it lacked; the recorder then records it."""
        change = await self._off_loop(lambda: self._as_told(row))
        if change is None:
            if not may_read:
                return False
            try:
                reading = await self._appserver.read(row.key)
                # In one piece: between the content's coming and its entry nobody may find it without a use.
                return bool(await self._off_loop(lambda: self._journal_reading(row, reading)))
            except (ItemVanished, AppServerRefused) as error:
                self.vanished += 1
                log.info("item_vanished", item=str(row.key), reason=str(error))
                change = await self._off_loop(lambda: self._as_vanished(row))
        told = change
        return bool(await self._off_loop(lambda: self._journal(row, told)))

    def _journal_reading(self, row: Waiting, reading: Reading) -> bool:
        photograph = self._stored(reading)
        change = msgspec.structs.replace(
            _change_of(row),
            metadata=photograph.metadata,
            digest=photograph.digest,
            size=photograph.size,
            lacking=(),
        )
        return self._journal(row, change)

    def _as_told(self, row: Waiting) -> Change | None:
        """Return the change as it can be recorded without the AppServer, None where it must be read.

        Raises `CorruptHistory` while the history can't take it.
        """
        self._store.histories.last(row.key)
        change = _change_of(row)
        if change.type is ChangeType.DELETED or change.lacking or plan.is_complete(change, self._has_blob):
            return change
        return None

    def _as_vanished(self, row: Waiting) -> Change:
        change = _change_of(row)
        if change.metadata is None and change.origin is Origin.SMARTSCAN:
            # What a scan found and could not prove is proved now: the item is gone.
            return msgspec.structs.replace(change, type=ChangeType.DELETED)
        lacking = plan.lacking_of(change, change.kind, self._store.blobs.is_readable)
        return msgspec.structs.replace(change, lacking=lacking)

    def _journal(self, row: Waiting, change: Change) -> bool:
        """Let the row become an entry, unless more has joined it meanwhile."""
        entry = msgspec.structs.replace(change, basis=row.sequence, since=None)
        now = self._store.ledger.waiting(row.key)
        if now is None or now.sequence != row.sequence:
            return False
        self._store.journal.append([encode_change(entry)])
        self._store.ledger.remove_waiting(row.key, row.sequence)
        return True

    def _put_off(self, row: Waiting, reason: str) -> None:
        now = self._store.ledger.waiting(row.key)
        if now is None or now.sequence != row.sequence:
            return
        delay = timedelta(seconds=_back_off_seconds(row.attempts))
        self._store.ledger.put_waiting(
            msgspec.structs.replace(
                row, attempts=row.attempts + 1, next_try=self._clock.now() + delay, reason=reason
            )
        )

    def _stored(self, reading: Reading) -> Photograph:
        if reading.content is None:
            return Photograph(metadata=reading.metadata)
        kept = self._store.keeping.stage(reading.content)
        self._store.keeping.commit([kept])
        return Photograph(metadata=reading.metadata, digest=kept.digest, size=kept.size)


def joined(earlier: Change, later: Change) -> Change:
    """Return one change that stands for two of an item that waits: the later one, and the events of both.

    A creation stays one; a deletion keeps what the earlier change told of the item. `since` is when the first
    of all that joined was made.
    """
    events = tuple(dict.fromkeys((*earlier.events, *later.events)))
    since = min(earlier.since or earlier.time, later.time)
    later = msgspec.structs.replace(later, event="", also=events, since=since)
    if later.type is ChangeType.DELETED:
        if later.metadata is not None:
            return later
        return msgspec.structs.replace(
            later, metadata=earlier.metadata, digest=earlier.digest, size=earlier.size
        )
    if earlier.type is ChangeType.CREATED:
        return msgspec.structs.replace(later, type=ChangeType.CREATED)
    return later


def _back_off_seconds(attempts: int) -> int:
    return min(RETRY_SECONDS_MIN << min(attempts, 20), RETRY_SECONDS_MAX)


def _change_of(row: Waiting) -> Change:
    return msgspec.json.decode(row.change, type=Change)
