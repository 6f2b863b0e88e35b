"""A copy of the ledger for others' eyes holds no secret, not even in its free pages."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from typing import Any

import msgspec

from backupd.store.ledger import Ledger
from backupd.store.ledger_copy import write_copy


def shown(name: str, value: Any) -> Any:
    return "(secret)" if name == "hidden" else value


def test_what_is_not_shown_is_nowhere_in_the_file(tmp_path: Path) -> None:
    """The copy has the value that may be shown, other attributes as they were; the ledger keeps its own."""
    ledger = Ledger(tmp_path / "state.sqlite")
    secret = "wJalrXUtnFEMI" * 500
    ledger.set_attribute("global", "", "hidden", secret)
    ledger.set_attribute("global", "", "plain", ["as", "it", "is"])
    copy = tmp_path / "copy.sqlite"
    write_copy(ledger, copy, shown)
    assert b"wJalrXUtnFEMI" not in copy.read_bytes()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    rows = dict(sqlite3.connect(copy).execute("SELECT name, value FROM attributes").fetchall())
    assert {name: msgspec.json.decode(text) for name, text in rows.items()} == {
        "hidden": "(secret)",
        "plain": ["as", "it", "is"],
    }
    assert {one.name: one.value for one in ledger.attributes()}["hidden"] == secret
    ledger.close()
    Ledger(copy).close()
