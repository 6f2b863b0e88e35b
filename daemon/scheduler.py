"""The scheduler: when jobs run by themselves, as cron patterns in the machine's local time.

A job that was due while the machine slept, while its clock was set forward past the time, or while no daemon
ran, is not made up for: the missed runs are counted, logged and shown, and the next one is awaited. A clock
set back by less than `BACKWARD` runs nothing twice; set back further, times are reckoned anew, and what was
missed or run in what is the future again is forgotten. Across changes
of daylight saving time a daily job runs once a day, as Debian's cron does: a time that does not exist moves
to the first one that does, a time that exists twice counts the first time. Waiting is cut into pieces of
`LOOK_SECONDS`, because timers do not count the time a machine was suspended.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import structlog
from cronsim import CronSim

from backupd.attributes import why_no_pattern
from backupd.clock import Clock
from backupd.decoding import decoded
from backupd.errors import BackupdError, UsageError

LOOK_SECONDS = 30.0
LATE = timedelta(seconds=120)
"""A run that is noticed later than this after its time was missed."""
BACKWARD = timedelta(hours=3)
JOBS_MAX = 100
MISSED_MAX = 1_000
"""Missed runs of a job are counted up to this number at a time."""

log = structlog.get_logger(__name__)


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job with a time of its own. Moments are UTC; `next` None: never.

    `note` says why it has nothing to do: such a job is only shown, and has no next time.
    """

    name: str
    pattern: str
    enabled: bool = True
    next: datetime | None = None
    last: datetime | None = None
    missed: int = 0
    last_missed: datetime | None = None
    note: str = ""


class JobsLedger(Protocol):
    """Where jobs are kept over restarts; each method blocks, and is durable on return."""

    def all(self) -> Mapping[str, bytes]:
        """Return every kept job by its name."""
        ...

    def keep(self, jobs: Mapping[str, bytes]) -> None:
        """Keep jobs in place of their older values."""
        ...


def next_run(pattern: str, after: datetime, zone: tzinfo) -> datetime | None:
    """Return the first moment later than `after` that a pattern names in a zone, None if there is none."""
    for run in CronSim(pattern, after.astimezone(zone)):
        moment = run.astimezone(UTC)
        # In the second of two equal hours, cron's arithmetic without zones offers a time of the first.
        if moment > after:
            return moment
    return None


def runs_between(pattern: str, after: datetime, until: datetime, zone: tzinfo) -> list[datetime]:
    """Return the moments after `after` and not later than `until` that a pattern names, at most 1,000."""
    found: list[datetime] = []
    for run in CronSim(pattern, after.astimezone(zone)):
        moment = run.astimezone(UTC)
        if moment > until or len(found) >= MISSED_MAX:
            break
        if moment > after:
            found.append(moment)
    return found


def run_before(pattern: str, moment: datetime, zone: tzinfo) -> datetime | None:
    """Return the last moment not later than `moment` that a pattern names in a zone, if there is one."""
    for run in CronSim(pattern, (moment + timedelta(seconds=1)).astimezone(zone), reverse=True):
        found = run.astimezone(UTC)
        if found <= moment:
            return found
    return None


def local_zone(environ: Mapping[str, str] | None = None, localtime: Path = Path("/etc/localtime")) -> tzinfo:
    """Return the machine's time zone with its rules: `TZ`, else /etc/localtime, else UTC."""
    name = (os.environ if environ is None else environ).get("TZ", "").removeprefix(":")
    if name:
        try:
            if name.startswith("/"):
                with Path(name).open("rb") as file:
                    return ZoneInfo.from_file(file, key=name)
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, OSError, ValueError) as error:
            log.warning("time_zone_unknown", zone=name, reason=str(error))
            return UTC
    try:
        with localtime.open("rb") as file:
            return ZoneInfo.from_file(file, key=str(localtime))
    except (OSError, ValueError):
        return UTC


