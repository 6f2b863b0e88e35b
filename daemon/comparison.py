"""Comparing the backup with the AppServer: what a scan of everything would find, told and not recorded.

Differences may be changes that are on their way. So an account that differs is listed again once everything
journaled is recorded, and only what differs both times is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from backupd.appservers.base import AppServer
from backupd.clock import Clock
from backupd.errors import AppServerRefused, AppServerUnavailable, ItemVanished
from backupd.items import ItemKey
from backupd.jobs.coherency.findings import Finding
from backupd.jobs.smartscan.plan import plan_account
from backupd.states import ChangeType
from backupd.store import layout
from backupd.store.index_queries import KnownItem
from backupd.store.store import Store
from daemon.recording import Recording


class Comparison:
    """Lists accounts and compares; writes nothing."""

    def __init__(self, store: Store, appserver: AppServer, recording: Recording, clock: Clock) -> None:
        self._store = store
        self._appserver = appserver
        self._recording = recording
        self._clock = clock

    async def run(self, accounts: Sequence[str]) -> list[Finding]:
        """Return what differs, in these accounts or in all; one that can't be listed is a finding too."""
        known = await asyncio.to_thread(self._store.index.accounts)
        chosen = [one for one in known if not accounts or one.item in accounts]
        findings: list[Finding] = []
        listed = {one.id for one in await self._appserver.accounts()}
        for account in chosen:
            path = layout.account_directory(account.item)
            if account.item not in listed:
                detail = "the whole account"
                findings.append(
                    Finding(code="appserver.missing", path=path, detail=detail, account=account.item)
                )
                continue
            try:
                found = await self._compared(account)
                if found:
                    await self._recording.recorded_through(self._store.journal.last_sequence)
                    again = await self._compared(account)
                    found = [one for one in found if one in again]
            except (AppServerUnavailable, AppServerRefused) as error:
                found = [
                    Finding(code="appserver.unread", path=path, detail=error.message, account=account.item)
                ]
            findings += found
        return findings

    async def _compared(self, account: KnownItem) -> list[Finding]:
        listing = await self._appserver.changes(account.item, None)
        known = await asyncio.to_thread(
            lambda: {one.item: one for one in self._store.index.items(account.item, deleted=None)}
        )
        plan = plan_account(listing, known, account=account.item, basis=0, moment=self._clock.now())
        found = [self._finding("appserver.missing", one.key) for one in (*plan.gone, *plan.unplaced)]
        for change in plan.altered:
            code = "appserver.unknown" if change.type is ChangeType.CREATED else "appserver.differs"
            found.append(self._finding(code, change.key))
        for one in plan.read:
            key = ItemKey(account.item, one.listed.kind, one.listed.item)
            if one.recorded is None:
                found.append(self._finding("appserver.unknown", key))
            elif await self._differs(key, one.recorded):
                found.append(self._finding("appserver.differs", key))
        return found

    async def _differs(self, key: ItemKey, recorded: KnownItem) -> bool:
        """Read an item whose listing does not tell whether it is as recorded."""
        try:
            reading = await self._appserver.read(key)
            examined = await self._appserver.examine(key)
        except ItemVanished:
            return True
        return reading.metadata != recorded.metadata or examined.digest != recorded.digest

    @staticmethod
    def _finding(code: str, key: ItemKey) -> Finding:
        path = "/".join(layout.history_place(key))
        return Finding(code=code, path=path, detail=key.kind.value, account=key.account, items=(key.item,))
