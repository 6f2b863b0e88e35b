"""Objects outside: dead ones go, packs are written anew, and the catalog is found again from the volume."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from backupd.errors import OperationStopped, VolumeError
from backupd.store.layout import PACKS, blob_name
from backupd.store.outside import reclaiming
from backupd.store.outside.objects import PackAccount
from backupd.store.outside.rebuilding import rebuild
from tests.unit.store.outside_making import a_run, mails, packs_on
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
    assert reclaiming.reclaim(world.outside, world.sender, run).problems == 1
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


def test_rebuilding_takes_nothing_that_an_upload_has_not_confirmed(world, tmp_path):
    """An object between its put and its confirmation is left to the upload; afterwards it is known."""
    world.keep(*mails(5))
    world.send()
    fresh = OutsideWorld(tmp_path / "fresh", world.memory)
    with fresh.outside.hand:
        run = a_run()
        run.request_stop()
        with pytest.raises(OperationStopped):
            rebuild(fresh.outside, run, now=lambda: fresh.now)
        with ThreadPoolExecutor() as threads:
            done = threads.submit(rebuild, fresh.outside, a_run(), now=lambda: fresh.now)
            with pytest.raises(TimeoutError):
                done.result(0.2)
            assert not list(fresh.catalog.digests())
            fresh.outside.hand.release()
            try:
                assert done.result(10).contents == 5
            finally:
                fresh.outside.hand.acquire()
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
