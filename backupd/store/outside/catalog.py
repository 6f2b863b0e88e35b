"""Catalog: where each content rests outside, and what waits to go there (`volume.sqlite`).

SQLite in WAL with full sync. Everything in it can be found again: what rests outside from the volume itself
(`rebuilding`), what waits from the files in the Backup Path (`cache.sweep`). Any thread may call; who looks
something up never waits for who changes something. All digests are of the volume in use unless said
otherwise; without one nothing is found and nothing is queued.

Raises `SpaceExhausted` and `OSError` where the disk does, `BackupPathRefused` at open for a file that is
damaged or newer.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from backupd import durable
from backupd.clock import microseconds, moment
from backupd.errors import BackupPathRefused
from backupd.items import digest_text
from backupd.store import database
from backupd.store.outside.catalog_schema import APPLICATION, SCHEMA, VERSION
from backupd.store.packs import Place, digest_bytes

_CURRENT = "volume"
_PAGE = 1000
_HINT = "start the daemon: it moves the file aside and builds the catalog anew from the volume"
DAMAGE_ENDING = "-damaged"
"""A file of this ending beside the catalog says that SQLite found damage in it: it is not used again."""
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Located(msgspec.Struct, frozen=True):
    """Where a content rests: the object's name and bytes, and the place in it (None: it is all of it)."""

    name: str
    stored: int
    size: int
    place: Place | None
    share: int
    """The bytes of the object that are the content's, by its part of all contents in there."""


class Queued(msgspec.Struct, frozen=True):
    """A blob that waits: bytes of its content and of its file, and since when it has been there."""

    digest: str
    size: int
    stored: int
    since: datetime


class Backlog(msgspec.Struct, frozen=True):
    """What waits, what can't go because it is damaged here, and what is cached though confirmed."""

    objects: int = 0
    bytes: int = 0
    oldest: datetime | None = None
    troubled: int = 0
    trouble: str = ""
    cached_objects: int = 0
    cached_bytes: int = 0


