"""Writing the index: how states become rows, as functions inside an open transaction.

What is written depends on the states alone and not on how they were grouped or when they came, so that an
index that grew and one built anew are the same. Counts are gathered in a Counter and added at the end.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec

from backupd.clock import microseconds
from backupd.items import ItemKey
from backupd.states import State
from backupd.store.index_past import difference
from backupd.store.index_queries import digest_bytes
from backupd.store.index_search import NAMES

_ROW = "SELECT id, state, deleted, states FROM items WHERE account = ? AND item = ? AND kind = ?"
_LAST = "SELECT last, state, deleted, blob, size, lacking, metadata FROM items WHERE id = ?"


def record(
    connection: sqlite3.Connection, delta: Counter[str], key: ItemKey, states: Sequence[State]
) -> None:
    """Take in those of an item's states that are newer than its row."""
    row = connection.execute(_ROW, (key.account, key.item, key.kind.value)).fetchone()
    number, known, was_deleted, count = row or (None, 0, False, 0)
    states = [state for state in states if state.transaction > known]
    if not states:
        return
    last = states[-1]
    blobs: dict[str, int] = {}
    for state in states:
        if state.digest is not None:
            blobs[state.digest] = _blob(connection, delta, state.digest, state.size)
    before = None if number is None else connection.execute(_LAST, (number,)).fetchone()
    count += len(states)
    values = (last.transaction, count, last.deleted, microseconds(last.start), *_described(last, blobs))
    if number is None:
        cursor = connection.execute(
            "INSERT INTO items (account, item, kind, first, state, states, deleted, last, blob, size, folder,"
            " name, sender, lacking, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key.account, key.item, key.kind.value, microseconds(states[0].start), *values),
        )
        number = cursor.lastrowid
    else:
        connection.execute(
            "UPDATE items SET state = ?, states = ?, deleted = ?, last = ?, blob = ?, size = ?, folder = ?,"
            " name = ?, sender = ?, lacking = ?, metadata = ? WHERE id = ?",
            (*values, number),
        )
        delta[_count_name(key, deleted=was_deleted)] -= 1
    if before is not None or len(states) > 1:
        _keep_past(connection, number or 0, before, states, blobs)
    for blob in set(blobs.values()):
        connection.execute("INSERT OR IGNORE INTO blob_refs VALUES (?, ?)", (blob, number))
    delta[_count_name(key, deleted=last.deleted)] += 1
    delta["states"] += len(states)
    delta["highest"] = max(delta["highest"], last.transaction)


def forget(connection: sqlite3.Connection, delta: Counter[str], key: ItemKey) -> None:
    """Remove an item's row, its references, and the blobs that nothing refers to any more."""
    row = connection.execute(_ROW, (key.account, key.item, key.kind.value)).fetchone()
    if row is None:
        return
    number, _, was_deleted, count = row
    blobs = connection.execute("SELECT blob FROM blob_refs WHERE item = ?", (number,)).fetchall()
    connection.execute("DELETE FROM blob_refs WHERE item = ?", (number,))
    connection.execute("DELETE FROM past WHERE item = ?", (number,))
    for (blob,) in blobs:
        gone = connection.execute(
            "DELETE FROM blobs WHERE id = ? AND NOT EXISTS (SELECT 1 FROM blob_refs WHERE blob = blobs.id)"
            " RETURNING size",
            (blob,),
        ).fetchone()
        if gone is not None:
            delta["blobs"] -= 1
            delta["blob_bytes"] -= gone[0]
    connection.execute("DELETE FROM items WHERE id = ?", (number,))
    delta[_count_name(key, deleted=was_deleted)] -= 1
    delta["states"] -= count


def add_counts(connection: sqlite3.Connection, delta: Counter[str]) -> None:
    """Add what was gathered to the counts."""
    add = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
    counted = [(name, value) for name, value in delta.items() if value and name != "highest"]
    connection.executemany(add, counted)
    connection.execute(
        "INSERT INTO meta VALUES ('highest', ?)"
        " ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        (delta["highest"],),
    )


def set_cursor(connection: sqlite3.Connection, cursor: int) -> None:
    """Set the recorder's cursor."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('cursor', ?)", (cursor,))


def _keep_past(
    connection: sqlite3.Connection,
    number: int,
    before: tuple[Any, ...] | None,
    states: Sequence[State],
    blobs: dict[str, int],
) -> None:
    """Keep each state that another one follows as what it differs in from that one, walking forwards."""
    rows = []
    if before is not None:
        *facts, metadata = before
        rows.append((*facts, msgspec.json.decode(metadata)))
    for state in states:
        blob = None if state.digest is None else blobs[state.digest]
        lacking = ",".join(state.lacking) or None
        since = microseconds(state.start)
        rows.append((since, state.transaction, state.deleted, blob, state.size, lacking, state.metadata))
    for older, newer in pairwise(rows):
        since, transaction, deleted, blob, size, lacking, metadata = older
        differs = difference(newer[-1], metadata)
        connection.execute(
            "INSERT INTO past (item, until, since, state, deleted, blob, size, lacking, differs)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (number, newer[0], since, transaction, deleted, blob, size, lacking, differs),
        )


def _count_name(key: ItemKey, *, deleted: bool) -> str:
    return f"{'deleted' if deleted else 'live'}.{key.kind.value}"


def _described(state: State, blobs: dict[str, int]) -> tuple[Any, ...]:
    metadata = state.metadata
    names = (metadata.get(key) for key in NAMES)
    folder, sender = metadata.get("folder"), metadata.get("sender")
    return (
        None if state.digest is None else blobs[state.digest],
        state.size,
        folder if isinstance(folder, str) else None,
        next((name for name in names if isinstance(name, str)), None),
        sender if isinstance(sender, str) else None,
        ",".join(state.lacking) or None,
        msgspec.json.encode(metadata).decode(),
    )


def _blob(connection: sqlite3.Connection, delta: Counter[str], digest: str, size: int | None) -> int:
    raw, told = digest_bytes(digest), size or 0
    cursor = connection.execute("INSERT OR IGNORE INTO blobs (digest, size) VALUES (?, ?)", (raw, told))
    if cursor.rowcount:
        delta["blobs"] += 1
        delta["blob_bytes"] += told
        return cursor.lastrowid or 0
    row = connection.execute("SELECT id, size FROM blobs WHERE digest = ?", (raw,)).fetchone()
    # Of sizes that differ the largest counts, whatever order they come in.
    if told > row[1]:
        connection.execute("UPDATE blobs SET size = ? WHERE id = ?", (told, row[0]))
        delta["blob_bytes"] += told - row[1]
    return int(row[0])
