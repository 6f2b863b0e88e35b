"""The worlds that the contract suite of AppServers runs in: users' acts in each one's own way."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path

from backupd.appservers.base import Account
from backupd.appservers.directory import DirectoryServer
from backupd.appservers.maildir import FLAG_LETTERS
from backupd.appservers.memory import MemoryServer
from backupd.clock import SystemClock
from backupd.items import Area, Kind
from tests.world.mailtree import make_maildir

ADDRESS = "alice@example.test"


class MemoryWorld:
    """Users of the memory AppServer."""

    def __init__(self):
        self.server = MemoryServer(SystemClock())
        self.account = ""

    async def begin(self):
        self.account = await self.server.create_account(Account(id="", name=ADDRESS, metadata={"cos": "a"}))

    async def deliver(self, folder, content):
        return await self.server.add(self.account, Kind.MESSAGE, folder, content)

    async def add_contact(self, folder, content):
        return await self.server.add(self.account, Kind.CONTACT, folder, content)

    async def edit(self, item, content):
        self.server.edit(self.account, item, content)

    async def flag(self, item, flags):
        self.server.flag(self.account, item, flags)

    async def move(self, item, folder):
        await self.server.move(self.account, item, folder)

    async def remove(self, item):
        self.server.remove(self.account, item)

    async def rename_folder(self, folder, to):
        self.server.rename_folder(self.account, Area.MAIL, folder, to)

    async def remove_folder(self, folder):
        self.server.remove_folder(self.account, Area.MAIL, folder)

    async def break_down(self):
        self.server.unavailable = "down"

    def calm(self):
        """Nothing to wait for."""

    def close(self):
        """Nothing to close."""


class DirectoryWorld:
    """Users of a mail host's files. Ids are found where a listing shows them."""

    def __init__(self):
        self._here = Path(tempfile.mkdtemp(prefix="backupd-contract-"))
        self.root = self._here / "root"
        self._numbers = itertools.count(1)
        self.server = DirectoryServer(
            self.root, identity_path=self._here / "identity.sqlite", clock=SystemClock()
        )
        self.account = ""

    async def begin(self):
        make_maildir(self.home / "Maildir")
        (self.home / "account.toml").write_text('cos = "a"\n')
        (account,) = await self.server.accounts()
        self.account = account.id

    @property
    def home(self):
        return self.root / "example.test" / "alice"

    def _mail(self, folder):
        base = self.home / "Maildir"
        return make_maildir(base if folder == "INBOX" else base / ("." + folder.replace("/", ".")))

    async def _place(self, item):
        listing = await self.server.changes(self.account, None)
        found = next(each for each in listing.items if each.item == item)
        return self.root / found.locator.split("\0")[2]

    async def deliver(self, folder, content):
        name = f"{1_600_000_000 + next(self._numbers)}.M1P1.host"
        aside = self._mail(folder) / "tmp" / name
        aside.write_bytes(content)
        aside.rename(self._mail(folder) / "new" / name)
        return name

    async def add_contact(self, folder, content):
        name = f"contact{next(self._numbers)}"
        path = self.home / "contacts" / folder / f"{name}.vcf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return name

    async def edit(self, item, content):
        (await self._place(item)).write_bytes(content)

    async def flag(self, item, flags):
        path = await self._place(item)
        letters = "".join(sorted(FLAG_LETTERS[word] for word in flags))
        path.rename(path.parents[1] / "cur" / f"{path.name.partition(':')[0]}:2,{letters}")

    async def move(self, item, folder):
        path = await self._place(item)
        path.rename(self._mail(folder) / path.parent.name / path.name)

    async def remove(self, item):
        (await self._place(item)).unlink()

    async def rename_folder(self, folder, to):
        self._mail(folder).rename(self.home / "Maildir" / ("." + to.replace("/", ".")))

    async def remove_folder(self, folder):
        shutil.rmtree(self._mail(folder))

    async def break_down(self):
        self.root.rename(self._here / "away")

    def calm(self):
        """Make what changed just now look older than what a fingerprint distrusts."""
        for name, _, _ in os.walk(self.root):
            directory = Path(name)
            when = directory.stat().st_mtime_ns
            if when > time.time_ns() - 5_000_000_000:
                os.utime(directory, ns=(when - 10_000_000_000, when - 10_000_000_000))

    def close(self):
        self.server.close()
        shutil.rmtree(self._here)


WORLDS = [MemoryWorld, DirectoryWorld]
