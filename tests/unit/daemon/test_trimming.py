"""Trimming: only what is recorded, and sent where it must be, leaves the journal; the backup stays whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backupd.states import ChangeType
from backupd.store.store import Store
from daemon.trimming import LOOK_SECONDS, Trimming
from tests.unit.jobs.worlds import SERVER, BackupWorld, change


class SmallSegments(BackupWorld):
    """A backup whose journal segments hold a few entries each."""

    def open(self) -> None:
        super().open()
        self.recorder.close()
        self.store.close()
        self.store = Store.open(
            self.path, server_id=SERVER, server_name="mail", clock=self.clock, segment_bytes_max=1_000
        )
        self.recorder = type(self.recorder)(self.store, self.server, clock=self.clock, window=self.window)

    async def receive(self, first: int, count: int) -> None:
        for item in range(first, first + count):
            self.journal(change(str(item), ChangeType.CREATED, event=f"e{item}"))

    def segments(self) -> int:
        return len(list((self.path / "journal").iterdir()))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallSegments]:
    async with SmallSegments(tmp_path / "backup") as made:
        await made.account()
        yield made


async def test_what_is_not_recorded_or_not_sent_stays(world: SmallSegments) -> None:
    """Nothing goes before it is in synced histories, nor before it was sent."""
    sent = 0
    trimming = Trimming(world.store, clock=world.clock, sent_through=lambda: sent)
    await world.receive(1, 30)
    assert trimming.trim(0) == 0
    await world.record()
    before = world.segments()
    assert before > 3
    assert trimming.trim(0) == 0
    sent = world.store.journal.last_sequence
    assert trimming.trim(1 << 20) == 0
    assert trimming.trim(0) == before - 1
    assert world.segments() == 1


async def test_a_trimmed_backup_opens_and_goes_on(world: SmallSegments) -> None:
    """After a crash, with or without its index, nothing is missing and no number is given out again."""
    await world.receive(1, 30)
    await world.record()
    Trimming(world.store, clock=world.clock).trim(0)
    last = world.store.journal.last_sequence
    dumped = list(world.store.index.dump())
    world.crash()
    assert list(world.store.index.dump()) == dumped
    assert world.journal(change("1", event="more", at=9, folder="Later")) == last + 1
    await world.record()
    dumped = list(world.store.index.dump())
    world.store.layout.index.unlink()
    world.crash()
    assert list(world.store.index.dump()) == dumped
    assert world.store.damaged == []


async def test_it_looks_now_and_then(world: SmallSegments) -> None:
    """The loop trims by itself, with what it keeps for good measure, and outlives a failure."""
    failures = iter((OSError(5, "a bad disk"), None, None))
    looked: list[int] = []

    def told() -> int:
        looked.append(1)
        if (error := next(failures)) is not None:
            raise error
        return 0

    async with asyncio.TaskGroup() as tasks:
        trimming = tasks.create_task(Trimming(world.store, clock=world.clock, sent_through=told).run())
        for _ in range(2):
            await world.clock.wait_until_asleep()
            await world.clock.advance(LOOK_SECONDS + 1)
        await world.clock.wait_until_asleep()
        trimming.cancel()
    assert len(looked) == 2
