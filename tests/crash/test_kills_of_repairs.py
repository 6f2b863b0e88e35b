"""Kills of a repair: whatever it was doing, the next one ends with a whole path, and no file is gone."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import forks
from tests.crash.conftest import CRASHES, SEED
from tests.crash.steps import REPAIR
from tests.unit.jobs.coherency_damages import KEY, flip
from tests.unit.jobs.coherency_worlds import (
    BOB,
    blob_path,
    body,
    build,
    check,
    copy,
    history_path,
    make_old,
    message,
    told,
)
from tests.unit.jobs.test_coherency_repair import files, mend
from tests.world.quick_disk import quick_directory

RANDOM_KILLS = max(4, CRASHES // 25)


@pytest.fixture(scope="module")
def healthy() -> Iterator[Path]:
    with quick_directory() as directory:
        build(directory / "healthy")
        yield directory / "healthy"


@pytest.fixture
def root() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory


def damaged(healthy: Path, path: Path) -> Path:
    """Return a path with a damaged and a missing history, and a damaged content."""
    copy(healthy, path)
    flip(history_path(path, KEY), 40)
    history_path(path, message(1)).unlink()
    flip(blob_path(path, body(f"{BOB} 1")), 30)
    make_old(path)
    return path


def judge(path: Path, healthy: Path, before: set[bytes]) -> None:
    """Mend once more: only what nobody has any more is still found, and no file is gone."""
    make_old(path)
    assert [one.code for one in check(path).findings.kept if one.code == "history.empty"] == []
    mend(path)
    make_old(path)
    assert set(told(check(path))) == {"blob.lost"}
    kept = {one for name, one in files(healthy).items() if name.startswith(("accounts/", "items/"))}
    assert kept & before <= set(files(path).values())


def test_killed_at_each_step(healthy: Path, root: Path) -> None:
    """A kill at every durable step that a repair passes."""
    whole = damaged(healthy, root / "whole")
    passed = forks.counted(lambda: mend(whole))
    assert set(REPAIR) <= set(passed)
    for step, count in passed.items():
        for occurrence in forks.occurrences(count):
            path = damaged(healthy, root / f"{step}.{occurrence}")
            before = set(files(path).values())
            child = forks.forked(lambda path=path: mend(path), forks.killer(step, occurrence))
            assert forks.ended(child) == -signal.SIGKILL, step
            judge(path, healthy, before)


def test_killed_at_random(healthy: Path, root: Path) -> None:
    """Killed again and again at any moment."""
    chance = random.Random(SEED)
    path = damaged(healthy, root / "random")
    before = set(files(path).values())
    for _ in range(RANDOM_KILLS):
        child = forks.forked(lambda: mend(path))
        time.sleep(chance.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        forks.ended(child)
    judge(path, healthy, before)
