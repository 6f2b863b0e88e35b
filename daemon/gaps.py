"""Gaps: keeps where changes may have been missed, and has it healed and told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from backupd.clock import Clock
from backupd.errors import BackupdError
from backupd.store.ledger import Ledger
from daemon.condition import MISSED

RETRY_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Gaps:
    """Opens gaps; `opened` hears of each. Accounts that are not backed up have none."""

    def __init__(
        self, ledger: Ledger, *, clock: Clock, is_enabled: Callable[[str], bool], opened: Callable[[], None]
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._is_enabled = is_enabled
        self._opened = opened
        self._wanted: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def open(self, reason: str, detail: str, account: str = "") -> None:
        """Open a gap of an account, or of the whole server. Raises as the ledger does."""
        if account and not self._is_enabled(account):
            return
        log.warning("gap_opened", account=account, reason=reason, detail=detail)
        now = self._clock.now()
        await asyncio.to_thread(self._ledger.open_gap, account, reason, detail, now)
        self._opened()

    async def missed(self, account: str, reason: str) -> None:
        """Open a gap of an account whose changes may have been missed."""
        await self.open(reason, MISSED, account)

    def open_soon(self, reason: str, detail: str) -> None:
        """Have a gap of the whole server opened, for as long as that takes."""
        self._wanted.put_nowait((reason, detail))

    async def run(self) -> None:
        """Open what was asked for with `open_soon`, until cancelled."""
        while True:
            reason, detail = await self._wanted.get()
            while True:
                try:
                    await self.open(reason, detail)
                    break
                except (BackupdError, OSError) as error:
                    log.error("gap_not_stored", gap=reason, reason=str(error))
                await self._clock.sleep(RETRY_SECONDS)
