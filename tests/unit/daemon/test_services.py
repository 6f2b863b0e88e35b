"""Services: what is stopped stands still, is shown, and comes back as it was meant to be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backupd.errors import UsageError
from daemon.services import MODULE, OPERATIONS, PARTS, REALTIME, SCHEDULER
from tests.unit.daemon.making import AnsweringWorld


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    async with AnsweringWorld(tmp_path) as made:
        yield made


def running(world: AnsweringWorld) -> dict[str, bool]:
    return {view.name: view.running for view in world.services.views()}


async def test_all_services_run_at_first(world: AnsweringWorld) -> None:
    """Nothing is stopped, and no problem is told."""
    assert running(world) == dict.fromkeys((MODULE, *PARTS), True)
    assert world.services.stopped == []


async def test_the_module_is_all_of_them(world: AnsweringWorld) -> None:
    """Stopping it stops each part; starting one part leaves the others stopped, and the view says so."""
    await world.ask("backup", "doStopService", service_name="MODULE")
    assert running(world) == dict.fromkeys((MODULE, *PARTS), False)
    assert not world.realtime.enabled
    reply = await world.ask("backup", "doStartService", service_name="realtime_scanner")
    assert running(world) == {MODULE: True, REALTIME: True, SCHEDULER: False, OPERATIONS: False}
    assert "stopped: scheduler, operations" in str(reply)


async def test_a_stopped_module_is_a_danger(world: AnsweringWorld) -> None:
    """The status says that no backup is being made, and which command mends it."""
    await world.ask("backup", "doStopService", service_name="module")
    status = await world.standing.status()
    (problem,) = [one for one in status.problems if "NO BACKUP" in one.message]
    assert problem.hint == "backupctl backup doStartService module"
    await world.ask("backup", "doStartService", service_name="module")
    status = await world.standing.status()
    assert not [one for one in status.problems if "NO BACKUP" in one.message]


async def test_a_stopped_queue_begins_nothing(world: AnsweringWorld) -> None:
    """What is queued waits until the service is started again."""
    world.services.stop(OPERATIONS)
    await world.ask("backup", "doAccountScan", account="a")
    world.queue.hold(held=True)
    assert [one.status.value for one in world.queue.operations()] == ["queued"]
    status = await world.standing.status()
    (problem,) = [one for one in status.problems if one.message == "stopped services: operations"]
    assert problem.hint == "backupctl backup doStartService operations"


async def test_the_realtime_scanner_returns_as_a_gap(world: AnsweringWorld) -> None:
    """Whoever listens hears of each return, and of nothing else."""
    returns: list[int] = []
    world.services.on_realtime_return(lambda: returns.append(1))
    world.services.stop(SCHEDULER)
    world.services.start(SCHEDULER)
    assert returns == []
    await world.ask("backup", "doRestartService", service_name=REALTIME)
    assert world.realtime.enabled
    assert returns == [1]


async def test_an_unknown_service_is_refused_by_name(world: AnsweringWorld) -> None:
    """The error names the nearest service, and nothing is stopped."""
    with pytest.raises(UsageError, match="schedulr") as refused:
        world.services.stop("schedulr")
    assert "scheduler" in refused.value.hint
    assert world.services.stopped == []
