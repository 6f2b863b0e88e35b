"""Waiting photographs: changes whose item could not be read yet, kept durably and tried again with back-off.

What waits is one row per change in the ledger. Settled, it becomes a journal entry with the photograph it
lacked, and the recorder records it like any other; a crash between the two repeats the entry, which changes
nothing. A history that is corrupt makes its states wait too, until it is repaired or moved aside.
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
from backupd.errors import AppServerRefused, AppServerUnavailable, CorruptHistory, ItemVanished
from backupd.events import Change, encode_change
from backupd.items import CONTENT_KINDS, ItemKey
from backupd.states import ChangeType, Photograph, State
from backupd.store.ledger import Waiting
from backupd.store.store import Store

ROWS_AT_ONCE = 200
RETRY_SECONDS_MIN = 2
RETRY_SECONDS_MAX = 3_600

log = structlog.get_logger(__name__)


class WaitingRoom:
    """Keeps and settles waiting photographs. `off_loop` runs blocking work on the recorder's thread."""

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
        self.vanished = 0

    def keep_group(self, group: Group, error: AppServerUnavailable) -> None:
        """Keep a group that could not be photographed because the AppServer can't be reached."""
        key = group.transaction.key
        change = msgspec.structs.replace(
            group.photographed or group.last,
            type=group.transaction.change,
            time=group.transaction.time,
            event="",
            also=group.transaction.events,
            number=None,
            body=None,
        )
        self._keep(
            Waiting(
                key=key,
                sequence=group.transaction.transaction,
                change=encode_change(change),
                attempts=0,
                next_try=self._clock.now() + timedelta(seconds=1),
                reason=error.message,
            )
        )
        log.warning("photograph_waits", item=str(key), reason=error.message)

    def keep_states(self, key: ItemKey, states: Sequence[State], error: CorruptHistory) -> None:
        """Keep what can't be appended to a corrupt history, until the history is repaired or moved aside."""
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
                lacking=state.lacking,
            )
            self._keep(
                Waiting(
                    key=key,
                    sequence=state.transaction,
                    change=encode_change(change),
                    attempts=0,
                    next_try=self._clock.now() + timedelta(seconds=60),
                    reason=error.message,
                )
            )

    def _keep(self, waiting: Waiting) -> None:
        """Keep a change; of one item only one waits, standing for the events of all."""
        before = self._store.ledger.waiting(waiting.key)
        if before is not None:
            earlier, later = _change_of(before), _change_of(waiting)
            merged = msgspec.structs.replace(
                later,
                also=tuple(dict.fromkeys((*earlier.events, *later.events))),
                type=earlier.type if earlier.type is ChangeType.CREATED else later.type,
            )
            waiting = msgspec.structs.replace(waiting, change=encode_change(merged))
        self._store.ledger.put_waiting(waiting)

    async def retry(self) -> int:
        """Photograph what had to wait for the AppServer and journal it; return how many were settled.

        Raises `AppServerUnavailable` at the first item that still can't be read; it and the rest wait longer.
        """
        now = self._clock.now()
        due = await self._off_loop(lambda: self._store.ledger.waiting_due(now, limit=ROWS_AT_ONCE))
        settled = 0
        for waiting in due:
            try:
                await self._settle(waiting)
            except (AppServerUnavailable, CorruptHistory) as error:
                delay = timedelta(seconds=_back_off_seconds(waiting.attempts))
                again = msgspec.structs.replace(
                    waiting, attempts=waiting.attempts + 1, next_try=now + delay, reason=error.message
                )
                await self._off_loop(partial(self._store.ledger.put_waiting, again))
                if isinstance(error, AppServerUnavailable):
                    raise
                continue
            settled += 1
        return settled

    async def _settle(self, waiting: Waiting) -> None:
        """Journal a waiting change with the photograph it lacked; the recorder then records it."""
        await self._off_loop(lambda: self._store.histories.last(waiting.key))
        change = _change_of(waiting)
        complete = change.metadata is not None and (
            change.kind not in CONTENT_KINDS
            or (
                change.digest is not None
                and await self._off_loop(lambda: self._has_blob(change.digest or ""))
            )
        )
        if not complete:
            try:
                reading = await self._appserver.read(waiting.key)
            except (ItemVanished, AppServerRefused) as error:
                self.vanished += 1
                log.info("item_vanished", item=str(waiting.key), reason=str(error))
                lacking = ("metadata", "content") if change.metadata is None else ("content",)
                change = msgspec.structs.replace(change, lacking=lacking)
            else:
                photograph = await self._off_loop(lambda: self._stored(reading))
                change = msgspec.structs.replace(
                    change, metadata=photograph.metadata, digest=photograph.digest, size=photograph.size
                )
        payload = encode_change(change)
        await self._off_loop(lambda: self._store.journal.append([payload]))
        await self._off_loop(lambda: self._store.ledger.remove_waiting(waiting.key, waiting.sequence))

    def _stored(self, reading: Reading) -> Photograph:
        if reading.content is None:
            return Photograph(metadata=reading.metadata)
        with reading.content.open() as content:
            staged = self._store.blobs.stage(content)
        self._store.blobs.commit([staged])
        return Photograph(metadata=reading.metadata, digest=staged.digest, size=staged.size)


def _back_off_seconds(attempts: int) -> int:
    return min(RETRY_SECONDS_MIN << min(attempts, 20), RETRY_SECONDS_MAX)


def _change_of(waiting: Waiting) -> Change:
    return msgspec.json.decode(waiting.change, type=Change)
