"""Kills of uploads: at every durable step on the way outside, and at random; nothing is lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import pytest

from tests.crash import forks, uploads
from tests.crash.conftest import CRASHES, SEED
from tests.crash.steps import UPLOAD
from tests.world.quick_disk import quick_directory

RANDOM_KILLS = max(4, CRASHES // 25)


@pytest.fixture
def root():
    with quick_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def passed() -> Counter[str]:
    """Return how often the work passes each step."""
    with quick_directory() as directory:
        return forks.counted(lambda: uploads.work(uploads.Place(directory)))


@pytest.mark.parametrize("step", UPLOAD)
def test_killed_at_each_step(root, passed, step):
    """A kill at a step, the first time it is passed, a later and the last time, loses and doubles nothing.

    The last time is in the rewriting of packs.
    """
    assert passed[step], f"{step} is never passed"
    for occurrence in forks.occurrences(passed[step]):
        place = uploads.Place(root / str(occurrence))
        code = forks.ended(uploads.in_process(place, forks.killer(step, occurrence)))
        assert code == -signal.SIGKILL
        uploads.check(place)


def test_killed_at_random(root):
    """Killed again and again at any moment of its work: nothing is lost, nothing doubled."""
    chance = random.Random(SEED)
    place = uploads.Place(root)
    killed = 0
    for _ in range(RANDOM_KILLS * 3):
        child = uploads.in_process(place)
        time.sleep(chance.random() * 0.12)
        os.kill(child, signal.SIGKILL)
        killed += forks.ended(child) == -signal.SIGKILL
        if killed >= RANDOM_KILLS:
            break
    assert killed, f"no kill struck, seed {SEED}"
    uploads.check(place)
