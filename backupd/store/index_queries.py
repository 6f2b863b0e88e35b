"""Questions to the index: the tables, and every query as a function over an open connection.

Long answers come in pages by key, so that no read transaction stays open while they are used: each page is
consistent, what changes between two pages may be seen or not. Moments are stored as microseconds.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from backupd.clock import moment
from backupd.items import AREA_OF_KIND, Area, ItemKey, Kind, digest_text

APPLICATION = 0x62_6B_75_69
VERSION = 2
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    id INTEGER PRIMARY KEY, account TEXT NOT NULL, item TEXT NOT NULL, kind TEXT NOT NULL,
    state INTEGER NOT NULL, states INTEGER NOT NULL, deleted INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL,
    blob INTEGER, size INTEGER, folder TEXT, name TEXT, sender TEXT, lacking TEXT, metadata TEXT NOT NULL);
CREATE UNIQUE INDEX items_by_key ON items (account, item, kind);
CREATE INDEX items_accounts ON items (name COLLATE NOCASE) WHERE kind = 'account';
CREATE TABLE past (
    item INTEGER NOT NULL, until INTEGER NOT NULL, since INTEGER NOT NULL,
    state INTEGER NOT NULL, deleted INTEGER NOT NULL, blob INTEGER, size INTEGER, lacking TEXT,
    differs TEXT, PRIMARY KEY (item, until)) WITHOUT ROWID;
CREATE TABLE blobs (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, size INTEGER NOT NULL);
CREATE TABLE blob_refs (
    blob INTEGER NOT NULL, item INTEGER NOT NULL, PRIMARY KEY (blob, item)) WITHOUT ROWID;
CREATE INDEX blob_refs_by_item ON blob_refs (item);
"""
_PAGE = 1000
_IDS_AT_ONCE = 500
_ITEM = """items.account, items.kind, items.item, items.state, items.deleted, items.metadata, blobs.digest,
    items.size, items.first, items.last, items.lacking FROM items LEFT JOIN blobs ON blobs.id = items.blob"""
KINDS = {kind.value: kind for kind in Kind}
_FILES = {kind.value: area for kind, area in AREA_OF_KIND.items()}


class KnownItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item as its last state tells it. `size` is in bytes; a live item has no `deleted_at`."""

    account: str
    kind: Kind
    item: str
    transaction: int
    deleted: bool
    metadata: dict[str, Any]
    digest: str | None
    size: int | None
    first: datetime
    last: datetime
    deleted_at: datetime | None
    lacking: tuple[str, ...]

    @property
    def key(self) -> ItemKey:
        """The item's address."""
        return ItemKey(self.account, self.kind, self.item)


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is: live and deleted items by kind, states of all items, distinct blobs and their bytes.

    `blob_bytes` counts contents as they were, uncompressed.
    """

    items: dict[str, int]
    deleted: dict[str, int]
    states: int
    blobs: int
    blob_bytes: int


def meta(connection: sqlite3.Connection, name: str) -> int:
    """Return a number of the index, 0 if it was never set."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def counts(connection: sqlite3.Connection) -> Counts:
    """Return how much there is; costs a handful of rows."""
    values = dict(connection.execute("SELECT name, value FROM meta"))

    def of(prefix: str) -> dict[str, int]:
        return {
            name.removeprefix(prefix): value
            for name, value in sorted(values.items())
            if name.startswith(prefix) and value
        }

    return Counts(
        items=of("live."),
        deleted=of("deleted."),
        states=values.get("states", 0),
        blobs=values.get("blobs", 0),
        blob_bytes=values.get("blob_bytes", 0),
    )


def items(
    connection: sqlite3.Connection,
    account: str,
    scope: frozenset[tuple[Area, str]] | None,
    *,
    deleted: bool | None,
) -> Iterator[KnownItem]:
    """Yield an account's items by id; see `Index.items`."""
    if scope is not None and not scope:
        return
    after = ("", "")
    while True:
        rows = connection.execute(
            f"SELECT items.folder, {_ITEM} WHERE items.account = ? AND (items.item, items.kind) > (?, ?)"
            f" AND {_deletion(deleted=deleted)} ORDER BY items.item, items.kind LIMIT {_PAGE}",
            (account, *after),
        ).fetchall()
        for folder, *row in rows:
            kind = row[1]
            if scope is None or kind == Kind.FOLDER or folder is None or (_FILES.get(kind), folder) in scope:
                yield _known(row)
        if len(rows) < _PAGE:
            return
        after = (rows[-1][3], rows[-1][2])


