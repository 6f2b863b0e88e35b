"""Blobs outside: sent once, confirmed only when read back, found wherever they are, evicted only then."""

from __future__ import annotations

import os
import random
from datetime import timedelta

import pytest

from backupd.errors import BlobMissing, CorruptBlob, OperationStopped, VolumeError
from backupd.items import digest_of
from backupd.operations import Run
from backupd.store.blobs import Blobs
from backupd.store.layout import PACKS, blob_name
from backupd.store.outside import reclaiming
from backupd.store.outside.catalog import Catalog
from backupd.store.outside.objects import PackAccount
from backupd.store.outside.rebuilding import rebuild
from backupd.volumes.local import LocalVolume
from tests.world.clocks import FakeClock
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


def mails(count: int, start: int = 0) -> list[bytes]:
    return [
        b"From: someone@example.com\r\nSubject: number %d\r\n\r\n" % n + b"Hello again. " * 40
        for n in range(start, start + count)
    ]


def a_run() -> Run:
    return Run(FakeClock())


def packs_on(world) -> list[str]:
    return list(world.memory.names(f"{PACKS}/"))


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


def test_a_block_that_can_not_be_read_stays_where_it_is(world):
    """Rewriting lists a damaged block and leaves its pack, rather than to lose what may be read one day."""
    digests = world.keep(*mails(4))
    world.send(cache_bytes_max=0)
    (name,) = packs_on(world)
    whole = world.memory._contents[name]
    world.memory._contents[name] = whole[:20] + b"\x00\x01" + whole[22:]
    world.outside.forget(digests[:3])
    run = a_run()
    assert reclaiming.reclaim(world.outside, world.sender, run).problems == 1
    assert run.errors[0].item == name
    assert packs_on(world) == [name]
    assert list(world.catalog.digests()) == [digests[3]]


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


def test_reclaim_deletes_the_dead_and_rewrites_what_is_mostly_dead(world):
    """Dead singles and packs go; a pack that is mostly dead is written anew, and the living stay readable."""
    large = os.urandom(2 << 20)
    first = world.keep(*mails(40), large)
    world.send()
    second = world.keep(*mails(40, start=40))
    world.send(cache_bytes_max=0)
    before = packs_on(world)
    assert len(before) == 2
    assert world.sender.objects.forget([first[-1], *first[:30]]) == 31
    assert not world.blobs.contains(first[0])
    done = reclaiming.reclaim(world.outside, world.sender, a_run())
    assert (done.packs_rewritten, done.contents_moved, done.objects_deleted) == (1, 10, 2)
    after = packs_on(world)
    assert len(after) == 2
    assert len(set(before) & set(after)) == 1
    assert not world.memory.exists(blob_name(first[-1]))
    assert [world.blobs.read(one) for one in first[30:40]] == mails(10, start=30)
    assert [world.blobs.read(one) for one in second] == mails(40, start=40)
    assert world.dead_copies() == 0
    assert world.sender.objects.forget([*first[30:40], *second]) == 50
    reclaiming.reclaim(world.outside, world.sender, a_run())
    assert not list(world.memory.names())


def test_reclaim_can_be_stopped_while_an_upload_hangs(world):
    """Who waits for its turn at a volume that hangs ends when it is asked to."""
    run = a_run()
    with world.outside.hand:
        run.request_stop()
        with pytest.raises(OperationStopped):
            reclaiming.reclaim(world.outside, world.sender, run)


def test_forgotten_before_it_was_written_down(world):
    """What is forgotten right after it was committed does not wait, and is not there."""
    (digest,) = world.keep(b"short life")
    world.cache._volume.delete(blob_name(digest))
    assert world.outside.forget([digest]) == 0
    assert world.upload.tend(1 << 40).objects == 0
    assert not world.blobs.contains(digest)


