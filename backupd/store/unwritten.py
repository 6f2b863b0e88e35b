"""Opening a database of a Backup Path without writing there: no lock, no journal file, no shared memory.

SQLite makes files beside a database in WAL mode even for readers. Where its own daemon has it open, those are
there and reading is as usual (`live`). Where nobody has, a database without a log is opened as it is, and one
with a log is copied to a place of ours first. What is said there is not believed: no trigger or view of it
is run.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from pathlib import Path
from urllib.parse import quote

from backupd.durable import free_bytes

BUSY_MS = 10_000
_COPY_SHARE = 2
"""A copy may take one part in so many of the room that is free where it goes."""


class NotOpenable(Exception):
    """The database can't be looked at now without writing; nothing is said about its state."""


def located(path: Path, scratch: Path, *, live: bool) -> str:
    """Return the URI by which a database is read. Raises `NotOpenable`, `OSError` where there is no file."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise FileNotFoundError(f"{path} is no regular file")
    if live:
        return f"file:{quote(str(path))}?mode=ro"
    log = path.with_name(f"{path.name}-wal")
    if _size(log) == 0:
        return f"file:{quote(str(path))}?mode=ro&immutable=1"
    before = _facts(path), _facts(log)
    needed = sum(one[0] for one in before)
    if needed > free_bytes(scratch) // _COPY_SHARE:
        raise NotOpenable(f"{needed:,} bytes find no room in {scratch}")
    copy = scratch / path.name
    for source, target in ((path, copy), (log, copy.with_name(log.name))):
        shutil.copyfile(source, target, follow_symlinks=False)
    if (_facts(path), _facts(log)) != before:
        raise NotOpenable("it is being written")
    connection = sqlite3.connect(copy, isolation_level=None)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:
        pass  # a damaged one is judged where it is read
    finally:
        connection.close()
    return f"file:{quote(str(copy))}?mode=ro&immutable=1"


def opened(uri: str) -> sqlite3.Connection:
    """Open what `located` named. Raises `sqlite3.Error`."""
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA cache_size = -8192")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def why_damaged(connection: sqlite3.Connection) -> str:
    """Return what SQLite finds wrong with a database, an empty text where nothing is."""
    try:
        rows = connection.execute("PRAGMA quick_check(3)").fetchall()
    except sqlite3.Error as error:
        return str(error)
    told = [str(one) for (one,) in rows]
    return "" if told == ["ok"] else "; ".join(told)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _facts(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_size, found.st_mtime_ns
