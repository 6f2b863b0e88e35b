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
