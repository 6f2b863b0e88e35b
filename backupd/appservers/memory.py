"""An AppServer that lives in memory: the reference of what the interface means, and the tests' own.

Besides the interface it has the acts of users (`add`, `edit`, `flag`, `move`, `remove`, `rename_folder`,
`remove_folder`) and switches for what goes wrong: `unavailable` (every call raises), `vanished` (ids that
are listed, but gone when they are read), `unreadable` (ids whose content `examine` can't read),
`delay_seconds` (every call waits). It belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from backupd.appservers.base import (
    Account,
    BytesContent,
    DirectoryEntry,
    Examined,
    ItemReader,
    ListedItem,
    Listing,
    Reading,
    Watched,
)
from backupd.appservers.memory_holding import MemoryHolder
from backupd.appservers.memory_items import MemoryItem, examined, photograph_item, put_content
from backupd.clock import Clock, written
from backupd.errors import AppServerRefused, AppServerUnavailable, ContentChanged, ItemVanished
from backupd.events import Change
from backupd.items import AREA_OF_KIND, SERVER_KINDS, Area, ItemKey, Kind, digest_of
from backupd.states import ChangeType, Origin, Photograph

FolderKey = tuple[Area, str]


class MemoryAccount(msgspec.Struct):
    """One account: folders by (area, path) with their ids, items by id, and when each folder last changed."""

    account: Account
    folders: dict[FolderKey, str]
    items: dict[str, MemoryItem]
    changed: dict[FolderKey, int]


class MemoryServer:
    """The reference AppServer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._accounts: dict[str, MemoryAccount] = {}
        self._numbers = itertools.count(1)
        self._watchers: list[asyncio.Queue[Watched]] = []
        self.entries: list[DirectoryEntry] = []
        self.unavailable = ""
        self.vanished: set[str] = set()
        self.unreadable: set[str] = set()
        self.delay_seconds = 0.0
        self.held = MemoryHolder()

    # The interface.

    async def accounts(self) -> Sequence[Account]:
        """Return all accounts."""
        await self._reach()
        return [each.account for each in self._accounts.values()]

    async def directory(self) -> Sequence[DirectoryEntry]:
        """Return all domains, COS and mailing lists."""
        await self._reach()
        return list(self.entries)

    async def changes(self, account: str, since: str | None) -> Listing:
        """List what changed in an account since a cursor (a number in text)."""
        await self._reach()
        here = self._account(account)
        number = int(since) if since is not None and since.isdigit() else None
        cursor = str(max(here.changed.values(), default=0))
        scope = None
        if number is not None:
            scope = frozenset(key for key, changed in here.changed.items() if changed > number)
            if not scope:
                return Listing(scope=scope, items=(), cursor=since or cursor)
        folders = [
            ListedItem(
                kind=Kind.FOLDER,
                item=identifier,
                metadata={"folder": path, "area": area.value},
                content_fixed=True,
            )
            for (area, path), identifier in here.folders.items()
        ]
        items = [
            ListedItem(
                kind=item.kind,
                item=identifier,
                metadata=dict(item.listed),
                content_fixed=item.kind is Kind.MESSAGE,
            )
            for identifier, item in here.items.items()
            if scope is None or (item.area, item.folder) in scope
        ]
        return Listing(scope=scope, items=[*folders, *items], cursor=cursor)

    async def read(self, key: ItemKey) -> Reading:
        """Return an item's photograph and content. Raises `ItemVanished`."""
        await self._reach()
        for entry in self.entries:
            if (entry.kind, entry.id) == (key.kind, key.item):
                return Reading(metadata=entry.metadata, content=None)
        here = self._account(key.account)
        if key.kind is Kind.ACCOUNT:
            return Reading(metadata=here.account.metadata, content=None)
        for (area, path), identifier in here.folders.items():
            if key.kind is Kind.FOLDER and identifier == key.item:
                return Reading(metadata={"folder": path, "area": area.value}, content=None)
        item = self._content_item(key)
        return Reading(metadata=photograph_item(item), content=BytesContent(item.content))

    def holder(self) -> MemoryHolder:
        """Return what holds contents in memory."""
        return self.held

    def reader(self) -> ItemReader | None:
        """Return None: reading needs this object."""
        return None

    async def watch(self) -> AsyncIterator[Watched]:
        """Yield what the users do, one batch per act."""
        await self._reach()
        queue: asyncio.Queue[Watched] = asyncio.Queue()
        self._watchers.append(queue)
        try:
            yield Watched()
            while True:
                yield await queue.get()
        finally:
            self._watchers.remove(queue)

    def configuration(self) -> Iterator[tuple[str, Path | bytes]]:
        """Yield the accounts as one file."""
        yield "accounts.json", msgspec.json.encode([each.account for each in self._accounts.values()])

    async def create_account(self, account: Account) -> str:
        """Create an account. Raises `AppServerRefused` if the name or the id is taken."""
        await self._reach()
        identifier = account.id or f"account-{next(self._numbers)}"
        taken = {each.account.name for each in self._accounts.values()}
        if account.name in taken or identifier in self._accounts:
            raise AppServerRefused(f"the account {account.name!r} is there already", name=account.name)
        user, _, domain = account.name.rpartition("@")
        if not user or not domain:
            raise AppServerRefused(f"{account.name!r} is no address", name=account.name)
        metadata = {**account.metadata, "name": account.name, "domain": domain}
        kept = Account(id=identifier, name=account.name, metadata=metadata)
        self._accounts[identifier] = MemoryAccount(kept, {}, {}, {})
        self._tell(identifier, Kind.ACCOUNT, identifier, ChangeType.CREATED, metadata)
        await self.create_folder(identifier, Area.MAIL, "INBOX")
        return identifier

    async def put_entry(self, entry: DirectoryEntry) -> str:
        """Make an entry, or give it the attributes that it lacks."""
        await self._reach()
        name = entry.metadata.get("name")
        given = {key: value for key, value in entry.metadata.items() if value is not None and key != "id"}
        if entry.kind is Kind.ACCOUNT:
            here = self._account(entry.id)
            metadata = {**given, **here.account.metadata}
            if metadata != here.account.metadata:
                here.account = msgspec.structs.replace(here.account, metadata=metadata)
                self._tell(entry.id, Kind.ACCOUNT, entry.id, ChangeType.MODIFIED, metadata)
            return entry.id
        if entry.kind not in SERVER_KINDS or not isinstance(name, str) or not name or "/" in name:
            raise AppServerRefused(f"{name!r} can't be a {entry.kind.value}", name=str(name))
        for place, known in enumerate(self.entries):
            if (known.kind, known.metadata.get("name")) == (entry.kind, name):
                metadata = {**given, **known.metadata}
                self.entries[place] = msgspec.structs.replace(known, metadata=metadata)
                return known.id
        is_free = entry.id and all((one.kind, one.id) != (entry.kind, entry.id) for one in self.entries)
        identifier = entry.id if is_free else f"{entry.kind.value}-{next(self._numbers)}"
        self.entries.append(DirectoryEntry(kind=entry.kind, id=identifier, metadata=given))
        return identifier

    async def create_folder(self, account: str, area: Area, folder: str) -> str:
        """Make sure that a folder exists and return its item id."""
        await self._reach()
        here = self._account(account)
        if any(name in (".", "..") or "\0" in name for name in folder.split("/")):
            raise AppServerRefused(f"{folder!r} is no folder", folder=folder)
        if (area, folder) not in here.folders:
            identifier = f"folder-{next(self._numbers)}"
            here.folders[area, folder] = identifier
            self._touch(here, area, folder)
            metadata = {"folder": folder, "area": area.value}
            self._tell(account, Kind.FOLDER, identifier, ChangeType.CREATED, metadata)
        return here.folders[area, folder]

    async def put(self, account: str, kind: Kind, photograph: Photograph, content: BinaryIO) -> str:
        """Store an item as photographed; return its new id."""
        await self._reach()
        if kind not in AREA_OF_KIND:
            raise AppServerRefused(f"an item of kind {kind.value} can't be put", kind=kind.value)
        told = photograph.metadata
        when = told.get("received" if kind is Kind.MESSAGE else "modified")
        return await self.add(
            account,
            kind,
            told.get("folder") or ("INBOX" if kind is Kind.MESSAGE else ""),
            content.read(),
            flags=told.get("flags", ()),
            tags=told.get("tags", ()),
            name=told.get("name", ""),
            when=datetime.fromisoformat(when) if isinstance(when, str) else None,
        )

    async def examine(self, key: ItemKey) -> Examined:
        """Return what is held as an item's content."""
        await self._reach()
        return examined(self._content_item(key), is_readable=key.item not in self.unreadable)

    async def replace_content(
        self, key: ItemKey, version: str, photograph: Photograph, content: BinaryIO
    ) -> None:
        """Put content into an item that is there."""
        if (await self.examine(key)).version != version:
            raise ContentChanged(f"{key} was changed meanwhile", item=str(key))
        put_content(self._content_item(key), photograph, content.read())
        self.unreadable.discard(key.item)
        self._tell_item(key.account, key.item, ChangeType.MODIFIED)

    # What users do.

    async def add(
        self,
        account: str,
        kind: Kind,
        folder: str,
        content: bytes,
        *,
        flags: Sequence[str] = (),
        tags: Sequence[str] = (),
        name: str = "",
        when: datetime | None = None,
        item: str = "",
    ) -> str:
        """Add an item and return its id, `item` where one is to be used again; a missing folder is made."""
        await self.create_folder(account, AREA_OF_KIND[kind], folder)
        here = self._account(account)
        identifier = item or f"item-{next(self._numbers)}"
        moment = written(when or self._clock.now())
        listed: dict[str, Any]
        if kind is Kind.MESSAGE:
            listed = {"folder": folder, "flags": sorted(flags), "tags": sorted(tags), "received": moment}
        else:
            listed = {"folder": folder, "modified": moment, "bytes": len(content)}
        if kind is Kind.DOCUMENT:
            listed["name"] = name or identifier
        here.items[identifier] = MemoryItem(kind, folder, content, listed)
        self._tell_item(account, identifier, ChangeType.CREATED)
        return identifier

    def flag(self, account: str, item: str, flags: Sequence[str], tags: Sequence[str] = ()) -> None:
        """Set a message's flags and tags."""
        here = self._account(account).items[item]
        here.listed = {**here.listed, "flags": sorted(flags), "tags": sorted(tags)}
        self._tell_item(account, item, ChangeType.MODIFIED)

    def edit(self, account: str, item: str, content: bytes) -> None:
        """Change the content of a contact, an appointment or a document; a message's is damaged by that."""
        here = self._account(account).items[item]
        here.content = content
        if here.kind is not Kind.MESSAGE:
            here.listed = {**here.listed, "modified": written(self._clock.now()), "bytes": len(content)}
        self._tell_item(account, item, ChangeType.MODIFIED)

    async def move(self, account: str, item: str, folder: str) -> None:
        """Move an item within its account; its id stays."""
        here = self._account(account)
        moved = here.items[item]
        await self.create_folder(account, moved.area, folder)
        self._touch(here, moved.area, moved.folder)
        moved.folder = folder
        moved.listed = {**moved.listed, "folder": folder}
        self._tell_item(account, item, ChangeType.MOVED)

    def remove(self, account: str, item: str) -> None:
        """Delete an item for good."""
        here = self._account(account)
        gone = here.items.pop(item)
        self._touch(here, gone.area, gone.folder)
        self._tell(account, gone.kind, item, ChangeType.DELETED, None)

    def rename_folder(self, account: str, area: Area, folder: str, to: str) -> None:
        """Rename a folder with what is in it; all ids stay."""
        here = self._account(account)
        here.folders[area, to] = here.folders.pop((area, folder))
        self._touch(here, area, folder)
        self._touch(here, area, to)
        metadata = {"folder": to, "area": area.value}
        self._tell(account, Kind.FOLDER, here.folders[area, to], ChangeType.MOVED, metadata)
        for identifier, item in here.items.items():
            if (item.area, item.folder) == (area, folder):
                item.folder = to
                item.listed = {**item.listed, "folder": to}
                self._tell_item(account, identifier, ChangeType.MOVED)

    def remove_folder(self, account: str, area: Area, folder: str) -> None:
        """Delete a folder with what is in it."""
        here = self._account(account)
        inside = [key for key, item in here.items.items() if (item.area, item.folder) == (area, folder)]
        for identifier in inside:
            self.remove(account, identifier)
        self._touch(here, area, folder)
        self._tell(account, Kind.FOLDER, here.folders.pop((area, folder)), ChangeType.DELETED, None)

    def remove_account(self, account: str) -> None:
        """Delete an account."""
        del self._accounts[account]
        self._tell(account, Kind.ACCOUNT, account, ChangeType.DELETED, None)

    # How it works.

    async def _reach(self) -> None:
        if self.delay_seconds:
            await self._clock.sleep(self.delay_seconds)
        if self.unavailable:
            raise AppServerUnavailable(self.unavailable)

    def _account(self, account: str) -> MemoryAccount:
        here = self._accounts.get(account)
        if here is None:
            raise AppServerRefused(f"there is no account {account!r}", account=account)
        return here

    def _content_item(self, key: ItemKey) -> MemoryItem:
        item = self._account(key.account).items.get(key.item)
        if item is None or item.kind is not key.kind or key.item in self.vanished:
            raise ItemVanished(f"{key} is gone", item=str(key))
        return item

    def _touch(self, here: MemoryAccount, area: Area, folder: str) -> None:
        here.changed[area, folder] = next(self._numbers)

    def _tell_item(self, account: str, identifier: str, kind_of_change: ChangeType) -> None:
        here = self._account(account)
        item = here.items[identifier]
        self._touch(here, item.area, item.folder)
        self._tell(account, item.kind, identifier, kind_of_change, photograph_item(item), item.content)

    def _tell(
        self,
        account: str,
        kind: Kind,
        item: str,
        kind_of_change: ChangeType,
        metadata: dict[str, Any] | None,
        content: bytes | None = None,
    ) -> None:
        change = Change(
            account=account,
            kind=kind,
            item=item,
            type=kind_of_change,
            time=self._clock.now(),
            origin=Origin.REALTIME,
            metadata=metadata,
            digest=None if content is None else digest_of(content),
            size=None if content is None else len(content),
            body=content,
        )
        for queue in self._watchers:
            queue.put_nowait(Watched(changes=(change,)))
