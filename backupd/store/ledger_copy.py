"""A copy of the ledger for others' eyes: what must not be shown is nowhere in the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from backupd.store import database
from backupd.store.ledger import Ledger

Shown = Callable[[str, Any], Any]
"""Gets an attribute's name and value, and returns the value that a copy may have."""


def write_copy(ledger: Ledger, path: Path, shown: Shown) -> None:
    """Write a consistent copy with attributes as they may be shown; blocks.

    Raises `SpaceExhausted`, `OSError`.
    """
    ledger.copy_to(path)
    with database.disk_errors_told(path), closing(sqlite3.connect(path, isolation_level=None)) as copy:
        rows = copy.execute("SELECT level, scope, name, value FROM attributes").fetchall()
        changed = False
        for level, scope, name, text in rows:
            value = msgspec.json.decode(text)
            told = shown(name, value)
            if told != value:
                changed = True
                copy.execute(
                    "UPDATE attributes SET value = ? WHERE level = ? AND scope = ? AND name = ?",
                    (msgspec.json.encode(told).decode(), level, scope, name),
                )
        if changed:
            copy.execute("VACUUM")  # an update leaves the old bytes in the file; a file written anew has none
