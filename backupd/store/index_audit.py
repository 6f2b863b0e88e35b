"""Whether the index says of an item what its history does: the rows that are there, and those to be expected.

What is expected is made by the code that writes the index, in a database in memory, so that the two can't
drift apart. An item's rows can also be read back as states: all that a history held but for its events.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from backupd.clock import moment
from backupd.items import ItemKey, Kind, digest_text, name_is_cut
from backupd.states import ChangeType, Origin, State
from backupd.store import index_writing
from backupd.store.index_past import before
from backupd.store.index_queries import SCHEMA

_ITEM = """SELECT items.id, state, states, deleted, first, last, digest, items.size, folder, name, sender,
    lacking, metadata FROM items LEFT JOIN blobs ON blobs.id = items.blob
    WHERE account = ? AND item = ? AND kind = ?"""
_PAST = """SELECT until, since, state, deleted, digest, past.size, lacking, differs FROM past
    LEFT JOIN blobs ON blobs.id = past.blob WHERE past.item = ? ORDER BY until"""
_REFERENCES = """SELECT digest FROM blob_refs JOIN blobs ON blobs.id = blob_refs.blob
    WHERE blob_refs.item = ? ORDER BY digest"""
_KEYS = """SELECT item, kind FROM items WHERE account = ? AND (item, kind) > (?, ?)
    ORDER BY item, kind LIMIT 2000"""
Rows = tuple[Any, ...]


def rows_of(connection: sqlite3.Connection, key: ItemKey) -> Rows | None:
    """Return all that an index says of an item, None where it does not know it. Raises `sqlite3.Error`."""
    row = connection.execute(_ITEM, (key.account, key.item, key.kind.value)).fetchone()
    if row is None:
        return None
    number, *facts = row
    past = connection.execute(_PAST, (number,)).fetchall() if facts[1] != 1 else []
    return (*facts, tuple(past), tuple(connection.execute(_REFERENCES, (number,))))


class Expectation:
    """Tells what the index should say of one item after another."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.executescript(SCHEMA)

    def rows_of(self, key: ItemKey, states: Sequence[State]) -> Rows | None:
        """Return what an index says that knows this history and nothing else."""
        self._connection.execute("BEGIN")
        try:
            index_writing.record(self._connection, Counter(), key, states)
            return rows_of(self._connection, key)
        finally:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Let go of the memory."""
        self._connection.close()


def accounts(connection: sqlite3.Connection) -> list[str]:
    """Return every account of which an index knows items, the empty one of the server's included."""
    found: list[str] = []
    while True:
        # One step per account: the rows between are not walked.
        row = connection.execute(
            "SELECT account FROM items WHERE account > ? ORDER BY account LIMIT 1"
            if found
            else "SELECT account FROM items WHERE account >= ? ORDER BY account LIMIT 1",
            (found[-1] if found else "",),
        ).fetchone()
        if row is None:
            return found
        found.append(row[0])


def keys_after(connection: sqlite3.Connection, account: str, after: tuple[str, str]) -> list[ItemKey]:
    """Return the next items of an account behind (item, kind), a page at a time; none at the end."""
    return [ItemKey(account, Kind(kind), item) for item, kind in connection.execute(_KEYS, (account, *after))]


def states_of(connection: sqlite3.Connection, key: ItemKey) -> list[State]:
    """Return an item's states as far as the index knows them, oldest first; none where it does not.

    Events, actors and who found a change are not in the index: every state is said to be of a scan.
    """
    rows = rows_of(connection, key)
    if rows is None:
        return []
    transaction, _, deleted, _, last, digest, size, _, _, _, lacking, metadata, past, _ = rows
    told = [(last, transaction, deleted, digest, size, lacking, msgspec.json.decode(metadata))]
    for _, since, older, was_deleted, blob, bytes_, lacked, differs in reversed(past):
        told.append((since, older, was_deleted, blob, bytes_, lacked, before(told[-1][-1], differs)))
    states: list[State] = []
    for start, number, is_deleted, blob, bytes_, lacked, photographed in reversed(told):
        states.append(
            State(
                transaction=number,
                kind=key.kind,
                item=key.item if name_is_cut(key.item) else "",
                start=moment(start),
                change=_change(states[-1] if states else None, photographed, is_deleted=bool(is_deleted)),
                deleted=bool(is_deleted),
                origin=Origin.SMARTSCAN,
                digest=None if blob is None else digest_text(blob),
                size=bytes_,
                metadata=photographed,
                lacking=tuple(lacked.split(",")) if lacked else (),
            )
        )
    return states


def _change(last: State | None, metadata: dict[str, Any], *, is_deleted: bool) -> ChangeType:
    if is_deleted:
        return ChangeType.DELETED
    if last is None or last.deleted:
        return ChangeType.CREATED
    if last.metadata.get("folder") != metadata.get("folder"):
        return ChangeType.MOVED
    return ChangeType.MODIFIED
