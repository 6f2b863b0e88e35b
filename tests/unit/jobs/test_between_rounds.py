"""Recorder.between_rounds: others may change histories and index while no round is under way."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backupd.items import ItemKey, Kind
from backupd.states import ChangeType
from tests.unit.jobs.worlds import ALICE, BackupWorld, change


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BackupWorld]:
    async with BackupWorld(tmp_path) as made:
        await made.account()
        yield made


def folders(world: BackupWorld, item: str) -> list[str]:
    return [state.metadata["folder"] for state in world.history(item)]


async def test_work_between_rounds_sees_what_is_recorded_and_is_seen(world: BackupWorld) -> None:
    """What it takes out of history and index is out: the next change of the item begins a new history."""
    key = ItemKey(ALICE, Kind.MESSAGE, "1")
    world.journal(change("1", ChangeType.CREATED, event="e1"))
    await world.record()

    def take_out() -> int:
        known = world.store.index.item(ALICE, "1")
        world.store.layout.history(key).unlink()
        world.store.index.forget(key)
        world.store.index.commit(world.recorder.durable_cursor)
        return 0 if known is None else known.transaction

    assert await world.recorder.between_rounds(take_out) == world.store.journal.last_sequence
    world.journal(change("1", event="e2", at=10, folder="Later"))
    await world.record()
    assert folders(world, "1") == ["Later"]


async def test_work_between_rounds_that_fails_leaves_nothing_half_done(world: BackupWorld) -> None:
    """Its error is told, the index is as it was, and recording goes on."""
    world.journal(change("1", ChangeType.CREATED, event="e1"))
    await world.record()

    def fail() -> None:
        world.store.index.forget(ItemKey(ALICE, Kind.MESSAGE, "1"))
        raise OSError(errno.EIO, "no more")

    with pytest.raises(OSError, match="no more"):
        await world.recorder.between_rounds(fail)
    assert world.store.index.item(ALICE, "1") is not None
    world.journal(change("1", event="e2", at=10, folder="Later"))
    await world.record()
    assert folders(world, "1") == ["INBOX", "Later"]
