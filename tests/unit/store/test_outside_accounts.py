"""What the catalog keeps of objects adds up: what lives in each, its bytes, and only intents that are due."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from backupd.items import digest_of
from backupd.store.layout import blob_name
from backupd.store.outside import reclaiming
from backupd.store.outside.objects import Intent, IntentKind
from backupd.store.outside.rebuilding import rebuild
from backupd.store.outside.sending import LATE_AFTER
from backupd.volumes.failures import AccessRefused
from tests.unit.store.outside_making import a_run, mails, packs_on
from tests.world.outside import OutsideWorld
from tests.world.quick_disk import quick_directory

LARGE = os.urandom(2 << 20)


@pytest.fixture
def world():
    with quick_directory() as directory:
        made = OutsideWorld(directory / "path")
        yield made
        made.close()


def judge(world: OutsideWorld, *, intents: int = 0) -> None:
    """Assert that the account of each object is what the places say, and which intents are left."""
    objects = world.sender.objects
    for number, live, live_bytes in world.catalog.rows("SELECT id, live, live_bytes FROM objects"):
        places = objects.places_in(number)
        assert (live, live_bytes) == (len(places), sum(place.size for place in places))
    assert len(objects.intents(world.now + timedelta(days=9))) == intents


def test_after_sending(world):
    """Packs and single objects count what was sent, and nothing is intended any more."""
    world.keep(*mails(20), LARGE)
    world.send()
    judge(world)
    assert sorted(live for (live,) in world.catalog.rows("SELECT live FROM objects")) == [1, 20]


def test_after_forgetting_and_rewriting(world):
    """What lives in a pack that was written anew is as many bytes as it holds: none is written anew twice."""
    digests = world.keep(*mails(20), LARGE)
    world.send()
    world.sender.objects.forget([*digests[:15], digests[-1]])
    judge(world)
    assert reclaiming.reclaim(world.outside, world.sender, a_run()).packs_rewritten == 1
    judge(world)
    before = packs_on(world)
    assert reclaiming.reclaim(world.outside, world.sender, a_run()).packs_rewritten == 0
    assert packs_on(world) == before


def test_a_key_that_may_not_delete_is_asked_once(world):
    """What is dead stays and is told in one line, and no pack is written anew beside one that can't go."""
    for number in range(4):
        digests = world.keep(*mails(10, start=10 * number))
        world.send()
        world.sender.objects.forget(digests if number < 2 else digests[:8])
    asked = []

    def refuse(name):
        asked.append(name)
        raise AccessRefused("AccessDenied")

    world.volume.delete = refuse
    before, run = packs_on(world), a_run()
    done = reclaiming.reclaim(world.outside, world.sender, run)
    assert (done.packs_rewritten, done.objects_deleted, done.problems) == (0, 0, 2)
    assert packs_on(world) == before
    assert len(asked) == 1
    assert [error.item for error in run.errors] == ["bucket one"]
    assert "2 objects" in run.errors[0].reason
    del world.volume.delete
    done = reclaiming.reclaim(world.outside, world.sender, a_run())
    assert (done.packs_rewritten, done.objects_deleted, done.problems) == (2, 4, 0)
    judge(world)


def test_small_packs_become_one(world):
    """Many small packs are put together by the next purge, and not again by the one after it."""
    for number in range(reclaiming.SMALL_PACKS_MIN):
        world.keep(*mails(2, start=2 * number))
        world.send()
    assert len(packs_on(world)) == reclaiming.SMALL_PACKS_MIN
    reclaiming.reclaim(world.outside, world.sender, a_run())
    (one,) = packs_on(world)
    judge(world)
    reclaiming.reclaim(world.outside, world.sender, a_run())
    assert packs_on(world) == [one]


