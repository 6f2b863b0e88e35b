"""Recording: when rounds run, what stops them, and what others may wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backupd.items import ItemKey, Kind
from backupd.states import ChangeType
from daemon.recording import Recording
from tests.unit.jobs.worlds import ALICE, BODY, BackupWorld, change
from tests.unit.store.making import failing

CREATED = ChangeType.CREATED


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BackupWorld]:
    async with BackupWorld(tmp_path) as made:
        await made.account()
        yield made


@asynccontextmanager
async def recording(
    world: BackupWorld, *, waiting_room: bool = False, pressed: bool = False
) -> AsyncIterator[Recording]:
    made = Recording(
        world.recorder,
        world.store.journal,
        clock=world.clock,
        window=world.window,
        under_pressure=lambda: pressed,
    )
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(made.run())]
        if waiting_room:
            running.append(tasks.create_task(made.run_waiting_room()))
        yield made
        for task in running:
            task.cancel()


async def until(world: BackupWorld, condition: object, *, step: float = 0.1, seconds: float = 60.0) -> None:
    """Let time pass until a condition holds; the recorder's thread gets as much real time as it needs."""
    end = world.clock.monotonic() + seconds
    async with asyncio.timeout(30):
        while not condition():  # type: ignore[operator]
            if world.clock.monotonic() < end:
                await world.clock.advance(step)
            await asyncio.sleep(0.003)


async def test_what_is_journaled_is_recorded_once_its_window_has_passed(world: BackupWorld) -> None:
    """Two changes of one moment become one state, soon after the window, and are made durable."""
    async with recording(world) as made:
        world.journal(change("1", CREATED, event="e1"))
        made.grown()
        await world.clock.advance(0.05)
        assert world.history("1") == []
        world.journal(change("1", event="e2", folder="B", at=0.05))
        made.grown()
        await until(world, lambda: world.recorder.durable_cursor == 2)
    (state,) = world.history("1")
    assert state.events == ("source#e1", "source#e2")


async def test_what_is_journaled_without_a_word_is_recorded_all_the_same(world: BackupWorld) -> None:
    """An entry that nobody marked becomes ripe by itself, and nothing spins until then."""
    async with recording(world) as made:
        world.journal(change("1", CREATED, event="e1"))
        world.journal(change("2", CREATED, event="e2"))
        made._wake.set()
        await until(world, lambda: world.recorder.durable_cursor == 2)
    assert len([seconds for seconds in world.clock.slept if seconds == 0]) < 20


async def test_a_waiter_is_told_once_everything_is_synced(world: BackupWorld) -> None:
    """`recorded_through` returns when the durable cursor has passed, and not before."""
    async with recording(world) as made, asyncio.TaskGroup() as tasks:
        sequence = world.journal(change("1", CREATED, event="e1"))
        waiting = tasks.create_task(made.recorded_through(sequence))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await until(world, waiting.done)
        assert world.recorder.durable_cursor == sequence
        assert world.store.index.cursor() == sequence


async def test_a_failing_disk_pauses_recording_with_its_reason(world: BackupWorld) -> None:
    """While the disk fails the status says why; afterwards recording goes on by itself."""
    async with recording(world) as made:
        with failing("history.append", times=10_000):
            world.journal(change("1", CREATED, event="e1"))
            made.grown()
            await until(world, lambda: made.status().paused)
            assert "No space left" in made.status().paused or "injected" in made.status().paused
            await until(world, lambda: made.status().lag_seconds > 10, step=1)
        await until(world, lambda: world.recorder.durable_cursor == 1, step=5, seconds=200)
        assert made.status().paused == ""
        assert made.status().lag_seconds == 0
    assert len(world.history("1")) == 1


async def test_what_is_recorded_is_durable_at_the_end(world: BackupWorld) -> None:
    """A stop right behind a round keeps the round; a last checkpoint that fails is told and costs nothing."""
    async with recording(world) as made:
        world.journal(change("1", CREATED, event="e1"))
        made.grown()
        await until(world, lambda: world.recorder.cursor == 1, step=0.02)
        world.journal(change("2", CREATED, event="e2"))
        made.grown()
        await until(world, lambda: world.recorder.cursor == 2, step=0.02)
    assert world.store.index.cursor() == 2
    async with recording(world) as made:
        world.journal(change("3", CREATED, event="e3"))
        made.grown()
        await until(world, lambda: world.recorder.cursor == 3, step=0.02)
        world.recorder._checkpointed = 2
        faults = failing("checkpoint.sync", times=10_000)
        faults.__enter__()
    faults.__exit__(None, None, None)
    world.crash()
    await world.record()
    assert len(world.history("3")) == 1


async def test_intake_goes_first_but_not_for_ever(world: BackupWorld) -> None:
    """Under pressure recording stands back for two seconds at most."""
    async with recording(world, pressed=True) as made:
        world.journal(change("1", CREATED, event="e1"))
        made.grown()
        await world.clock.advance(1.5)
        await asyncio.sleep(0.02)
        assert world.history("1") == []
        await until(world, lambda: world.history("1"))


async def test_the_waiting_room_is_looked_after(world: BackupWorld) -> None:
    """What waited for the AppServer is recorded without anything else happening; trouble ends nothing."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    world.server.unavailable = "it is down"
    async with recording(world, waiting_room=True) as made:
        world.journal(change(item, CREATED, event="e1", folder=None))
        made.grown()
        await until(world, lambda: world.store.ledger.waiting(ItemKey(ALICE, Kind.MESSAGE, item)))
        with failing("ledger.begin", times=3) as struck:
            await until(world, lambda: "ledger.begin" in struck, step=1)
        world.server.unavailable = ""
        await until(world, lambda: world.history(item), step=1, seconds=300)
    assert world.store.ledger.waiting_count() == 0


async def test_the_pulse_beats_while_there_is_work_and_rests_without(world: BackupWorld) -> None:
    """A round that hangs makes recording unwell; having nothing to do, or waiting for a disk, does not."""
    hang = asyncio.Event()
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    read = world.server.read

    reached = asyncio.Event()

    async def hanging(key: ItemKey) -> object:
        reached.set()
        await hang.wait()
        return await read(key)

    world.server.read = hanging  # type: ignore[method-assign,assignment]
    async with recording(world) as made:
        await world.clock.advance(5_000)
        assert made.pulse.unwell() == ""
        world.journal(change(item, CREATED, event="e1", folder=None))
        made.grown()
        await until(world, reached.is_set)
        await world.clock.advance(2_000)
        assert "recording" in made.pulse.unwell()
        hang.set()
        await until(world, lambda: made.pulse.unwell() == "", step=1)
