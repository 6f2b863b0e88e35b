"""Objects: what of the external volume is confirmed, what of it is dead, and what may be there unconfirmed.

An *intent* is written before an object is put, and taken back in the transaction that confirms it: so
whatever a crash leaves on the volume is known by name. Content is *dead* in an object when no place points
there: forgotten by purge, or superseded by a rewritten pack.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from backupd.clock import microseconds, moment
from backupd.items import digest_text
from backupd.store.outside.catalog import Catalog, Queued
from backupd.store.packs import Place, digest_bytes


class IntentKind(StrEnum):
    """What an object is meant to be; `ABANDONED` may only appear late, and is removed then."""

    PACK = "pack"
    REWRITE = "rewrite"
    SINGLE = "single"
    ABANDONED = "abandoned"


class Intent(msgspec.Struct, frozen=True):
    """An object that is about to be put: its name, what it is, its SHA-256 (of packs) and its bytes."""

    name: str
    kind: IntentKind
    sha256: bytes = b""
    bytes: int = 0


class PackAccount(msgspec.Struct, frozen=True):
    """A pack: bytes of the object, of all contents in it and of the live ones, and how many those are."""

    number: int
    name: str
    stored: int
    content_bytes: int
    live: int
    live_bytes: int


class Objects:
    """The objects of one volume in a catalog."""

    def __init__(self, catalog: Catalog, volume: int) -> None:
        self._catalog = catalog
        self._volume = volume

    # ------------------------------------------------------------------ intents

    def intend(self, intents: Sequence[Intent]) -> None:
        """Keep, durably, which objects are about to be put."""
        with self._catalog.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, ?, 0)",
                ((self._volume, one.name, one.kind.value, one.sha256, one.bytes) for one in intents),
            )

    def intents(self, now: datetime) -> list[Intent]:
        """Return the objects that may be on the volume unconfirmed and are to be looked at by now."""
        rows = self._catalog.rows(
            "SELECT name, kind, sha256, bytes FROM intents WHERE volume = ? AND due <= ? ORDER BY name",
            (self._volume, microseconds(now)),
        )
        return [Intent(name, IntentKind(kind), sha256, size) for name, kind, sha256, size in rows]

    def abandon(self, name: str, due: datetime) -> None:
        """Give an object up, but look for it once more: a lost request may be carried out late."""
        with self._catalog.transaction() as connection:
            connection.execute(
                "UPDATE intents SET kind = ?, due = ? WHERE volume = ? AND name = ?",
                (IntentKind.ABANDONED.value, microseconds(due), self._volume, name),
            )

    def drop_intent(self, name: str) -> None:
        """Forget an object that is not on the volume."""
        with self._catalog.transaction() as connection:
            self._drop_intent(connection, name)

    # --------------------------------------------------------------- confirming

    def confirm_pack(
        self, intent: Intent, places: Sequence[Place], now: datetime, *, adopt: bool = False
    ) -> list[Queued]:
        """Take a pack that was read back into the catalog; return what of the queue it answers for.

        Of a rewritten pack those contents move that still rest in an older object; of a new one those are
        taken that still wait. `adopt` takes every content that rests nowhere yet: for rebuilding. All else in
        it is dead.
        """
        done: list[Queued] = []
        with self._catalog.transaction() as connection:
            number = self._object(connection, intent.name, intent.bytes, places, now, is_pack=True)
            live = live_bytes = 0
            for place in places:
                key = digest_bytes(place.digest)
                at = (number, place.block_offset, place.block_bytes, place.offset, place.size)
                old = connection.execute(
                    "SELECT object FROM places WHERE volume = ? AND digest = ?", (self._volume, key)
                ).fetchone()
                if old is not None and old[0] == number:
                    live, live_bytes = live + 1, live_bytes + place.size
                elif old is not None and intent.kind is IntentKind.REWRITE:
                    _lessen(connection, old[0], place.size)
                    connection.execute(
                        "UPDATE places SET object = ?, block_offset = ?, block_bytes = ?, offset = ?, "
                        "size = ? WHERE volume = ? AND digest = ?",
                        (*at, self._volume, key),
                    )
                    live, live_bytes = live + 1, live_bytes + place.size
                elif old is None and self._take(connection, key, at, now, done, place, adopt=adopt):
                    live, live_bytes = live + 1, live_bytes + place.size
            connection.execute(
                "UPDATE objects SET live = ?, live_bytes = ? WHERE id = ?", (live, live_bytes, number)
            )
            self._drop_intent(connection, intent.name)
        return done

    def confirm_single(
        self, name: str, digest: str, size: int, stored: int, now: datetime, *, adopt: bool = False
    ) -> list[Queued]:
        """Take an object that is one content into the catalog; as `confirm_pack`."""
        place = Place(digest, 0, 0, 0, size)
        done: list[Queued] = []
        with self._catalog.transaction() as connection:
            number = self._object(connection, name, stored, [place], now, is_pack=False)
            key = digest_bytes(digest)
            old = connection.execute(
                "SELECT object FROM places WHERE volume = ? AND digest = ?", (self._volume, key)
            ).fetchone()
            is_live = (
                old[0] == number
                if old is not None
                else self._take(connection, key, (number, 0, 0, 0, size), now, done, place, adopt=adopt)
            )
            live = (1, size) if is_live else (0, 0)
            connection.execute("UPDATE objects SET live = ?, live_bytes = ? WHERE id = ?", (*live, number))
            self._drop_intent(connection, name)
        return done

    # ------------------------------------------------------------------- purging

    def forget(self, digests: Sequence[str]) -> int:
        """Let contents be dead: nothing refers to them any more. Return how many rested outside."""
        forgotten = 0
        with self._catalog.transaction() as connection:
            for digest in digests:
                key = digest_bytes(digest)
                connection.execute("DELETE FROM queue WHERE digest = ?", (key,))
                row = connection.execute(
                    "DELETE FROM places WHERE volume = ? AND digest = ? RETURNING object, size",
                    (self._volume, key),
                ).fetchone()
                if row is not None:
                    _lessen(connection, row[0], row[1])
                    forgotten += 1
        return forgotten

    def dead(self, limit: int) -> list[tuple[int, str]]:
        """Return objects of which nothing lives, by number and name."""
        return [
            (number, name)
            for number, name in self._catalog.rows(
                "SELECT id, name FROM objects WHERE volume = ? AND live = 0 ORDER BY id LIMIT ?",
                (self._volume, limit),
            )
        ]

    def count_dead(self) -> int:
        """Return how many objects there are of which nothing lives."""
        query = "SELECT count(*) FROM objects WHERE volume = ? AND live = 0"
        return int(self._catalog.rows(query, (self._volume,))[0][0])

    def remove(self, number: int) -> None:
        """Take an object out of the catalog: it was deleted. One that lives again stays."""
        with self._catalog.transaction() as connection:
            connection.execute("DELETE FROM objects WHERE id = ? AND live = 0", (number,))

    def packs(self) -> list[PackAccount]:
        """Return every pack of which something lives."""
        rows = self._catalog.rows(
            "SELECT id, name, stored, content_bytes, live, live_bytes FROM objects "
            "WHERE volume = ? AND is_pack AND live > 0 ORDER BY id",
            (self._volume,),
        )
        return [PackAccount(*row) for row in rows]

    def names(self, after: str, limit: int) -> list[tuple[int, str]]:
        """Return objects by name, behind a name: for comparing with the volume."""
        return [
            (number, name)
            for number, name in self._catalog.rows(
                "SELECT id, name FROM objects WHERE volume = ? AND name > ? ORDER BY name LIMIT ?",
                (self._volume, after, limit),
            )
        ]

    def is_known(self, name: str) -> bool:
        """Tell whether an object is in the catalog."""
        return bool(
            self._catalog.rows("SELECT 1 FROM objects WHERE volume = ? AND name = ?", (self._volume, name))
        )

    def lose(self, number: int) -> list[str]:
        """Take an object that is gone from the volume out of the catalog; return the digests lost with it."""
        lost = [place.digest for place in self.places_in(number)]
        with self._catalog.transaction() as connection:
            connection.execute("DELETE FROM places WHERE object = ?", (number,))
            connection.execute("DELETE FROM objects WHERE id = ?", (number,))
        return lost

    def places_in(self, number: int) -> list[Place]:
        """Return the contents that live in an object, in its order."""
        rows = self._catalog.rows(
            "SELECT digest, block_offset, block_bytes, offset, size FROM places WHERE object = ? "
            "ORDER BY block_offset, offset",
            (number,),
        )
        return [Place(digest_text(row[0]), *row[1:]) for row in rows]

    # ------------------------------------------------------------------- within

    def _object(
        self,
        connection: sqlite3.Connection,
        name: str,
        stored: int,
        places: Sequence[Place],
        now: datetime,
        *,
        is_pack: bool,
    ) -> int:
        content_bytes = sum(place.size for place in places)
        connection.execute(
            "INSERT INTO objects (volume, name, is_pack, stored, content_bytes, live, live_bytes, confirmed)"
            " VALUES (?, ?, ?, ?, ?, 0, 0, ?)"
            " ON CONFLICT (volume, name) DO UPDATE SET stored = excluded.stored",
            (self._volume, name, is_pack, stored, content_bytes, microseconds(now)),
        )
        row = connection.execute(
            "SELECT id FROM objects WHERE volume = ? AND name = ?", (self._volume, name)
        ).fetchone()
        return int(row[0])

    def _take(
        self,
        connection: sqlite3.Connection,
        key: bytes,
        at: tuple[int, int, int, int, int],
        now: datetime,
        done: list[Queued],
        place: Place,
        *,
        adopt: bool,
    ) -> bool:
        """Let a content rest in an object if it waits (or is adopted); tell whether it does.

        What waits does so for the volume in use: a copy on another one is no answer to that.
        """
        row = None
        if self._volume == self._catalog.current:
            row = connection.execute(
                "DELETE FROM queue WHERE digest = ? RETURNING queued, size, stored", (key,)
            ).fetchone()
        if row is None and not adopt:
            return False
        cached = 0 if row is None else row[2]
        if row is not None:
            done.append(Queued(place.digest, row[1], row[2], moment(row[0])))
        connection.execute(
            "INSERT INTO places VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._volume, key, *at, cached, microseconds(now)),
        )
        return True

    def _drop_intent(self, connection: sqlite3.Connection, name: str) -> None:
        connection.execute("DELETE FROM intents WHERE volume = ? AND name = ?", (self._volume, name))


def _lessen(connection: sqlite3.Connection, number: int, size: int) -> None:
    connection.execute(
        "UPDATE objects SET live = live - 1, live_bytes = live_bytes - ? WHERE id = ?", (size, number)
    )
