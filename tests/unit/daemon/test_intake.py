"""The intake: nothing is acknowledged before it is durable, and a full disk only makes it wait."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from backupd import durable
from backupd.errors import SpaceExhausted
from daemon.arrivals import Arrival, Arrivals, Decoding
from daemon.intake import PAUSE_SECONDS_MAX, Intake
from daemon.quarantine import Quarantine
from tests.unit.daemon.test_arrivals import arrival
from tests.world.clocks import FakeClock, settle
from tests.world.subscriber import running, until


class Disk:
    """A journal that tells what happened in which order, and can refuse or take its time."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.trouble: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def journal(self, payloads: Sequence[bytes]) -> None:
        await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        self.steps.append(f"journaled {len(payloads)}")

    def acknowledge(self, arrivals: Sequence[Arrival]) -> None:
        self.steps.append("acknowledged " + ",".join(str(one.mid) for one in arrivals))


@pytest.fixture
async def disk() -> Disk:
    return Disk()


@pytest.fixture
def intake(clock: FakeClock, disk: Disk, tmp_path: Path) -> Intake:
    return Intake(
        journal=disk.journal,
        quarantine=Quarantine(tmp_path / "quarantine.jsonl"),
        decoding=Decoding(server_id="s1", clock=clock),
        clock=clock,
    )


def put(arrivals: Arrivals, *numbers: int) -> None:
    for number in numbers:
        arrivals.put(arrival(number))


async def test_each_batch_is_durable_before_it_is_acknowledged(intake: Intake, disk: Disk) -> None:
    """Journal, then acknowledge, batch by batch in order; what came meanwhile is one batch."""
    arrivals = Arrivals()
    disk.gate.clear()
    async with running(intake.run(arrivals, disk.acknowledge, lambda: None)):
        put(arrivals, 1)
        await settle()
        put(arrivals, 2, 3)
        await settle()
        put(arrivals, 4)
        await settle()
        assert disk.steps == []
        assert intake.in_flight == 4
        disk.gate.set()
        await settle()
        assert disk.steps == [
            "journaled 1",
            "acknowledged 1",
            "journaled 2",
            "acknowledged 2,3",
            "journaled 1",
            "acknowledged 4",
        ]
        assert (intake.journaled, intake.in_flight) == (4, 0)


async def test_what_is_decoded_ahead_is_bounded(intake: Intake, disk: Disk) -> None:
    """With a journal that hangs, arrivals stay in their own bounded queue."""
    arrivals = Arrivals()
    disk.gate.clear()
    async with running(intake.run(arrivals, disk.acknowledge, lambda: None)):
        for number in range(1, 11):
            put(arrivals, number)
            await settle()
        assert (intake.in_flight, len(arrivals)) == (4, 6)
        disk.gate.set()


@pytest.mark.parametrize("trouble", [SpaceExhausted("1 GiB left"), OSError(errno.EIO, "Input/output error")])
async def test_a_journal_that_can_not_write_pauses_and_resumes(
    intake: Intake, disk: Disk, clock: FakeClock, trouble: Exception
) -> None:
    """The same batch is tried again with growing waits, unacknowledged; then all goes on by itself."""
    arrivals = Arrivals()
    disk.trouble = trouble
    async with running(intake.run(arrivals, disk.acknowledge, lambda: None)):
        put(arrivals, 1, 2)
        await settle()
        assert str(trouble) in intake.paused
        await clock.advance(120)
        assert disk.steps == []
        waits = clock.slept
        assert waits[:3] == [0.5, 1.0, 2.0]
        assert max(waits) == PAUSE_SECONDS_MAX
        disk.trouble = None
        await clock.advance(PAUSE_SECONDS_MAX)
        assert disk.steps == ["journaled 2", "acknowledged 1,2"]
        assert intake.paused == ""


async def test_a_quarantine_that_can_not_write_pauses_too(
    intake: Intake, disk: Disk, clock: FakeClock, tmp_path: Path
) -> None:
    """A refused message is acknowledged only once it is kept."""
    arrivals = Arrivals()
    full = True

    def observer(step: str) -> None:
        if step == "quarantine.write" and full:
            raise OSError(errno.ENOSPC, "No space left on device")

    durable.observe_steps(observer)
    async with running(intake.run(arrivals, disk.acknowledge, lambda: None)):
        arrivals.put(arrival(1, b"{"))
        put(arrivals, 2)
        await until(lambda: bool(intake.paused))
        assert disk.steps == []
        full = False
        await clock.advance(1)
        await until(lambda: disk.steps == ["journaled 1", "acknowledged 1,2"])
    assert (tmp_path / "quarantine.jsonl").read_bytes().count(b"\n") == 1


async def test_a_stop_lets_the_batch_that_is_being_written_be_acknowledged(
    intake: Intake, disk: Disk
) -> None:
    """What becomes durable during a stop is acknowledged, what waits behind it is not even journaled."""
    arrivals = Arrivals()
    disk.gate.clear()
    async with running(intake.run(arrivals, disk.acknowledge, lambda: None)) as (run,):
        put(arrivals, 1)
        await settle()
        put(arrivals, 2)
        await settle()
        run.cancel()
        await settle()
        disk.gate.set()
    assert disk.steps == ["journaled 1", "acknowledged 1"]


async def test_a_stop_during_a_pause_drops_the_batch(intake: Intake, disk: Disk) -> None:
    """What could not be written is left to the broker, at once."""
    arrivals = Arrivals()
    disk.trouble = SpaceExhausted("full")
    async with running(intake.run(arrivals, disk.acknowledge, lambda: None)):
        put(arrivals, 1)
        await settle()
        assert intake.paused
    assert disk.steps == []
    assert (intake.paused, intake.in_flight) == ("", 0)


async def test_a_bug_in_the_journal_is_not_hidden(intake: Intake, disk: Disk) -> None:
    """What is no operating error ends the intake, unacknowledged: the broker delivers it again."""
    arrivals = Arrivals()
    disk.trouble = ZeroDivisionError()
    put(arrivals, 1)
    with pytest.raises(BaseExceptionGroup) as caught:
        await intake.run(arrivals, disk.acknowledge, lambda: None)
    assert caught.group_contains(ZeroDivisionError)
    assert disk.steps == []
