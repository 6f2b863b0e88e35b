"""Uploading: it goes on through anything, holds nobody up, and says how it stands."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest

from backupd.errors import BlobMissing
from backupd.items import digest_of
from backupd.store.layout import PACKS
from backupd.store.outside.rebuilding import read_places
from daemon import volume_condition
from daemon.own_thread import in_own_thread
from daemon.uploading import BACK_OFF_SECONDS_MAX, Uploading, UploadingParts
from daemon.volume_condition import BEHIND, NOT_SENT, UNREACHABLE, volume_problems
from tests.world.clocks import FakeClock
from tests.world.outside import FaultyVolume, OutsideWorld
from tests.world.quick_disk import quick_directory


class UploadingWorld(OutsideWorld):
    """An outside world whose uploads are kept going by the daemon's loops."""

    def __init__(self, root, **more) -> None:
        super().__init__(root, clock=more.pop("clock", None) or FakeClock(), **more)
        self.cache_bytes_max = 1 << 30
        self.uploading = Uploading(
            UploadingParts(outside=self.outside, upload=self.upload, counted=self.counted),
            clock=self.clock,
            cache_bytes_max=lambda: self.cache_bytes_max,
        )
        self.group = asyncio.TaskGroup()

    async def __aenter__(self):
        await self.group.__aenter__()
        self.task = self.group.create_task(self.uploading.run())
        await self.clock.wait_until_asleep(2)
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await self.group.__aexit__(None, None, None)
        await self.uploading.close()

    async def wait(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass in steps, the threads getting their work done after each."""
        for _ in range(int(seconds / step)):
            await self.clock.advance(step)
            await self.clock.wait_until_asleep(2)

    @property
    def view(self):
        view = self.uploading.view()
        assert view is not None
        return view

    def problems(self) -> dict[str, str]:
        return {one.name: one.message for one in volume_problems(self.view, self.now)}

    def sent_order(self) -> list[str]:
        """Return the digests outside in the order in which they went there."""
        return [
            place.digest
            for name in self.volume.order
            if name.startswith(PACKS)
            for place in read_places(self.memory, name, self.memory.size(name))
        ]


@pytest.fixture
def root():
    with quick_directory() as directory:
        yield directory / "path"


def mail(number: int) -> bytes:
    return b"Subject: number %d\r\n\r\n" % number + b"Hello. " * 50


async def test_a_lone_message_is_outside_within_seconds(root):
    """One message goes out within a few seconds, though nothing else comes."""
    async with UploadingWorld(root) as world:
        (digest,) = world.keep(b"hello")
        await world.wait(7)
        assert list(world.catalog.digests()) == [digest]
        view = world.view
        assert (view.sent_objects, view.waiting_objects, view.reachable) == (1, 0, True)
        assert view.requests["put"] == 1
        assert world.problems() == {}


async def test_a_busy_hour_without_the_store(root):
    """With the store away for an hour intake goes on as ever; then all goes out in order and in bounds."""
    async with UploadingWorld(root) as world:
        world.volume.away = True
        kept: list[str] = []
        for minute in range(60):
            kept += world.keep(*(mail(minute * 20 + n) for n in range(20)))
            await world.wait(60, step=30)
            assert world.blobs.read(kept[-1]) == mail(minute * 20 + 19)
        view = world.view
        assert view.waiting_objects == len(kept) == 1200
        assert not view.reachable
        assert view.error == "the store is away"
        assert view.next_try is not None
        assert view.next_try <= world.now + timedelta(seconds=BACK_OFF_SECONDS_MAX)
        assert 10 <= view.failures <= 3600 / BACK_OFF_SECONDS_MAX + 12
        assert set(world.problems()) == {UNREACHABLE, BEHIND}
        calls = sum(world.counted.tally.counts().requests.values())
        assert calls < 100
        world.volume.away = False
        await world.wait(BACK_OFF_SECONDS_MAX + 10, step=5)
        assert world.view.waiting_objects == 0
        assert world.problems() == {}
        assert world.sent_order() == kept
        assert sum(world.counted.tally.counts().requests.values()) - calls < 20
        world.cache_bytes_max = 0
        await world.wait(2)
        assert not list(world.blobs.cached_digests())
        assert [world.blobs.read(digest_of(mail(n))) for n in range(0, 1200, 100)] == [
            mail(n) for n in range(0, 1200, 100)
        ]


async def test_a_restart_in_the_midst_of_an_outage(root):
    """What waits survives the process, also what nobody had written down yet."""
    clock = FakeClock()
    async with UploadingWorld(root, clock=clock) as world:
        world.volume.away = True
        first = world.keep(*(mail(n) for n in range(5)))
        await world.wait(30)
        memory = world.memory
        unnoted = world.keep(mail(99))
        world.outside._committed.clear()
    async with UploadingWorld(root, clock=clock, volume=FaultyVolume(memory)) as world:
        await world.wait(10)
        assert set(world.catalog.digests()) == {*first, *unnoted}


async def test_refused_is_told_with_its_hint(root):
    """What trying again can't help is told at once, with what to do; the content stays here."""
    async with UploadingWorld(root) as world:
        world.volume.refusing = "access denied"
        (digest,) = world.keep(b"hello")
        await world.wait(8)
        (problem,) = volume_problems(world.view, world.now)
        assert "refuses uploads" in problem.message
        assert "access denied" in problem.message
        assert problem.hint == "mend the credentials"
        assert world.is_cached(digest)
        failures = world.view.failures
        await world.wait(60, step=20)
        assert world.view.failures == failures
        world.volume.refusing = ""
        await world.wait(300, step=20)
        assert world.view.waiting_objects == 0


async def test_the_bound_is_told_and_nothing_is_dropped(root, monkeypatch):
    """More waiting than the cache may hold is a problem that says so; every blob stays."""
    monkeypatch.setattr(volume_condition, "CACHE_BYTES_MIN", 50)
    async with UploadingWorld(root) as world:
        world.volume.away = True
        world.cache_bytes_max = 100
        kept = world.keep(*(mail(n) for n in range(10)))
        await world.wait(3)
        assert "more than" in world.problems()[BEHIND]
        monkeypatch.setattr(volume_condition, "CACHE_BYTES_MIN", 1 << 20)
        assert BEHIND not in world.problems()
        assert all(world.is_cached(one) for one in kept)


async def test_damaged_blobs_are_told(root):
    """A blob that can't be sent is named in a problem, and others go out."""
    async with UploadingWorld(root) as world:
        bad, good = world.keep(b"bad", b"good")
        (world.root / "items" / bad[-3:-1] / bad).write_bytes(b"other")
        await world.wait(8)
        assert bad in world.problems()[NOT_SENT]
        assert list(world.catalog.digests()) == [good]


async def test_a_catalog_that_was_lost_is_built_anew(root):
    """A new catalog first learns what the volume holds; nothing is sent twice."""
    clock = FakeClock()
    async with UploadingWorld(root, clock=clock) as world:
        (digest,) = world.keep(b"hello")
        await world.wait(8)
        memory, catalog = world.memory, world.catalog.path
        world.cache_bytes_max = 0
        await world.wait(2)
    catalog.unlink()
    async with UploadingWorld(root, clock=clock, volume=FaultyVolume(memory)) as world:
        assert world.catalog.is_whole()
        assert world.blobs.read(digest) == b"hello"
        await world.wait(8)
        assert world.counted.tally.counts().requests.get("put", 0) == 0


async def test_an_object_that_is_gone_is_stored_and_sent_again(root):
    """Who finds it gone has the catalog follow the volume; then a scan stores the content once more."""
    async with UploadingWorld(root, is_remote=False) as world:
        (digest,) = world.keep(b"Subject: once more\r\n\r\n")
        await world.wait(120)
        world.cache_bytes_max = 0
        await world.wait(5)
        assert not world.is_cached(digest)
        for name in list(world.memory.names("items/")):
            world.memory.delete(name)
        with pytest.raises(BlobMissing):
            world.blobs.read(digest)
        await world.wait(120)
        assert not world.blobs.contains(digest)
        assert world.keep(b"Subject: once more\r\n\r\n") == [digest]
        await world.wait(120)
        assert list(world.memory.names("items/"))
        assert world.blobs.read(digest)


async def test_a_store_that_hangs_does_not_keep_the_process(root):
    """A call that never returns is told, and uploading ends all the same: nobody waits for its thread."""
    hanging, release = threading.Event(), threading.Event()

    class Hanging(FaultyVolume):
        def put(self, name, content):
            hanging.set()
            release.wait(20)
            return super().put(name, content)

    world = UploadingWorld(root)
    world.sender._volume = Hanging(world.memory)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(world.uploading.run())
        world.keep(b"hello")
        await world.clock.wait_until_asleep(2)
        world.clock.tick(10)
        await world.clock.advance(70)
        while not hanging.is_set():
            await world.clock.advance(1)
            await asyncio.sleep(0.005)
        assert world.problems() == {}
        await world.clock.advance(700)
        assert "no answer for 7" in world.problems()[UNREACHABLE]
        assert not world.view.reachable
        task.cancel()
    await world.uploading.close()
    assert all(one.daemon for one in threading.enumerate() if one.name == "sending")
    release.set()


async def test_own_thread_gives_what_the_work_does():
    """A result is returned, an error raised."""
    assert await in_own_thread(lambda: 7, name="seven") == 7
    with pytest.raises(ZeroDivisionError):
        await in_own_thread(lambda: 1 // 0, name="none")


async def test_without_a_volume_there_is_nothing_to_do():
    """Without an external volume the loops end at once and nothing is shown."""
    uploading = Uploading(None, clock=FakeClock(), cache_bytes_max=lambda: 0)
    await uploading.run()
    assert uploading.view() is None
    assert volume_problems(None, FakeClock().now()) == []
    await uploading.close()
