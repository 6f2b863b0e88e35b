"""Ways in which a Backup Path gets damaged, what a check must call each, and what is left after a repair."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from backupd.items import ItemKey, Kind, digest_of
from backupd.store import history_format, layout
from tests.unit.jobs.coherency_worlds import (
    ALICE,
    BOB,
    UUID,
    blob_path,
    body,
    history_path,
    message,
    state,
)

CONTENT = body(f"{ALICE} 3")
KEY = message(3)


class Damage(NamedTuple):
    """`left`: what a second check finds after a repair without an AppServer."""

    name: str
    make: Callable[[Path], object]
    code: str
    count: int = 1
    left: str = ""


def lines(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of the history of message 3."""
    file = history_path(path, KEY)
    file.write_bytes(b"\n".join(change(file.read_bytes().split(b"\n"))))


def cut(file: Path, bytes_: int) -> None:
    """Cut the end of a file off."""
    os.truncate(file, file.stat().st_size - bytes_)


def flip(file: Path, place: int) -> None:
    """Change one byte of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)


def move(source: Path, target: Path) -> None:
    """Move a file, and make the folder it goes to."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    source.rename(target)


def sql(path: Path, statement: str, name: str = "index.sqlite") -> None:
    """Change a database behind everybody's back."""
    connection = sqlite3.connect(path / name)
    connection.execute(statement)
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def rewritten(path: Path, key: ItemKey, change: Callable[[bytes], bytes]) -> None:
    """Write a history's bytes otherwise."""
    file = history_path(path, key)
    file.write_bytes(change(file.read_bytes()))


def put(path: Path, relative: str, content: bytes = b"what is this") -> Path:
    """Write a file where none was."""
    file = path / relative
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_bytes(content)
    file.chmod(0o600)
    return file


def orphan(path: Path) -> None:
    """Store a content that no state refers to."""
    content = b"\x01nobody wants this"
    put(path, layout.blob_name(digest_of(content)), content)


def foreign_kind(path: Path) -> None:
    """Put the account's own history among its items."""
    key = ItemKey(ALICE, Kind.ACCOUNT, "77")
    put(path, f"accounts/{ALICE}/items/77/77", history_format.encode_history([state(300, key)]))


def lack(path: Path) -> None:
    """Write a history that the index does not know."""
    key = message(412)
    found = history_format.encode_history([state(400, key, CONTENT)])
    put(path, str(history_path(path, key).relative_to(path)), found)


def second_map(path: Path) -> None:
    """Put another server's map file beside ours."""
    put(
        path, "map_two", (path / "map_one").read_bytes().replace(b'"one"', b'"two"').replace(b"2026", b"2027")
    )


def newest(path: Path) -> Path:
    """Return the newest journal segment."""
    return max((path / "journal").iterdir())


def unrecorded(path: Path) -> None:
    """Flip a byte of the journal in front of the recorder's cursor."""
    sql(path, "UPDATE meta SET value = 0 WHERE name = 'cursor'")
    flip(newest(path), 60)


def archive(path: Path) -> Path:
    """Return the archive of the configuration."""
    return next((path / "servers").glob("configuration_*"))


def linked(path: Path) -> None:
    """Put a link into a shelf."""
    (path / "accounts" / ALICE / "items" / "03" / "703").symlink_to("/etc/hostname")


