"""Journaling: what comes in live goes into the journal, in a thread of its own, and is durable on return."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from backupd.clock import Clock
from backupd.store.store import Store
from daemon.health import Pulse

SECONDS_MAX = 300.0
"""A write that takes longer hangs: the watchdog has the daemon started anew."""


class Journaling:
    """Appends payloads; `grown` is called after each group."""

    def __init__(self, store: Store, *, clock: Clock, grown: Callable[[], None]) -> None:
        self.pulse = Pulse("the journal", clock, silent_seconds_max=SECONDS_MAX)
        self._store = store
        self._grown = grown
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    async def append(self, payloads: Sequence[bytes]) -> None:
        """Append one group. Raises `SpaceExhausted` below the space threshold too, `OSError`."""
        self.pulse.beat()
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._append, payloads)
        finally:
            self.pulse.rest()
        self._grown()

    def close(self) -> None:
        """End the thread; blocks while it writes."""
        self._thread.shutdown()

    def _append(self, payloads: Sequence[bytes]) -> None:
        self._store.check_space()
        self._store.journal.append(payloads)
