"""Missed runs: those of the schedules that nothing has made up for since, and what does. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from backupd.views import ScheduleView

SMARTSCAN = "SmartScan"
PURGE = "purge"

_MADE_UP_BY = {
    SMARTSCAN: "backupctl backup doSmartScan start",
    PURGE: "it runs next time; now: backupctl backup doPurge",
}


def missed_runs(
    schedules: Sequence[ScheduleView], now: datetime, *, done: Mapping[str, datetime | None]
) -> list[ScheduleView]:
    """Return the jobs whose last missed run nothing has made up for; `done` has what was done otherwise.

    A clock that was ahead made moments that are the future again: such a run was not missed, and such a
    success makes up for nothing.
    """
    found = []
    for job in schedules:
        missed = job.last_missed
        if missed is None or missed > now or not job.enabled:
            continue
        successes = [job.last, done.get(job.job)]
        if not any(one is not None and missed <= one <= now for one in successes):
            found.append(job)
    return found


def making_up(job: str) -> str:
    """Return what makes up for a missed run of a job."""
    return _MADE_UP_BY.get(job, "it runs next time")
