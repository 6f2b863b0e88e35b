"""The embedded AppServer `directory`: the files of a mail host as common software lays them out.

See docs/directory-layout.md. Accounts, domains, COS and lists come from `registry`, listings from `listing`,
photographs from `directory_reader`, restores go through `delivery`, live changes come from `watching`. What
ids were given is kept in an SQLite cache in the daemon's state directory (`identity`). All file work runs in
threads; work on one account is serialised, so that ids are given once.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from backupd.appservers import delivery, entries, mending
from backupd.appservers.base import Account, DirectoryEntry, Examined, Listing, Reading, Watched
from backupd.appservers.deliveries import Arrival, deliver_many
from backupd.appservers.directory_reader import DirectoryReader, Locator, real_root
from backupd.appservers.holding import HoldingArea
from backupd.appservers.identity import Identity, Row
from backupd.appservers.listing import Lister, derived_item_id, folder_directory
from backupd.appservers.live import Tracker
from backupd.appservers.live_changes import Teller
from backupd.appservers.live_folders import LiveFolders
from backupd.appservers.maildir import mtime_of
from backupd.appservers.many import Judged, NewItem
from backupd.appservers.matching import Seen, match
from backupd.appservers.naming import raw, shown
from backupd.appservers.registry import Place, Registry
from backupd.appservers.watching import watch_tree
from backupd.clock import Clock
from backupd.errors import AppServerRefused, AppServerUnavailable, BackupdError, ItemVanished
from backupd.items import AREA_OF_KIND, SERVER_KINDS, Area, ItemKey, Kind
from backupd.states import Photograph

_LOCKS = 64


class DirectoryServer:
    """A mail host's storage below `root`; `close` it in the end."""

    def __init__(self, root: Path, *, identity_path: Path, clock: Clock) -> None:
        self._root = real_root(root)
        self._clock = clock
        self._registry = Registry(self._root)
        self._identity = Identity(identity_path)
        self._lister = Lister(self._root, self._identity)
        self._reader = DirectoryReader(self._root)
        self._places: dict[str, Place] = {}
        self._looked: dict[str, str] = {}
        self._live: list[LiveFolders] = []
        self._unremoved: dict[str, set[str]] = {}
        self._locks = tuple(threading.RLock() for _ in range(_LOCKS))

    def close(self) -> None:
        """Close the identity cache."""
        self._identity.close()

    async def accounts(self) -> Sequence[Account]:
        """Return all accounts. Raises `AppServerUnavailable` rather than to return a part of them."""
        return [place.account for place in await asyncio.to_thread(self._look_for_places)]

    async def directory(self) -> Sequence[DirectoryEntry]:
        """Return all domains, COS and mailing lists."""
        return await asyncio.to_thread(self._registry.entries)

    async def changes(self, account: str, since: str | None) -> Listing:
        """List what changed in an account since a cursor (`AppServer.changes`)."""
        return await asyncio.to_thread(self._changes, account, since)

    async def read(self, key: ItemKey) -> Reading:
        """Return an item's photograph and content as they are now. Raises `ItemVanished`."""
        return await asyncio.to_thread(self._read, key)

    def holder(self) -> HoldingArea:
        """Return the holding area below the root (`HoldsDeleted`)."""
        return HoldingArea(self._root)

    def reader(self) -> DirectoryReader:
        """Return a blocking reader that can be pickled."""
        return DirectoryReader(self._root)

    async def watch(self) -> AsyncIterator[Watched]:
        """Yield what happens, in batches (`AppServer.watch`)."""
        folders, tracker = await asyncio.to_thread(self._tracker)
        self._live.append(folders)
        try:
            async with contextlib.aclosing(watch_tree(self._root, tracker, self._clock)) as batches:
                async for watched in batches:
                    yield watched
        finally:
            self._live.remove(folders)

    def _tracker(self) -> tuple[LiveFolders, Tracker]:
        teller = Teller(self._reader, self._clock)
        folders = LiveFolders(
            self._root,
            lister=self._lister,
            identity=self._identity,
            teller=teller,
            places=self._look_for_places,
            lock=self._lock,
        )
        tracker = Tracker(
            self._root, identity=self._identity, folders=folders, teller=teller, lock=self._lock
        )
        return folders, tracker

    def configuration(self) -> Iterator[tuple[str, Path | bytes]]:
        """Yield the TOML files of accounts, domains, COS and lists."""
        yield from self._registry.toml_files()

    async def create_account(self, account: Account) -> str:
        """Create an account with the given id, or a new one where it is empty; return the id."""
        return await asyncio.to_thread(self._create_account, account)

    async def put_entry(self, entry: DirectoryEntry) -> str:
        """Make an entry's TOML file, or add the attributes that it lacks; return the entry's id."""
        return await asyncio.to_thread(self._put_entry, entry)

    async def create_folder(self, account: str, area: Area, folder: str) -> str:
        """Make sure that a folder exists and return its item id."""
        return await asyncio.to_thread(self._create_folder, account, area, folder)

    async def put(self, account: str, kind: Kind, photograph: Photograph, content: BinaryIO) -> str:
        """Store an item as photographed; return the id under which the next listing shows it."""
        return await asyncio.to_thread(self._put, account, kind, photograph, content)

    async def examine(self, key: ItemKey) -> Examined:
        """Read all of an item's file to its digest (`AppServer.examine`)."""
        return await asyncio.to_thread(lambda: mending.examine(self._root, self._file(key)))

    async def replace_content(
        self, key: ItemKey, version: str, photograph: Photograph, content: BinaryIO
    ) -> None:
        """Put content into an item's file (`AppServer.replace_content`)."""
        await asyncio.to_thread(self._replace_content, key, version, photograph, content)

    async def put_many(self, account: str, items: Sequence[NewItem]) -> list[str | BackupdError]:
        """Store many items, durable together (`many.PutsMany`)."""
        return await asyncio.to_thread(self._put_many, account, items)

    async def read_many(
        self,
        account: str,  # noqa: ARG002 - keys tell it; servers that log in per account want it said
        keys: Sequence[ItemKey],
        judge: Callable[[ItemKey, Reading], Judged],
    ) -> list[Judged | BackupdError]:
        """Read many items in one thread (`many.ReadsMany`)."""
        return await asyncio.to_thread(self._read_many, keys, judge)

    def _look_for_places(self) -> list[Place]:
        places = self._registry.places()
        self._places = {place.account.id: place for place in places}
        return places

    def _lock(self, account: str) -> threading.RLock:
        return self._locks[hash(account) % _LOCKS]

    def _path(self, account: str) -> str:
        """Return where an account lies below the root. Raises `AppServerRefused` for an unknown one."""
        if account not in self._places:
            self._look_for_places()
        place = self._places.get(account)
        if place is None:
            raise AppServerRefused(f"there is no account {account!r}", account=account)
        if not Path(self._root, place.path).is_dir():
            raise AppServerUnavailable(
                f"the directory of {place.account.name} is missing: {shown(place.path)}",
                hint="is the mail storage mounted?",
                account=account,
            )
        return place.path

    def _changes(self, account: str, since: str | None) -> Listing:
        with self._lock(account):
            compared = self._lister.compare_account(account, self._path(account), since)
            for folders in self._live:
                folders.note(account, compared)
            return compared.listing

    def _read(self, key: ItemKey) -> Reading:
        if key.kind in SERVER_KINDS:
            return self._read_entry(key)
        path = self._path(key.account)
        if key.kind is Kind.ACCOUNT:
            place = self._registry.place_at(path)
            if place is None:
                raise ItemVanished(f"the account {key.account} is gone", account=key.account)
            return Reading(metadata=place.account.metadata, content=None)
        if key.kind is Kind.FOLDER:
            return self._read_folder(key)
        reading = self._read_known(path, key)
        if reading is None:
            # It was moved, or nobody saw it yet: what changed since the last such look tells where it is.
            listing = self._changes(key.account, self._looked.get(key.account))
            self._looked[key.account] = listing.cursor
            reading = self._read_known(path, key)
        if reading is None:
            raise ItemVanished(f"{key} is gone", item=str(key))
        return reading

    def _read_known(self, path: str, key: ItemKey) -> Reading | None:
        """Return the item from where it was last seen, None if it is not there."""
        row = self._identity.by_id(key.account, key.item)
        if row is None:
            return None
        try:
            kind, reading = self._reader.read_at(self._locator(path, row))
        except ItemVanished:
            return None
        return reading if kind is key.kind else None

    def _file(self, key: ItemKey) -> str:
        """Return where an item's file was when it was listed, below the root. Raises `ItemVanished`."""
        path = self._path(key.account)
        row = self._identity.by_id(key.account, key.item)
        if row is None:
            raise ItemVanished(f"{key} is gone", item=str(key))
        return self._locator(path, row).path

    def _replace_content(self, key: ItemKey, version: str, photograph: Photograph, content: BinaryIO) -> None:
        if key.kind not in AREA_OF_KIND:
            raise AppServerRefused(f"an item of kind {key.kind.value} has no content", kind=key.kind.value)
        when = photograph.metadata.get("received" if key.kind is Kind.MESSAGE else "modified")
        with self._lock(key.account):
            mending.replace(self._root, self._file(key), version, mtime_of(when), content)

    def _read_entry(self, key: ItemKey) -> Reading:
        for entry in self._registry.entries():
            if (entry.kind, entry.id) == (key.kind, key.item):
                return Reading(metadata=entry.metadata, content=None)
        raise ItemVanished(f"there is no {key}", item=str(key))

    def _read_folder(self, key: ItemKey) -> Reading:
        for item in self._changes(key.account, None).items:
            if item.kind is Kind.FOLDER and item.item == key.item:
                return Reading(metadata=item.metadata, content=None)
        raise ItemVanished(f"the folder {key.item} is gone", item=str(key))

    def _locator(self, path: str, row: Row) -> Locator:
        area = Area(row.area)
        directory = folder_directory(self._root, path, area, row.folder)
        return Locator(area, row.folder, f"{directory}/{raw(row.name)}")

    def _create_account(self, account: Account) -> str:
        self._look_for_places()
        identifier = account.id or str(uuid.uuid4())
        if identifier in self._places:
            other = self._places[identifier].account.name
            raise AppServerRefused(
                f"the id {identifier} is {other}'s", hint="leave the id empty for a new one"
            )
        delivery.make_account(Path(self._root), account, identifier)
        self._look_for_places()
        return identifier

    def _put_entry(self, entry: DirectoryEntry) -> str:
        if entry.kind is Kind.ACCOUNT:
            with self._lock(entry.id):
                entries.complete(Path(self._root, self._path(entry.id), "account.toml"), entry.metadata)
            return entry.id
        known = {(one.kind, one.id) for one in self._registry.entries()}
        identifier = "" if (entry.kind, entry.id) in known else entry.id
        entries.put_entry(Path(self._root), entry.kind, identifier, entry.metadata)
        name = entry.metadata["name"]
        return next(
            one.id
            for one in self._registry.entries()
            if (one.kind, one.metadata["name"]) == (entry.kind, name)
        )

    def _create_folder(self, account: str, area: Area, folder: str) -> str:
        with self._lock(account):
            path = self._path(account)
            directory = Path(self._root, path)
            if area is Area.MAIL:
                delivery.make_mail_folder(directory, folder)
            else:
                delivery.make_tree_folder(directory, area, folder)
            return self._lister.folder_id(account, path, area, folder)

    def _put(self, account: str, kind: Kind, photograph: Photograph, content: BinaryIO) -> str:
        area, folder, name = self._wanted_place(kind, photograph)
        metadata = photograph.metadata
        with self._lock(account):
            directory = Path(self._root, self._path(account))
            if area is Area.MAIL:
                done = delivery.deliver_message(directory, folder, metadata, content)
            else:
                done = delivery.deliver_file(directory, area, folder, name, metadata, content)
            return self._identified(account, [(kind, folder, done)])[0]

    def _put_many(self, account: str, items: Sequence[NewItem]) -> list[str | BackupdError]:
        ended: list[str | BackupdError] = []
        arrivals, places = [], []
        for number, item in enumerate(items):
            ended.append("")
            try:
                area, folder, name = self._wanted_place(item.kind, item.photograph)
            except AppServerRefused as error:
                ended[number] = error
                continue
            arrivals.append(Arrival(area, folder, name, item.photograph.metadata, item.content))
            places.append(number)
        with self._lock(account):
            directory = Path(self._root, self._path(account))
            unremoved = self._unremoved.setdefault(account, set())
            delivered = []
            for number, arrival, done in zip(
                places, arrivals, deliver_many(directory, arrivals, unremoved), strict=True
            ):
                if isinstance(done, BackupdError):
                    ended[number] = done
                else:
                    delivered.append((number, (items[number].kind, arrival.folder, done)))
            identifiers = self._identified(account, [one for _, one in delivered])
            for (number, _), identifier in zip(delivered, identifiers, strict=True):
                ended[number] = identifier
        return ended

    def _read_many(
        self, keys: Sequence[ItemKey], judge: Callable[[ItemKey, Reading], Judged]
    ) -> list[Judged | BackupdError]:
        judged: list[Judged | BackupdError] = []
        directories: dict[tuple[str, str, str], str] = {}
        for key in keys:
            try:
                judged.append(judge(key, self._read_brief(key, directories) or self._read(key)))
            except BackupdError as error:
                judged.append(error)
        return judged

    def _read_brief(self, key: ItemKey, directories: dict[tuple[str, str, str], str]) -> Reading | None:
        """Return an item without its headers, from where it was last seen; None if that takes a closer look.

        `directories` are where folders lie, looked up before.
        """
        row = self._identity.by_id(key.account, key.item) if key.kind in AREA_OF_KIND else None
        if row is None:
            return None
        place = key.account, row.area, row.folder
        try:
            if place not in directories:
                path = self._path(key.account)
                directories[place] = folder_directory(self._root, path, Area(row.area), row.folder)
            locator = Locator(Area(row.area), row.folder, f"{directories[place]}/{raw(row.name)}")
            kind, reading = self._reader.read_at(locator, with_headers=False)
        except ItemVanished:
            return None
        return reading if kind is key.kind else None

    def _wanted_place(self, kind: Kind, photograph: Photograph) -> tuple[Area, str, str]:
        """Return the area, the folder and the file name that an item asks for; a message asks for none."""
        if kind not in AREA_OF_KIND:
            raise AppServerRefused(f"an item of kind {kind.value} can't be put", kind=kind.value)
        area, metadata = AREA_OF_KIND[kind], photograph.metadata
        if area is Area.MAIL:
            return area, metadata.get("folder") or "INBOX", ""
        named = metadata.get("name") if area is Area.FILES else None
        name = named or delivery.file_name_for(area, str(metadata.get("uid") or uuid.uuid4()))
        return area, metadata.get("folder") or "", name

    def _identified(self, account: str, put: Sequence[tuple[Kind, str, delivery.Delivered]]) -> list[str]:
        """Give the ids now that the next listing would give."""
        known, seen = [], []
        for kind, folder, done in put:
            area, name = AREA_OF_KIND[kind], shown(done.name)
            base = name
            if area is Area.MAIL:
                base = name.removeprefix("cur/").partition(":")[0]
            elif row := self._identity.at(account, area, folder, base):
                known.append(row)
            facts = done.facts
            seen.append(
                Seen(
                    area.value, folder, base, facts.st_ino, facts.st_size, facts.st_mtime_ns, kind.value, name
                )
            )
        found: list[Row] = []
        for area_name in dict.fromkeys(one.area for one in seen):
            given = {row.id for row in found}

            def is_taken(identifier: str, given: set[str] = given) -> bool:
                return identifier in given or self._identity.is_taken(account, identifier)

            matches, _ = match(
                [row for row in known if row.area == area_name],
                [one for one in seen if one.area == area_name],
                derive=lambda one: derived_item_id(account, one),
                is_taken=is_taken,
            )
            found += [one.row for one in matches]
        self._identity.save(account, seen=found)
        by_place = {(row.area, row.folder, row.base): row.id for row in found}
        return [by_place[one.area, one.folder, one.base] for one in seen]
