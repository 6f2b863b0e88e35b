"""The external volume of a lifetime: with one, blobs come and go; without, all is as ever."""

from __future__ import annotations

import pytest

from backupd.attributes import Scopes, Settings
from backupd.errors import BlobMissing
from backupd.store.blobs import Blobs
from backupd.store.outside.reading import BlobsOutside, External
from backupd.volumes.memory import MemoryVolume
from daemon.outside_volume import CACHE_SIZE, make_uploading
from tests.unit.store.making import opened
from tests.world.clocks import FakeClock


class Lifetime:
    """A store with or without an external volume; what uploads is asked by hand."""

    def __init__(self, path, external) -> None:
        self.clock = FakeClock()
        self.store = opened(path)
        self.settings = Settings(self.store.ledger)
        self.uploading = make_uploading(
            self.store, external, settings=self.settings, server_id="one", clock=self.clock
        )

    def keep(self, content: bytes) -> str:
        staged = self.store.blobs.stage(content)
        self.store.blobs.commit([staged])
        return staged.digest

    def send(self) -> None:
        parts = self.uploading._parts
        parts.upload.tend(self.uploading._cache_bytes_max())
        self.clock.tick(10)
        parts.upload.round()
        parts.upload.tend(self.uploading._cache_bytes_max())

    async def close(self) -> None:
        await self.uploading.close()
        self.store.close()


@pytest.fixture
def external():
    return External(identity="b", title="bucket b", volume=MemoryVolume(), is_remote=True)


async def test_without_a_volume_nothing_is_made(tmp_path):
    """No external volume: no catalog, and blobs know of nothing outside."""
    life = Lifetime(tmp_path, None)
    life.keep(b"hello")
    assert life.store.blobs.outside is None
    assert not life.store.layout.catalog.exists()
    assert life.uploading.view() is None
    await life.close()


async def test_the_bound_of_the_cache_is_an_attribute(tmp_path, external):
    """What is confirmed leaves the cache as far as the attribute says, and is read from outside then."""
    life = Lifetime(tmp_path, external)
    digest = life.keep(b"hello")
    assert life.uploading.view().cache_bytes_max == 10_240 << 20
    life.send()
    assert list(life.store.blobs.cached_digests()) == [digest]
    life.settings.set(CACHE_SIZE, Scopes(), 0)
    life.send()
    assert not list(life.store.blobs.cached_digests())
    assert life.store.blobs.read(digest) == b"hello"
    await life.close()


async def test_back_to_the_backup_path_alone(tmp_path, external):
    """With the volume taken away, what was only there is missing, here and for workers, and can be staged."""
    life = Lifetime(tmp_path, external)
    life.settings.set(CACHE_SIZE, Scopes(), 0)
    gone = life.keep(b"gone")
    life.send()
    await life.close()
    life = Lifetime(tmp_path, None)
    assert not life.store.blobs.contains(gone)
    with pytest.raises(BlobMissing):
        life.store.blobs.read(gone)
    assert Blobs.at(tmp_path).stage(b"gone").place
    assert life.keep(b"gone") == gone
    await life.close()
    life = Lifetime(tmp_path, external)
    outside = life.store.blobs.outside
    assert isinstance(outside, BlobsOutside)
    assert outside.catalog.locate(gone) is not None
    await life.close()


@pytest.mark.parametrize("damage", ["rubbish", "found at work"])
async def test_a_damaged_catalog_is_moved_aside(tmp_path, external, damage):
    """A catalog that can't be used is kept aside; a new one is to be built from the volume."""
    life = Lifetime(tmp_path, external)
    digest = life.keep(b"hello")
    life.send()
    path = life.store.layout.catalog
    await life.close()
    if damage == "rubbish":
        path.write_bytes(b"no database at all" * 1000)
    else:
        path.with_name(f"{path.name}-damaged").touch()
    life = Lifetime(tmp_path, external)
    assert path.with_name("volume.sqlite.damaged-1").exists()
    assert not life.uploading._parts.outside.catalog.is_whole()
    assert life.store.blobs.read(digest) == b"hello"
    await life.close()
