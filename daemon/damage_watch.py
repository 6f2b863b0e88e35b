"""Damage that recording meets has the account checked: one coherency check, not one for each of its items.

Recording says which item's history it could not read or grow, on its own thread. An account is not checked
again for an hour, so that damage that stays does not keep the queue busy; the findings stay in the status.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import structlog

from backupd.clock import Clock
from backupd.errors import BackupdError
from backupd.items import ItemKey
from daemon.coherency import TYPE
from daemon.operations_queue import OperationsQueue

STARTED_BY = "damage met"
AGAIN_SECONDS = 3600.0
ACCOUNTS_MAX = 10_000

log = structlog.get_logger(__name__)


class DamageWatch:
    """Queues checks. `met` may be called from any thread; made on the event loop."""

    def __init__(self, queue: Callable[[], OperationsQueue], backup_path: Path, *, clock: Clock) -> None:
        self._queue = queue
        self._backup_path = backup_path
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._accounts: asyncio.Queue[str] = asyncio.Queue()
        self._met: OrderedDict[str, float] = OrderedDict()

    def met(self, key: ItemKey) -> None:
        """Note that the history of an item is damaged."""
        self._loop.call_soon_threadsafe(self._note, key.account)

    async def run(self) -> None:
        """Queue a check of each account in which damage was met, until cancelled."""
        while True:
            account = await self._accounts.get()
            given = {"backup_path": str(self._backup_path), "accountIds": [account]}
            try:
                await self._queue().submit(TYPE, given, started_by=STARTED_BY, once=True)
            except BackupdError as error:
                log.error("coherency_check_not_queued", account=account, reason=error.message)
                self._met.pop(account, None)

    def _note(self, account: str) -> None:
        now = self._clock.monotonic()
        last = self._met.get(account)
        if not account or (last is not None and now - last < AGAIN_SECONDS):
            return
        self._met[account] = now
        self._met.move_to_end(account)
        if len(self._met) > ACCOUNTS_MAX:
            self._met.popitem(last=False)
        self._accounts.put_nowait(account)
