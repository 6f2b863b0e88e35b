"""Blobs outside: sent once, confirmed only when read back, found wherever they are, evicted only then."""

from __future__ import annotations

import os
import random
import sqlite3
from datetime import timedelta

import pytest

from backupd.errors import BackupPathRefused, BlobMissing, CorruptBlob, VolumeError
from backupd.items import digest_of
from backupd.store.blobs import Blobs
from backupd.store.layout import PACKS, blob_name
from backupd.store.outside.catalog import Catalog
from backupd.volumes.local import LocalVolume
from tests.unit.store.making import failing
from tests.unit.store.outside_making import mails, packs_on
from tests.world.outside import FaultyVolume, OutsideWorld
from tests.world.quick_disk import quick_directory


@pytest.fixture
def root():
    with quick_directory() as directory:
        yield directory / "path"


@pytest.fixture
def world(root):
    made = OutsideWorld(root)
    yield made
    made.close()


def test_small_contents_go_out_together_and_a_large_one_alone(world):
    """Small ones are bundled, a large one is an object of its own; all are read from there when evicted."""
    large = os.urandom(2 << 20)
    contents = [*mails(300), large, b""]
    digests = world.keep(*contents)
    assert world.send() == len(contents)
    assert len(packs_on(world)) == 1
    assert [name for name in world.memory.names("items/") if not name.startswith(PACKS)] == [
        blob_name(digest_of(large))
    ]
    world.upload.tend(0)
    assert not list(world.blobs.cached_digests())
    assert [world.blobs.read(one) for one in digests] == contents
    assert set(world.blobs.digests()) == set(digests)
    assert all(world.blobs.contains(one) and world.blobs.stored_size(one) > 0 for one in digests)


def test_a_mounted_volume_has_single_objects(root, tmp_path):
    """On a mounted volume each blob is the file that it is in the Backup Path."""
    world = OutsideWorld(root, LocalVolume(tmp_path), is_remote=False)
    digests = world.keep(*mails(5))
    kept = {one: (root / blob_name(one)).read_bytes() for one in digests}
    assert world.send(seconds=0) == 5
    world.upload.tend(0)
    assert {one: (tmp_path / blob_name(one)).read_bytes() for one in digests} == kept
    assert [world.blobs.read(one) for one in digests] == mails(5)
    world.close()


def test_what_is_outside_is_not_staged_again(world):
    """Evicted content that comes again is known, here and in a worker that only looks."""
    (digest,) = world.keep(b"hello")
    world.send(cache_bytes_max=0)
    assert not world.is_cached(digest)
    staged = world.blobs.stage(b"hello")
    assert staged.place == ""
    world.blobs.commit([staged])
    worker = Blobs.at(world.root)
    assert worker.stage(b"hello").place == ""
    assert worker.contains(digest)
    assert list(worker.digests()) == [digest]
    with pytest.raises(VolumeError, match="only the daemon"):
        worker.read(digest)
    assert worker.stage(b"other").place


