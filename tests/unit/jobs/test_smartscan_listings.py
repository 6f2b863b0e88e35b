"""SmartScan: what listings leave out, hide or get wrong, and what a scan then does."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backupd.errors import (
    OperationStopped,
    SpaceExhausted,
    VolumeError,
)
from backupd.items import Area, Kind
from backupd.jobs.smartscan import work as work_module
from backupd.jobs.smartscan.scan import SmartScan
from backupd.jobs.smartscan.tally import ScanOptions
from backupd.operations import Run
from backupd.states import ChangeType
from tests.unit.jobs.worlds import ALICE, BODY, BackupWorld, change
from tests.unit.store.making import failing


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BackupWorld]:
    async with BackupWorld(tmp_path) as made:
        await made.account()
        yield made


async def messages(world: BackupWorld, count: int, folder: str = "INBOX", account: str = ALICE) -> list[str]:
    return [
        await world.server.add(account, Kind.MESSAGE, folder, b"Subject: %d\r\n\r\n" % number)
        for number in range(count)
    ]


def live(world: BackupWorld, account: str = ALICE) -> set[str]:
    return {item.item for item in world.store.index.items(account) if item.kind is Kind.MESSAGE}


async def test_the_cursor_is_kept_only_once_everything_is_recorded(world: BackupWorld) -> None:
    """While the recorder has not caught up, no account's cursor moves."""
    await messages(world, 3)
    seen: list[str | None] = []

    async def recorded(sequence: int) -> None:
        seen.append(world.store.statistics.account(ALICE).cursor)
        await world.recorded_through(sequence)

    scan = SmartScan(world.store, world.server, clock=world.clock, recorded_through=recorded, workers=0)
    await scan.run_all(Run(world.clock), ScanOptions())
    assert seen == [None]
    assert world.store.statistics.account(ALICE).cursor is not None


async def test_a_scan_that_waits_for_a_paused_recorder_can_be_stopped(
    world: BackupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where recording can't go on, a stop is heard all the same."""
    monkeypatch.setattr(work_module, "STOP_LOOK_SECONDS", 0.01)
    await messages(world, 1)
    run = Run(world.clock)

    async def never(_sequence: int) -> None:
        run.request_stop()
        await asyncio.Event().wait()

    scan = SmartScan(world.store, world.server, clock=world.clock, recorded_through=never, workers=0)
    with pytest.raises(OperationStopped):
        await scan.run_all(run, ScanOptions())


async def test_the_recorder_is_told_of_every_flush(world: BackupWorld) -> None:
    """Findings wake the recorder as they are journaled, not at the end of the scan."""
    await messages(world, 3)
    told: list[int] = []
    scan = SmartScan(
        world.store,
        world.server,
        clock=world.clock,
        recorded_through=world.recorded_through,
        journaled=lambda: told.append(world.store.journal.last_sequence),
        workers=0,
    )
    await scan.run_all(Run(world.clock), ScanOptions())
    assert told
    assert told[0] > 0


@pytest.mark.parametrize("step", ["blobs.commit", "volume.stage"])
async def test_a_full_disk_fails_the_scan_and_leaves_nothing_behind(world: BackupWorld, step: str) -> None:
    """A scan on a full disk fails, keeps no cursor, drops what it staged; the next one is whole."""
    items = await messages(world, 3)
    with failing(step, errno.ENOSPC), pytest.raises((OSError, SpaceExhausted, VolumeError)):
        await world.scan_all()
    assert world.store.statistics.account(ALICE).cursor is None
    staged = world.path / ".staged"
    assert not staged.exists() or list(staged.iterdir()) == []
    await world.scan_all()
    assert live(world) == set(items)


async def test_below_the_space_threshold_a_scan_writes_nothing(world: BackupWorld) -> None:
    """The space that is to stay free is kept from scans as well as from events."""
    await messages(world, 3)
    world.store.space_threshold_bytes = 1 << 62
    with pytest.raises(SpaceExhausted):
        await world.scan_all()
    assert world.store.journal.last_sequence == 0


async def test_an_item_of_no_known_folder_is_looked_at(world: BackupWorld) -> None:
    """A known item whose folder nobody told is looked at by an incremental scan."""
    await world.scan_all()
    there = (await messages(world, 1, "Elsewhere"))[0]
    await world.scan_all()
    world.journal(
        change("ghost", ChangeType.CREATED, event="e1", folder=None),
        change(there, event="e2", metadata={"flags": []}, at=5),
    )
    await world.record()
    assert [bool(world.history(item)) for item in ("ghost", there)] == [True, True]
    await messages(world, 1)
    await world.scan_all()
    assert world.history("ghost")[-1].deleted
    assert world.history(there)[-1].metadata["folder"] == "Elsewhere"


async def test_a_dump_that_fails_is_told_and_fails_nothing_else(world: BackupWorld) -> None:
    """The scan's statistics are kept though the configuration could not be dumped."""

    def unreadable() -> Sequence[tuple[str, Any]]:
        raise OSError(errno.EACCES, "Permission denied")

    world.server.configuration = unreadable  # type: ignore[method-assign,assignment]
    assert "configuration could not be dumped" in await world.scan_all()
    assert world.store.statistics.backup().last_scan_ended is not None


async def test_a_renamed_folder_takes_its_items_along(world: BackupWorld) -> None:
    """Items of a renamed folder are moved and not deleted; the folder keeps its id."""
    items = await messages(world, 12, "Old")
    await world.scan_all()
    world.server.rename_folder(ALICE, Area.MAIL, "Old", "New")
    await world.scan_all()
    assert live(world) == set(items)
    assert {world.history(item)[-1].metadata["folder"] for item in items} == {"New"}


async def test_the_body_is_what_the_scan_read(world: BackupWorld) -> None:
    """A changed contact is read again, and its old content stays in its first state."""
    old, new = (b"BEGIN:VCARD\r\nFN:%s\r\nEND:VCARD\r\n" % name for name in (b"Old", b"New"))
    item = await world.server.add(ALICE, Kind.CONTACT, "Personal", old)
    await world.scan_all()
    await world.clock.advance(5)
    world.server.edit(ALICE, item, new)
    await world.scan_all()
    first, last = world.history(item, kind=Kind.CONTACT)
    assert [world.store.blobs.read(state.digest or "") for state in (first, last)] == [old, new]
    assert BODY not in (old, new)
