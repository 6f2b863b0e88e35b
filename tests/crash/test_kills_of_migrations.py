"""Kills of a migration: given again it completes, and nothing of the killed one stays on the volume."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.clock import SystemClock
from backupd.jobs.migrate import Migration
from backupd.operations import Run
from backupd.store.blobs import Blobs
from backupd.store.layout import PACKS, Layout
from backupd.store.outside.catalog import Catalog
from backupd.store.outside.objects import Objects
from backupd.store.outside.reading import BlobsOutside, External
from backupd.store.outside.rebuilding import read_places
from backupd.volumes.local import LocalVolume
from tests.crash import forks, uploads
from tests.crash.conftest import CRASHES, SEED
from tests.crash.steps import MIGRATION
from tests.world.quick_disk import quick_directory

RANDOM_KILLS = max(4, CRASHES // 25)


@pytest.fixture
def root() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory


def begun(root: Path) -> Path:
    """Return a place with a Backup Path full of contents, and an empty volume beside it."""
    for name in ("path", "target"):
        (root / name).mkdir(parents=True)
    blobs = Blobs(LocalVolume(root / "path"))
    blobs.commit([blobs.stage(content) for content in uploads.contents()])
    return root


def target(root: Path) -> External:
    return External(identity="there", title="there", volume=LocalVolume(root / "target"), is_remote=True)


def migrate(root: Path) -> None:
    catalog = Catalog(Layout(root / "path").catalog)
    blobs = Blobs(LocalVolume(root / "path"))
    done = Migration(blobs, catalog, target(root), now=SystemClock().now, threads=3).run(Run(SystemClock()))
    assert not done.failed
    catalog.close()


def judge(root: Path) -> None:
    """Complete it: every content is there once, readable, and every object is known."""
    migrate(root)
    external = target(root)
    wanted = set(Blobs(LocalVolume(root / "path")).digests())
    catalog = Catalog(Layout(root / "path").catalog)
    outside = BlobsOutside(catalog, external, now=SystemClock().now)
    assert set(catalog.digests()) == wanted
    for digest in wanted:
        with outside.open(digest, None) as file:
            file.read()
    known = [name for _, name in Objects(catalog, catalog.number_of("there")).names("", 10_000)]
    assert list(external.volume.names()) == known
    inside = [
        place.digest
        for name in known
        if name.startswith(PACKS)
        for place in read_places(external.volume, name, external.volume.size(name))
    ]
    assert len(inside) == len(set(inside)), "a content is there twice"
    catalog.close()


def test_killed_at_each_step(root: Path) -> None:
    """A kill at every durable step that a migration passes."""
    whole = begun(root / "whole")
    passed = forks.counted(lambda: migrate(whole))
    assert set(MIGRATION) <= set(passed)
    for step, count in passed.items():
        for occurrence in forks.occurrences(count):
            place = begun(root / f"{step}.{occurrence}")
            child = forks.forked(lambda place=place: migrate(place), forks.killer(step, occurrence))
            assert forks.ended(child) == -signal.SIGKILL, step
            judge(place)


def test_killed_at_random(root: Path) -> None:
    """Killed again and again at any moment."""
    chance = random.Random(SEED)
    place = begun(root / "random")
    for _ in range(RANDOM_KILLS):
        child = forks.forked(lambda: migrate(place))
        time.sleep(chance.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        forks.ended(child)
    judge(place)