class Catalog:
    """An open catalog. One process writes; others may look with `writable=False`."""

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        self.path = path
        self._writing = threading.RLock()
        self._reading = threading.Lock()
        self._writer = _open(path) if writable else None
        self._reader = _connect(path, writable=False)
        try:
            self._current = self._read_current()
        except sqlite3.DatabaseError as error:
            self.close()
            raise _refused(path, f"can't be read: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._writing, self._reading:
            # The last one to close tidies up, and only a writer can.
            self._reader.close()
            if self._writer is not None:
                self._writer.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Make changes together, durable on return; nested ones belong to the outermost."""
        assert self._writer is not None, "this catalog is only for looking"
        with self._writing, self._told():
            if self._writer.in_transaction:
                yield self._writer
                return
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                durable.step("catalog.commit")
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            durable.step("catalog.committed")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raise what the disk does; damage is marked, so that the next start builds the catalog anew."""
        try:
            with database.disk_errors_told(self.path):
                yield
        except sqlite3.DatabaseError as error:
            if (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in _DAMAGE:
                _damage_mark(self.path).touch(0o600)
            raise

    # ------------------------------------------------------------- which volume

    @property
    def current(self) -> int | None:
        """The number of the volume in use, None without one."""
        return self._current

    def current_identity(self) -> str:
        """Return the identity of the volume in use; empty without one."""
        rows = self.rows("SELECT value FROM facts WHERE name = ?", (_CURRENT,))
        return str(rows[0][0]) if rows else ""

    def use(self, identity: str) -> None:
        """Make a volume the one in use; empty: none. What waits is found anew by the next sweep.

        What rests there has to be looked for: nobody watched the place meanwhile.
        """
        number = self.number_of(identity) if identity else None
        if number == self._current:
            return  # nothing to write: a start on a full disk must be possible
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (_CURRENT, identity))
            connection.execute("DELETE FROM queue")
            connection.execute("UPDATE places SET cached = 0 WHERE cached > 0")
            connection.execute("UPDATE volumes SET is_whole = 0 WHERE id = ?", (number,))
        self._current = number

    def number_of(self, identity: str) -> int:
        """Return the number of a volume, a new one for one that is not known yet."""
        known = self.rows("SELECT id FROM volumes WHERE identity = ?", (identity,))
        if known:
            return int(known[0][0])
        with self.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO volumes (identity) VALUES (?)", (identity,))
            found = connection.execute("SELECT id FROM volumes WHERE identity = ?", (identity,)).fetchone()
        return int(found[0])

    def is_whole(self) -> bool:
        """Tell whether what rests on the volume in use is known; if not, it has to be looked for."""
        return bool(self.rows("SELECT 1 FROM volumes WHERE id = ? AND is_whole", (self._current,)))

    def set_whole(self, *, whole: bool = True) -> None:
        """Keep whether what rests on the volume in use is known."""
        with self.transaction() as connection:
            connection.execute("UPDATE volumes SET is_whole = ? WHERE id = ?", (whole, self._current))

    def _read_current(self) -> int | None:
        rows = self.rows(
            "SELECT volumes.id FROM facts JOIN volumes ON volumes.identity = facts.value "
            "WHERE facts.name = ?",
            (_CURRENT,),
        )
        return int(rows[0][0]) if rows else None

    # ------------------------------------------------------------------ looking

    def locate(self, digest: str, volume: int | None = None) -> Located | None:
        """Return where a content rests; None if it is not confirmed outside."""
        volume = volume or self._current
        if volume is None:
            return None
        rows = self.rows(
            """SELECT objects.name, objects.stored, places.block_offset, places.block_bytes, places.offset,
            places.size, objects.content_bytes FROM places JOIN objects ON objects.id = places.object
            WHERE places.volume = ? AND places.digest = ?""",
            (volume, digest_bytes(digest)),
        )
        if not rows:
            return None
        name, stored, block_offset, block_bytes, offset, size, content_bytes = rows[0]
        if not block_bytes:
            return Located(name, stored, size, None, stored)
        share = max(1, stored * size // max(1, content_bytes))
        return Located(name, stored, size, Place(digest, block_offset, block_bytes, offset, size), share)

    def digests(self, volume: int | None = None) -> Iterator[str]:
        """Yield every digest that rests outside, page by page."""
        volume = volume or self._current
        last = b""
        while volume is not None:
            rows = self.rows(
                "SELECT digest FROM places WHERE volume = ? AND digest > ? ORDER BY digest LIMIT ?",
                (volume, last, _PAGE),
            )
            if not rows:
                return
            last = rows[-1][0]
            for (digest,) in rows:
                yield digest_text(digest)

    def only_outside(self) -> int:
        """Return how many contents rest on the volume in use and are not cached."""
        query = "SELECT count(*) FROM places WHERE volume = ? AND cached = 0"
        return int(self.rows(query, (self._current,))[0][0])

    def unknown(self, digests: Sequence[str]) -> list[str]:
        """Return those digests that neither rest outside nor wait."""
        raw = {digest_bytes(one): one for one in digests}
        marks = ",".join("?" * len(raw))
        found = self.rows(
            f"SELECT digest FROM queue WHERE digest IN ({marks}) UNION ALL "  # noqa: S608 - marks only
            f"SELECT digest FROM places WHERE volume = ? AND cached > 0 AND digest IN ({marks})",
            (*raw, self._current, *raw),
        )
        known = {digest for (digest,) in found}
        return [one for key, one in raw.items() if key not in known]

    def rows(self, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query as of the last transaction."""
        with self._reading:
            try:
                return self._reader.execute(query, parameters).fetchall()
            except sqlite3.DatabaseError as error:
                # Not around the query: a lookup is made for each content that is recorded.
                with self._told():
                    raise error  # noqa: TRY201 - to be told by what stands around it

    # -------------------------------------------------------------------- queue

    def enqueue(self, blobs: Iterable[Queued]) -> int:
        """Let blobs of the Backup Path wait, or be cached where they rest outside; return how many wait."""
        with self.transaction() as connection:
            if self._current is None:
                return 0
            queued = 0
            for blob in blobs:
                key, since = digest_bytes(blob.digest), microseconds(blob.since)
                if connection.execute(
                    "UPDATE places SET cached = ?, used = ? WHERE volume = ? AND digest = ?",
                    (blob.stored, since, self._current, key),
                ).rowcount:
                    continue
                queued += connection.execute(
                    "INSERT OR IGNORE INTO queue VALUES (NULL, ?, ?, ?, ?, '')",
                    (key, since, blob.size, blob.stored),
                ).rowcount
        return queued

    def queued(self, limit: int) -> list[Queued]:
        """Return what waits, the oldest first."""
        rows = self.rows(
            "SELECT digest, size, stored, queued FROM queue WHERE trouble = '' ORDER BY queued, id LIMIT ?",
            (limit,),
        )
        return [
            Queued(digest_text(digest), size, stored, moment(since)) for digest, size, stored, since in rows
        ]

    def waits(self, digest: str) -> bool:
        """Tell whether a blob waits."""
        return bool(self.rows("SELECT 1 FROM queue WHERE digest = ?", (digest_bytes(digest),)))

    def set_trouble(self, digest: str, trouble: str) -> None:
        """Keep why a blob can't be sent, so that it does not stop those behind it."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE queue SET trouble = ? WHERE digest = ?", (trouble, digest_bytes(digest))
            )

    def clear_troubles(self) -> None:
        """Let every blob be tried again."""
        with self.transaction() as connection:
            connection.execute("UPDATE queue SET trouble = '' WHERE trouble != ''")

    def unqueue(self, digest: str) -> None:
        """Let a blob not wait any more: its file is gone from the Backup Path."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM queue WHERE digest = ?", (digest_bytes(digest),))

    def backlog(self) -> Backlog:
        """Return what waits and what is cached; quick, however much that is."""
        totals = {name: (count, size) for name, count, size in self.rows("SELECT * FROM totals")}
        oldest = self.rows("SELECT min(queued) FROM queue WHERE trouble = ''")[0][0]
        troubled = self.rows("SELECT count(*) FROM queue WHERE trouble != ''")[0][0]
        trouble = self.rows("SELECT trouble FROM queue WHERE trouble != '' LIMIT 1") if troubled else []
        return Backlog(
            *totals["queue"],
            None if oldest is None else moment(oldest),
            troubled,
            trouble[0][0] if trouble else "",
            *totals["cache"],
        )

    # -------------------------------------------------------------------- cache

    def note_uses(self, digests: Iterable[str], when: datetime) -> None:
        """Keep when cached blobs were last used."""
        with self.transaction() as connection:
            connection.executemany(
                "UPDATE places SET used = ? WHERE volume = ? AND digest = ? AND cached > 0",
                ((microseconds(when), self._current, digest_bytes(digest)) for digest in digests),
            )

    def least_used(self, limit: int) -> list[tuple[str, int]]:
        """Return confirmed blobs with the bytes of their cached files, the longest unused first."""
        rows = self.rows(
            "SELECT digest, cached FROM places WHERE volume = ? AND cached > 0 ORDER BY used LIMIT ?",
            (self._current, limit),
        )
        return [(digest_text(digest), cached) for digest, cached in rows]

    def note_evicted(self, digests: Iterable[str]) -> None:
        """Keep that blobs are not in the cache any more."""
        with self.transaction() as connection:
            connection.executemany(
                "UPDATE places SET cached = 0 WHERE volume = ? AND digest = ?",
                ((self._current, digest_bytes(digest)) for digest in digests),
            )


def rests(connection: sqlite3.Connection, digest: str) -> bool:
    """Tell whether a content rests on the volume in use, of a catalog that is only looked at."""
    query = """SELECT 1 FROM facts JOIN volumes ON volumes.identity = facts.value
        JOIN places ON places.volume = volumes.id WHERE facts.name = ? AND places.digest = ?"""
    return connection.execute(query, (_CURRENT, digest_bytes(digest))).fetchone() is not None


def _open(path: Path) -> sqlite3.Connection:
    connection = _connect(path, writable=True)
    try:
        if database.versions(connection) == (0, 0):
            database.create(connection, SCHEMA, APPLICATION, VERSION)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise _refused(path, f"can't be read: {error}") from error
    return connection


def _damage_mark(path: Path) -> Path:
    return path.with_name(path.name + DAMAGE_ENDING)


def _connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    if _damage_mark(path).exists():
        raise _refused(path, "is damaged")
    try:
        with database.disk_errors_told(path):
            connection = database.connect(path, writable=writable)
            found = database.versions(connection)
    except sqlite3.DatabaseError as error:
        raise _refused(path, f"can't be read: {error}") from error
    if found not in {(APPLICATION, VERSION), (0, 0)} or (found == (0, 0) and not writable):
        connection.close()
        raise _refused(
            path, f"has version {found[1]}" if found[0] == APPLICATION else "is no catalog of backupd"
        )
    return connection


def _refused(path: Path, reason: str) -> BackupPathRefused:
    return BackupPathRefused(f"{path} {reason}", hint=_HINT, path=str(path))
