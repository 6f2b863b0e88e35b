"""What the purge asks of the index and does to it: facts of every item, accounts forgotten as a whole."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from backupd.items import Kind

_PAGE = 2_000
_DIGESTS_AT_ONCE = 500


class IndexedItem(msgspec.Struct, frozen=True):
    """What retention must know of an item. `last` is its last state's start in microseconds, `size` bytes."""

    account: str
    kind: str
    item: str
    transaction: int
    deleted: int
    last: int
    size: int


def facts(connection: sqlite3.Connection) -> Iterator[IndexedItem]:
    """Yield every item by account, id and kind; each page is consistent."""
    after = ("", "", "")
    while True:
        rows = connection.execute(
            "SELECT account, kind, item, state, deleted, last, coalesce(size, 0) FROM items"
            " WHERE (account, item, kind) > (?, ?, ?) ORDER BY account, item, kind LIMIT ?",
            (*after, _PAGE),
        ).fetchall()
        for row in rows:
            yield IndexedItem(*row)
        if len(rows) < _PAGE:
            return
        account, kind, item, *_ = rows[-1]
        after = (account, item, kind)


def newest_transaction(connection: sqlite3.Connection, account: str) -> int:
    """Return the highest transaction of an account's items."""
    row = connection.execute("SELECT max(state) FROM items WHERE account = ?", (account,)).fetchone()
    return int(row[0] or 0)


def known_digests(connection: sqlite3.Connection, digests: Sequence[bytes]) -> set[bytes]:
    """Return those of some digests that any state refers to."""
    known: set[bytes] = set()
    for place in range(0, len(digests), _DIGESTS_AT_ONCE):
        page = digests[place : place + _DIGESTS_AT_ONCE]
        marks = ",".join("?" * len(page))
        query = f"SELECT digest FROM blobs WHERE digest IN ({marks})"  # noqa: S608 - question marks
        known.update(row[0] for row in connection.execute(query, page))
    return known


def forget_account(connection: sqlite3.Connection, delta: Counter[str], account: str) -> int:
    """Remove all rows of an account, their references, and the blobs nothing refers to any more."""
    query = "SELECT kind, deleted, count(*), sum(states) FROM items WHERE account = ? GROUP BY kind, deleted"
    rows = connection.execute(query, (account,)).fetchall()
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS gone (id INTEGER PRIMARY KEY)")
    connection.execute("DELETE FROM gone")
    connection.execute(
        "INSERT OR IGNORE INTO gone SELECT blob_refs.blob FROM blob_refs"
        " JOIN items ON items.id = blob_refs.item WHERE items.account = ?",
        (account,),
    )
    own = "SELECT id FROM items WHERE account = ?"
    for table in ("blob_refs", "past"):
        connection.execute(f"DELETE FROM {table} WHERE item IN ({own})", (account,))  # noqa: S608 - constants
    sizes = connection.execute(
        "DELETE FROM blobs WHERE id IN (SELECT id FROM gone)"
        " AND NOT EXISTS (SELECT 1 FROM blob_refs WHERE blob = blobs.id) RETURNING size"
    ).fetchall()
    connection.execute("DELETE FROM gone")
    connection.execute("DELETE FROM items WHERE account = ?", (account,))
    delta["blobs"] -= len(sizes)
    delta["blob_bytes"] -= sum(size for (size,) in sizes)
    forgotten = 0
    for kind, deleted, count, states in rows:
        delta[f"{'deleted' if deleted else 'live'}.{Kind(kind).value}"] -= count
        delta["states"] -= states
        forgotten += count
    return forgotten
