"""SQLite as the store uses it: WAL, full sync, explicit transactions, and errors in the words of the store.

A database says whose it is (`application_id`) and in which version (`user_version`). A full disk raises
`SpaceExhausted`, a disk that fails `OSError`; then the open transaction is rolled back. Any other
`sqlite3.Error` is damage or a bug.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from backupd.errors import SpaceExhausted

BUSY_MS = 10_000
WRITER_CACHE_KIB = 16_384
READER_CACHE_KIB = 2_048
"""Every thread that reads has a connection of its own."""
_PRIMARY = 0xFF


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Open a database in autocommit mode. Raises `sqlite3.Error`, also where there is none to read."""
    mode = "rw" if writable else "ro"
    if writable:
        # SQLite gives its own files beside this one the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        cache_kib = WRITER_CACHE_KIB if writable else READER_CACHE_KIB
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        if writable:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = OFF")
        else:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def versions(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return (application_id, user_version); (0, 0) for a new database."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(application), int(version)


def create(connection: sqlite3.Connection, schema: str, application: int, version: int) -> None:
    """Create tables and say whose they are, in one transaction."""
    connection.executescript(
        f"BEGIN IMMEDIATE;\n{schema}\n"
        f"PRAGMA application_id = {application};\nPRAGMA user_version = {version};\nCOMMIT;"
    )


@contextmanager
def disk_errors_told(path: Path) -> Iterator[None]:
    """Raise `SpaceExhausted` or `OSError` where SQLite tells of the disk."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = (getattr(error, "sqlite_errorcode", 0) or 0) & _PRIMARY
        if code == sqlite3.SQLITE_FULL:
            raise SpaceExhausted(
                f"no space to write {path}", hint="free space on its file system", path=str(path)
            ) from error
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise OSError(errno.EIO, str(error), str(path)) from error
        raise