def item(connection: sqlite3.Connection, account: str, item_id: str, kind: Kind | None) -> KnownItem | None:
    """Return one item; see `Index.item`."""
    where = "" if kind is None else " AND items.kind = ?"
    row = connection.execute(
        f"SELECT {_ITEM} WHERE items.account = ? AND items.item = ?{where} ORDER BY items.deleted LIMIT 1",
        (account, item_id, *([] if kind is None else [kind.value])),
    ).fetchone()
    return _known(row) if row else None


def items_of(connection: sqlite3.Connection, account: str, item_ids: Sequence[str]) -> list[KnownItem]:
    """Return the items that an account has or had under these ids; see `Index.items_of`."""
    found: dict[str, KnownItem] = {}
    for at in range(0, len(item_ids), _IDS_AT_ONCE):
        some = item_ids[at : at + _IDS_AT_ONCE]
        marks = ", ".join("?" * len(some))
        # Of several kinds under one id a live one counts, as for `item`.
        rows = connection.execute(
            f"SELECT {_ITEM} WHERE items.account = ? AND items.item IN ({marks}) ORDER BY items.deleted DESC",
            (account, *some),
        )
        found |= {known.item: known for known in map(_known, rows)}
    return list(found.values())


def find_account(connection: sqlite3.Connection, name_or_id: str) -> KnownItem | None:
    """Return an account by id or address; see `Index.find_account`."""
    by_id = item(connection, name_or_id, name_or_id, Kind.ACCOUNT)
    if by_id is not None:
        return by_id
    row = connection.execute(
        f"SELECT {_ITEM} WHERE items.kind = 'account' AND items.name = ? COLLATE NOCASE"
        " ORDER BY items.deleted, items.last DESC LIMIT 1",
        (name_or_id,),
    ).fetchone()
    return _known(row) if row else None


def accounts(connection: sqlite3.Connection, *, deleted: bool | None) -> list[KnownItem]:
    """Return account items by name; see `Index.accounts`."""
    where = f"items.kind = 'account' AND {_deletion(deleted=deleted)}"
    query = f"SELECT {_ITEM} WHERE {where} ORDER BY items.name COLLATE NOCASE, items.item"
    return [_known(row) for row in connection.execute(query)]


def entries(connection: sqlite3.Connection, kind: Kind, *, deleted: bool | None) -> list[KnownItem]:
    """Return domains, COS or mailing lists; see `Index.entries`."""
    where = f"items.account = '' AND items.kind = ? AND {_deletion(deleted=deleted)}"
    query = f"SELECT {_ITEM} WHERE {where} ORDER BY items.item"
    return [_known(row) for row in connection.execute(query, (kind.value,))]


