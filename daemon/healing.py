"""Healing: every open gap gets the scan that closes it, queued by the daemon itself.

A gap of an account asks for an account scan, a gap of the whole server for a SmartScan. A scan that
succeeds closes the gaps that were open when it began; one that fails is tried again with back-off, and the
gap stays visible until then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime

import structlog

from backupd.clock import Clock
from backupd.store.ledger import Gap
from backupd.store.store import Store

LOOK_SECONDS = 5.0
RETRY_SECONDS_MIN = 15.0
RETRY_SECONDS_MAX = 3_600.0
WHOLE_SERVER = ""

log = structlog.get_logger(__name__)


class Healing:
    """Watches the ledger's open gaps.

    `heal(account)` queues a scan (empty account: of all) and returns whether it succeeded.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        heal: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._heal = heal
        self._wake = asyncio.Event()
        self._wake.set()
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    def gap_opened(self) -> None:
        """Look at the gaps soon."""
        self._wake.set()

    async def run(self) -> None:
        """Heal until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)
            self._wake.clear()
            gaps = await asyncio.to_thread(self._store.ledger.gaps)
            for account in accounts_to_scan(gaps):
                if self._clock.monotonic() >= self._not_before.get(account, 0.0):
                    await self._scan(account)

    async def _scan(self, account: str) -> None:
        began = self._clock.now()
        if await self._heal(account):
            self._failures.pop(account, None)
            self._not_before.pop(account, None)
            closed = await asyncio.to_thread(self._close, account, began)
            log.info("gaps_closed", account=account, gaps=closed)
            return
        failures = self._failures[account] = self._failures.get(account, 0) + 1
        delay = min(RETRY_SECONDS_MIN * 2 ** (failures - 1), RETRY_SECONDS_MAX)
        self._not_before[account] = self._clock.monotonic() + delay
        log.warning("gap_not_healed", account=account, retry_seconds=delay)

    def _close(self, account: str, began: datetime) -> int:
        return close_gaps(self._store, account, began)


def close_gaps(store: Store, account: str, began: datetime) -> int:
    """Close an account's gaps (empty: all) that were open when a scan that succeeded began; count them."""
    closed = 0
    with store.ledger.batch():
        for gap in store.ledger.gaps():
            if gap.latest <= began and account in (WHOLE_SERVER, gap.account):
                store.ledger.close_gap(gap.id, began)
                closed += 1
    return closed


def accounts_to_scan(gaps: Sequence[Gap]) -> list[str]:
    """Return whose scans close these gaps, the oldest first; a scan of the whole server closes all."""
    ordered = sorted(gaps, key=lambda gap: gap.opened)
    if any(gap.account == WHOLE_SERVER for gap in ordered):
        return [WHOLE_SERVER]
    return list(dict.fromkeys(gap.account for gap in ordered))
