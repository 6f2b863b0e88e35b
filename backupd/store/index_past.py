"""The past in the index: every state that another one follows, kept as its difference from that one.

An item's row tells its last state; walking back over its rows in `past`, newest first, and applying what each
differs in, gives every older photograph without opening a history. A difference is a JSON array: an object of
the keys that were other, and a list of the keys that were not there; null where the photographs are equal.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from backupd.clock import microseconds, moment
from backupd.decoding import decoder
from backupd.items import digest_text
from backupd.store.index_queries import KINDS, KnownItem

_PAGE = 2_000
_DIFFERENCE: msgspec.json.Decoder[tuple[dict[str, Any], list[str]]] = decoder(
    tuple[dict[str, Any], list[str]]
)
_METADATA: msgspec.json.Decoder[dict[str, Any]] = decoder(dict[str, Any])
_ITEMS = """SELECT items.id, items.item, items.kind, items.state, items.deleted, items.metadata, blobs.digest,
    items.size, items.first, items.last, items.lacking FROM items LEFT JOIN blobs ON blobs.id = items.blob
    WHERE items.account = ? AND (items.item, items.kind) > (?, ?) AND items.first <= ?
    ORDER BY items.item, items.kind LIMIT ?"""
_PAST = """SELECT items.id, past.since, past.state, past.deleted, blobs.digest, past.size, past.lacking,
    past.differs FROM items CROSS JOIN past ON past.item = items.id LEFT JOIN blobs ON blobs.id = past.blob
    WHERE items.account = ? AND (items.item, items.kind) >= (?, ?) AND (items.item, items.kind) <= (?, ?)
    AND items.first <= ? AND items.last > ? AND past.until > ?
    ORDER BY items.item, items.kind, past.until DESC"""
_Row = tuple[Any, ...]


def difference(newer: Mapping[str, Any], older: Mapping[str, Any]) -> str | None:
    """Return what leads from a photograph's metadata back to that of the state before it."""
    if newer == older:
        return None
    other = {key: value for key, value in older.items() if key not in newer or newer[key] != value}
    absent = [key for key in newer if key not in older]
    return msgspec.json.encode((other, absent)).decode()


def before(newer: Mapping[str, Any], differs: str | None) -> dict[str, Any]:
    """Return the metadata of the state before, from that of a state and their difference."""
    metadata = dict(newer)
    if differs is not None:
        other, absent = _DIFFERENCE.decode(differs)
        metadata.update(other)
        for key in absent:
            metadata.pop(key, None)
    return metadata


def items_at(connection: sqlite3.Connection, account: str, when: datetime) -> Iterator[KnownItem]:
    """Yield an account's items by id as each was at a moment, deleted ones too; none that came later."""
    at = microseconds(when)
    after = ("", "")
    while True:
        rows = connection.execute(_ITEMS, (account, *after, at, _PAGE)).fetchall()
        past = _past_of(connection, account, rows, at)
        for row in rows:
            yield _as_it_was(account, row, past.get(row[0], ()))
        if len(rows) < _PAGE:
            return
        after = (rows[-1][1], rows[-1][2])


def _past_of(
    connection: sqlite3.Connection, account: str, rows: Sequence[_Row], at: int
) -> dict[int, list[_Row]]:
    """Return the states between now and a moment of those of a page's items that changed, newest first."""
    past: dict[int, list[_Row]] = {}
    if any(row[9] > at for row in rows):
        page = (*rows[0][1:3], *rows[-1][1:3])
        for number, *facts in connection.execute(_PAST, (account, *page, at, at, at)):
            past.setdefault(number, []).append(tuple(facts))
    return past


def _as_it_was(account: str, row: _Row, past: Sequence[_Row]) -> KnownItem:
    _, item, kind, state, deleted, told, digest, size, first, since, lacking = row
    metadata = _METADATA.decode(told)
    for *_, differs in past:
        metadata = before(metadata, differs)
    if past:
        since, state, deleted, digest, size, lacking, _ = past[-1]
    return KnownItem(
        account=account,
        kind=KINDS[kind],
        item=item,
        transaction=state,
        deleted=bool(deleted),
        metadata=metadata,
        digest=None if digest is None else digest_text(digest),
        size=size,
        first=moment(first),
        last=moment(since),
        deleted_at=moment(since) if deleted else None,
        lacking=tuple(lacking.split(",")) if lacking else (),
    )
