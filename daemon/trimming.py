"""Trimming: takes journal segments away that are recorded, sent and old, so that the journal stays small.

A segment goes once everything in it is in synced histories and, where metadata is kept outside, was sent
there. The newest `JOURNAL_KEPT_BYTES` stay in any case: by them a change that the broker delivers again is
known, and an admin can look at what came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from backupd.clock import Clock
from backupd.errors import BackupdError
from backupd.store.store import Store

JOURNAL_KEPT_BYTES = 256 << 20
LOOK_SECONDS = 600.0

log = structlog.get_logger(__name__)


class Trimming:
    """Looks now and then. `sent_through` says up to which entry others are done with it; it blocks."""

    def __init__(
        self, store: Store, *, clock: Clock, sent_through: Callable[[], int | None] = lambda: None
    ) -> None:
        self._store = store
        self._clock = clock
        self._sent_through = sent_through

    async def run(self) -> None:
        """Trim until cancelled; what goes wrong is logged and tried again."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.trim)
            except (BackupdError, OSError) as error:
                log.warning("journal_not_trimmed", reason=str(error))

    def trim(self, kept_bytes: int = JOURNAL_KEPT_BYTES) -> int:
        """Remove what nobody needs any more; return how many segments that were. Raises `OSError`."""
        through = self._store.index.cursor()
        sent = self._sent_through()
        removed = self._store.journal.trim(through if sent is None else min(through, sent), kept_bytes)
        if removed:
            log.info("journal_trimmed", segments=len(removed), through=through)
        return len(removed)
