"""Alice's account with its life in the backup, and ways to restore it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from backupd.items import ItemKey, Kind
from backupd.jobs.restore.accounts import AccountRestore, NewAccount, Undelete
from backupd.jobs.restore.item import ItemRestore
from backupd.operations import Run, Verdict
from tests.unit.jobs.worlds import ALICE, BackupWorld

ADDRESS = f"{ALICE}@example.com"
NEW = "copy@example.com"


class RestoreWorld(BackupWorld):
    """Alice's account with its life in the backup: `tick` lets a minute pass and records what happened."""

    async def tick(self) -> datetime:
        """Record everything as it is now; return that moment, and let a minute pass."""
        await self.scan_all()
        now = self.clock.now()
        await self.clock.advance(60)
        return now

    def restoring(self) -> AccountRestore:
        return AccountRestore(self.store, self.server, clock=self.clock)

    async def restore(self, when: datetime | None = None, to: str = NEW, **wanted: Any) -> Verdict:
        self.run = Run(self.clock)
        asked = NewAccount(source=ADDRESS, destination=to, when=when, **wanted)
        return await self.restoring().on_new_account(self.run, asked)

    async def undelete(self, **wanted: Any) -> Verdict:
        self.run = Run(self.clock)
        return await self.restoring().undelete(self.run, Undelete(account=ADDRESS, **wanted))

    async def mailbox(self, account: str) -> dict[tuple[str, bytes], tuple[object, object, object]]:
        """Return an account's items by folder and bytes, with flags, tags and date."""
        listing = await self.server.changes(account, None)
        found: dict[tuple[str, bytes], Any] = {}
        for listed in listing.items:
            if listed.kind is Kind.FOLDER:
                continue
            reading = await self.server.read(ItemKey(account, listed.kind, listed.item))
            assert reading.content is not None
            with reading.content.open() as file:
                key = (str(reading.metadata["folder"]), file.read())
            facts = tuple(str(reading.metadata.get(name)) for name in ("flags", "tags", "received", "name"))
            found.setdefault(key, []).append(facts)
        return {key: tuple(sorted(facts)) for key, facts in found.items()}  # type: ignore[misc]

    async def folders(self, account: str) -> set[tuple[str, str]]:
        listing = await self.server.changes(account, None)
        return {
            (str(one.metadata["area"]), str(one.metadata["folder"]))
            for one in listing.items
            if one.kind is Kind.FOLDER
        }

    async def account_id(self, name: str) -> str:
        return next(one.id for one in await self.server.accounts() if one.name == name)

    async def restore_item(self, item: str, when: datetime | None = None, folder: str | None = None) -> Any:
        restoring = ItemRestore(self.store, self.server, clock=self.clock)
        return await restoring.run(ALICE, item, when=when, folder=folder)

    async def foresee_item(self, item: str, when: datetime | None = None, folder: str | None = None) -> str:
        restoring = ItemRestore(self.store, self.server, clock=self.clock)
        return await restoring.foresee(ALICE, item, when=when, folder=folder)
