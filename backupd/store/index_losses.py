"""Questions to the index about what was deleted lately: by when it was deleted, or by when that was recorded.

A deletion counts as *lately* from a moment on, or from behind a transaction: an event tells its own time, so
that one which claims to be old must count by when it came. Moments are microseconds since 1970.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from datetime import datetime

import msgspec

from backupd.clock import microseconds

GONE_INDEX = """CREATE INDEX IF NOT EXISTS items_gone ON items
    (account, last, state, first, kind, item, deleted) WHERE deleted = 1"""
"""Covers the questions below, so that they read nothing but deleted items' entries; made where it lacks."""
_CONTENT = "items.kind NOT IN ('account', 'folder')"
_LATELY = "items.deleted = 1 AND (items.last >= ? OR items.state > ?)"


def make_gone_index(connection: sqlite3.Connection) -> None:
    """Make it in an index that an older version built; without room for it answers only take longer."""
    with suppress(sqlite3.OperationalError):
        connection.execute(GONE_INDEX)


class Gone(msgspec.Struct, frozen=True):
    """A deleted item's life, and the transaction of its deletion."""

    item: str
    first: int
    last: int
    transaction: int


class Lives(msgspec.Struct, frozen=True, kw_only=True):
    """An account's items: those that live since before a moment (counted), or since later, and those gone."""

    living_before: int
    living_since: tuple[int, ...]
    gone: tuple[Gone, ...]


def losing_accounts(
    connection: sqlite3.Connection, since: datetime, after: int, minimum: int, account: str | None
) -> list[str]:
    """Return the accounts (or the one, if it is such) that lost at least so many items lately."""
    only = "" if account is None else " AND items.account = ?"
    rows = connection.execute(
        f"SELECT items.account FROM items WHERE {_LATELY} AND {_CONTENT}{only}"  # noqa: S608 - constants
        " AND items.account != '' GROUP BY items.account HAVING count(*) >= ? ORDER BY items.account",
        (microseconds(since), after, *([] if account is None else [account]), minimum),
    )
    return [row[0] for row in rows]


def lives(connection: sqlite3.Connection, account: str, since: datetime, after: int) -> Lives:
    """Return the lives of an account's items, without its folders and the account itself."""
    where = f"items.account = ? AND {_CONTENT}"
    return _lives(connection, where, (account,), since, after)


def account_lives(connection: sqlite3.Connection, since: datetime, after: int) -> Lives:
    """Return the lives of the accounts themselves."""
    return _lives(connection, "items.kind = 'account'", (), since, after)


def _lives(
    connection: sqlite3.Connection, where: str, parameters: tuple[str, ...], since: datetime, after: int
) -> Lives:
    border = microseconds(since)
    (before,) = connection.execute(
        f"SELECT count(*) FROM items WHERE {where} AND items.deleted = 0 AND items.first < ?",  # noqa: S608 - constants
        (*parameters, border),
    ).fetchone()
    later = connection.execute(
        f"SELECT items.first FROM items WHERE {where} AND items.deleted = 0 AND items.first >= ? ORDER BY 1",  # noqa: S608 - constants
        (*parameters, border),
    )
    gone = connection.execute(
        f"SELECT items.item, items.first, items.last, items.state FROM items WHERE {where} AND {_LATELY}",  # noqa: S608 - constants
        (*parameters, border, after),
    )
    return Lives(
        living_before=before,
        living_since=tuple(row[0] for row in later),
        gone=tuple(Gone(*row) for row in gone),
    )
