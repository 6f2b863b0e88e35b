"""The scheduler: times across daylight saving, a sleeping machine, clocks set back, changes at run time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from backupd.errors import BackupdError, UsageError
from daemon.scheduler import Job, Scheduler, local_zone, next_run
from tests.world.clocks import FakeClock

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600.0
DAILY = "0 4 * * *"


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


class World:
    """A scheduler in Berlin and what it started, at which moment."""

    def __init__(self, start: datetime, *, error: BackupdError | None = None) -> None:
        self.clock = FakeClock(start)
        self.started: list[tuple[str, datetime]] = []
        self.error = error
        self.scheduler = Scheduler(self.start, clock=self.clock, zone=BERLIN)

    async def start(self, name: str) -> None:
        self.started.append((name, self.clock.now()))
        if self.error is not None:
            raise self.error

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.scheduler.run())
            yield
            task.cancel()

    @property
    def moments(self) -> list[datetime]:
        return [moment for _, moment in self.started]


@pytest.mark.parametrize(
    ("pattern", "after", "expected"),
    [
        (DAILY, utc(2026, 11, 23, 20, 55), utc(2026, 11, 24, 3, 0)),
        (DAILY, utc(2026, 7, 1, 1, 59, 59), utc(2026, 7, 1, 2, 0)),
        (DAILY, utc(2026, 7, 1, 2, 0), utc(2026, 7, 2, 2, 0)),
        ("0 4 * * 6", utc(2026, 11, 23), utc(2026, 11, 28, 3, 0)),
        # 29 March 2026: 02:00 to 03:00 does not exist in Berlin.
        ("30 2 * * *", utc(2026, 3, 28, 12), utc(2026, 3, 29, 1, 0)),
        ("30 2 * * *", utc(2026, 3, 29, 1, 0), utc(2026, 3, 30, 0, 30)),
        (DAILY, utc(2026, 3, 28, 12), utc(2026, 3, 29, 2, 0)),
        # 25 October 2026: 02:00 to 03:00 exists twice; the first counts.
        ("30 2 * * *", utc(2026, 10, 24, 12), utc(2026, 10, 25, 0, 30)),
        ("30 2 * * *", utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)),
        ("30 2 * * *", utc(2026, 10, 25, 1, 10), utc(2026, 10, 26, 1, 30)),
        (DAILY, utc(2026, 10, 24, 12), utc(2026, 10, 25, 3, 0)),
        ("0 0 29 2 *", utc(2026, 3, 1), utc(2028, 2, 28, 23, 0)),
    ],
)
def test_the_next_run(pattern: str, after: datetime, expected: datetime) -> None:
    """A pattern's next run is in local time, once a day, whatever daylight saving does."""
    assert next_run(pattern, after, BERLIN) == expected


async def test_a_daily_job_runs_once_a_day() -> None:
    """Over four days with a change of daylight saving a job runs four times, at 04:00 local time each."""
    world = World(utc(2026, 10, 23, 12))
    world.scheduler.set("scan", DAILY)
    async with world.running():
        for _ in range(4):
            await world.clock.advance(24 * HOUR)
    local = [moment.astimezone(BERLIN) for moment in world.moments]
    assert [(moment.day, moment.hour, moment.minute) for moment in local] == [
        (day, 4, 0) for day in range(24, 28)
    ]
    (job,) = world.scheduler.jobs
    assert (job.missed, job.last) == (0, world.moments[-1])
    assert job.next == utc(2026, 10, 28, 3, 0)


async def test_a_run_missed_in_sleep_is_told_and_not_made_up_for() -> None:
    """A machine that slept through the time skips the run and takes the next one."""
    world = World(utc(2026, 11, 24, 2, 0))
    world.scheduler.set("scan", DAILY)
    async with world.running():
        await world.clock.advance(60)
        world.clock.suspend(5 * HOUR)
        await world.clock.advance(60)
        (job,) = world.scheduler.jobs
        assert (world.started, job.missed, job.last_missed) == ([], 1, utc(2026, 11, 24, 3, 0))
        await world.clock.advance(24 * HOUR)
    assert world.moments == [utc(2026, 11, 25, 3, 0)]


