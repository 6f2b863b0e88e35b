"""A catalog that is in doubt is brought to what the volume holds, whatever comes between."""

from __future__ import annotations

import pytest

from backupd.errors import BlobMissing
from tests.unit.daemon.test_uploading import UploadingWorld
from tests.world.clocks import FakeClock
from tests.world.outside import FaultyVolume
from tests.world.quick_disk import quick_directory


@pytest.fixture
def root():
    with quick_directory() as directory:
        yield directory / "path"


async def only_outside(world: UploadingWorld, content: bytes) -> str:
    """Let a content go out and leave the Backup Path."""
    (digest,) = world.keep(content)
    world.cache_bytes_max = 0
    await world.wait(60)
    assert not world.is_cached(digest)
    return digest


def lose(world: UploadingWorld, digest: str) -> None:
    """Let every object vanish, and somebody find out."""
    for name in list(world.memory.names("items/")):
        world.memory.delete(name)
    with pytest.raises(BlobMissing):
        world.blobs.read(digest)


async def test_a_store_that_is_away_as_it_should_be_listed_is_listed_later(root):
    """The listing that failed is made up for once the store is back."""
    async with UploadingWorld(root) as world:
        digest = await only_outside(world, b"Subject: once more\r\n\r\n")
        lose(world, digest)
        world.volume.away = True
        await world.wait(200)
        assert not world.view.reachable
        world.volume.away = False
        await world.wait(400)
        assert world.view.rebuilding == ""
        assert not world.blobs.contains(digest)


async def test_a_doubt_outlives_the_process(root):
    """A process that ended before it could list the volume leaves that to the next one."""
    clock = FakeClock()
    async with UploadingWorld(root, clock=clock) as world:
        digest = await only_outside(world, b"Subject: once more\r\n\r\n")
        lose(world, digest)
        world.volume.away = True
        await world.wait(70)
        memory = world.memory
    async with UploadingWorld(root, clock=clock, volume=FaultyVolume(memory)) as world:
        await world.wait(10)
        assert not world.blobs.contains(digest)


async def test_nothing_leaves_for_a_volume_that_was_not_listed_yet(root):
    """Chosen again, what rested there before is no reason to let a content go: the volume is listed first."""
    async with UploadingWorld(root) as world:
        gone, kept = world.keep(b"Subject: gone\r\n\r\n"), world.keep(b"Subject: kept\r\n\r\n")
        await world.wait(60)
        memory = world.memory
        world.catalog.use("")
        for name in list(memory.names("items/"))[:1]:
            memory.delete(name)
    clock = FakeClock()
    world = UploadingWorld(root, clock=clock, volume=FaultyVolume(memory))
    world.cache_bytes_max = 0
    world.volume.away = True
    async with world:
        await world.wait(30)
        assert all(world.is_cached(one) for one in (*gone, *kept))
        world.volume.away = False
        await world.wait(400)
        assert not any(world.is_cached(one) for one in (*gone, *kept))
        assert world.blobs.read(gone[0]) == b"Subject: gone\r\n\r\n"
        assert world.blobs.read(kept[0]) == b"Subject: kept\r\n\r\n"
