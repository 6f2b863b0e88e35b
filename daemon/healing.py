"""Healing: every open gap gets the scan that closes it, queued by the daemon itself.

A gap of an account asks for an account scan, a gap of the whole server for a SmartScan. A scan that
succeeds closes the gaps that were open when it began and have not grown since; one that fails is tried again
with back-off, and the gap stays visible until then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog

from backupd.clock import Clock, wait_until_set
from backupd.errors import BackupdError
from backupd.operations import Operation, OperationStatus
from backupd.store.ledger import Gap
from backupd.store.store import Store
from daemon.operations_queue import OperationsQueue

LOOK_SECONDS = 5.0
RETRY_SECONDS_MIN = 15.0
RETRY_SECONDS_MAX = 3_600.0
WHOLE_SERVER = ""
HEALING = "healing"
"""Who started a scan that the daemon queued by itself."""

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
            await wait_until_set(self._wake, self._clock, LOOK_SECONDS)
            self._wake.clear()
            try:
                gaps = await asyncio.to_thread(self._store.ledger.gaps)
            except (BackupdError, OSError) as error:
                log.error("gaps_not_read", reason=str(error))
                continue
            for account in accounts_to_scan(gaps):
                if self._clock.monotonic() >= self._not_before.get(account, 0.0):
                    await self._scan(account)

    async def _scan(self, account: str) -> None:
        try:
            healed = await self._heal(account)
        except BackupdError as error:
            log.error("healing_scan_not_begun", account=account, reason=str(error))
            healed = False
        if healed:
            self._failures.pop(account, None)
            self._not_before.pop(account, None)
            return
        failures = self._failures[account] = self._failures.get(account, 0) + 1
        delay = min(RETRY_SECONDS_MIN * 2 ** min(failures - 1, 16), RETRY_SECONDS_MAX)
        self._not_before[account] = self._clock.monotonic() + delay
        log.warning("gap_not_healed", account=account, retry_seconds=delay)


async def heal_by_scan(queue: OperationsQueue, account: str) -> bool:
    """Have a scan that heals an account's gaps (empty: all), or wait for the one there is; say if it did."""
    type_, parameters = ("doAccountScan", {"account": account}) if account else ("doSmartScan", {})
    operation = next((one for one in queue.operations() if _heals(one, account)), None)
    if operation is None:
        operation = await queue.submit(type_, parameters, started_by=HEALING)
    ended = await queue.wait_until_ended(operation.uuid)
    return ended.status is OperationStatus.SUCCESSFUL


def _heals(operation: Operation, account: str) -> bool:
    """Tell whether an operation that has not ended is a scan of all, or of this account."""
    if operation.has_ended:
        return False
    if operation.type == "doSmartScan":
        return True
    return operation.type == "doAccountScan" and operation.parameters.get("account") == account


def close_gaps(store: Store, seen: Sequence[Gap], account: str, when: datetime) -> int:
    """Close the gaps seen before a scan of an account (empty: of all) that have not grown since."""
    closed = 0
    with store.ledger.batch():
        latest = {gap.id: gap.latest for gap in store.ledger.gaps()}
        for gap in seen:
            if account in (WHOLE_SERVER, gap.account) and latest.get(gap.id) == gap.latest:
                closed += store.ledger.close_gap(gap.id, when)
    if closed:
        log.info("gaps_closed", account=account, gaps=closed)
    return closed


def accounts_to_scan(gaps: Sequence[Gap]) -> list[str]:
    """Return whose scans close these gaps, the oldest first; a scan of the whole server closes all."""
    ordered = sorted(gaps, key=lambda gap: gap.opened)
    if any(gap.account == WHOLE_SERVER for gap in ordered):
        return [WHOLE_SERVER]
    return list(dict.fromkeys(gap.account for gap in ordered))
