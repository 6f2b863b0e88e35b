"""Two servers: one with a backup, and an empty one into which that comes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from backupd.appservers.base import Account, DirectoryEntry
from backupd.appservers.memory import MemoryServer
from backupd.items import ItemKey, Kind
from backupd.jobs.restore.external import ExternalRestore
from backupd.jobs.restore.importing import ExternalWanted
from backupd.operations import Run, Verdict
from backupd.store.store import Store
from tests.unit.jobs.worlds import BackupWorld
from tests.world.clocks import FakeClock

USERS = ("ann", "ben")
GROUP = b"BEGIN:VCARD\r\nVERSION:4.0\r\nKIND:group\r\nUID:g\r\nFN:G\r\nMEMBER:urn:uuid:c1\r\nEND:VCARD\r\n"

Mailbox = dict[tuple[str, str, bytes], tuple[str, ...]]


async def mailbox(server: MemoryServer, account: str) -> Mailbox:
    """Return an account's items by kind, folder and bytes, with flags, tags, dates and names."""
    found: dict[tuple[str, str, bytes], list[str]] = {}
    for listed in (await server.changes(account, None)).items:
        reading = await server.read(ItemKey(account, listed.kind, listed.item))
        content = b"" if reading.content is None else reading.content.open().read()
        folder = f"{reading.metadata.get('area', '')}:{reading.metadata['folder']}"
        names = ("flags", "tags", "received", "modified", "name")
        facts = str([reading.metadata.get(name) for name in names])
        found.setdefault((listed.kind.value, folder, content), []).append(facts)
    return {key: tuple(sorted(facts)) for key, facts in found.items()}


class Target:
    """An empty server with a Backup Path, into which `source` comes."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self.source = source
        self.clock = FakeClock()
        self.server = MemoryServer(self.clock)
        self.store = Store.open(path, server_id="here", server_name="here", clock=self.clock)

    async def restore(self, **asked: Any) -> Verdict:
        self.run = Run(self.clock)
        wanted = ExternalWanted(**{"source_path": str(self.source), **asked})
        return await ExternalRestore(self.store, self.server, clock=self.clock).run(self.run, wanted)

    async def accounts(self) -> dict[str, Account]:
        return {one.name: one for one in await self.server.accounts()}

    async def mailboxes(self) -> dict[str, Mailbox]:
        return {name: await mailbox(self.server, one.id) for name, one in (await self.accounts()).items()}

    def entry(self, kind: Kind, name: str) -> DirectoryEntry:
        return next(one for one in self.server.entries if (one.kind, one.metadata["name"]) == (kind, name))


class Source(BackupWorld):
    """A server with two accounts and all kinds of entries, and its backup."""

    async def fill(self) -> None:
        self.server.entries = [
            DirectoryEntry(kind=Kind.DOMAIN, id="domain-there", metadata={"name": "old.test", "note": "d"}),
            DirectoryEntry(kind=Kind.DOMAIN, id="domain-else", metadata={"name": "else.test"}),
            DirectoryEntry(kind=Kind.COS, id="cos-there-gold", metadata={"name": "gold", "quota": 5}),
            DirectoryEntry(kind=Kind.COS, id="cos-there-idle", metadata={"name": "idle"}),
            DirectoryEntry(
                kind=Kind.MAILING_LIST,
                id="list-there-1",
                metadata={"name": "all@old.test", "members": ["ann@old.test"], "owners": ["ann-there"]},
            ),
        ]
        for user in USERS:
            identifier = f"{user}-there"
            metadata: dict[str, Any] = {
                "cos_id": "cos-there-gold",
                "zimbraCOSId": "cos-there-gold",
                "password_hash": "{SSHA}x",
                "aliases": [f"{user}.alias@old.test"],
            }
            await self.server.create_account(
                Account(id=identifier, name=f"{user}@old.test", metadata=metadata)
            )
            for number in range(9):
                await self.server.add(
                    identifier,
                    Kind.MESSAGE,
                    ("INBOX", "INBOX/Projects", "Sent")[number % 3],
                    b"Subject: %s %d\r\n\r\nbody" % (user.encode(), number),
                    flags=["seen"] if number % 2 else [],
                    tags=["work"] if number % 4 == 0 else [],
                    when=self.clock.now() - timedelta(days=number),
                )
            await self.server.add(identifier, Kind.CONTACT_GROUP, "People", GROUP)
            await self.server.add(identifier, Kind.DOCUMENT, "Plans", b"a plan", name="plan.txt")
        # What refers to a folder is known by its id only once that is there.
        listing = await self.server.changes("ann-there", None)
        folder = next(one for one in listing.items if one.metadata.get("folder") == "Sent")
        await self.server.put_entry(
            DirectoryEntry(
                kind=Kind.ACCOUNT, id="ann-there", metadata={"zimbraPrefWhenInFolderIds": [folder.item, "7"]}
            )
        )