def test_confirmed_twice_counts_once(world):
    """A pack that is confirmed again, for whatever reason, has the same account."""
    world.keep(*mails(5))
    world.send()
    ((number, name, stored),) = world.catalog.rows("SELECT id, name, stored FROM objects")
    objects = world.sender.objects
    places = objects.places_in(number)
    objects.intend([Intent(name, IntentKind.PACK, b"", stored)])
    objects.confirm_pack(Intent(name, IntentKind.PACK, b"", stored), places, world.now)
    judge(world)


def test_a_single_one_that_was_forgotten_on_its_way_is_dead(world):
    """It arrives, lives in nothing, and goes with the next purge."""
    (digest,) = world.keep(LARGE)
    world.upload.tend(1 << 40)
    queued = world.catalog.queued(9)
    world.sender.objects.forget([digest])
    assert world.sender.send_singles(queued) == []
    judge(world)
    assert [name for _, name in world.sender.objects.dead(9)] == [blob_name(digest)]
    reclaiming.reclaim(world.outside, world.sender, a_run())
    assert not list(world.memory.names())


def test_intents_of_a_process_that_ended_are_settled_once(world):
    """One that waits is sent again, one that nobody wants is removed, one that never came is forgotten."""
    (digest,) = world.keep(LARGE)
    world.upload.tend(1 << 40)
    unwanted = blob_name(digest_of(b"nobody's"))
    world.memory.put(unwanted, b"nobody's")
    objects = world.sender.objects
    objects.intend(
        [
            Intent(blob_name(digest), IntentKind.SINGLE),
            Intent(unwanted, IntentKind.SINGLE),
            Intent("items/packs/never.pack", IntentKind.PACK, b"\0" * 32, 100),
        ]
    )
    world.sender.settle()
    judge(world, intents=2)
    world.sender.settle()
    assert not world.memory.exists(unwanted)
    judge(world, intents=1)
    world.now += LATE_AFTER
    world.sender.settle()
    judge(world)
    assert world.send(seconds=0) == 1
    judge(world)


def test_what_can_not_be_had_here_is_not_intended_any_more(world):
    """A blob whose file is gone, and one that is damaged, leave no intent behind."""
    gone, damaged = world.keep(LARGE, LARGE[::-1])
    world.upload.tend(1 << 40)
    world.cache._volume.delete(blob_name(gone))
    (world.root / blob_name(damaged)).write_bytes(b"other")
    assert world.send() == 0
    judge(world)


def test_after_a_rebuild(world, tmp_path):
    """A catalog that was built from the volume counts what it found."""
    world.keep(*mails(20), LARGE)
    world.send()
    fresh = OutsideWorld(tmp_path / "fresh", world.memory)
    rebuild(fresh.outside, a_run(), now=lambda: fresh.now)
    judge(fresh)
    assert sorted(live for (live,) in fresh.catalog.rows("SELECT live FROM objects")) == [1, 20]
    fresh.close()


def test_what_was_lost_with_the_volume_is_looked_for_again(world):
    """After a rebuild that missed something the next start lists the volume once more; else it need not."""
    world.keep(*mails(3))
    world.send()
    rebuild(world.outside, a_run(), now=lambda: world.now)
    assert world.catalog.is_whole()
    (name,) = packs_on(world)
    content = world.memory.get(name).read()
    world.memory.delete(name)
    rebuild(world.outside, a_run(), now=lambda: world.now)
    assert not world.catalog.is_whole()
    world.memory.put(name, content)
    assert rebuild(world.outside, a_run(), now=lambda: world.now).contents == 3
    assert world.catalog.is_whole()


def test_an_object_of_which_something_lives_is_not_taken_out(world):
    """Only dead ones go: one that lives again, by whatever came between, stays known."""
    digests = world.keep(*mails(3))
    world.send()
    ((number,),) = world.catalog.rows("SELECT id FROM objects")
    world.sender.objects.remove(number)
    assert [world.blobs.contains(one) for one in digests] == [True] * 3
    judge(world)
    assert world.sender.objects.is_known(packs_on(world)[0])
