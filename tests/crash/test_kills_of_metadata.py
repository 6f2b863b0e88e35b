"""Kills while metadata is sent and retrieved: the same given again completes it, and nothing is missing."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash import forks, metadata
from tests.crash.conftest import CRASHES, SEED
from tests.crash.metadata import Place
from tests.crash.steps import METADATA
from tests.world.quick_disk import quick_directory

RANDOM_KILLS = max(4, CRASHES // 25)


@pytest.fixture(scope="module")
def begun() -> Iterator[Place]:
    """Return a backup that was sent for a while."""
    with quick_directory() as directory:
        place = Place(directory)
        metadata.send(place)
        yield place


@pytest.fixture
def root() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory


def killed_at_each_step(
    begun: Place, root: Path, work: Callable[[Place], object], steps: tuple[str, ...] = ()
) -> None:
    """Kill `work` at these steps, or at every one that it passes; then do it again, and judge."""
    passed = forks.counted(lambda: work(begun.copied_to(root / "whole")))
    for step in steps or tuple(passed):
        assert passed[step], f"{step} is never passed"
        for occurrence in forks.occurrences(passed[step]):
            place = begun.copied_to(root / f"{step}.{occurrence}")
            child = forks.forked(lambda place=place: work(place), forks.killer(step, occurrence))
            assert forks.ended(child) == -signal.SIGKILL, step
            assert forks.ended(forks.forked(lambda place=place: work(place))) == 0, step
            metadata.check_back(place)


def test_killed_while_sending(begun: Place, root: Path) -> None:
    """Rounds and passes that were killed at any step are completed by the next ones."""
    killed_at_each_step(begun, root, metadata.send, (*METADATA, "ledger.committed", "volume.renamed"))


def test_killed_while_retrieving(begun: Place, root: Path) -> None:
    """A retrieval that was killed at any step, given again, brings everything, and a whole journal."""
    killed_at_each_step(begun, root, metadata.retrieve)


@pytest.mark.parametrize("work", [metadata.send, metadata.retrieve])
def test_killed_at_random(begun: Place, root: Path, work: Callable[[Place], object]) -> None:
    """Killed again and again at any moment, then left to end."""
    chance = random.Random(SEED)
    place = begun.copied_to(root / "random")
    for _ in range(RANDOM_KILLS):
        child = forks.forked(lambda: work(place))
        time.sleep(chance.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        forks.ended(child)
    assert forks.ended(forks.forked(lambda: work(place))) == 0
    metadata.check_back(place)
