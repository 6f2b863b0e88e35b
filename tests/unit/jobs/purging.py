"""A purge over a `BackupWorld`, with what the daemon would give it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from backupd.items import ItemKey, Kind
from backupd.jobs.purge import Purge, PurgeWanted, Rules
from backupd.operations import Run, Verdict
from backupd.retention import Retention, Stay
from backupd.states import State
from backupd.store import index as index_file
from backupd.store.index import Index
from tests.unit.jobs.worlds import ALICE, BackupWorld

DAYS = 30
THIRTY = Retention(data_days=DAYS, account_days=DAYS, archive_days=DAYS)
DAY = 86_400.0
ALL_MAY_GO = 100


def content(text: str) -> bytes:
    """Return a message."""
    return f"Subject: {text}\r\n\r\nText of {text}\r\n".encode()


class Kept(msgspec.Struct):
    """Protections and disabled accounts as a test sets them."""

    protections: dict[str, Stay] = {}
    disabled: dict[str, datetime] = {}

    def protection(self, account: str) -> Stay | None:
        return self.protections.get(account)

    def disabled_since(self, account: str) -> datetime | None:
        return self.disabled.get(account)

    def forget(self, account: str) -> None:
        self.disabled.pop(account, None)


class PurgedWorld(BackupWorld):
    """A backup that can be purged."""

    def __init__(self, path: Path) -> None:
        self.kept = Kept()
        self.rules = Rules(retention=THIRTY, share_max=ALL_MAY_GO, grace=timedelta())
        self.doubt = ""
        self.accepted = 0
        super().__init__(path)

    def purger(self) -> Purge:
        return Purge(
            self.store,
            self.recorder,
            clock=self.clock,
            rules=lambda: self.rules,
            keeping=lambda: self.kept,
            clock_doubt=lambda: self.doubt,
            accept_clock=self._accept,
            doubts_future=True,
        )

    def _accept(self) -> None:
        self.accepted += 1
        self.doubt = ""

    async def purge(self, **wanted: object) -> Verdict:
        self.run = Run(self.clock)
        return await self.purger().run(self.run, PurgeWanted(**wanted))

    async def have(self, *texts: str, account: str = ALICE) -> list[str]:
        """Let an account have messages of these contents, recorded; return their ids."""
        if account not in {one.id for one in await self.server.accounts()}:
            await self.account(account)
        ids = [await self.server.add(account, Kind.MESSAGE, "INBOX", content(text)) for text in texts]
        await self.scan_all()
        return ids

    async def delete(self, *items: str, account: str = ALICE) -> None:
        """Delete messages, and let a scan find that."""
        for item in items:
            self.server.remove(account, item)
        await self.scan_all(force=True)

    async def delete_account(self, account: str = ALICE) -> None:
        """Delete an account, and let a scan find that."""
        self.server.remove_account(account)
        await self.scan_all(force=True)

    def index_is_true(self) -> bool:
        """Tell whether the index says what one built anew would."""
        aside = self.path.with_name("rebuilt.sqlite")
        index_file.build(aside, ((one.key, one.states) for one in self.store.histories.walk()), 0)
        other = Index(aside, writable=False)
        try:
            return list(other.dump()) == list(self.store.index.dump())
        finally:
            other.close()

    def manifest(self) -> list[dict[str, Any]]:
        """Return the lines of every manifest, oldest first."""
        return [
            msgspec.json.decode(line)
            for path in sorted((self.path / "purged").glob("*.jsonl"))
            for line in path.read_bytes().splitlines()
        ]

    def pass_days(self, days: float) -> None:
        self.clock.tick(days * DAY)

    def histories(self) -> dict[ItemKey, list[State]]:
        return {found.key: found.states for found in self.store.histories.walk()}

    def blobs(self) -> set[str]:
        return set(self.store.blobs.digests())

    def referenced(self) -> set[str]:
        return {state.digest for states in self.histories().values() for state in states if state.digest}
