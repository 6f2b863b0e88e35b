"""Index: what the histories say, in SQLite, so that questions need not walk the tree (`index.sqlite`).

Derived and disposable: an index that is missing, damaged or of another version is built anew from the
histories, in bounded memory, and is then the same as one that grew with them. The recorder's cursor lies in
it, so that cursor and content change in one transaction.

One thread at a time records: `record` opens a transaction, `commit` or `rollback` ends it, and until then
that thread alone sees it. Any other thread reads what was committed, through a connection of its own.
Raises `SpaceExhausted` or `OSError` where the disk does (the transaction is rolled back then).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from backupd import durable
from backupd.items import Area, ItemKey, Kind
from backupd.states import State
from backupd.store import (
    database,
    index_losses,
    index_past,
    index_purging,
    index_queries,
    index_search,
    index_writing,
)
from backupd.store.index_losses import Lives
from backupd.store.index_purging import IndexedItem
from backupd.store.index_queries import APPLICATION, SCHEMA, VERSION, Counts, KnownItem
from backupd.store.index_search import Search
from backupd.store.readers import Readers
from backupd.volumes.disk import sync_directory

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUILT_PER_TRANSACTION = 5000


class IndexUnusable(Exception):
    """There is no index to use: missing, damaged or of another version. Build one."""


class Index:
    """One `index.sqlite`."""

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        """Open an existing index. Raises `IndexUnusable`, `OSError`."""
        self._path = path
        self._writable = writable
        self._lock = threading.RLock()
        self._readers = Readers(path)
        self._recording = 0
        self._delta: Counter[str] = Counter()
        self._recorded: set[ItemKey] = set()
        self.stale: set[ItemKey] = set()
        """Items whose histories may hold states that were rolled back here; `Store.catch_up` empties it."""
        if not path.is_file() or path.is_symlink() or _marker(path).exists():
            raise IndexUnusable(f"{path} is missing or was found damaged")
        try:
            self._writer = database.connect(path, writable=writable)
            if database.versions(self._writer) != (APPLICATION, VERSION):
                self._writer.close()
                raise IndexUnusable(f"{path} has another version")
            index_queries.counts(self._writer)
            self._writer.execute("SELECT * FROM items LIMIT 1").fetchone()
            if writable:
                index_losses.make_gone_index(self._writer)
        except sqlite3.DatabaseError as error:
            raise IndexUnusable(f"{path}: {error}") from error

    def close(self) -> None:
        """Close all connections; what was not committed is gone. A reading that goes on is interrupted."""
        with self._lock:
            self._readers.close()
            self._writer.close()

    @property
    def is_recording(self) -> bool:
        """Tell whether anything was recorded since the last commit."""
        return bool(self._recorded)

    def cursor(self) -> int:
        """Return the journal sequence up to which everything is recorded."""
        with self._reading() as connection:
            return index_queries.meta(connection, "cursor")

    def highest_transaction(self) -> int:
        """Return the highest transaction of any state recorded."""
        with self._reading() as connection:
            return index_queries.meta(connection, "highest")

    def record(self, key: ItemKey, states: Sequence[State]) -> None:
        """Take in an item's new states, oldest first; those that are not newer than its last are skipped."""
        with self._lock, self._told():
            self._begin()
            self._recorded.add(key)
            index_writing.record(self._writer, self._delta, key, states)

    def forget(self, key: ItemKey) -> None:
        """Remove an item, as if it had never been recorded."""
        with self._lock, self._told():
            self._begin()
            self._recorded.add(key)
            index_writing.forget(self._writer, self._delta, key)

    def forget_account(self, account: str) -> int:
        """Remove everything of an account, as if it had never been recorded; return how many items."""
        with self._lock, self._told():
            self._begin()
            self._recorded.add(ItemKey(account, Kind.ACCOUNT, account))
            return index_purging.forget_account(self._writer, self._delta, account)

    def commit(self, cursor: int) -> None:
        """Make what was recorded durable, together with the recorder's cursor."""
        with self._lock, self._told():
            self._begin()
            index_writing.add_counts(self._writer, self._delta)
            index_writing.set_cursor(self._writer, cursor)
            durable.step("index.commit")
            self._writer.execute("COMMIT")
            self._delta.clear()
            self._recorded.clear()
            self._recording = 0
        durable.step("index.committed")

    def rollback(self) -> None:
        """Forget what was recorded since the last commit; the items concerned become `stale`."""
        with self._lock:
            self.stale |= self._recorded
            self._recorded.clear()
            self._delta.clear()
            self._recording = 0
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def items(
        self,
        account: str,
        *,
        scope: frozenset[tuple[Area, str]] | None = None,
        deleted: bool | None = False,
    ) -> Iterator[KnownItem]:
        """Yield an account's items by id: live ones, deleted ones (True) or both (None).

        The account item is one of them. With a scope only items of these folders or of no known folder,
        and all folder items; nothing for an empty scope.
        """
        with self._reading() as connection:
            yield from index_queries.items(connection, account, scope, deleted=deleted)

    def items_at(self, account: str, when: datetime) -> Iterator[KnownItem]:
        """Yield an account's items by id as each was at a moment, deleted ones too; none that came later.

        The account item is one of them. `transaction`, `last` and the photograph are those of the state of
        that moment.
        """
        with self._reading() as connection:
            yield from index_past.items_at(connection, account, when)

    def item(self, account: str, item: str, kind: Kind | None = None) -> KnownItem | None:
        """Return an item, deleted or not; None if it was never recorded."""
        with self._reading() as connection:
            return index_queries.item(connection, account, item, kind)

    def items_of(self, account: str, items: Sequence[str]) -> list[KnownItem]:
        """Return those of an account's items, deleted or not, that were ever recorded, each once."""
        with self._reading() as connection:
            return index_queries.items_of(connection, account, items)

    def find_account(self, name_or_id: str) -> KnownItem | None:
        """Return an account by id, else by address (any case): a live one before a deleted one."""
        with self._reading() as connection:
            return index_queries.find_account(connection, name_or_id)

    def accounts(self, *, deleted: bool | None = False) -> list[KnownItem]:
        """Return accounts by address: live ones, deleted ones (True) or both (None)."""
        with self._reading() as connection:
            return index_queries.accounts(connection, deleted=deleted)

    def entries(self, kind: Kind, *, deleted: bool | None = False) -> list[KnownItem]:
        """Return the domains, COS or mailing lists: live ones, deleted ones (True) or both (None)."""
        with self._reading() as connection:
            return index_queries.entries(connection, kind, deleted=deleted)

    def search(self, account: str, asked: Search) -> list[KnownItem]:
        """Return items of an account that fit, the one changed last first."""
        with self._reading() as connection:
            return index_search.search(connection, account, asked)

    def counts(self) -> Counts:
        """Return how much there is; quick at any size."""
        with self._reading() as connection:
            return index_queries.counts(connection)

    def account_counts(self, account: str) -> tuple[dict[str, int], dict[str, int]]:
        """Return an account's live and deleted items by kind; walks the account's rows."""
        with self._reading() as connection:
            return index_queries.account_counts(connection, account)

    def account_marks(self) -> list[tuple[str, int, int, int]]:
        """Return account, highest transaction, histories and states of every account; walks all rows."""
        with self._reading() as connection:
            return list(index_queries.account_marks(connection))

    def losing_accounts(
        self, since: datetime, after: int, minimum: int, account: str | None = None
    ) -> list[str]:
        """Return the accounts (or the one) of which at least so many items were deleted lately.

        Lately is at `since` or later, or recorded behind the transaction `after`.
        """
        with self._reading() as connection:
            return index_losses.losing_accounts(connection, since, after, minimum, account)

    def lives(self, account: str, since: datetime, after: int) -> Lives:
        """Return the lives of an account's living items and of those deleted lately."""
        with self._reading() as connection:
            return index_losses.lives(connection, account, since, after)

    def account_lives(self, since: datetime, after: int) -> Lives:
        """Return the lives of the accounts themselves, like `lives`."""
        with self._reading() as connection:
            return index_losses.account_lives(connection, since, after)

    def keys(self, account: str) -> Iterator[ItemKey]:
        """Yield the keys of an account's items by id, deleted ones too, without reading what they hold."""
        with self._reading() as connection:
            yield from index_queries.keys(connection, account)

    def facts(self) -> Iterator[IndexedItem]:
        """Yield what retention must know of every item, by account, in bounded memory."""
        with self._reading() as connection:
            yield from index_purging.facts(connection)

    def newest_transaction(self, account: str) -> int:
        """Return the highest transaction of an account's items, 0 where there are none."""
        with self._reading() as connection:
            return index_purging.newest_transaction(connection, account)

    def known_digests(self, digests: Sequence[bytes]) -> set[bytes]:
        """Return those of some digests (32 bytes each) that any state refers to."""
        with self._reading() as connection:
            return index_purging.known_digests(connection, digests)

    def known_blob(self, digest: str) -> bool:
        """Tell whether any state refers to a digest."""
        with self._reading() as connection:
            return index_queries.has_blob(connection, digest)

    def digests(self) -> Iterator[str]:
        """Yield every digest that a state refers to, page by page."""
        with self._reading() as connection:
            yield from index_queries.digests(connection)

    def blob_references(self, digest: str) -> list[ItemKey]:
        """Return the items that have a state with this digest."""
        with self._reading() as connection:
            return index_queries.blob_references(connection, digest)

    def dump(self) -> Iterator[tuple[Any, ...]]:
        """Yield everything but the cursor in a fixed order, to compare with an index built anew."""
        with self._reading() as connection:
            yield from index_queries.dump(connection)

    def _begin(self) -> None:
        if not self._writer.in_transaction:
            durable.step("index.begin")
            self._writer.execute("BEGIN IMMEDIATE")
        self._recording = threading.get_ident()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if self._recording == threading.get_ident():
            with self._marked():
                yield self._writer
            return
        with self._marked(), self._readers.reading() as connection:
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Roll back after any error, and tell of the disk in the words of the store."""
        try:
            with self._marked():
                yield
        except BaseException:
            self.rollback()
            raise

    @contextmanager
    def _marked(self) -> Iterator[None]:
        """Leave a mark where SQLite finds the file damaged, so that the next open builds it anew."""
        try:
            with database.disk_errors_told(self._path):
                yield
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) in _DAMAGE and self._writable:
                _marker(self._path).touch(mode=0o600)
            raise


def build(path: Path, histories: Iterable[tuple[ItemKey, Sequence[State]]], cursor: int) -> None:
    """Build an index from histories, beside the old one, then put it in its place.

    Memory does not grow with the number of items. Raises `SpaceExhausted`, `OSError`.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    durable.step("index.build")
    with database.disk_errors_told(aside):
        connection = database.connect(aside, writable=True)
        try:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            database.create(connection, SCHEMA, APPLICATION, VERSION)
            connection.execute(index_losses.GONE_INDEX)
            delta: Counter[str] = Counter()
            connection.execute("BEGIN")
            for place, (key, states) in enumerate(histories, 1):
                index_writing.record(connection, delta, key, states)
                if place % _BUILT_PER_TRANSACTION == 0:
                    connection.execute("COMMIT")
                    connection.execute("BEGIN")
            index_writing.add_counts(connection, delta)
            index_writing.set_cursor(connection, cursor)
            connection.execute("COMMIT")
        finally:
            connection.close()
    descriptor = os.open(aside, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    durable.step("index.built")
    for suffix in ("-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    aside.replace(path)
    _marker(path).unlink(missing_ok=True)
    sync_directory(str(path.parent))


def _marker(path: Path) -> Path:
    return path.with_name(f".{path.name}.damaged")