async def test_waking_up_shortly_after_the_time_still_runs() -> None:
    """Within the tolerance a run is late, not missed; looking often makes that so after a sleep."""
    world = World(utc(2026, 11, 24, 2, 0))
    world.scheduler.set("scan", DAILY)
    async with world.running():
        await world.clock.advance(10)
        world.clock.suspend(HOUR + 20)
        await world.clock.advance(60)
    assert len(world.started) == 1
    assert world.moments[0] - utc(2026, 11, 24, 3, 0) < timedelta(seconds=90)


async def test_a_small_step_back_runs_nothing_twice() -> None:
    """NTP sets the clock back over the time of a run: it has run, and runs next tomorrow."""
    world = World(utc(2026, 11, 24, 2, 59))
    world.scheduler.set("scan", DAILY)
    async with world.running():
        await world.clock.advance(90)
        world.clock.jump(-120)
        await world.clock.advance(HOUR)
        assert len(world.started) == 1
        await world.clock.advance(24 * HOUR)
    assert len(world.started) == 2


async def test_a_clock_set_back_by_days_is_followed() -> None:
    """A clock that was far in the future and is corrected does not leave jobs waiting for that future."""
    world = World(utc(2030, 1, 1, 0, 0))
    world.scheduler.set("scan", DAILY)
    async with world.running():
        await world.clock.advance(60)
        world.clock.jump((utc(2026, 11, 24) - world.clock.now()).total_seconds())
        await world.clock.advance(24 * HOUR)
    assert world.moments == [utc(2026, 11, 24, 3, 0)]


async def test_a_change_counts_at_once() -> None:
    """A new pattern set while the scheduler waits is kept; a job turned off or removed does not run."""
    world = World(utc(2026, 11, 24, 2, 0))
    world.scheduler.set("scan", DAILY)
    async with world.running():
        await world.clock.advance(60)
        world.scheduler.set("scan", "5 3 * * *")
        await world.clock.advance(300)
        assert world.moments == [utc(2026, 11, 24, 2, 5)]
        job = world.scheduler.set("scan", "5 3 * * *", enabled=False)
        assert job.next is None
        await world.clock.advance(48 * HOUR)
        assert len(world.started) == 1
        world.scheduler.remove("scan")
        world.scheduler.remove("scan")
        assert world.scheduler.jobs == []


async def test_setting_the_same_again_keeps_what_is_known() -> None:
    """A reload with an unchanged pattern forgets neither the last run nor what was missed."""
    world = World(utc(2026, 11, 24, 2, 0))
    world.scheduler.set("scan", DAILY)
    async with world.running():
        await world.clock.advance(2 * HOUR)
    before = world.scheduler.jobs
    world.scheduler.set("scan", DAILY)
    assert world.scheduler.jobs == before
    assert before[0].last == utc(2026, 11, 24, 3, 0)


async def test_a_job_that_cannot_start_is_tried_the_next_time() -> None:
    """An operating error of a start is logged; the other jobs and the next run are not disturbed."""
    world = World(utc(2026, 11, 24, 2, 0), error=BackupdError("the queue is full"))
    world.scheduler.set("scan", DAILY)
    world.scheduler.set("purge", DAILY)
    async with world.running():
        await world.clock.advance(26 * HOUR)
    assert [name for name, _ in world.started] == ["scan", "purge"] * 2