def test_small_packs_are_put_together():
    """Packs are chosen for rewriting when mostly dead, or small and many; a few small ones are left."""
    small = [PackAccount(n, str(n), 1000, 2000, 1, 2000) for n in range(reclaiming.SMALL_PACKS_MIN)]
    big = PackAccount(98, "big", 9 << 20, 100, 1, 51)
    dead = PackAccount(99, "dead", 9 << 20, 100, 1, 49)
    assert reclaiming.choose([*small, big, dead]) == [*small, dead]
    assert reclaiming.choose([*small[1:], big, dead]) == [dead]


def test_forgotten_on_its_way(world):
    """What purge forgets while it is sent is dead when it arrives; what comes again then lives."""
    digests = world.keep(*mails(2))
    world.upload.tend(1 << 40)
    world.now += timedelta(seconds=10)
    queued = world.catalog.queued(9)
    world.sender.objects.forget([digests[0]])
    done = world.sender.send_pack(queued)
    assert [one.digest for one in done] == [digests[1]]
    assert list(world.catalog.digests()) == [digests[1]]
    assert [pack.live for pack in world.sender.objects.packs()] == [1]


def test_object_that_may_not_be_deleted_waits(world):
    """An object that the store refuses to delete is listed and tried again next time."""
    world.keep(b"x" * 10)
    world.send()
    world.sender.objects.forget(list(world.catalog.digests()))

    class Locked(FaultyVolume):
        def delete(self, name):
            raise VolumeError("the object is under retention", permanent=True)

    external = world.outside.external
    world.outside.external = type(external)(
        identity=external.identity, title="t", volume=Locked(world.memory), is_remote=True
    )
    run = a_run()
    assert reclaiming.reclaim(world.outside, world.sender, run).problems == 2
    assert "retention" in run.errors[0].reason
    world.outside.external = external
    assert reclaiming.reclaim(world.outside, world.sender, a_run()).objects_deleted == 1


def test_rebuild_from_the_volume_alone(world, tmp_path):
    """From packs and single objects the catalog is as it was; damaged and foreign objects are listed."""
    contents = [*mails(50), os.urandom(2 << 20)]
    digests = world.keep(*contents)
    world.send()
    world.memory.put(f"{PACKS}/broken.pack", b"nonsense" * 100)
    world.memory.put("items/readme", b"not ours")
    fresh = OutsideWorld(tmp_path / "fresh", world.memory)
    run = a_run()
    done = rebuild(fresh.outside, run, now=lambda: fresh.now)
    assert (done.objects, done.contents, done.damaged, done.foreign, done.lost) == (2, 51, 1, 1, 0)
    assert [error.item for error in run.errors] == [f"{PACKS}/broken.pack"]
    assert [fresh.blobs.read(one) for one in digests] == contents
    again = rebuild(fresh.outside, a_run(), now=lambda: fresh.now)
    assert (again.objects, again.known, again.lost) == (0, 2, 0)
    world.memory.delete(blob_name(digests[-1]))
    lost = rebuild(fresh.outside, a_run(), now=lambda: fresh.now)
    assert lost.lost == 1
    assert not fresh.blobs.contains(digests[-1])
    fresh.close()


def test_what_is_lost_outside_and_still_cached_goes_out_again(world):
    """An object that vanished is found missing; its contents that are cached are sent anew."""
    digests = world.keep(*mails(3))
    world.send()
    world.memory.delete(packs_on(world)[0])
    assert rebuild(world.outside, a_run(), now=lambda: world.now).lost == 3
    assert all(world.blobs.contains(one) for one in digests)
    assert world.send() == 3
    assert len(packs_on(world)) == 1


def test_a_doubled_content_lives_once(world, tmp_path):
    """What rests in two packs lives in one of them after a rebuild, and the other copy is dead."""
    world.keep(*mails(3))
    world.send()
    other = OutsideWorld(tmp_path / "other", world.memory)
    other.keep(*mails(3))
    other.send()
    assert len(packs_on(world)) == 2
    rebuilt = OutsideWorld(tmp_path / "rebuilt", world.memory)
    rebuild(rebuilt.outside, a_run(), now=lambda: rebuilt.now)
    assert sorted(live for (live,) in rebuilt.catalog.rows("SELECT live FROM objects")) == [0, 3]
    for one in (other, rebuilt):
        one.close()


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
