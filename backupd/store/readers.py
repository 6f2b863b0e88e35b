"""One reading connection for each thread, closed when nobody reads with it any more."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backupd.store import database


class Readers:
    """The reading connections of one database.

    A connection that is closed while another thread steps through its rows ends the whole process (seen with
    Python 3.11's sqlite3). So `close` closes the idle ones, interrupts the others, and leaves their closing
    to the thread that uses them.
    """

    def __init__(self, path: Path) -> None:
        """Open nothing yet."""
        self._path = path
        # A collected generator gives its connection back wherever its thread stands, also in here.
        self._lock = threading.RLock()
        self._threads = threading.local()
        self._uses: dict[sqlite3.Connection, int] = {}
        self._is_closed = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend this thread's connection; readings nest. Raises `sqlite3.Error`, after `close` too."""
        connection = self._taken()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """Close what is idle, interrupt what is in use; called again, nothing happens."""
        with self._lock:
            self._is_closed = True
            for connection, uses in list(self._uses.items()):
                if uses:
                    connection.interrupt()
                else:
                    connection.close()
            self._uses = {connection: uses for connection, uses in self._uses.items() if uses}

    def _taken(self) -> sqlite3.Connection:
        with self._lock:
            if self._is_closed:
                message = "the database is closed"
                raise sqlite3.ProgrammingError(message)
            connection: sqlite3.Connection | None = getattr(self._threads, "connection", None)
            if connection is None:
                connection = database.connect(self._path, writable=False)
                self._threads.connection = connection
                self._uses[connection] = 0
            self._uses[connection] += 1
            return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            self._uses[connection] -= 1
            if self._is_closed and not self._uses[connection]:
                del self._uses[connection]
                connection.close()