@pytest.mark.parametrize("pattern", ["", "0 4 * *", "60 4 * * *", "0 0 4 * * *", "often", "0 4 31 2 *"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    """A wrong pattern is a usage error, and the job stays as it was."""
    world = World(utc(2026, 11, 24))
    world.scheduler.set("scan", DAILY)
    with pytest.raises(UsageError, match="scan can't run at"):
        world.scheduler.set("scan", pattern)
    assert [job.pattern for job in world.scheduler.jobs] == [DAILY]


async def test_waits_are_short() -> None:
    """However far the next run, no wait is longer than half a minute: timers stand while a machine sleeps."""
    world = World(utc(2026, 11, 24))
    world.scheduler.set("scan", "0 4 1 1 *")
    async with world.running():
        await world.clock.advance(120)
    assert max(world.clock.slept) <= 30


def test_the_local_zone_has_rules(tmp_path: Path) -> None:
    """TZ, else /etc/localtime, else UTC: a zone with its daylight saving, not today's offset."""
    winter, summer = datetime(2026, 1, 1), datetime(2026, 7, 1)  # noqa: DTZ001 - local times are asked about
    for zone in (local_zone({"TZ": "Europe/Berlin"}), local_zone({"TZ": ":Europe/Berlin"})):
        assert zone.utcoffset(winter) != zone.utcoffset(summer)
    assert local_zone({"TZ": "Nowhere/Land"}) is UTC
    assert local_zone({}, tmp_path / "missing") is UTC
    (tmp_path / "localtime").write_bytes(b"no zone")
    assert local_zone({}, tmp_path / "localtime") is UTC


async def test_a_job_set_shortly_before_its_time_is_on_time() -> None:
    """A change wakes the scheduler: a job due in ten seconds does not wait for the next look."""
    world = World(utc(2026, 11, 24, 2, 59, 45))
    async with world.running():
        await world.clock.advance(5)
        world.scheduler.set("scan", DAILY)
        await world.clock.advance(30)
    assert world.moments == [utc(2026, 11, 24, 3, 0)]


class Kept:
    """What a ledger keeps of jobs, in memory."""

    def __init__(self) -> None:
        self.facts: dict[str, bytes] = {}
        self.writes = 0

    def all(self) -> dict[str, bytes]:
        return dict(self.facts)

    def keep(self, jobs: Mapping[str, bytes]) -> None:
        self.writes += 1
        self.facts |= jobs


async def lived(kept: Kept, start: datetime, seconds: float, pattern: str = DAILY) -> tuple[Job, list[str]]:
    """Let a scheduler live for a while on what an earlier one kept; return its job and what it started."""
    clock, started = FakeClock(start), list[str]()

    async def begin(name: str) -> None:
        started.append(name)

    scheduler = Scheduler(begin, clock=clock, zone=BERLIN, ledger=kept)
    await scheduler.load()
    scheduler.set("SmartScan", pattern)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(scheduler.run())
        await clock.advance(seconds)
        await until_kept(kept, scheduler)
        running.cancel()
    return scheduler.jobs[0], started


async def until_kept(kept: Kept, scheduler: Scheduler) -> None:
    """Give the thread that keeps jobs its time."""
    async with asyncio.timeout(30):
        while msgspec.json.encode(scheduler.jobs[0]) != kept.facts.get("SmartScan"):  # noqa: ASYNC110 - a thread keeps them
            await asyncio.sleep(0.001)


async def test_a_run_missed_while_no_daemon_ran_is_told_after_the_start() -> None:
    """Down over 04:00, the next process counts the run as missed and starts nothing for it; once only."""
    kept = Kept()
    evening = datetime(2026, 11, 23, 21, tzinfo=UTC)
    job, started = await lived(kept, evening, 60)
    assert (job.missed, started) == (0, [])
    job, started = await lived(kept, evening + timedelta(hours=10), 60)
    assert (job.missed, job.last_missed, started) == (1, datetime(2026, 11, 24, 3, tzinfo=UTC), [])
    assert job.next == datetime(2026, 11, 25, 3, tzinfo=UTC)
    job, _ = await lived(kept, evening + timedelta(hours=11), 60)
    assert job.missed == 1


async def test_each_of_several_missed_runs_counts() -> None:
    """Three days of absence are three missed runs, of which the last is shown."""
    kept = Kept()
    evening = datetime(2026, 11, 23, 21, tzinfo=UTC)
    await lived(kept, evening, 60)
    job, started = await lived(kept, evening + timedelta(days=3), 60)
    assert (job.missed, job.last_missed, started) == (3, datetime(2026, 11, 26, 3, tzinfo=UTC), [])


async def test_a_short_restart_over_the_time_still_runs() -> None:
    """A daemon that is back within the tolerance makes its run, late, and only once."""
    kept = Kept()
    before = datetime(2026, 11, 24, 2, 59, 30, tzinfo=UTC)
    await lived(kept, before, 10)
    job, started = await lived(kept, before + timedelta(seconds=60), 10)
    assert (job.missed, started) == (0, ["SmartScan"])
    job, started = await lived(kept, before + timedelta(seconds=90), 10)
    assert (job.missed, started) == (0, [])


async def test_another_pattern_or_a_job_turned_off_misses_nothing() -> None:
    """What was kept of an old time does not count for a new one."""
    kept = Kept()
    evening = datetime(2026, 11, 23, 21, tzinfo=UTC)
    await lived(kept, evening, 60)
    job, _ = await lived(kept, evening + timedelta(days=2), 60, pattern="0 5 * * *")
    assert job.missed == 0


async def test_a_scheduler_that_is_held_starts_nothing_and_counts() -> None:
    """A run that comes due while the service is stopped was missed; released, the next one runs."""
    clock, started = FakeClock(datetime(2026, 11, 24, 2, 59, tzinfo=UTC)), list[str]()

    async def begin(name: str) -> None:
        started.append(name)

    scheduler = Scheduler(begin, clock=clock, zone=BERLIN)
    scheduler.set("SmartScan", "0 4 * * *")
    scheduler.hold(held=True)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(scheduler.run())
        await clock.advance(120)
        assert (started, scheduler.jobs[0].missed) == ([], 1)
        scheduler.hold(held=False)
        await clock.advance(86_400)
        assert started == ["SmartScan"]
        running.cancel()


async def test_a_job_with_a_note_is_only_shown() -> None:
    """It has no next time, is never started, misses nothing and is not written down."""
    kept = Kept()
    clock, started = FakeClock(datetime(2026, 11, 24, 2, 59, tzinfo=UTC)), list[str]()

    async def begin(name: str) -> None:
        started.append(name)

    scheduler = Scheduler(begin, clock=clock, zone=BERLIN, ledger=kept)
    scheduler.set("upload", "* * * * *", note="no volume")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(scheduler.run())
        await clock.advance(600)
        clock.suspend(3_600)
        await clock.advance(60)
        running.cancel()
    (job,) = scheduler.jobs
    assert (started, job.missed, kept.writes, job.next) == ([], 0, 0, None)


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_a_clock_that_was_ahead_missed_is_forgotten(*, restarts: bool) -> None:
    """A year ahead counts many runs as missed; set right, also over a restart, only the true one stays."""
    kept, begun = Kept(), datetime(2026, 11, 23, 21, tzinfo=UTC)
    clock = FakeClock(begun)
    scheduler = Scheduler(_nothing, clock=clock, zone=BERLIN, ledger=kept)
    scheduler.set("SmartScan", "0 4 * * *")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(scheduler.run())
        await clock.advance(60)
        clock.jump(365 * 86_400)
        await clock.advance(60)
        assert scheduler.jobs[0].missed == 365
        await until_kept(kept, scheduler)
        # Set right 7 hours later: 04:00 in Berlin has truly passed meanwhile.
        clock.jump(7 * HOUR - 365 * 86_400)
        if not restarts:
            await clock.advance(60)
        running.cancel()
    job = scheduler.jobs[0] if not restarts else (await lived(kept, clock.now(), 60))[0]
    assert (job.missed, job.last_missed) == (1, datetime(2026, 11, 24, 3, tzinfo=UTC))
    assert job.next == datetime(2026, 11, 25, 3, tzinfo=UTC)


async def _nothing(_name: str) -> None: ...
