"""Doubts: what the store tells of accounts that are behind, read at a bounded cost.

Gaps and waiting photographs. Of accounts with a gap the first `SCANS_READ_MAX` are looked up for their own
last scan; the others take the beginning of the last scan of all, which is no later. Where very many
photographs wait they are not all read again for every answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from backupd.clock import Clock
from backupd.store.ledger import Gap
from backupd.store.store import Store
from daemon.freshness import Doubt, doubt_of_gap

SCANS_READ_MAX = 500
WAITING_READ_ALWAYS_MAX = 5_000
WAITING_SECONDS = 30.0
"""How long the moments of more waiting photographs than that are good for."""


class Doubts:
    """Reads doubts; each method blocks. Any thread may call: what is remembered is replaced as a whole."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: dict[str, datetime] = {}
        self._waiting_read: float | None = None

    def read(self, gaps: Sequence[Gap], waiting_count: int, last_scan_began: datetime | None) -> list[Doubt]:
        """Return all doubts there are; `last_scan_began` is that of the last scan of all accounts."""
        scans: dict[str, datetime | None] = {"": last_scan_began}
        doubts = []
        for gap in gaps:
            if gap.account not in scans:
                scans[gap.account] = self._last_scan(gap.account, len(scans)) or last_scan_began
            doubts.append(doubt_of_gap(gap.account, gap.opened, scans[gap.account]))
        doubts += [Doubt(account, since) for account, since in self.waiting(waiting_count).items()]
        return doubts

    def waiting(self, count: int) -> dict[str, datetime]:
        """Return when the oldest of the `count` waiting changes was made, by account."""
        if not count:
            self._waiting, self._waiting_read = {}, None
            return {}
        now = self._clock.monotonic()
        is_good = self._waiting_read is not None and now - self._waiting_read < WAITING_SECONDS
        if count <= WAITING_READ_ALWAYS_MAX or not is_good:
            self._waiting, self._waiting_read = self._store.ledger.waiting_since(), now
        return self._waiting

    def _last_scan(self, account: str, looked_up: int) -> datetime | None:
        if looked_up > SCANS_READ_MAX:
            return None
        return self._store.statistics.account(account).last_scan