class Scheduler:
    """Starts jobs at their times. `start` gets a job's name and returns once it is queued.

    With a `ledger` it knows after a restart which runs were missed meanwhile. Held, it starts nothing: a run
    that comes due counts as missed.
    """

    def __init__(
        self,
        start: Callable[[str], Awaitable[object]],
        *,
        clock: Clock,
        zone: tzinfo | None = None,
        ledger: JobsLedger | None = None,
    ) -> None:
        self._start = start
        self._ledger = ledger
        self._kept: dict[str, Job] = {}
        self._is_held = False
        self._clock = clock
        self._zone = local_zone() if zone is None else zone
        self._jobs: dict[str, Job] = {}
        self._quiet: set[str] = set()
        self._latest = clock.now()
        self._changed = asyncio.Event()

    @property
    def jobs(self) -> list[Job]:
        """All jobs, in the order in which they were set."""
        return list(self._jobs.values())

    async def load(self) -> None:
        """Take over what an earlier process kept of the jobs; before the first of them is set."""
        if self._ledger is None:
            return
        try:
            kept = await asyncio.to_thread(self._ledger.all)
        except (BackupdError, OSError) as error:
            log.error("jobs_not_read", reason=str(error))
            return
        for name, facts in kept.items():
            try:
                self._kept[name] = decoded(facts, Job)
            except msgspec.DecodeError as error:
                log.error("job_not_readable", job=name, reason=str(error))

    def hold(self, *, held: bool) -> None:
        """Let jobs wait for their next time, or start them again."""
        self._is_held = held

    def set(
        self, name: str, pattern: str, *, enabled: bool = True, note: str = "", quiet: bool = False
    ) -> Job:
        """Set a job or change its time, at once. Raises `UsageError` for what is no cron pattern.

        Of a `quiet` one nothing is kept, and missed runs are no news.
        """
        if quiet:
            self._quiet.add(name)
        if enabled or pattern:
            refused = why_no_pattern(pattern)
            if refused:
                raise UsageError(f"{name} can't run at {pattern!r}: {refused}", hint='such as "0 4 * * *"')
        assert name in self._jobs or len(self._jobs) < JOBS_MAX
        job = self._jobs.get(name) or self._remembered(name, pattern, enabled=enabled, note=note)
        unchanged = job.next is not None and (job.pattern, job.enabled) == (pattern, enabled)
        if not unchanged:
            will_run = enabled and not job.note
            when = next_run(pattern, self._clock.now(), self._zone) if will_run else None
            job = msgspec.structs.replace(job, pattern=pattern, enabled=enabled, next=when)
            log.info("job_scheduled", job=name, pattern=pattern, enabled=enabled, next=when)
        self._jobs[name] = job
        self._changed.set()
        return job

    def _remembered(self, name: str, pattern: str, *, enabled: bool, note: str) -> Job:
        """Return a job as it was kept, with the runs that were missed since; its next run is not set yet."""
        kept = self._kept.get(name)
        if kept is None:
            return Job(name=name, pattern=pattern, note=note)
        now = self._clock.now()
        kept = self._as_known_at(now, kept)
        is_same = not note and enabled and (kept.pattern, kept.enabled) == (pattern, True)
        if is_same and kept.next is not None and kept.next <= now:
            if now - kept.next <= LATE:
                return kept  # late, and due at the first look
            kept = self._with_missed(kept, kept.next, now)
        return msgspec.structs.replace(kept, pattern=pattern, next=None, note=note)

    def _with_missed(self, job: Job, due: datetime, now: datetime) -> Job:
        """Return a job after a run that was due was missed, and maybe more since."""
        if job.name in self._quiet:
            return job
        missed = [due, *runs_between(job.pattern, due, now, self._zone)]
        log.warning("run_missed", job=job.name, due=due, runs=len(missed))
        return msgspec.structs.replace(job, missed=job.missed + len(missed), last_missed=missed[-1])

    def _as_known_at(self, now: datetime, job: Job) -> Job:
        """Return a job without what a clock told that was ahead: runs in what is the future again."""
        last = None if job.last is not None and job.last > now else job.last
        if job.last_missed is None or job.last_missed <= now:
            return msgspec.structs.replace(job, last=last)
        never_were = len(runs_between(job.pattern, now, job.last_missed, self._zone))
        missed = max(0, job.missed - never_were)
        last_missed = run_before(job.pattern, now, self._zone) if missed else None
        if last_missed is not None and last is not None and last >= last_missed:
            last_missed = None  # That one was run, by a clock that was right.
        return msgspec.structs.replace(job, last=last, missed=missed, last_missed=last_missed)

    def remove(self, name: str) -> None:
        """Forget a job; nothing happens where there is none."""
        self._jobs.pop(name, None)

    async def run(self) -> None:
        """Start jobs at their times until cancelled."""
        while True:
            await self._look()
            await self._keep()
            self._changed.clear()
            await self._wait(self._seconds_to_wait())

    async def _look(self) -> None:
        now = self._clock.now()
        if self._latest - now > BACKWARD:
            log.warning("clock_set_back", seconds=(self._latest - now).total_seconds())
            for job in self.jobs:
                self._await_next(self._as_known_at(now, job), now)
            self._latest = now
        self._latest = max(self._latest, now)
        for job in self.jobs:
            if job.next is None or job.next > now:
                continue
            if now - job.next > LATE:
                self._await_next(self._with_missed(job, job.next, now), now)
                continue
            if self._is_held and job.name in self._quiet:
                self._await_next(job, now)
                continue
            if self._is_held:
                log.warning(
                    "run_missed", job=job.name, due=job.next, runs=1, reason="the scheduler is stopped"
                )
                held = msgspec.structs.replace(job, missed=job.missed + 1, last_missed=job.next)
                self._await_next(held, now)
                continue
            self._await_next(msgspec.structs.replace(job, last=now), now)
            await self._begin(job)

    async def _keep(self) -> None:
        """Keep what changed of the jobs; what can't be kept is tried again at the next look."""
        kept = (job for job in self.jobs if not job.note and job.name not in self._quiet)
        changed = {job.name: job for job in kept if self._kept.get(job.name) != job}
        if self._ledger is None or not changed:
            return
        facts = {name: msgspec.json.encode(job) for name, job in changed.items()}
        try:
            await asyncio.to_thread(self._ledger.keep, facts)
        except (BackupdError, OSError) as error:
            log.error("jobs_not_kept", reason=str(error))
            return
        self._kept |= changed

    async def _begin(self, job: Job) -> None:
        level = logging.DEBUG if job.name in self._quiet else logging.INFO
        log.log(level, "job_due", job=job.name, due=job.next)
        try:
            await self._start(job.name)
        except BackupdError as error:
            log.error("job_not_started", job=job.name, reason=str(error))

    def _await_next(self, job: Job, now: datetime) -> None:
        when = next_run(job.pattern, now, self._zone) if job.enabled else None
        self._jobs[job.name] = msgspec.structs.replace(job, next=when)

    def _seconds_to_wait(self) -> float:
        now = self._clock.now()
        due = [(job.next - now).total_seconds() for job in self._jobs.values() if job.next is not None]
        return min([LOOK_SECONDS, *(max(seconds, 0.0) for seconds in due)])

    async def _wait(self, seconds: float) -> None:
        """Wait for a time or for a change of the jobs, whatever comes first."""
        async with asyncio.TaskGroup() as group:
            change = group.create_task(self._changed.wait(), name="schedule change")
            timer = group.create_task(self._clock.sleep(seconds), name="schedule timer")
            await asyncio.wait({change, timer}, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            timer.cancel()
