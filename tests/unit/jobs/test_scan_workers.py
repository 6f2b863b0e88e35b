"""Chunks read by worker processes or a thread: what comes back, and what is left where they end early."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backupd.appservers.base import ListedItem, Listing
from backupd.errors import AppServerUnavailable, BackupdError, OperationStopped, SpaceExhausted
from backupd.items import Kind
from backupd.jobs.smartscan import work as work_module
from backupd.jobs.smartscan import workers
from backupd.jobs.smartscan.scan import SmartScan
from backupd.jobs.smartscan.tally import ScanOptions
from backupd.jobs.smartscan.workers import ChunkItem
from backupd.operations import Run
from backupd.states import ChangeType
from tests.unit.jobs.readers import NamedReader
from tests.unit.jobs.worlds import ALICE, BackupWorld
from tests.unit.store.making import failing


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BackupWorld]:
    monkeypatch.setattr(work_module, "POOL_ITEMS_MIN", 1)
    monkeypatch.setattr(work_module, "CHUNK_ITEMS", 2)
    async with BackupWorld(tmp_path) as made:
        await made.account()
        yield made


def scan_of(world: BackupWorld, *locators: str, pool: int) -> SmartScan:
    async def listing(_account: str, _since: str | None) -> Listing:
        items = [
            ListedItem(kind=Kind.MESSAGE, item=str(number), metadata={"folder": "INBOX"}, locator=locator)
            for number, locator in enumerate(locators)
        ]
        return Listing(scope=None, items=items, cursor="1")

    world.server.changes = listing  # type: ignore[method-assign]
    world.server.reader = NamedReader  # type: ignore[method-assign,assignment]
    return SmartScan(
        world.store, world.server, clock=world.clock, recorded_through=world.recorded_through, workers=pool
    )


@pytest.mark.parametrize("pool", [0, 2])
async def test_worker_processes_find_what_a_thread_does(world: BackupWorld, pool: int) -> None:
    """Items are read, stored and recorded; problems come back with their reasons, across processes too."""
    scan = scan_of(world, "ok", "vanished", "ok", "unreadable", "refused", pool=pool)
    run = Run(world.clock)
    with pytest.raises(AppServerUnavailable, match=r"3 new.*2 vanished.*1 unreadable"):
        await scan.run_all(run, ScanOptions())
    assert {str(error) for error in run.errors} == {
        "alice/1: 1 is gone",
        "alice/3: 3 can't be read",
        "alice/4: there is no such account",
    }
    states = [world.history(item)[-1] for item in ("0", "2")]
    assert [world.store.blobs.read(state.digest or "") for state in states] == [b"0", b"2"]
    assert (os.getpid() in {state.metadata["worker"] for state in states}) is (pool == 0)


async def test_a_worker_that_dies_fails_the_scan_in_words(world: BackupWorld) -> None:
    """A killed worker is an operating error that says what to do; no cursor is kept."""
    scan = scan_of(world, "ok", "ok", "dies", pool=1)
    with pytest.raises(BackupdError, match="worker process ended") as caught:
        await scan.run_all(Run(world.clock), ScanOptions())
    assert caught.value.hint
    assert world.store.statistics.account(ALICE).cursor is None


@pytest.mark.parametrize("pool", [0, 1])
async def test_a_stopped_scan_leaves_no_staged_content_and_no_worker(
    world: BackupWorld, pool: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What workers were reading when the scan was stopped is dropped with them."""
    run = Run(world.clock)
    pools = []
    made = workers.worker_pool

    def noted(*arguments: object) -> object:
        pools.append(made(*arguments))  # type: ignore[arg-type]
        return pools[-1]

    monkeypatch.setattr(workers, "worker_pool", noted)
    scan = scan_of(world, *["slow"] * 8, pool=pool)
    run.request_stop()
    run_check, left = run.check, [3]

    def check() -> None:
        left[0] -= 1
        if left[0] <= 0:
            run_check()

    run.check = check  # type: ignore[method-assign]
    with pytest.raises(OperationStopped):
        await scan.run_all(run, ScanOptions())
    staged = world.path / ".staged"
    assert not staged.exists() or list(staged.iterdir()) == []
    assert len(pools) == pool
    for one in pools:
        assert not one._processes


def test_a_chunk_that_fails_drops_what_it_staged(tmp_path: Path) -> None:
    """A full disk in the middle of a chunk leaves nothing of it behind."""
    world = BackupWorld(tmp_path)
    items = [ChunkItem(ALICE, Kind.MESSAGE, str(number), "ok", ChangeType.CREATED, 0) for number in range(3)]
    passed = 0

    def third(name: str) -> None:
        nonlocal passed
        passed += name == "volume.stage"
        if passed == 3:
            raise SpaceExhausted("no space left")

    with failing("none"):
        from backupd import durable  # noqa: PLC0415 - the fault is set inside the context that takes it back

        durable.observe_steps(third)
        with pytest.raises(SpaceExhausted):
            workers.read_chunk(items, world.clock.now(), NamedReader(), world.store.keeping)
    assert list((tmp_path / ".staged").iterdir()) == []
    world.recorder.close()
    world.store.close()