def test_nothing_unconfirmed_leaves_the_cache(world):
    """A cache far over its bound keeps what is not confirmed; then the longest unused goes first."""
    digests = world.keep(*mails(10))
    world.volume.away = True
    backlog = world.upload.tend(0)
    assert (backlog.objects, backlog.cached_objects) == (10, 0)
    world.now += timedelta(seconds=10)
    with pytest.raises(VolumeError, match="away"):
        world.upload.round()
    assert all(world.is_cached(one) for one in digests)
    world.volume.away = False
    world.send()
    world.now += timedelta(seconds=1)
    assert world.blobs.read(digests[0]) == mails(1)[0]
    cached = world.upload.tend(1 << 40).cached_bytes
    assert cached > 0
    world.upload.tend(cached // 2)
    left = [one for one in digests if world.is_cached(one)]
    assert digests[0] in left
    assert 0 < len(left) <= 5
    assert world.catalog.backlog().cached_objects == len(left)
    assert [world.blobs.read(one) for one in digests] == mails(10)


def test_the_cache_stands_back_where_room_is_lacking(world):
    """Where the disk lacks room, confirmed blobs go, though the bound would let them stay."""
    digests = world.keep(*mails(10))
    world.send()
    before = world.catalog.backlog().cached_bytes
    world.upload.tend(1 << 40, lacking=before // 2)
    left = sum(world.is_cached(one) for one in digests)
    assert 0 < left <= 5
    world.upload.tend(1 << 40, lacking=-5)
    assert sum(world.is_cached(one) for one in digests) == left


def test_eviction_looks_again_before_it_removes(world, monkeypatch):
    """A blob that was confirmed, then forgotten and stored anew, is not removed for what was known before."""
    (digest,) = world.keep(b"twice")
    world.send()
    known = world.catalog.least_used(10)
    assert [one for one, _ in known] == [digest]
    world.cache._volume.delete(blob_name(digest))
    world.outside.forget([digest])
    world.keep(b"twice")
    monkeypatch.setattr(world.catalog, "least_used", lambda _limit: known)
    assert world.cache._evict(world.catalog, 1 << 20) == 0
    assert world.is_cached(digest)


def test_read_back_decides(world):
    """A store that damages what it gets has nothing confirmed, and what is wrong there is removed."""
    digests = world.keep(*mails(3), os.urandom(2 << 20))
    world.upload.tend(1 << 40)
    world.now += timedelta(seconds=10)

    class Damaging(FaultyVolume):
        def put(self, name, content):
            whole = content if isinstance(content, bytes) else content.read()
            return super().put(name, whole[:-1] + bytes([whole[-1] ^ 1]))

    world.sender._volume = Damaging(world.memory)
    for _ in range(3):
        with pytest.raises(VolumeError, match="not what was sent"):
            world.upload.round()
    assert not list(world.catalog.digests())
    assert world.catalog.backlog().objects == 4
    assert not list(world.memory.names("items/"))
    world.sender._volume = world.volume
    world.send()
    assert set(world.catalog.digests()) == set(digests)


def test_faults_at_one_fifth(root):
    """With a fifth of all calls failing, every blob is right in the end, none twice, none reported early."""
    world = OutsideWorld(root)
    volume = world.volume
    volume.part = 0.2
    contents = [*mails(60), *(os.urandom(1_100_000) for _ in range(4))]
    chance = random.Random(7)
    rest = list(contents)
    failures = 0
    for _ in range(400):
        if rest:
            world.keep(*[rest.pop() for _ in range(min(len(rest), chance.randint(1, 5)))])
        world.upload.tend(1 << 40)
        world.now += timedelta(seconds=6)
        before = set(world.catalog.digests())
        try:
            world.upload.round()
        except VolumeError:
            failures += 1
        volume.part = 0.0
        for digest in set(world.catalog.digests()) - before:
            with world.outside.open(digest, None) as file:
                assert digest_of(file.read()) == digest
        volume.part = 0.2
        if not rest and not world.catalog.backlog().objects:
            break
    assert failures > 5
    volume.part = 0.0
    assert world.dead_copies() == 0
    assert set(world.catalog.digests()) == {digest_of(one) for one in contents}
    world.now += timedelta(hours=2)
    world.sender.settle()
    known = {name for _, name in world.sender.objects.names("", 1000)}
    assert set(volume.inner.names("items/")) == known
    world.close()


def test_damaged_here_stops_nobody(world):
    """A blob that is damaged in the Backup Path is set aside with the reason; those behind it go out."""
    digests = world.keep(*mails(3))
    (world.root / blob_name(digests[0])).write_bytes(b"broken")
    (world.root / blob_name(digests[1])).unlink()
    assert world.send() == 1
    backlog = world.catalog.backlog()
    assert (backlog.objects, backlog.troubled) == (1, 1)
    assert digests[0] in backlog.trouble
    assert set(world.catalog.digests()) == {digests[2]}
    world.outside.sweep_due = True
    (world.root / blob_name(digests[0])).write_bytes(mails(1)[0])
    assert world.send() == 1


def test_a_sweep_finds_what_was_missed(world):
    """Blobs that nobody noted, as after a kill, are found waiting; a second sweep finds nothing new."""
    quiet = Blobs(LocalVolume(world.root))
    staged = [quiet.stage(content) for content in mails(4)]
    quiet.commit(staged)
    assert world.upload.tend(1 << 40).objects == 4
    world.outside.sweep_due = True
    assert world.upload.tend(1 << 40).objects == 4
    world.send()
    assert world.cache.sweep(world.catalog) == 0


def test_another_volume_begins_with_everything_that_is_here(world):
    """A new volume gets what is in the Backup Path; what is only on the old one is not there for it."""
    here, gone = world.keep(b"here"), world.keep(b"gone")
    world.send()
    world.cache._volume.delete(blob_name(gone[0]))
    world.catalog.use("bucket-2")
    assert not list(world.catalog.digests())
    assert world.cache.sweep(world.catalog) == 1
    assert [one.digest for one in world.catalog.queued(9)] == here
    assert set(world.catalog.digests(world.catalog.number_of("bucket-1"))) == {*here, *gone}
    world.catalog.use("")
    assert world.catalog.locate(here[0]) is None


def test_what_is_gone_or_damaged_outside_is_told(world):
    """A pack that vanished or was damaged gives typed errors, never wrong bytes."""
    digests = world.keep(*mails(2))
    world.send(cache_bytes_max=0)
    (name,) = packs_on(world)
    whole = world.memory._contents[name]
    world.memory._contents[name] = whole[:20] + b"\x00\x01" + whole[22:]
    with pytest.raises(CorruptBlob, match="bucket one"):
        world.blobs.read(digests[0])
    world.memory.delete(name)
    with pytest.raises(BlobMissing, match="gone from bucket one"):
        world.blobs.read(digests[1])
    with pytest.raises(BlobMissing, match="or on bucket one"):
        world.blobs.read(digest_of(b"never"))


def test_damage_found_at_work_is_marked(root):
    """A catalog in which SQLite finds damage raises, is marked, and is refused from then on."""
    world = OutsideWorld(root)
    world.keep(*mails(1500))
    world.send()
    world.close()
    path = world.catalog.path
    with path.open("r+b") as file:
        for page in range(8, path.stat().st_size // 4096, 2):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    found = None
    try:
        found = Catalog(path)
        with pytest.raises(sqlite3.DatabaseError):
            list(found.digests())
    except BackupPathRefused:
        pass
    if found is not None:
        found.close()
    with pytest.raises(BackupPathRefused, match="is damaged"):
        Catalog(path)


def test_a_start_on_a_full_disk_writes_nothing(root):
    """Opening a catalog for the volume it knows needs no room; what can't be written down is found later."""
    world = OutsideWorld(root)
    (digest,) = world.keep(b"hello")
    world.send()
    world.close()
    with failing("catalog.commit", times=99):
        volume, memory = world.volume, world.memory
        world = OutsideWorld(root, volume)
        world.memory = memory
        assert world.blobs.contains(digest)
        (second,) = world.keep(b"second")
        with pytest.raises(OSError, match="injected"):
            world.upload.tend(1 << 40)
    assert world.send() == 1
    assert set(world.catalog.digests()) == {digest, second}
    world.close()


def test_the_catalog_survives_its_process(root):
    """What waits and what is confirmed is there for the next process."""
    world = OutsideWorld(root)
    sent = world.keep(b"sent")
    world.send()
    waiting = world.keep(b"waits")
    world.outside.keep_notes()
    world.catalog.close()
    assert not world.catalog.path.with_name("volume.sqlite-wal").exists()
    again = Catalog(world.catalog.path)
    assert again.current == world.catalog.current
    assert [one.digest for one in again.queued(9)] == waiting
    assert list(again.digests()) == sent
    again.close()