def known_by_number(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[KnownItem]:
    """Return items by the index's own numbers, in the order of these."""
    query = f"SELECT {_ITEM} WHERE items.id = ?"
    rows = (connection.execute(query, (number,)).fetchone() for number in numbers)
    return [_known(row) for row in rows if row is not None]


def account_counts(connection: sqlite3.Connection, account: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return an account's live and deleted items by kind."""
    live: dict[str, int] = {}
    gone: dict[str, int] = {}
    query = "SELECT kind, deleted, count(*) FROM items WHERE account = ? GROUP BY kind, deleted"
    for kind, deleted, count in connection.execute(query, (account,)):
        (gone if deleted else live)[kind] = count
    return live, gone


def account_marks(connection: sqlite3.Connection) -> Iterator[tuple[str, int, int, int]]:
    """Yield account (empty: the server's entries), highest transaction, histories and states of each."""
    query = "SELECT account, max(state), count(*), sum(states) FROM items GROUP BY account ORDER BY account"
    yield from connection.execute(query)


def keys(connection: sqlite3.Connection, account: str) -> Iterator[ItemKey]:
    """Yield the keys of an account's items; see `Index.keys`."""
    after = ("", "")
    while True:
        rows = connection.execute(
            "SELECT item, kind FROM items WHERE account = ? AND (item, kind) > (?, ?)"
            " ORDER BY item, kind LIMIT ?",
            (account, *after, _PAGE),
        ).fetchall()
        for item_id, kind in rows:
            yield ItemKey(account, Kind(kind), item_id)
        if len(rows) < _PAGE:
            return
        after = rows[-1]


def has_blob(connection: sqlite3.Connection, digest: str) -> bool:
    """Tell whether any state refers to a digest."""
    query = "SELECT 1 FROM blobs WHERE digest = ?"
    return connection.execute(query, (digest_bytes(digest),)).fetchone() is not None


def digests(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield every digest that a state refers to; see `Index.digests`."""
    last = b""
    while True:
        query = "SELECT digest FROM blobs WHERE digest > ? ORDER BY digest LIMIT ?"
        rows = connection.execute(query, (last, _PAGE)).fetchall()
        for (digest,) in rows:
            yield digest_text(digest)
        if len(rows) < _PAGE:
            return
        last = rows[-1][0]


def blob_references(connection: sqlite3.Connection, digest: str) -> list[ItemKey]:
    """Return the items that have a state with this digest."""
    query = """SELECT items.account, items.kind, items.item FROM blobs
        JOIN blob_refs ON blob_refs.blob = blobs.id
        JOIN items ON items.id = blob_refs.item WHERE blobs.digest = ? ORDER BY 1, 2, 3"""
    rows = connection.execute(query, (digest_bytes(digest),))
    return [ItemKey(account, Kind(kind), item_id) for account, kind, item_id in rows]


def dump(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Yield everything but cursor and highest transaction, in a fixed order, without internal numbers."""
    query = """SELECT account, kind, item, state, states, deleted, first, last, digest, items.size, folder,
        name, sender, lacking, metadata FROM items LEFT JOIN blobs ON blobs.id = items.blob
        ORDER BY account, kind, item"""
    for row in connection.execute(query):
        yield ("item", *row)
    query = """SELECT account, kind, items.item, past.until, past.since, past.state, past.deleted, digest,
        past.size, past.lacking, past.differs FROM past JOIN items ON items.id = past.item
        LEFT JOIN blobs ON blobs.id = past.blob ORDER BY account, kind, items.item, past.until"""
    for row in connection.execute(query):
        yield ("past", *row)
    for row in connection.execute("SELECT digest, size FROM blobs ORDER BY digest"):
        yield ("blob", *row)
    query = """SELECT digest, account, kind, items.item FROM blob_refs JOIN blobs ON blobs.id = blob_refs.blob
        JOIN items ON items.id = blob_refs.item ORDER BY 1, 2, 3, 4"""
    for row in connection.execute(query):
        yield ("reference", *row)
    query = "SELECT name, value FROM meta WHERE name NOT IN ('cursor', 'highest') AND value ORDER BY 1"
    for row in connection.execute(query):
        yield ("count", *row)


def digest_bytes(digest: str) -> bytes:
    """Return a digest as the 32 bytes the index keeps."""
    return base64.b64decode(digest.replace(",", "/"))


def _deletion(*, deleted: bool | None) -> str:
    return "1" if deleted is None else f"items.deleted = {int(deleted)}"


def _known(row: Any) -> KnownItem:
    account, kind, item_id, state, deleted, metadata, digest, size, first, last, lacking = row
    return KnownItem(
        account=account,
        kind=KINDS[kind],
        item=item_id,
        transaction=state,
        deleted=bool(deleted),
        metadata=msgspec.json.decode(metadata),
        digest=None if digest is None else digest_text(digest),
        size=size,
        first=moment(first),
        last=moment(last),
        deleted_at=moment(last) if deleted else None,
        lacking=tuple(lacking.split(",")) if lacking else (),
    )
