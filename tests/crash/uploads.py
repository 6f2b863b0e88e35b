"""Uploads for the crash tests: a process that keeps, sends, evicts, forgets and reclaims until it is killed.

It tells in `acknowledged` which contents are durable, and in `forgotten`, beforehand, which it is about to
forget. Whatever ends it, `check` then says what must be true.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from backupd.items import digest_of
from backupd.operations import Run
from backupd.store.layout import PACKS, blob_name
from backupd.store.outside.rebuilding import read_places
from backupd.store.outside.reclaiming import reclaim
from backupd.volumes.local import LocalVolume
from tests.crash.forks import ended, forked
from tests.world.clocks import FakeClock
from tests.world.outside import OutsideWorld

BATCHES, BATCH = 4, 7
CACHE_BYTES_MAX = 4_000


def contents() -> list[bytes]:
    """Return the contents of every run: small ones, and now and then one that is too large for a pack."""
    chance = random.Random(20)
    return [
        chance.randbytes(1_100_000) if number % 13 == 12 else b"mail %d " % number * chance.randint(10, 200)
        for number in range(BATCHES * BATCH)
    ]


class Place:
    """The directories of one story, over all its processes."""

    def __init__(self, root: Path) -> None:
        self.path, self.outside = root / "path", root / "outside"
        self.outside.mkdir(parents=True)
        self._root = root
        self._runs = 0

    def world(self) -> OutsideWorld:
        """Open it; each time is hours after the one before, so that nothing is still on its way."""
        world = OutsideWorld(self.path, LocalVolume(self.outside), is_remote=True)
        self._runs += 1
        world.now += timedelta(hours=3 * self._runs)
        return world

    def note(self, file: str, digests: list[str]) -> None:
        with (self._root / file).open("a") as out:
            out.write("".join(f"{one}\n" for one in digests))

    def noted(self, file: str) -> set[str]:
        try:
            return set((self._root / file).read_text().split())
        except FileNotFoundError:
            return set()


def work(place: Place) -> None:
    """Do everything once; what an earlier process did is found done."""
    world = place.world()
    forgotten = place.noted("forgotten")
    everything = contents()
    for batch in range(BATCHES):
        part = [
            one for one in everything[batch * BATCH : (batch + 1) * BATCH] if digest_of(one) not in forgotten
        ]
        place.note("acknowledged", world.keep(*part))
        world.upload.tend(CACHE_BYTES_MAX)
        world.now += timedelta(seconds=6)
        world.upload.round()
    world.upload.tend(CACHE_BYTES_MAX)
    going = [digest_of(one) for number, one in enumerate(everything) if number % 3]
    place.note("forgotten", going)
    local = LocalVolume(place.path)
    for digest in going:
        local.delete(blob_name(digest))
    world.sender.objects.forget(going)
    reclaim(world.outside, world.sender, Run(FakeClock()))
    world.close()


def in_process(place: Place, observer: Callable[[str], None] | None = None) -> int:
    """Start `work` in a process of its own and return its number."""
    place._runs += 1
    return forked(lambda: work(place), observer)


def check(place: Place) -> None:
    """Acknowledged contents are there and right; after one more run nothing is doubled or unknown outside."""
    wanted = {digest_of(one): one for one in contents()}
    world = place.world()
    for digest in place.noted("acknowledged") - place.noted("forgotten"):
        assert world.blobs.read(digest) == wanted[digest]
    world.close()
    assert ended(in_process(place)) == 0
    world = place.world()
    world.now += timedelta(hours=3)
    world.sender.settle()
    reclaim(world.outside, world.sender, Run(FakeClock()))
    kept = set(wanted) - place.noted("forgotten")
    assert set(world.blobs.digests()) == kept
    for digest in kept:
        assert world.blobs.read(digest) == wanted[digest]
        with world.outside.open(digest, None) as file:
            assert file.read() == wanted[digest]
    known = {name: number for number, name in world.sender.objects.names("", 10_000)}
    assert set(world.volume.names("items/")) == set(known)
    for name, number in known.items():
        if name.startswith(PACKS):
            living = {one.digest for one in world.sender.objects.places_in(number)}
            inside = {one.digest for one in read_places(world.volume, name, world.volume.size(name))}
            assert inside - living <= place.noted("forgotten"), "a content that lives elsewhere is here too"
    world.close()
