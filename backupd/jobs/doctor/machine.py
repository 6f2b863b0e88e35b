"""The machine: its clock and zone, who the daemon is and what it may use, and what systemd says of it."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from backupd.jobs.doctor import verdict
from backupd.jobs.doctor.place import user_name
from backupd.views import CheckView

EARLIEST = datetime(2025, 1, 1, tzinfo=UTC)
"""Before this program was written no clock can be right."""
BACKWARD_MAX = timedelta(minutes=1)
OPEN_FILES_MIN = 4096
OPEN_FILES_SHARE_MAX = 0.8
COMMAND_SECONDS_MAX = 3.0
TIMESYNC_MARK = Path("/run/systemd/timesync/synchronized")
LOCALTIME = Path("/etc/localtime")
SYNC_CURE = "timedatectl set-ntp true, or install chrony: dates of items and restores are told by this clock"
_TIMEX_BYTES = 1024
_TIME_ERROR = 5


class ClockFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The clock. `synchronized` None: nobody tells. `latest` is when the backup was last at work.

    `doubt` says why no purge believes it, as the daemon knows.
    """

    now: datetime
    synchronized: bool | None = None
    latest: datetime | None = None
    zone: str = ""
    zone_problem: str = ""
    doubt: str = ""


class ServiceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Who a process is and how many files it may open."""

    user: str
    uid: int
    open_files: int
    open_files_max: int


def look_at_clock(now: datetime, latest: datetime | None, environ: Mapping[str, str]) -> ClockFacts:
    """Gather what the kernel, systemd and the environment tell of the time."""
    zone, problem = _zone(environ)
    return ClockFacts(now=now, synchronized=_synchronized(), latest=latest, zone=zone, zone_problem=problem)


def judge_clock(facts: ClockFacts) -> list[CheckView]:
    """Judge clock and time zone."""
    found: list[CheckView] = []
    shown = f"{facts.now:%Y-%m-%d %H:%M:%S} UTC"
    if facts.now < EARLIEST:
        text = f"the clock says {shown}: that can't be"
        found.append(verdict.critical("clock", text, f"set it, then restart the daemon; {SYNC_CURE}"))
    elif facts.latest is not None and facts.latest - facts.now > BACKWARD_MAX:
        text = f"the clock says {shown}, but the backup was at work at {facts.latest:%Y-%m-%d %H:%M:%S} UTC"
        found.append(verdict.critical("clock", f"{text}: it was set back, or was wrong then", SYNC_CURE))
    elif facts.doubt:
        cure = "timedatectl sets it; if it is right, once: backupctl backup doPurge force true"
        found.append(verdict.warning("clock", f"in doubt, so nothing is purged: {facts.doubt}", cure))
    elif facts.synchronized is False:
        found.append(verdict.warning("clock", f"{shown}, not synchronized", SYNC_CURE))
    elif facts.synchronized is None:
        text = f"{shown}; whether it is synchronized is not told here"
        found.append(verdict.unknown("clock", text, "look on the host: timedatectl"))
    else:
        found.append(verdict.ok("clock", f"{shown}, synchronized"))
    if facts.zone_problem:
        cure = "timedatectl set-timezone Europe/Rome (your own), or mend TZ in the unit"
        found.append(verdict.warning("time zone", facts.zone_problem, cure))
    else:
        found.append(verdict.ok("time zone", f"schedules run in {facts.zone}"))
    return found


def look_at_service() -> ServiceFacts:
    """Gather the facts of this process."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ServiceFacts(
        user=user_name(os.geteuid()),
        uid=os.geteuid(),
        open_files=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        open_files_max=limit if limit != resource.RLIM_INFINITY else 1 << 30,
    )


def judge_service(facts: ServiceFacts) -> list[CheckView]:
    """Judge as whom the daemon runs, and its limits."""
    if facts.uid == 0:
        cure = "use systemd/backupd.service: a user of its own, who may read the mail by its group"
        user = verdict.warning("service user", "the daemon runs as root, which it need not", cure)
    else:
        user = verdict.ok("service user", f"the daemon runs as {facts.user}")
    text = f"{facts.open_files:,} of {facts.open_files_max:,} files open"
    cure = "systemctl edit backupd: [Service] LimitNOFILE=65536, then restart it"
    if facts.open_files > facts.open_files_max * OPEN_FILES_SHARE_MAX:
        files = verdict.critical("open files", f"{text}: soon no file can be opened any more", cure)
    elif facts.open_files_max < OPEN_FILES_MIN:
        files = verdict.warning("open files", f"{text}: a busy host needs more", cure)
    else:
        files = verdict.ok("open files", text)
    return [user, files]


def unit_properties(unit: str = "backupd.service") -> dict[str, str]:
    """Return what systemd knows of a unit; nothing where there is no systemd, or no such unit."""
    program = shutil.which("systemctl")
    if program is None:
        return {}
    wanted = "LoadState,ActiveState,SubState,Result,ExecMainStatus,NRestarts,MainPID,User"
    told = _output_of(program, "show", unit, f"--property={wanted}")
    properties = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    return properties if properties.get("LoadState") == "loaded" else {}


def _output_of(*command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command of the system, no shell
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _synchronized() -> bool | None:
    """Tell whether the clock is synchronized: by the kernel, else by systemd, else nobody tells."""
    libc = ctypes.CDLL(None, use_errno=True)
    # The buffer is larger than struct timex and all zero: nothing is set, only the state is returned.
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state >= 0:
        return bool(state != _TIME_ERROR) or TIMESYNC_MARK.exists()
    # The hardened unit may not ask the kernel.
    if TIMESYNC_MARK.exists():
        return True
    program = shutil.which("timedatectl")
    told = _output_of(program, "show", "--property=NTPSynchronized", "--value") if program else ""
    return {"yes": True, "no": False}.get(told.strip())


def _zone(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the machine's zone with its offset now, and what is wrong with it."""
    name = environ.get("TZ", "").removeprefix(":")
    if name and not name.startswith("/"):
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, OSError, ValueError):
            return "", f"TZ={name} is no time zone: schedules run in UTC"
    elif not name:
        if not LOCALTIME.exists():
            return "UTC (there is no /etc/localtime)", ""
        name = str(LOCALTIME.resolve()).partition("zoneinfo/")[2] or str(LOCALTIME)
    return f"{name} (now UTC{datetime.now().astimezone():%z})", ""
