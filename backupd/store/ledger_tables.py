"""Further tables of the ledger: jobs' times, notifications, logs of operations, small facts, condemned blobs.

Each is a thin object over the `Ledger` that holds the database; rows are JSON made by whoever keeps them.
Any thread may call; what is written is durable on return.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from backupd.clock import microseconds
from backupd.store.ledger import Ledger


class KeptJobs:
    """What is known of each scheduled job, by name."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def all(self) -> dict[str, bytes]:
        """Return every job's facts."""
        rows = self._ledger.rows("SELECT name, facts FROM jobs ORDER BY name")
        return {name: facts.encode() for name, facts in rows}

    def keep(self, jobs: Mapping[str, bytes]) -> None:
        """Keep jobs' facts in place of older ones, together."""
        with self._ledger.batch():
            for name, facts in jobs.items():
                self._ledger.write("INSERT OR REPLACE INTO jobs VALUES (?, ?)", (name, facts.decode()))


class Remembered:
    """Small facts of single parts of the daemon, by name, each a JSON text of its part."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, name: str) -> bytes | None:
        """Return what is remembered under a name."""
        rows = self._ledger.rows("SELECT facts FROM remembered WHERE name = ?", (name,))
        return rows[0][0].encode() if rows else None

    def keep(self, name: str, facts: bytes) -> None:
        """Remember under a name, in place of what was."""
        self._ledger.write("INSERT OR REPLACE INTO remembered VALUES (?, ?)", (name, facts.decode()))

    def forget(self, name: str) -> bool:
        """Forget what is remembered under a name; False if nothing was."""
        return self._ledger.write("DELETE FROM remembered WHERE name = ?", (name,)) > 0


class KeptNotifications:
    """Notifications by number; those `pending` still have a way to go."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, facts: bytes, *, pending: bool) -> int:
        """Keep a new notification; return its number."""
        with self._ledger.batch():
            statement = "INSERT INTO notifications (pending, facts) VALUES (?, ?)"
            self._ledger.write(statement, (int(pending), facts.decode()))
            return int(self._ledger.rows("SELECT last_insert_rowid()")[0][0])

    def change(self, number: int, facts: bytes, *, pending: bool) -> None:
        """Keep a notification in place of its older value."""
        statement = "UPDATE notifications SET pending = ?, facts = ? WHERE id = ?"
        self._ledger.write(statement, (int(pending), facts.decode(), number))

    def get(self, number: int) -> bytes | None:
        """Return a notification's facts."""
        rows = self._ledger.rows("SELECT facts FROM notifications WHERE id = ?", (number,))
        return rows[0][0].encode() if rows else None

    def newest(self, limit: int) -> list[tuple[int, bytes]]:
        """Return the newest notifications with their numbers, newest first."""
        rows = self._ledger.rows("SELECT id, facts FROM notifications ORDER BY id DESC LIMIT ?", (limit,))
        return [(number, facts.encode()) for number, facts in rows]

    def pending(self) -> list[tuple[int, bytes]]:
        """Return the notifications that still have a way to go, oldest first."""
        rows = self._ledger.rows("SELECT id, facts FROM notifications WHERE pending ORDER BY id")
        return [(number, facts.encode()) for number, facts in rows]

    def forget_all_but(self, newest: int) -> None:
        """Forget all but the newest ones."""
        statement = "DELETE FROM notifications WHERE id <= (SELECT max(id) FROM notifications) - ?"
        self._ledger.write(statement, (newest,))


class KeptLogs:
    """Lines of operations' logs, in the order in which they came."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, operation: str, lines: Mapping[int, bytes]) -> None:
        """Keep lines by their place; a place that is kept already gets the new line."""
        with self._ledger.batch():
            for place, line in lines.items():
                statement = "INSERT OR REPLACE INTO operation_log VALUES (?, ?, ?)"
                self._ledger.write(statement, (operation, place, line.decode()))

    def of(self, operation: str) -> list[bytes]:
        """Return an operation's lines."""
        query = "SELECT line FROM operation_log WHERE operation = ? ORDER BY place"
        return [line.encode() for (line,) in self._ledger.rows(query, (operation,))]

    def forget(self, operations: Iterable[str]) -> None:
        """Forget the lines of operations."""
        gone: Sequence[str] = list(operations)
        with self._ledger.batch():
            for operation in gone:
                self._ledger.write("DELETE FROM operation_log WHERE operation = ?", (operation,))


