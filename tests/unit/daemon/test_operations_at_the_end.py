"""What an operation does to the lifetime that it works in, and what the end of that does to it."""

from __future__ import annotations

import asyncio

import pytest

from backupd.errors import UsageError
from backupd.operations import OperationStatus
from daemon.operations_queue import OperationsQueue
from daemon.volume_commands import VolumeCommands
from daemon.volume_works import MIGRATION
from tests.unit.daemon.test_operations_queue import Jobs, MemoryLedger, World
from tests.world.clocks import FakeClock, settle


async def test_no_volume_is_chosen_while_a_migration_works() -> None:
    """It is refused, and told which operation to wait for or to stop; one that only waits is no reason."""
    jobs, type_ = Jobs(), f"{MIGRATION} Default"
    queue = OperationsQueue(MemoryLedger(), {type_: jobs.factory}, clock=FakeClock())
    commands = VolumeCommands(
        store=None, volumes=None, works=None, queue=queue, choose=None, clock=FakeClock()
    )
    operation = await queue.submit(type_, {}, started_by="somebody")
    commands._refuse_beside_migration()
    async with asyncio.TaskGroup() as group:
        working = group.create_task(queue.run())
        while queue.operations()[0].status is not OperationStatus.RUNNING:
            await settle()
        with pytest.raises(UsageError, match="is under way") as refused:
            await commands.table()["backup setBackupVolume Default"]({}, None)
        assert operation.uuid in refused.value.hint
        jobs.go.set()
        await queue.wait_until_ended(operation.uuid)
        commands._refuse_beside_migration()
        working.cancel()


async def test_the_end_of_a_lifetime_stops_the_threads_of_what_runs() -> None:
    """They look at the run between two steps, and must not outlive the store."""
    world = World()
    running = await world.submit("running")
    async with world.working():
        await world.until(running.uuid, OperationStatus.RUNNING)
        while not world.jobs.runs:
            await settle()
    assert world.jobs.runs[0].stop_requested
    assert world.ledger.rows[running.uuid].status is OperationStatus.INTERRUPTED
