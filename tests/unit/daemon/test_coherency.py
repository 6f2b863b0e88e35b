"""The daemon's coherency checks: what they are made from, how they stop, what they mend meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backupd.errors import OperationStopped, UnknownAccount, UsageError
from backupd.items import Kind
from backupd.operations import Operation, Run, Verdict
from backupd.store import layout
from daemon import coherency
from daemon.coherency import TYPE, CoherencyWorks
from daemon.damage_watch import AGAIN_SECONDS, DamageWatch
from daemon.works import SCHEDULE
from tests.unit.jobs.worlds import ALICE, BackupWorld
from tests.world.clocks import settle

CONTENTS = [b"Subject: %d\r\n\r\nText\r\n" % number for number in range(8)]


class Recording:
    """What a check needs of the daemon's recording."""

    def __init__(self, world: BackupWorld) -> None:
        self.between_rounds = world.recorder.between_rounds
        self.recorded_through = world.recorded_through


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BackupWorld]:
    async with BackupWorld(tmp_path / "backup") as world:
        await world.account()
        for content in CONTENTS:
            await world.server.add(ALICE, Kind.MESSAGE, "INBOX", content)
        await world.scan_all()
        yield world


def works(world: BackupWorld, sample: str | None = None, minutes: int | None = None) -> CoherencyWorks:
    return CoherencyWorks(
        store=world.store,
        appserver=world.server,
        recording=Recording(world),  # type: ignore[arg-type]
        clock=world.clock,
        workers=0,
        scheduled=lambda: (sample, minutes),
    )


def operation(world: BackupWorld, started_by: str = "root", **given: Any) -> Operation:
    return Operation(
        uuid="1", order=1, type=TYPE, parameters=given, started_by=started_by, submitted=world.clock.now()
    )


async def run(of: CoherencyWorks, what: Operation, world: BackupWorld) -> Verdict:
    verdict = await of.factories()[TYPE](what)(Run(world.clock))
    assert isinstance(verdict, Verdict)
    return verdict


async def test_a_schedule_runs_by_its_own_attributes(world: BackupWorld) -> None:
    """A scheduled check is bounded as the attributes say, one of an admin by what was given alone."""
    scheduled = await run(works(world, "10%", 5), operation(world, SCHEDULE), world)
    assert "of the pass is done" in scheduled.sentence
    by_hand = await run(works(world, "10%", 5), operation(world), world)
    assert "of the pass is done" not in by_hand.sentence
    assert coherency.remembered(world.store).last_whole is not None


async def test_what_can_not_be_checked_is_refused_at_once(world: BackupWorld, tmp_path: Path) -> None:
    """Another path and a share that is none are no operations; an unknown account fails its own."""
    make = works(world).factories()[TYPE]
    for given in ({"backup_path": str(tmp_path)}, {"sample": "200%"}, {"max_minutes": 0}):
        with pytest.raises(UsageError):
            make(operation(world, **given))
    with pytest.raises(UnknownAccount):
        await run(works(world), operation(world, accountIds=["nobody@example.com"]), world)


async def test_contents_are_read_again_while_recording_goes_on(world: BackupWorld) -> None:
    """A damaged content is stored again from the AppServer, and what is nowhere any more is lost for good."""
    blobs = sorted((world.path / layout.BLOBS).rglob("*="))
    blobs[0].write_bytes(b"\x01rubbish")
    blobs[1].unlink()
    checked = await run(works(world), operation(world), world)
    assert {code: checked.counts[code] for code in checked.counts if "." in code} == {
        "blob.corrupt": 1,
        "blob.missing": 1,
    }
    assert not checked.successful
    mended = await run(works(world), operation(world, fixBackup=True), world)
    assert mended.successful, mended.sentence
    blobs[2].unlink()
    for known in list(world.store.index.items(ALICE)):
        if known.kind is Kind.MESSAGE:
            world.server.remove(ALICE, known.item)
    lost = await run(works(world), operation(world, fixBackup=True), world)
    assert "0 mended, 1 lost for good, 0 left" in lost.sentence
    assert not lost.successful
    again = await run(works(world), operation(world), world)
    assert again.successful
    assert "known as lost for good: 1 blob.lost" in again.sentence
    view = coherency.view(world.store)
    assert (view.findings, view.lost) == (0, 1)


async def test_a_check_stops_when_asked(world: BackupWorld) -> None:
    """A run that shall stop ends as stopped, in the thread as well."""
    asked = Run(world.clock)
    asked.request_stop()
    with pytest.raises(OperationStopped):
        await works(world).factories()[TYPE](operation(world))(asked)


class Queue:
    """Keeps what was submitted."""

    def __init__(self) -> None:
        self.submitted: list[dict[str, Any]] = []

    async def submit(self, type_: str, given: dict[str, Any], **_: Any) -> None:
        assert type_ == TYPE
        self.submitted.append(given)


async def test_damage_queues_one_check_of_the_account(world: BackupWorld) -> None:
    """However many items are damaged, their account is checked once an hour; other accounts by themselves."""
    queue = Queue()
    watch = DamageWatch(lambda: queue, world.path, clock=world.clock)  # type: ignore[arg-type, return-value]
    keys = list(world.store.index.keys(ALICE))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watch.run(), name="damage")
        for key in (*keys, *keys):
            await asyncio.to_thread(watch.met, key)
        await settle()
        await world.clock.advance(AGAIN_SECONDS)
        watch.met(keys[0])
        await settle()
        task.cancel()
    assert [one["accountIds"] for one in queue.submitted] == [[ALICE], [ALICE]]
