"""A small healthy Backup Path with everything in it, to be damaged by tests; and a check of it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from backupd.items import ItemKey, Kind, digest_of
from backupd.jobs.coherency.check import Check, Checked, Wanted
from backupd.jobs.coherency.rotation import Position
from backupd.operations import Run
from backupd.states import ChangeType, Origin, State
from backupd.store import archives, layout
from backupd.store.archives import ArchiveType
from backupd.store.id_mapper import ID_MAPPER, MappedItem
from backupd.store.statistics import AccountStatistics, BackupStatistics
from backupd.store.store import Store
from tests.unit.store.making import START, opened, payloads
from tests.world.clocks import FakeClock

ALICE, BOB = "alice-id", "bob-id"
UUID = "0f3b2c9a-1d4e-4f60-8a7b-9c0d1e2f3a4b"
OLD_SECONDS = 7 * 24 * 3600


def body(name: str) -> bytes:
    """Return a content of some size that compresses."""
    return f"Subject: {name}\r\n\r\n".encode() + f"The text of {name}. ".encode() * 40


def message(number: int, *, account: str = ALICE) -> ItemKey:
    """Return the key of a message."""
    return ItemKey(account, Kind.MESSAGE, str(number))


def state(transaction: int, key: ItemKey, content: bytes | None = None, **more: Any) -> State:
    """Return a state of an item."""
    facts: dict[str, Any] = {
        "metadata": {"folder": "INBOX", "subject": f"state {transaction}"},
        "change": ChangeType.CREATED,
        **more,
    }
    return State(
        transaction=transaction,
        kind=key.kind,
        start=START + timedelta(seconds=transaction),
        origin=Origin.REALTIME,
        digest=None if content is None else digest_of(content),
        size=None if content is None else len(content),
        **facts,
    )


def histories() -> Mapping[ItemKey, list[State]]:
    """Return the histories of the healthy path: 2 accounts, 15 items, contents, the server's entries."""
    found: dict[ItemKey, list[State]] = {}
    number = 0
    for account in (ALICE, BOB):
        own = ItemKey(account, Kind.ACCOUNT, account)
        number += 1
        found[own] = [state(number, own, metadata={"name": f"{account}@example.com"})]
        folder = ItemKey(account, Kind.FOLDER, "mail:INBOX")
        number += 1
        found[folder] = [state(number, folder, metadata={"area": "mail", "path": "INBOX"})]
        for item in (1, 2, 3, 104, 205):
            key = message(item, account=account)
            content = body(f"{account} {item}")
            number += 3
            found[key] = [
                state(number - 2, key, content),
                state(number - 1, key, content, change=ChangeType.MODIFIED),
                state(number, key, content, change=ChangeType.MOVED, metadata={"folder": "Archive"}),
            ]
        gone = message(900, account=account)
        number += 2
        content = body(f"{account} gone")
        found[gone] = [
            state(number - 1, gone, content),
            state(number, gone, content, change=ChangeType.DELETED, deleted=True),
        ]
        document = ItemKey(account, Kind.DOCUMENT, UUID)
        number += 1
        content = body(f"{account} document")
        found[document] = [state(number, document, content, metadata={"folder": "", "name": "a"})]
    for kind in (Kind.DOMAIN, Kind.COS, Kind.MAILING_LIST):
        key = ItemKey("", kind, f"{kind.value}-id")
        number += 1
        found[key] = [state(number, key, metadata={"name": kind.value})]
    return found


def build(path: Path) -> None:
    """Make the healthy path."""
    with opened(path) as store:
        _fill(store, histories())
        store.statistics.write_account(ALICE, AccountStatistics(cursor="1"))
        store.statistics.write_backup(BackupStatistics(first_run=START))
        (store.layout.account(ALICE) / ID_MAPPER).write_text(
            MappedItem(source="1", target="2", kind=Kind.MESSAGE, origin="there/alice").line(), "ascii"
        )
        archives.write(
            store.layout,
            ArchiveType.CONFIGURATION,
            lambda writer: archives.add_entries(writer, [("a.toml", b"a = 1\n" * 2000)]),
            START,
        )
        store.journal.append(payloads(3, first=500))
        store.checkpoint(store.journal.last_sequence)
    for file in path.rglob("*"):
        if not file.is_dir():
            file.chmod(0o600)
    make_old(path)


def make_old(path: Path) -> None:
    """Set the times of everything back, so that nothing is young enough to be under way."""
    then = time.time() - OLD_SECONDS
    for file in (path, *path.rglob("*")):
        os.utime(file, (then, then), follow_symlinks=False)


def copy(path: Path, target: Path) -> Path:
    """Copy a path with its modes and times."""
    shutil.copytree(path, target, symlinks=True)
    return target


def check(path: Path, *, position: Position | None = None, live: bool = False, **wanted: Any) -> Checked:
    """Check a path in this process."""
    clock = FakeClock()
    return Check(path, clock=clock, live=live, workers=0, settle_seconds=0.0).run(
        Run(clock), Wanted(**wanted), position or Position()
    )


def told(checked: Checked) -> dict[str, int]:
    """Return how often each code was found."""
    return dict(checked.findings.counts)


def history_path(path: Path, key: ItemKey) -> Path:
    """Return where an item's history is."""
    return layout.Layout(path).history(key)


def blob_path(path: Path, content: bytes) -> Path:
    """Return where a content's blob is."""
    return path / layout.blob_name(digest_of(content))


def _contents() -> list[bytes]:
    names = (1, 2, 3, 104, 205, "gone", "document")
    return [body(f"{account} {name}") for account in (ALICE, BOB) for name in names]


def _fill(store: Store, states: Mapping[ItemKey, list[State]]) -> None:
    store.blobs.commit([store.blobs.stage(one) for one in _contents()])
    for key, several in states.items():
        store.record(key, several)
    store.journal.begin_after(max(one.transaction for several in states.values() for one in several))


def tree_state(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return size, mode and time of everything below a path."""
    return {
        str(one.relative_to(path)): (facts.st_size, facts.st_mode, facts.st_mtime_ns)
        for one in sorted(path.rglob("*"))
        for facts in [one.lstat()]
    }
