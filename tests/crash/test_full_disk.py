"""A small file system that is really full: intake and recording pause, say so, and go on by themselves.

It is a tmpfs: mounted here where that is allowed, else this file is run again inside a user and mount
namespace of its own (unshare(1)), where it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.conftest import SEED
from tests.crash.victim import Victim
from tests.world.brokers import Mosquitto

SIZE = "24m"
INSIDE = "BACKUPD_IN_NAMESPACE"
ROUNDS_MAX = 200
CLEAN_REFUSALS = {74, 75, 78}
TOLD_SECONDS_MAX = 30.0

pytestmark = [pytest.mark.server("mosquitto"), pytest.mark.timeout(300)]


@contextmanager
def mounted(directory: Path) -> Iterator[bool]:
    """Mount a small tmpfs for the time of the context; tell whether that is allowed."""
    directory.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def run_inside_namespace() -> None:
    """Run this file's test where mounting is allowed, or skip."""
    if os.environ.get(INSIDE):
        pytest.fail("mounting is not even allowed inside a namespace of our own")
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("neither root nor user namespaces: errors of a full disk are only injected here")
    done = subprocess.run(
        [*unshare, sys.executable, "-m", "pytest", "-q", "-x", __file__],
        env={**os.environ, INSIDE: "1", "BACKUPD_CRASH_SEED": SEED},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_a_full_disk_pauses_and_heals(place: Path, broker: Mosquitto) -> None:
    """However little space is left, nothing acknowledged is lost, and all goes on once there is more."""
    with (
        mounted(place / "d" / "backup") as is_mounted,
        Victim(place, broker, seed=f"{SEED}/full") as victim,
    ):
        if not is_mounted:
            run_inside_namespace()
            return
        victim.begin()
        victim.daemon.start()
        _fill_and_heal(victim, 900, kill=False)
        victim.daemon.console("config", "set", "global", "ZxBackup_SpaceThreshold", "0")
        for left_kib, kill in ((0, False), (4, True), (24, False), (64, True), (256, False), (256, True)):
            _fill_and_heal(victim, left_kib, kill=kill)
        victim.settle_and_stop()
        victim.judge()


def _fill_and_heal(victim: Victim, left_kib: int, *, kill: bool) -> None:
    ballast = victim.backup_path / "ballast"
    _fill(ballast, left_kib)
    for _ in range(ROUNDS_MAX):
        victim.mouth.say(victim.story.go_on(12))
        if _tells_of_space(victim):
            break
    victim.wait_until("telling of space", lambda: _tells_of_space(victim), TOLD_SECONDS_MAX)
    if kill:
        victim.daemon.kill()
        _start_or_be_refused(victim)
    ballast.unlink()
    if victim.daemon.process is None:
        victim.daemon.start()
    victim.wait_until_recorded()
    victim.wait_until("a status without it", lambda: not _tells_of_space(victim))


def _fill(ballast: Path, left_kib: int) -> None:
    with ballast.open("wb", buffering=0) as file:
        facts = os.statvfs(ballast)
        free = facts.f_bavail * facts.f_frsize - (left_kib << 10)
        piece = b"\0" * (1 << 16)
        try:
            while free > 0:
                free -= file.write(piece[:free])
        except OSError:
            return


def _tells_of_space(victim: Victim) -> bool:
    said = " ".join(problem["message"] for problem in victim.daemon.status()["problems"])
    return any(words in said for words in ("no space", "No space left", "bytes are free"))


def _start_or_be_refused(victim: Victim) -> None:
    """Start on the full disk: the daemon lives and pauses, or ends at once with one clear line."""
    size_before = len(victim.daemon.log_text())
    try:
        victim.daemon.start()
    except RuntimeError:
        process = victim.daemon.process
        assert process is not None
        said = victim.daemon.log_text()[size_before:]
        assert process.poll() in CLEAN_REFUSALS, said
        assert "Traceback" not in said
        victim.daemon.process = None
