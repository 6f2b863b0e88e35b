"""Sets of digests on disk, outside the Backup Path, so that memory does not grow with the number of blobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from backupd.store import layout

_SHELF_NAMES_MAX = 1_000


class DigestSet:
    """A set of digests in a file of its own."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(
            "CREATE TABLE digests (shelf TEXT, digest TEXT, PRIMARY KEY (shelf, digest)) WITHOUT ROWID"
        )

    def add(self, digests: Iterable[str]) -> None:
        """Take digests in."""
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT OR IGNORE INTO digests VALUES (?, ?)", map(_row, digests))
        self._connection.execute("COMMIT")

    def remove(self, digests: Iterable[str]) -> None:
        """Take digests out."""
        self._connection.execute("BEGIN")
        self._connection.executemany("DELETE FROM digests WHERE shelf = ? AND digest = ?", map(_row, digests))
        self._connection.execute("COMMIT")

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM digests").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        for names in self.by_shelf():
            yield from names

    def by_shelf(self) -> Iterator[tuple[str, ...]]:
        """Yield digests in groups of one shelf each, of bounded size."""
        after = ("", "")
        while True:
            rows = self._connection.execute(
                "SELECT shelf, digest FROM digests WHERE (shelf, digest) > (?, ?)"
                " ORDER BY shelf, digest LIMIT ?",
                (*after, _SHELF_NAMES_MAX),
            ).fetchall()
            if not rows:
                return
            # Whole rows of the first shelf only: a group never spans two.
            group = [row for row in rows if row[0] == rows[0][0]]
            after = group[-1]
            yield tuple(digest for _, digest in group)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def _row(digest: str) -> tuple[str, str]:
    return layout.blob_name(digest).rpartition("/")[0], digest
