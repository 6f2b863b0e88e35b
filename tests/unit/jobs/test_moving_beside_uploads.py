"""Migration beside uploads: what is sent, queued or evicted while contents move is missed by nobody."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.jobs.migrate import FetchedBack, Migration
from backupd.operations import Run
from backupd.store.blobs import Blobs
from backupd.store.outside.reading import External
from backupd.volumes.local import LocalVolume
from backupd.volumes.memory import MemoryVolume
from tests.unit.store.outside_making import mails
from tests.world.outside import OutsideWorld

NOTHING_CACHED = 0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OutsideWorld]:
    made = OutsideWorld(tmp_path)
    yield made
    made.close()


class Stepping(Run):
    """A run that lets something happen once, at its n-th check."""

    def __init__(self, world: OutsideWorld, at: int) -> None:
        super().__init__(world.clock)
        self._world = world
        self._at = at

    def check(self) -> None:
        super().check()
        self._at -= 1
        if not self._at:
            self._world.upload.tend(NOTHING_CACHED)


def copied_to_another(world: OutsideWorld) -> None:
    target = External(identity="bucket-2", title="two", volume=MemoryVolume(), is_remote=True)
    done = Migration(world.blobs, world.catalog, target, now=world.clock.now, threads=1).run(Run(world.clock))
    assert not done.failed


def test_what_waits_for_the_volume_in_use_waits_on_while_it_is_copied_to_another(world: OutsideWorld) -> None:
    """A migration that is not followed by a switch takes nothing from the queue of the volume in use."""
    digests = world.keep(*mails(5))
    world.upload.tend(1 << 40)
    copied_to_another(world)
    assert sorted(one.digest for one in world.catalog.queued(10)) == sorted(digests)
    assert world.send() == len(digests)
    assert set(world.catalog.digests()) == set(digests)
    assert world.catalog.backlog().cached_objects == len(digests)


@pytest.mark.parametrize("at", range(1, 12, 2))
def test_what_is_fetched_back_is_all_here_though_room_is_made_meanwhile(world: OutsideWorld, at: int) -> None:
    """The cache gives nothing away from the beginning of the way back: what was seen here stays here."""
    digests = world.keep(*mails(8))
    world.send()
    for digest in sorted(digests)[::2]:
        (world.root / "items" / digest[-3:-1] / digest).unlink()
        world.catalog.note_evicted([digest])
    local = Blobs(LocalVolume(world.root))
    world.outside.keep_all()
    done = FetchedBack(world.blobs, local).run(Stepping(world, at))
    assert not done.failed
    assert {one for one in local.digests() if local.read(one)} == set(digests)
    world.outside.evict_again()
    world.upload.tend(NOTHING_CACHED)
    assert not list(local.digests())


def test_a_content_that_leaves_the_cache_while_it_is_copied_is_copied_all_the_same(
    world: OutsideWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one is read for a while; what is evicted then is taken from the volume in use."""
    (digest,) = world.keep(b"large " * 100)
    world.send()
    opening = world.blobs.open

    class Leaving(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            world.upload.tend(NOTHING_CACHED)
            return super().read(size)

    def opened(asked: str) -> Leaving:
        with opening(asked) as file:
            return Leaving(file.read())

    monkeypatch.setattr(world.blobs, "open", opened)
    with world.blobs.stored(digest) as (file, size):
        assert len(file.read()) == size
    assert not list((world.root / "items").rglob("*="))