RestorePlace = tuple[str, int, str]
"""Item, transaction and target (account and folder, as text) of a restore of one state."""


class KeptRestores:
    """What restores have put back, and what they began: by the account the states are of."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def restored(self, account: str) -> dict[RestorePlace, str]:
        """Return the new ids of an account's restored states."""
        query = "SELECT item, state, target, new_item FROM restored WHERE account = ?"
        rows = self._ledger.rows(query, (account,))
        return {(item, state, target): new_item for item, state, target, new_item in rows}

    def begun(self, account: str) -> dict[RestorePlace, int]:
        """Return the restores whose end was never told, with the journal's last number when they began."""
        rows = self._ledger.rows(
            "SELECT item, state, target, basis FROM restoring WHERE account = ?", (account,)
        )
        return {(item, state, target): basis for item, state, target, basis in rows}

    def begin(self, account: str, places: Iterable[RestorePlace], basis: int) -> None:
        """Keep that restores begin, together; one that began before keeps its basis."""
        with self._ledger.batch():
            for item, state, target in places:
                statement = "INSERT OR IGNORE INTO restoring VALUES (?, ?, ?, ?, ?)"
                self._ledger.write(statement, (account, item, state, target, basis))

    def forget(self, account: str, item: str | None = None) -> None:
        """Forget what was restored of an item, or of all of an account: its history is gone."""
        where = "account = ?" if item is None else "account = ? AND item = ?"
        parameters = (account,) if item is None else (account, item)
        with self._ledger.batch():
            for table in ("restored", "restoring"):
                self._ledger.write(f"DELETE FROM {table} WHERE {where}", parameters)  # noqa: S608 - constants

    def end(self, account: str, restored: Mapping[RestorePlace, str]) -> None:
        """Keep as which items states were restored, together; they are not begun any more."""
        with self._ledger.batch():
            for (item, state, target), new_item in restored.items():
                place = (account, item, state, target)
                self._ledger.write(
                    "INSERT OR REPLACE INTO restored VALUES (?, ?, ?, ?, ?)", (*place, new_item)
                )
                self._ledger.write(
                    "DELETE FROM restoring WHERE account = ? AND item = ? AND state = ? AND target = ?", place
                )


class Condemned:
    """Blobs that nothing refers to, by when that was first seen; the purge removes them after grace."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, digests: Iterable[bytes], since: datetime) -> int:
        """Condemn blobs by their 32 bytes; one that is condemned already keeps its time. Return how many."""
        added = 0
        with self._ledger.batch():
            for digest in digests:
                statement = "INSERT OR IGNORE INTO condemned VALUES (?, ?)"
                added += self._ledger.write(statement, (digest, microseconds(since)))
        return added

    def remove(self, digests: Iterable[bytes]) -> None:
        """Let blobs off, or forget those that are gone."""
        with self._ledger.batch():
            for digest in digests:
                self._ledger.write("DELETE FROM condemned WHERE digest = ?", (digest,))

    def ripe(self, until: datetime, *, limit: int) -> list[bytes]:
        """Return blobs that are condemned since a moment or longer, oldest first."""
        query = "SELECT digest FROM condemned WHERE since <= ? ORDER BY since, digest LIMIT ?"
        return [digest for (digest,) in self._ledger.rows(query, (microseconds(until), limit))]

    def after(self, digest: bytes, *, limit: int) -> list[bytes]:
        """Return condemned blobs behind one of them, in order: all of them in pages."""
        query = "SELECT digest FROM condemned WHERE digest > ? ORDER BY digest LIMIT ?"
        return [one for (one,) in self._ledger.rows(query, (digest, limit))]

    def count(self) -> int:
        """Return how many are condemned."""
        return int(self._ledger.rows("SELECT count(*) FROM condemned")[0][0])
