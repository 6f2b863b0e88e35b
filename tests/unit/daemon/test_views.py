"""Views: how histories, searches and operations are shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.errors import UnknownAccount, UnknownItem
from backupd.items import Kind
from backupd.operations import Operation, OperationStatus, Progress
from backupd.states import ChangeType
from daemon import views
from tests.unit.jobs.worlds import ALICE, BODY, BackupWorld, change
from tests.world.clocks import START


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BackupWorld]:
    async with BackupWorld(tmp_path) as made:
        await made.account()
        await made.scan_all()
        made.journal(
            change("1", ChangeType.CREATED, event="e1"),
            change("1", ChangeType.MOVED, event="e2", folder="Later", at=10),
            change("1", ChangeType.DELETED, event="e3", at=20),
        )
        await made.record()
        yield made


def test_each_state_ends_where_the_next_begins(world: BackupWorld) -> None:
    """The last state has no end; a content's place is shown."""
    shown = views.item_reply(world.store, "alice@example.com", "1", "all")
    assert [state.end for state in shown.states] == [shown.states[1].start, shown.states[2].start, None]
    assert [state.folder for state in shown.states] == ["INBOX", "Later", "Later"]
    assert (world.path / shown.states[0].blob_path).is_file()
    assert (shown.account, shown.account_name) == (ALICE, "alice@example.com")


@pytest.mark.parametrize(
    ("date", "changes"),
    [
        ("first", ["created"]),
        ("last", ["deleted"]),
        ("all", ["created", "moved", "deleted"]),
        ((START + timedelta(seconds=15)).isoformat(), ["moved"]),
    ],
)
def test_the_state_of_a_moment_is_shown(world: BackupWorld, date: str, changes: list[str]) -> None:
    """Keywords and dates choose the states."""
    assert [state.change for state in views.item_reply(world.store, ALICE, "1", date).states] == changes


def test_what_is_not_there_is_told_apart(world: BackupWorld) -> None:
    """An unknown account, an unknown item, and a moment before the first state."""
    with pytest.raises(UnknownAccount):
        views.item_reply(world.store, "bob", "1", "all")
    with pytest.raises(UnknownItem, match="no item"):
        views.item_reply(world.store, ALICE, "2", "all")
    with pytest.raises(UnknownItem, match="no state at"):
        views.item_reply(world.store, ALICE, "1", "2001-01-01")


def test_a_content_to_dump_is_that_of_the_moment(world: BackupWorld) -> None:
    """A deleted item's last content can be dumped; a folder has none."""
    state = views.state_to_dump(world.store, ALICE, "1", "last")
    assert world.store.blobs.read(state.digest or "") == BODY
    folder = next(item for item in world.store.index.items(ALICE) if item.kind is Kind.FOLDER)
    with pytest.raises(UnknownItem, match="is a folder and has no content"):
        views.state_to_dump(world.store, ALICE, folder.item, "first")


async def test_a_date_that_is_none_does_not_spoil_a_search(world: BackupWorld) -> None:
    """Metadata of a publisher's own making is shown with the date of the backup instead."""
    for number, received in enumerate(("yesterday, perhaps", 7, "2026-01-02T03:04:05Z"), 10):
        world.journal(
            change(str(number), ChangeType.CREATED, event=f"e{number}", metadata={"received": received})
        )
    await world.record()
    hits = [world.store.index.item(ALICE, str(number)) for number in (10, 11, 12)]
    found = views.found_items([hit for hit in hits if hit], None, ALICE, raw=False, more=False)
    assert [item.date.year if item.date else None for item in found.items] == [2026, 2026, 2026]
    assert found.items[2].date is not None
    assert found.items[2].date.month == 1
    assert found.items[0].date == hits[0].first if hits[0] else None


def test_a_failed_operation_says_what_to_do() -> None:
    """The hint stands behind the verdict."""
    operation = Operation(
        uuid="u",
        order=1,
        type="doSmartScan",
        status=OperationStatus.FAILED,
        submitted=START,
        verdict="not believed",
        hint="force true",
        progress=Progress(done=3, total=9),
    )
    shown = views.operation_view(operation)
    assert shown.verdict == "not believed (force true)"
    assert (shown.progress.done, shown.progress.total) == (3, 9)


def test_the_backup_is_described(world: BackupWorld) -> None:
    """Identity, counts and space come from the store."""
    info = views.backup_info(world.store)
    assert (info.accounts, info.accounts_deleted) == (1, 0)
    assert {count.kind: (count.items, count.deleted) for count in info.counts}["message"] == (0, 1)
    assert info.first_scan is not None
    assert info.space.free_bytes > 0
