"""Ledger: the few facts that no history holds (`state.sqlite`), each durable when its method returns.

Attributes that were set, operations, gaps, photographs that wait, publishers' last counts, and what restores
have put back; `ledger_tables` holds jobs' times, notifications and operations' logs. Small, authoritative,
part of the daily dump. Any thread may call; `batch` makes many calls one transaction. A waiting change is
removed only after the checkpoint that made its state durable.

Raises `SpaceExhausted` or `OSError` where the disk does, and `BackupPathRefused` at open for a file that is
damaged or of a newer version: unlike the index it can't be rebuilt.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from backupd import durable
from backupd.clock import microseconds, moment
from backupd.errors import BackupPathRefused
from backupd.items import ItemKey, Kind
from backupd.store import database
from backupd.store.ledger_schema import APPLICATION, SCHEMA, UPGRADES, VERSION


class SetAttribute(msgspec.Struct, frozen=True):
    """An attribute set on a scope of a level (`global`, `server`, `cos`, `account`)."""

    level: str
    scope: str
    name: str
    value: Any


class StoredOperation(msgspec.Struct, frozen=True):
    """An operation as it is kept: `facts` is its JSON, `place` grows with submission."""

    uuid: str
    status: str
    facts: bytes
    place: int


class Gap(msgspec.Struct, frozen=True):
    """A stretch in which changes of an account (empty: of the whole server) may have been missed.

    `latest` is when something was last missed: only a scan that began later heals it.
    """

    id: int
    account: str
    reason: str
    detail: str
    opened: datetime
    latest: datetime
    closed: datetime | None


class Waiting(msgspec.Struct, frozen=True):
    """A change whose photograph could not be taken yet. `change` is its JSON."""

    key: ItemKey
    sequence: int
    change: bytes
    attempts: int
    next_try: datetime
    reason: str


class Ledger:
    """The facts of one `state.sqlite`."""

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        """Open or create. Raises `BackupPathRefused`, `SpaceExhausted`, `OSError`."""
        self._path = path
        self._lock = threading.RLock()
        self._is_batch = False
        self._connection = _open(path, writable=writable)

    def close(self) -> None:
        """Close the database; everything is durable already."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make everything done inside one transaction, durable at its end; an error undoes all of it.

        Other threads wait meanwhile. Batches nest.
        """
        with self._lock, database.disk_errors_told(self._path):
            if self._is_batch:
                yield
                return
            durable.step("ledger.begin")
            self._connection.execute("BEGIN IMMEDIATE")
            self._is_batch = True
            try:
                yield
                durable.step("ledger.commit")
                self._connection.execute("COMMIT")
                durable.step("ledger.committed")
            finally:
                self._is_batch = False
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def attributes(self) -> list[SetAttribute]:
        """Return everything set, by level, scope and name."""
        rows = self.rows("SELECT level, scope, name, value FROM attributes ORDER BY level, scope, name")
        return [
            SetAttribute(level, scope, name, msgspec.json.decode(text)) for level, scope, name, text in rows
        ]

    def set_attribute(self, level: str, scope: str, name: str, value: Any) -> None:
        """Set an attribute on a scope; the value is anything JSON holds."""
        text = msgspec.json.encode(value).decode()
        self.write("INSERT OR REPLACE INTO attributes VALUES (?, ?, ?, ?)", (level, scope, name, text))

    def unset_attribute(self, level: str, scope: str, name: str) -> bool:
        """Remove what was set, so that it is inherited again; False if nothing was."""
        statement = "DELETE FROM attributes WHERE level = ? AND scope = ? AND name = ?"
        return self.write(statement, (level, scope, name)) > 0

    def put_operation(self, uuid: str, status: str, facts: bytes) -> None:
        """Keep an operation: a new one behind all others, a known one in its place."""
        self.write(
            "INSERT INTO operations (uuid, status, facts) VALUES (?, ?, ?)"
            " ON CONFLICT (uuid) DO UPDATE SET status = excluded.status, facts = excluded.facts",
            (uuid, status, facts.decode()),
        )

    def operation(self, uuid: str) -> StoredOperation | None:
        """Return an operation, None if it is not known."""
        found = self._operations("WHERE uuid = ?", (uuid,))
        return found[0] if found else None

    def operations(self, status: str | None = None, *, limit: int = 10_000) -> list[StoredOperation]:
        """Return operations in order of submission, the newest `limit` of them."""
        where = "" if status is None else "WHERE status = ?"
        parameters = () if status is None else (status,)
        return self._operations(f"{where} ORDER BY place DESC LIMIT {int(limit)}", parameters)[::-1]

    def remove_operations(self, uuids: Iterable[str]) -> None:
        """Forget operations."""
        with self.batch():
            self._connection.executemany("DELETE FROM operations WHERE uuid = ?", ((one,) for one in uuids))

    def open_gap(self, account: str, reason: str, detail: str, when: datetime) -> Gap:
        """Open a gap, or widen the open one of the same account and reason to `when`."""
        latest = microseconds(when)
        with self.batch():
            for gap in self._gaps("WHERE closed IS NULL AND account = ? AND reason = ?", (account, reason)):
                # It always grows, whatever the clock does: a scan sees that more was missed meanwhile.
                latest = max(latest, microseconds(gap.latest) + 1)
                statement = "UPDATE gaps SET latest = ?, detail = ? WHERE id = ?"
                self._connection.execute(statement, (latest, detail, gap.id))
                return msgspec.structs.replace(gap, latest=moment(latest), detail=detail)
            statement = (
                "INSERT INTO gaps (account, reason, detail, opened, latest)"
                " VALUES (?, ?, ?, ?, ?) RETURNING id"
            )
            row = self._connection.execute(statement, (account, reason, detail, latest, latest)).fetchone()
            return Gap(row[0], account, reason, detail, when, when, None)

    def close_gap(self, gap: int, when: datetime) -> bool:
        """Close a gap; False if it is not open."""
        statement = "UPDATE gaps SET closed = ? WHERE id = ? AND closed IS NULL"
        return self.write(statement, (microseconds(when), gap)) > 0

    def gaps(self, *, account: str | None = None, is_open: bool | None = True) -> list[Gap]:
        """Return gaps, oldest first: of one account (alone) or all; open ones, closed ones or both."""
        where = {True: "closed IS NULL", False: "closed IS NOT NULL", None: "1"}[is_open]
        if account is None:
            return self._gaps(f"WHERE {where}", ())
        return self._gaps(f"WHERE {where} AND account = ?", (account,))

    def gaps_after(self, gap: int) -> list[Gap]:
        """Return gaps that were opened later than the one of this number, open or not."""
        return self._gaps("WHERE id > ?", (gap,))

    def put_waiting(self, waiting: Waiting) -> None:
        """Keep a change that waits; of one item only the newest waits."""
        key = waiting.key
        self.write(
            "INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key.account,
                key.kind.value,
                key.item,
                waiting.sequence,
                waiting.change.decode(),
                waiting.attempts,
                microseconds(waiting.next_try),
                waiting.reason,
            ),
        )

    def remove_waiting(self, key: ItemKey, through: int) -> bool:
        """Remove what waits for an item, unless it is newer than `through`; False if nothing went."""
        statement = "DELETE FROM waiting WHERE account = ? AND kind = ? AND item = ? AND sequence <= ?"
        return self.write(statement, (key.account, key.kind.value, key.item, through)) > 0

    def waiting(self, key: ItemKey) -> Waiting | None:
        """Return what waits for an item."""
        parameters = (key.account, key.kind.value, key.item)
        found = self._waiting("WHERE account = ? AND kind = ? AND item = ?", parameters)
        return found[0] if found else None

    def hasten_waiting(self, now: datetime) -> int:
        """Let everything that waits be due by now; return how much had to wait longer."""
        moment = microseconds(now)
        return self.write("UPDATE waiting SET next_try = ? WHERE next_try > ?", (moment, moment))

    def waiting_due(self, now: datetime, *, limit: int) -> list[Waiting]:
        """Return what is to be tried by now, longest due first."""
        return self._waiting("WHERE next_try <= ? ORDER BY next_try LIMIT ?", (microseconds(now), limit))

    def waiting_after(self, key: ItemKey | None, *, limit: int) -> list[Waiting]:
        """Return what waits, ordered by item, behind one of them: all of it in pages."""
        after = ("", "", "") if key is None else (key.account, key.kind.value, key.item)
        where = "WHERE (account, kind, item) > (?, ?, ?) ORDER BY account, kind, item LIMIT ?"
        return self._waiting(where, (*after, limit))

    def waiting_pages(self, *, limit: int = 5_000) -> Iterator[list[Waiting]]:
        """Yield everything that waits, page by page."""
        last: ItemKey | None = None
        while rows := self.waiting_after(last, limit=limit):
            last = rows[-1].key
            yield rows

    def waiting_count(self) -> int:
        """Return how many items wait."""
        return int(self.rows("SELECT count(*) FROM waiting")[0][0])

    def waiting_since(self) -> dict[str, datetime]:
        """Return when the oldest change that waits was made, by account; down to the second.

        Reads every row that waits: about 50 ms for 100,000.
        """
        made = "coalesce(json_extract(change, '$.since'), json_extract(change, '$.time'))"
        # Seconds alone, because only texts of one length sort as time does.
        query = f"SELECT account, min(substr({made}, 1, 19)) FROM waiting GROUP BY account"  # noqa: S608 - constants
        return {account: datetime.fromisoformat(f"{text}Z") for account, text in self.rows(query) if text}

    def number(self, source: str, account: str) -> int | None:
        """Return a publisher's last count for an account."""
        rows = self.rows("SELECT number FROM numbers WHERE source = ? AND account = ?", (source, account))
        return rows[0][0] if rows else None

    def numbers(self) -> dict[tuple[str, str], int]:
        """Return all last counts by (source, account)."""
        rows = self.rows("SELECT source, account, number FROM numbers")
        return {(source, account): number for source, account, number in rows}

    def set_numbers(self, numbers: Mapping[tuple[str, str], int]) -> None:
        """Keep last counts by (source, account)."""
        with self.batch():
            self._connection.executemany(
                "INSERT OR REPLACE INTO numbers VALUES (?, ?, ?)",
                ((source, account, number) for (source, account), number in numbers.items()),
            )

    def has_session(self, broker: str) -> bool:
        """Tell whether a session with a broker was begun before, so that it may be missed."""
        return bool(self.rows("SELECT 1 FROM sessions WHERE broker = ?", (broker,)))

    def remember_session(self, broker: str, when: datetime) -> None:
        """Keep that a session with a broker was begun."""
        self.write("INSERT OR REPLACE INTO sessions VALUES (?, ?)", (broker, microseconds(when)))

    def restored(self, account: str, item: str, transaction: int, target: str) -> str | None:
        """Return the new id that a restore of this state to `target` (account and folder, as text) got."""
        rows = self.rows(
            "SELECT new_item FROM restored WHERE account = ? AND item = ? AND state = ? AND target = ?",
            (account, item, transaction, target),
        )
        return rows[0][0] if rows else None

    def restoring(self, account: str, item: str, transaction: int, target: str) -> int | None:
        """Return the `basis` of a restore of this state to `target` whose end was never told."""
        rows = self.rows(
            "SELECT basis FROM restoring WHERE account = ? AND item = ? AND state = ? AND target = ?",
            (account, item, transaction, target),
        )
        return rows[0][0] if rows else None

    def set_restoring(self, account: str, item: str, transaction: int, target: str, basis: int) -> None:
        """Keep that a restore begins; what it makes is not yet in the journal up to `basis`."""
        self.write(
            "INSERT OR IGNORE INTO restoring VALUES (?, ?, ?, ?, ?)",
            (account, item, transaction, target, basis),
        )

    def set_restored(self, account: str, item: str, transaction: int, target: str, new_item: str) -> None:
        """Keep that a state was restored to `target`, and as which item; no restore of it runs any more."""
        place = (account, item, transaction, target)
        with self.batch():
            self.write("INSERT OR REPLACE INTO restored VALUES (?, ?, ?, ?, ?)", (*place, new_item))
            self.write(
                "DELETE FROM restoring WHERE account = ? AND item = ? AND state = ? AND target = ?", place
            )

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy, for the daily dump. Raises `SpaceExhausted`, `OSError`."""
        with self._lock, database.disk_errors_told(path):
            target = sqlite3.connect(path)
            try:
                self._connection.backup(target)
            finally:
                target.close()
            path.chmod(0o600)

    def _operations(self, where: str, parameters: tuple[Any, ...]) -> list[StoredOperation]:
        rows = self.rows(f"SELECT uuid, status, facts, place FROM operations {where}", parameters)  # noqa: S608 - constants
        return [StoredOperation(uuid, status, facts.encode(), place) for uuid, status, facts, place in rows]

    def _gaps(self, where: str, parameters: tuple[Any, ...]) -> list[Gap]:
        query = f"SELECT id, account, reason, detail, opened, latest, closed FROM gaps {where} ORDER BY id"  # noqa: S608 - constants
        return [
            Gap(
                gap,
                account,
                reason,
                detail,
                moment(opened),
                moment(latest),
                None if closed is None else moment(closed),
            )
            for gap, account, reason, detail, opened, latest, closed in self.rows(query, parameters)
        ]

    def _waiting(self, where: str, parameters: tuple[Any, ...]) -> list[Waiting]:
        columns = "account, kind, item, sequence, change, attempts, next_try, reason"
        return [
            Waiting(
                ItemKey(account, Kind(kind), item), sequence, change.encode(), attempts, moment(due), reason
            )
            for account, kind, item, sequence, change, attempts, due, reason in self.rows(
                f"SELECT {columns} FROM waiting {where}",  # noqa: S608 - constants
                parameters,
            )
        ]

    def rows(self, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query; for this class and those that keep tables of their own in here."""
        with self._lock, database.disk_errors_told(self._path):
            return self._connection.execute(query, parameters).fetchall()

    def write(self, statement: str, parameters: tuple[Any, ...]) -> int:
        """Change rows, durably or as part of the batch; return how many."""
        with self.batch():
            return self._connection.execute(statement, parameters).rowcount


_PUT_BACK = "put back the copy in the newest servers/configuration_*.tar.gz: docs/operations.md says how"


def _open(path: Path, *, writable: bool) -> sqlite3.Connection:
    try:
        with database.disk_errors_told(path):
            connection = database.connect(path, writable=writable)
            application, version = database.versions(connection)
            if (application, version) == (0, 0) and writable:
                database.create(connection, SCHEMA, APPLICATION, VERSION)
                return connection
            if application == APPLICATION and version in UPGRADES and writable:
                database.create(connection, UPGRADES[version], APPLICATION, VERSION)
    except sqlite3.DatabaseError as error:
        raise _refused(path, f"can't be read: {error}", _PUT_BACK) from error
    if application != APPLICATION:
        connection.close()
        raise _refused(path, "is no ledger of backupd", _PUT_BACK)
    if version > VERSION:
        connection.close()
        raise _refused(path, f"has version {version}", "use the newer backupd that wrote it")
    return connection


def _refused(path: Path, reason: str, hint: str) -> BackupPathRefused:
    return BackupPathRefused(f"{path} {reason}", hint=hint, path=str(path))