DAMAGES = (
    Damage("torn history", lambda path: cut(history_path(path, KEY), 30), "history.torn"),
    Damage("history without its bracket", lambda path: cut(history_path(path, KEY), 3), "history.torn"),
    Damage("history with a hole", lambda path: flip(history_path(path, KEY), 40), "history.corrupt"),
    Damage(
        "history begun with rubbish",
        lambda path: rewritten(path, KEY, lambda old: b"\0" * 40 + old[40:]),
        "history.corrupt",
    ),
    Damage(
        "history of rubbish", lambda path: rewritten(path, KEY, lambda _: b"\x07" * 900), "history.corrupt"
    ),
    Damage(
        "states out of order",
        lambda path: lines(path, lambda old: [old[0], old[2], old[1], *old[3:]]),
        "history.order",
    ),
    Damage("empty history", lambda path: rewritten(path, KEY, lambda _: b""), "history.empty"),
    Damage("history of no state", lambda path: rewritten(path, KEY, lambda _: b"[\n]\n"), "history.empty"),
    Damage("history gone", lambda path: history_path(path, KEY).unlink(), "history.missing"),
    Damage("account's history gone", lambda path: _own_history(path).unlink(), "history.missing"),
    Damage(
        "misfiled history",
        lambda path: move(history_path(path, KEY), path / "accounts" / ALICE / "items/44/3"),
        "history.misfiled",
    ),
    Damage(
        "document among items",
        lambda path: move(_document(path), path / "accounts" / ALICE / "items/11" / UUID),
        "history.misfiled",
    ),
    Damage(
        "history under another name",
        lambda path: rewritten(path, KEY, lambda old: old.replace(b'"kind"', b'"item":"9","kind"')),
        "history.identity",
    ),
    Damage("history of a foreign kind", foreign_kind, "history.foreign_kind"),
    Damage(
        "digest that is none",
        lambda path: rewritten(
            path, KEY, lambda old: old.replace(digest_of(CONTENT).encode(), b"not-a-digest", 1)
        ),
        "history.digest",
    ),
    Damage(
        "size that is wrong",
        lambda path: rewritten(
            path, KEY, lambda old: old.replace(b'"size":%d' % len(CONTENT), b'"size":7', 1)
        ),
        "history.size",
    ),
    Damage("corrupt blob", lambda path: flip(blob_path(path, CONTENT), 30), "blob.corrupt", 1, "blob.lost"),
    Damage("cut blob", lambda path: cut(blob_path(path, CONTENT), 9), "blob.corrupt", 1, "blob.lost"),
    Damage(
        "lengthened blob",
        lambda path: blob_path(path, CONTENT).write_bytes(blob_path(path, CONTENT).read_bytes() + b"x"),
        "blob.corrupt",
        1,
        "blob.lost",
    ),
    Damage(
        "blob with another's content",
        lambda path: blob_path(path, CONTENT).write_bytes(blob_path(path, body(f"{BOB} 1")).read_bytes()),
        "blob.corrupt",
        1,
        "blob.lost",
    ),
    Damage("missing blob", lambda path: blob_path(path, CONTENT).unlink(), "blob.missing", 1, "blob.lost"),
    Damage("empty blob", lambda path: os.truncate(blob_path(path, CONTENT), 0), "blob.empty", 1, "blob.lost"),
    Damage("orphan blob", orphan, "blob.orphan"),
    Damage(
        "misfiled blob",
        lambda path: move(blob_path(path, CONTENT), path / "items" / "__" / digest_of(CONTENT)),
        "blob.misfiled",
    ),
    Damage("no index", lambda path: (path / "index.sqlite").unlink(), "index.missing"),
    Damage(
        "index of rubbish", lambda path: (path / "index.sqlite").write_bytes(b"x" * 9000), "index.corrupt"
    ),
    Damage("index with a bad page", lambda path: flip(path / "index.sqlite", 4096), "index.corrupt"),
    Damage("index of another version", lambda path: sql(path, "PRAGMA user_version = 1"), "index.version"),
    Damage("history that the index lacks", lack, "index.lacks"),
    Damage(
        "index with another folder",
        lambda path: sql(
            path, f"UPDATE items SET folder = 'Elsewhere' WHERE item = '3' AND account = '{ALICE}'"
        ),
        "index.differs",
    ),
    Damage(
        "index with another past",
        lambda path: sql(path, "DELETE FROM past"),
        "index.differs",
        12,
    ),
    Damage("no map", lambda path: (path / "map_one").unlink(), "map.missing", 1, "map.missing"),
    Damage(
        "map of rubbish",
        lambda path: (path / "map_one").write_bytes(b"{"),
        "map.unreadable",
        1,
        "map.unreadable",
    ),
    Damage("two maps", second_map, "map.foreign", 1, "map.foreign"),
    Damage(
        "account_stat of rubbish",
        lambda path: (path / "accounts" / ALICE / "account_stat").write_bytes(b"{\0"),
        "statistics.unreadable",
    ),
    Damage(
        "backupstat of rubbish", lambda path: (path / "backupstat").write_bytes(b""), "statistics.unreadable"
    ),
    Damage(
        "id_mapper of rubbish",
        lambda path: (path / "accounts" / ALICE / "id_mapper.log").write_bytes(b"what\tis this\n"),
        "mapper.corrupt",
    ),
    Damage(
        "journal with a flipped byte in what was recorded",
        lambda path: flip(newest(path), 60),
        "journal.passed",
        1,
        "journal.passed",
    ),
    Damage(
        "journal with a flipped byte in what was not recorded yet",
        unrecorded,
        "journal.corrupt",
        1,
        "journal.corrupt",
    ),
    Damage("torn journal", lambda path: cut(newest(path), 5), "journal.torn"),
    Damage(
        "ledger of rubbish",
        lambda path: (path / "state.sqlite").write_bytes(b"x" * 9000),
        "ledger.corrupt",
        1,
        "ledger.corrupt",
    ),
    Damage("no ledger", lambda path: (path / "state.sqlite").unlink(), "ledger.missing"),
    Damage("cut archive", lambda path: cut(archive(path), 20), "archive.corrupt"),
    Damage("strange file at the top", lambda path: put(path, "notes.txt"), "file.unknown"),
    Damage("strange file among blobs", lambda path: put(path, "items/aa/notes.txt"), "file.unknown"),
    Damage(
        "strange file among items", lambda path: put(path, f"accounts/{ALICE}/items/03/core"), "file.unknown"
    ),
    Damage("strange folder of an account", lambda path: put(path, f"accounts/{ALICE}/old/x"), "file.unknown"),
    Damage(
        "leftover of a replaced file",
        lambda path: put(path, f"accounts/{BOB}/.account_stat.new"),
        "file.leftover",
    ),
    Damage("leftover staged", lambda path: put(path, ".staged/99999999-1.1"), "file.leftover"),
    Damage("link in a shelf", linked, "file.link"),
    Damage(
        "pipe among blobs",
        lambda path: os.mkfifo(blob_path(path, CONTENT).parent / "pipe", 0o600),
        "file.special",
    ),
    Damage("file open to others", lambda path: history_path(path, KEY).chmod(0o644), "file.mode"),
    Damage("folder open to others", lambda path: (path / "accounts" / ALICE).chmod(0o755), "file.mode"),
)


def _own_history(path: Path) -> Path:
    return path / "accounts" / ALICE / "account_info"


def _document(path: Path) -> Path:
    return history_path(path, ItemKey(ALICE, Kind.DOCUMENT, UUID))
