"""A process is killed while it purges, at each durable step and at any moment: nothing is ever half gone.

Right after each kill the Backup Path is whole (the index says what the histories say, no reference leads
nowhere, an account is there as a whole or not at all), what had to stay is untouched, and one more purge
leaves exactly that.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backupd.clock import SystemClock
from backupd.errors import BackupPathRefused
from backupd.items import ItemKey
from backupd.jobs.purge import PurgeWanted
from backupd.operations import Run
from tests.crash import steps, verdict
from tests.crash.conftest import SEED
from tests.crash.purging_process import GONE_ACCOUNT, fill, opened, purge_of
from tests.world.faults import KILL_ALONE, Fault, Faults
from tests.world.quick_disk import quick_directory

ROOT = Path(__file__).parents[2]
ITEMS = 60
AT_ONCE = 3
ASKED = "BACKUPD_CRASHES" in os.environ
MOMENTS = int(os.environ.get("BACKUPD_CRASHES", "3"))
"""Kills at random moments."""
STEPS_AT_A_TIME = 6
"""So many steps are killed at, chosen by the seed, where no number of kills is asked for."""
SECONDS_MAX = 60.0
KILLED = (
    *((name, 1) for name in steps.PURGE),
    ("purge.history", 17),
    ("blobs.remove", 5),
    ("index.commit", 2),
    ("ledger.commit", 3),
)


class Subject:
    """A filled Backup Path that can be copied, and killed while it is purged."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.filled = place / "filled"
        self.left = fill(self.filled, ITEMS)

    def kill_at(self, number: int, fault: Fault | None, seconds: float = 0.0) -> None:
        """Purge a copy in a process that is killed at a step, or after some seconds; judge what is left."""
        path = self.place / f"copy-{number}"
        shutil.copytree(self.filled, path)
        faults = Faults(self.place / f"faults-{number}")
        if fault is not None:
            faults.arm(fault)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.purging_process", str(path)],
            cwd=ROOT,
            env={**os.environ, **faults.environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(SECONDS_MAX if fault is not None else seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        told = f"seed {SEED}, copy {number}, {fault or f'{seconds:.3f} s'}"
        if fault is not None:
            assert faults.hits(), f"{told}: the step was never passed"
        self.judge(path, told)
        shutil.rmtree(path)

    def judge(self, path: Path, told: str) -> None:
        with opened(path) as store:
            wrong = verdict.judge_store(store, path)
            (path / "rebuilt.sqlite").unlink()
            keys = self.keys(path)
            assert self.left <= keys, f"{told}: gone, and should not be: {self.left - keys}"
            of_the_gone = sum(key.account == GONE_ACCOUNT for key in keys)
            assert of_the_gone in {0, ITEMS + 1}, f"{told}: half an account is left: {of_the_gone}"
            assert not wrong, f"{told}: {wrong[:5]}"
            asyncio.run(purge_of(store).run(Run(SystemClock()), PurgeWanted()))
            assert self.keys(path) == self.left, told
            referenced = {
                state.digest for one in store.histories.walk() for state in one.states if state.digest
            }
            assert set(store.blobs.digests()) == referenced, told
            assert not verdict.leftovers(path), told
            assert not list((path / ".purging").glob("*")), told

    def keys(self, path: Path) -> set[ItemKey]:
        with verdict.opened(path, "") as store:
            return {one.key for one in store.histories.walk()}


@pytest.fixture(scope="module")
def subject() -> object:
    with quick_directory() as place:
        yield Subject(place)


@pytest.mark.timeout(300)
def test_killed_at_each_step(subject: Subject) -> None:
    """Wherever a purge is cut off, the backup is whole, and the next purge finishes."""
    chosen = range(len(KILLED)) if ASKED else random.Random(SEED).sample(range(len(KILLED)), STEPS_AT_A_TIME)

    def crash(number: int) -> None:
        name, occurrence = KILLED[number]
        subject.kill_at(number, Fault(name, KILL_ALONE, occurrence))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(crash, chosen))


@pytest.mark.timeout(3000)
def test_killed_at_any_moment(subject: Subject) -> None:
    """The same at random moments. `BACKUPD_CRASHES` says how many."""
    dice = random.Random(SEED)
    began = time.monotonic()
    path = subject.place / "timed"
    shutil.copytree(subject.filled, path)
    subprocess.run(
        [sys.executable, "-m", "tests.crash.purging_process", str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    whole = time.monotonic() - began
    moments = [dice.uniform(whole * 0.4, whole * 1.1) for _ in range(MOMENTS)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda one: subject.kill_at(1000 + one[0], None, one[1]), enumerate(moments)))


def test_another_s_purge_is_kept_out(subject: Subject) -> None:
    """Two purges of one Backup Path at once: the second is refused by the lock, and says by whom."""
    path = subject.place / "held"
    shutil.copytree(subject.filled, path)
    with opened(path):
        done = subprocess.run(
            [sys.executable, "-m", "tests.crash.purging_process", str(path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
        )
        assert done.returncode
        assert BackupPathRefused.__name__.encode() in done.stderr
        assert b"in use by process" in done.stderr
