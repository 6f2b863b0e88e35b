"""Which id an item was given: an SQLite cache, so that ids survive flag changes, renames and moves.

A *row* says where an item was last seen (area, folder, base) and what its file looked like there. Ids that
follow from the file name (messages, contacts, appointments) come again if the database is lost; those given
at first sight (documents, folders) may change, nothing else breaks. A damaged database is moved aside and
begun anew. All methods block and may be called from any thread.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from backupd.items import Area

VERSION = 1
_SCHEMA = """
CREATE TABLE items (
    account TEXT NOT NULL, area TEXT NOT NULL, folder TEXT NOT NULL, base TEXT NOT NULL,
    inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL,
    id TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY (account, area, folder, base)
) WITHOUT ROWID;
CREATE INDEX items_by_id ON items (id, account);
CREATE INDEX items_by_inode ON items (inode);
CREATE TABLE folders (
    account TEXT NOT NULL, area TEXT NOT NULL, folder TEXT NOT NULL,
    inode INTEGER NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (account, area, folder)
) WITHOUT ROWID;
"""
log = structlog.get_logger(__name__)


class Row(NamedTuple):
    """Where an item was last seen: `base` names it within its folder, `name` is its path from the folder."""

    area: str
    folder: str
    base: str
    inode: int
    size: int
    mtime: int
    id: str
    kind: str
    name: str


class FolderRow(NamedTuple):
    """Where a folder was last seen."""

    area: str
    folder: str
    inode: int
    id: str


_COLUMNS = ", ".join(Row._fields)


class Identity:
    """The database. `close` it in the end."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._connection = _opened(path)

    def close(self) -> None:
        """Commit and close."""
        with self._lock:
            self._connection.close()

    def rows(self, account: str, area: Area, folders: Iterable[str]) -> list[Row]:
        """Return what is known in some folders of an area."""
        found: list[Row] = []
        with self._lock:
            for folder in folders:
                found += map(
                    Row._make,
                    self._connection.execute(
                        f"SELECT {_COLUMNS} FROM items WHERE account=? AND area=? AND folder=?",  # noqa: S608 - constant columns
                        (account, area.value, folder),
                    ),
                )
        return found

    def of_account(self, account: str) -> list[Row]:
        """Return everything known of an account."""
        with self._lock:
            return [
                Row._make(row)
                for row in self._connection.execute(
                    f"SELECT {_COLUMNS} FROM items WHERE account=?",  # noqa: S608 - constant columns
                    (account,),
                )
            ]

    def all_ids(self, account: str) -> set[str]:
        """Return every id given in an account."""
        with self._lock:
            return {
                row[0] for row in self._connection.execute("SELECT id FROM items WHERE account=?", (account,))
            }

    def is_taken(self, account: str, identifier: str) -> bool:
        """Tell whether an id is given in an account."""
        with self._lock:
            found = self._connection.execute(
                "SELECT 1 FROM items INDEXED BY items_by_id WHERE id=? AND account=? LIMIT 1",
                (identifier, account),
            ).fetchone()
        return found is not None

    def by_id(self, account: str, identifier: str) -> Row | None:
        """Return where an item was last seen."""
        # Left to itself SQLite walks through the whole account: it takes the primary key for the better one.
        return self._one("id=? AND account=?", identifier, account, index="INDEXED BY items_by_id")

    def at(self, account: str, area: Area, folder: str, base: str) -> Row | None:
        """Return what is known at a place."""
        return self._one("account=? AND area=? AND folder=? AND base=?", account, area.value, folder, base)

    def by_inode(self, account: str, area: Area, inode: int) -> list[Row]:
        """Return what is known of a file, by its number."""
        with self._lock:
            return [
                Row._make(row)
                for row in self._connection.execute(
                    f"SELECT {_COLUMNS} FROM items WHERE inode=? AND account=? AND area=?",  # noqa: S608 - constant columns
                    (inode, account, area.value),
                )
            ]

    def _one(self, where: str, *values: str, index: str = "") -> Row | None:
        with self._lock:
            found = self._connection.execute(
                f"SELECT {_COLUMNS} FROM items {index} WHERE {where} LIMIT 1",  # noqa: S608 - constant conditions
                values,
            ).fetchone()
        return None if found is None else Row._make(found)

    def folders(self, account: str) -> list[FolderRow]:
        """Return all known folders of an account."""
        with self._lock:
            return [
                FolderRow._make(row)
                for row in self._connection.execute(
                    "SELECT area, folder, inode, id FROM folders WHERE account=?", (account,)
                )
            ]

    def save(self, account: str, *, gone: Sequence[Row] = (), seen: Sequence[Row] = ()) -> None:
        """Forget places and remember others, together."""
        if not gone and not seen:
            return
        with self._lock, self._connection:
            self._connection.executemany(
                "DELETE FROM items WHERE account=? AND area=? AND folder=? AND base=?",
                [(account, row.area, row.folder, row.base) for row in gone],
            )
            self._connection.executemany(
                f"INSERT OR REPLACE INTO items (account, {_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)",  # noqa: S608 - constant columns
                [(account, *row) for row in seen],
            )

    def save_folders(self, account: str, folders: Sequence[FolderRow]) -> None:
        """Remember exactly these folders of an account."""
        with self._lock, self._connection:
            self._connection.execute("DELETE FROM folders WHERE account=?", (account,))
            self._connection.executemany(
                "INSERT OR REPLACE INTO folders VALUES (?,?,?,?,?)", [(account, *row) for row in folders]
            )


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return _connected(path)
    except sqlite3.DatabaseError as error:
        aside = path.with_name(path.name + ".damaged")
        log.warning("identity_damaged", path=str(path), moved_to=str(aside), reason=str(error))
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        # A cache: after a power loss a little may be missing, and is found again by the next scan.
        connection.execute("PRAGMA synchronous=OFF")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(_SCHEMA + f"PRAGMA user_version={VERSION};")
        elif version != VERSION:
            raise sqlite3.DatabaseError(f"format {version} is not {VERSION}")  # noqa: TRY301 - one way out: closed, moved aside
    except BaseException:
        connection.close()
        raise
    return connection
