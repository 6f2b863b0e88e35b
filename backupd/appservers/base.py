"""AppServer: what the engine needs of the server it backs up, as small protocols.

Words: a *listing* tells which items there are without opening them; a *reading* is an item's photograph
with its content; a *cursor* is an AppServer's own text that says up to where a listing went. Ids are the
AppServer's; they survive changes and moves.

Folder paths use `/` between names and are unique within their area: mail `INBOX`, `INBOX/Projects`, `Sent`;
contacts `Personal`; calendars `Work`; files the directory relative to the root of the documents, the root
itself is the empty path.

Every method may raise `AppServerUnavailable` (worth trying again) and `AppServerRefused` (not worth it).
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import msgspec

from backupd.events import Change
from backupd.items import Area, ItemKey, Kind
from backupd.states import Photograph


class Content(Protocol):
    """An item's bytes, which may be many."""

    @property
    def size(self) -> int:
        """Bytes of the content, as it was when it was looked at."""
        ...

    def open(self) -> BinaryIO:
        """Open the bytes for reading; the caller closes. Raises `ItemVanished`."""
        ...


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A content that the AppServer holds; size in bytes."""

    digest: str
    size: int


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """What was let go of: how many contents, and the bytes that became free by that."""

    contents: int = 0
    bytes: int = 0


class ContentHolder(Protocol):
    """Keeps contents readable by their digest, whatever happens to their items.

    Everything blocks; any thread may call, and worker processes where it can be pickled. Contents are
    given as they are: whoever reads compares the digest.
    """

    def check(self) -> None:
        """Try it out. Raises `AppServerRefused` with the reason where contents can't be held."""
        ...

    def hold(self, content: Content) -> Held:
        """Make sure that a content stays, and tell its digest and size; not durable yet.

        Raises `ItemVanished`, `AppServerUnavailable`.
        """
        ...

    def make_durable(self) -> None:
        """Make durable what any process has had held so far. Raises `AppServerUnavailable`."""
        ...

    def open(self, digest: str) -> BinaryIO | None:
        """Open a held content, None where it is not held. Raises `AppServerUnavailable`."""
        ...

    def contains(self, digest: str) -> bool:
        """Tell whether a content is held; it is not read."""
        ...

    def digests(self) -> Iterator[str]:
        """Yield the digest of every held content. Raises `AppServerUnavailable`."""
        ...

    def release(self, is_needed: Callable[[str], bool], *, before: datetime) -> Released:
        """Let go of the contents that are not needed, but for those last held at or after `before`.

        Raises `AppServerUnavailable`.
        """
        ...


@runtime_checkable
class HoldsDeleted(Protocol):
    """An AppServer whose storage can hold the content of what its users delete."""

    def holder(self) -> ContentHolder:
        """Return what holds contents; whether that works, its `check` tells."""
        ...


class BytesContent(msgspec.Struct, frozen=True):
    """Content that is at hand."""

    content: bytes

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return len(self.content)

    def open(self) -> BinaryIO:
        """Return the bytes as a file."""
        return io.BytesIO(self.content)


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account as the AppServer lists it; `metadata` is its photograph (address, cos, password hash)."""

    id: str
    name: str
    metadata: dict[str, Any]


class DirectoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A domain, COS or mailing list."""

    kind: Kind
    id: str
    metadata: dict[str, Any]


class ListedItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a listing.

    `metadata` is what the listing tells without opening the item: a part of its photograph (folder, flags,
    modified, …). If all of it equals the recorded photograph, the item is unchanged. If it differs and
    `content_fixed`, the new photograph is the recorded one with these values; else the item is read again.
    `locator` helps `read` to find it. Folders come complete (`metadata` is their whole photograph,
    `content_fixed` True).
    """

    kind: Kind
    item: str
    metadata: dict[str, Any]
    locator: str = ""
    content_fixed: bool = False


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What an account holds, or those of its folders that changed since a cursor.

    `scope` None: the whole account was listed. Else only the (area, folder) pairs in it were, completely: a
    known item of such a folder that is not among `items` is gone (or moved, then it is among `items` with
    its new folder). Folder items (kind folder) are always all listed when `scope` is not empty. An empty
    `scope` means nothing changed. `cursor` continues from here, to be kept only once everything listed is
    recorded.
    """

    scope: frozenset[tuple[Area, str]] | None
    items: Sequence[ListedItem]
    cursor: str


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A photograph's metadata, and the content it belongs to (None for kinds without).

    Digest and size are computed by whoever stores the content.
    """

    metadata: dict[str, Any]
    content: Content | None


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What the AppServer holds as an item's content, whether it is whole or not.

    `digest` None: it can't be read, although it is there. `changed` is when it last did, as a photograph
    writes it. `version` is the AppServer's own text: it differs once the content has changed in any way.
    """

    size: int
    digest: str | None
    changed: str
    version: str


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of live changes, and the accounts (or all) of which changes may have been missed."""

    changes: Sequence[Change] = ()
    missed: frozenset[str] = frozenset()
    missed_all: bool = False


class ItemReader(Protocol):
    """Reads items without the event loop; can be pickled, so that worker processes can use it."""

    def read(self, kind: Kind, item: str, locator: str) -> Reading:
        """Return photograph and content of a listed item. Raises `ItemVanished`, `AppServerUnavailable`."""
        ...


class AppServer(Protocol):
    """A server with accounts full of items."""

    async def accounts(self) -> Sequence[Account]:
        """Return all accounts. Raises rather than to return a part of them."""
        ...

    async def directory(self) -> Sequence[DirectoryEntry]:
        """Return all domains, COS and mailing lists."""
        ...

    async def changes(self, account: str, since: str | None) -> Listing:
        """List what changed in an account since a cursor; everything for None or an unknown cursor.

        Raises `AppServerRefused` for an account that does not exist.
        """
        ...

    async def read(self, key: ItemKey) -> Reading:
        """Return an item's photograph and content as they are now. Raises `ItemVanished`."""
        ...

    def reader(self) -> ItemReader | None:
        """Return a blocking reader for worker processes, or None where reading needs this object."""
        ...

    def watch(self) -> AsyncIterator[Watched]:
        """Yield what happens, in batches, until cancelled; first an empty batch once watching has begun.

        Changes carry the photograph's metadata and, for contents up to a bound, the body. Raises
        `AppServerRefused` where an AppServer can't tell.
        """
        ...

    def configuration(self) -> Iterator[tuple[str, Path | bytes]]:
        """Yield (name, file or bytes) of what belongs into the daily configuration dump; blocks."""
        ...

    async def create_account(self, account: Account) -> str:
        """Create an account and return its id. Raises `AppServerRefused` if the name is taken."""
        ...

    async def put_entry(self, entry: DirectoryEntry) -> str:
        """Make sure that a domain, COS or mailing list named `metadata["name"]` exists, and return its id.

        A new one gets the attributes, and the id where it is given and free. One that is there gets the
        attributes that it lacks; what it has is never changed. So does an account (kind `account`), which
        is found by its id and must exist. Raises `AppServerRefused`.
        """
        ...

    async def create_folder(self, account: str, area: Area, folder: str) -> str:
        """Make sure that a folder exists and return its item id."""
        ...

    async def put(self, account: str, kind: Kind, photograph: Photograph, content: BinaryIO) -> str:
        """Store an item with its folder, flags, tags and dates as photographed; return its new id.

        A missing folder is made.

        Bytes are stored as they are. Raises `AppServerRefused` where this item can't be stored.
        """
        ...

    async def examine(self, key: ItemKey) -> Examined:
        """Read all of a listed item's content to its digest. Raises `ItemVanished` where it is gone."""
        ...

    async def replace_content(
        self, key: ItemKey, version: str, photograph: Photograph, content: BinaryIO
    ) -> None:
        """Put content into an item that is there, whole or not at all; its id, name, owner and flags stay.

        It gets the date as photographed. Raises `ContentChanged` where it is not as it was examined any
        more, `AppServerRefused` where this item can't be replaced as it shall be.
        """
        ...
