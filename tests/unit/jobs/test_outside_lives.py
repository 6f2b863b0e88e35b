"""A backup with an external volume through random lives: what a state needs can be read, always.

Users, intake, scans, uploads over a volume that fails, eviction, purges with reclaiming, deaths at any
durable step, lost catalogs, migrations and ways back come in any order. `BACKUPD_CRASHES` says how many
lives; without it a few.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backupd import durable
from backupd.errors import VolumeError
from backupd.events import Change
from backupd.items import Kind
from backupd.jobs.migrate import FetchedBack, Migration
from backupd.jobs.upload.upload import Upload
from backupd.operations import Run
from backupd.states import ChangeType
from backupd.store.blobs import Blobs
from backupd.store.outside.cache import Cache
from backupd.store.outside.catalog import Catalog
from backupd.store.outside.objects import Objects
from backupd.store.outside.reading import BlobsOutside, External
from backupd.store.outside.rebuilding import rebuild
from backupd.store.outside.sending import Sender
from backupd.volumes.local import LocalVolume
from backupd.volumes.memory import MemoryVolume
from tests.unit.jobs.purging import DAY, PurgedWorld, content
from tests.unit.jobs.worlds import ALICE, change
from tests.world.outside import FaultyVolume

LIVES = int(os.environ.get("BACKUPD_CRASHES", "0"))
ROOM = "/dev/shm" if Path("/dev/shm").is_dir() else None
TEXTS = [f"text {number}" for number in range(8)]
BIG = 300_000
"""Contents of one text are as large, and no zstd makes them small: packs become sparse by them."""
NAMES = ("one", "two")
NO_ROOM, ROOM_ENOUGH = 0, 1 << 40
FAULTS = 0.15


class Killed(BaseException):
    """The process ended here."""


class OutsideWorld(PurgedWorld):
    """A backup that may have one of two external volumes."""

    outside: BlobsOutside | None = None

    def __init__(self, path: Path, *, seed: int) -> None:
        self.volumes = {name: FaultyVolume(MemoryVolume(), seed=seed) for name in NAMES}
        self.current = ""
        super().__init__(path)
        self.rules = msgspec.structs.replace(self.rules, grace=timedelta(days=1))

    def open(self) -> None:
        super().open()
        self.attach()

    def attach(self) -> None:
        """Do what a lifetime does with the volume in use."""
        self.outside = None
        catalog = Catalog(self.store.layout.catalog)
        if not self.current:
            catalog.use("")
            catalog.close()
            return
        outside = self.outside = BlobsOutside(catalog, self.external(self.current), now=self.clock.now)
        self.sender = Sender(outside, Cache(self.path), now=self.clock.now)
        self.upload = Upload(outside, Cache(self.path), self.sender, now=self.clock.now)
        self.store.blobs.outside = outside
        if not catalog.is_whole():
            rebuild(outside, Run(self.clock), now=self.clock.now)

    def external(self, name: str) -> External:
        return External(identity=name, title=name, volume=self.volumes[name], is_remote=name == "one")

    def close(self) -> None:
        self.recorder.close()
        self.store.close()
        if self.outside is not None:
            self.outside.catalog.close()

    def crash(self) -> None:
        for volume in self.volumes.values():
            volume.part = 0.0
        self.close()
        self.open()

    def reclaim(self) -> None:
        if self.outside is not None:
            self.upload.reclaim(Run(self.clock))

    def may_be_named(self) -> set[str]:
        """Return what states, the journal behind the cursor, and waiting changes name."""
        entries = self.store.journal.read(self.recorder.cursor)
        waiting = self.store.ledger.waiting_after(None, limit=1000)
        told = {entry.change.digest for entry in entries}
        told |= {msgspec.json.decode(one.change, type=Change).digest for one in waiting}
        return self.referenced() | {one for one in told if one}


class Lives(RuleBasedStateMachine):
    """One backup."""

    @initialize(seed=st.integers(0, 1 << 30))
    def begin(self, seed: int) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="backupd-outside-", dir=ROOM)
        self.loop = asyncio.new_event_loop()
        self.world = OutsideWorld(Path(self.directory.name) / "backup", seed=seed)
        self.run(self.world.have(*TEXTS[:3]))
        for number in range(4):
            self.deliver(text=TEXTS[number], is_big=True)
        self.scan()
        self.choose("one")
        self.upload(NO_ROOM, 0, faulty=False)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()
            self.loop.close()
            self.directory.cleanup()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def choose(self, name: str) -> None:
        self.world.current = name
        self.world.crash()

    def items(self) -> list[str]:
        known = self.run(self.world.server.accounts())
        return sorted(self.world.server._account(ALICE).items) if known else []

    # ------------------------------------------------------------ users, and what is recorded

    @rule(text=st.sampled_from(TEXTS), is_big=st.booleans())
    def deliver(self, text: str, *, is_big: bool) -> None:
        if not self.run(self.world.server.accounts()):
            self.run(self.world.account())
        body = content(text) + (noise(text) if is_big else b"")
        self.run(self.world.server.add(ALICE, Kind.MESSAGE, "Here", body))

    @rule(place=st.integers(0, 50), count=st.integers(1, 6))
    def remove(self, place: int, count: int) -> None:
        for _ in range(count):
            if found := self.items():
                self.world.server.remove(ALICE, found[place % len(found)])

    @rule()
    def remove_account(self) -> None:
        if self.run(self.world.server.accounts()):
            self.world.server.remove_account(ALICE)

    @rule()
    def scan(self) -> None:
        self.run(self.world.scan_all(force=True))

    @rule(item=st.integers(0, 3), text=st.sampled_from(TEXTS), gone=st.booleans(), recorded=st.booleans())
    def event(self, item: int, text: str, *, gone: bool, recorded: bool) -> None:
        at = (self.world.clock.now() - change().time).total_seconds()
        kind = ChangeType.DELETED if gone else ChangeType.MODIFIED
        self.world.journal(change(f"event-{item}", kind, at=at, body=content(text)))
        if recorded:
            self.run(self.world.record())

    @rule(days=st.sampled_from([0.01, 1.1, 31.0]))
    def time_passes(self, days: float) -> None:
        self.world.clock.tick(days * DAY)

    # ------------------------------------------------------------------- the volume

    @rule(
        room=st.sampled_from([NO_ROOM, ROOM_ENOUGH]),
        faulty=st.booleans(),
        step=st.sampled_from([0, 0, *range(40)]),
    )
    def upload(self, room: int, step: int, *, faulty: bool) -> None:
        """Send what waits, over a volume that fails, or dying on the way; then let blobs leave the cache."""
        world = self.world
        if world.outside is None:
            return

        def work() -> None:
            world.upload.tend(room)
            world.clock.tick(100)
            world.volumes[world.current].part = FAULTS if faulty else 0.0
            try:
                world.upload.round()
            except VolumeError:
                pass
            finally:
                world.volumes[world.current].part = 0.0
            world.upload.tend(room)

        self._dying(step, work)

    @rule()
    def lose_catalog(self) -> None:
        self.world.close()
        for ending in ("", "-wal", "-shm"):
            self.world.store.layout.catalog.with_name(f"volume.sqlite{ending}").unlink(missing_ok=True)
        self.world.open()

    @rule(name=st.sampled_from(NAMES), room=st.sampled_from([NO_ROOM, ROOM_ENOUGH]))
    def migrate(self, name: str, room: int) -> None:
        world = self.world
        if world.outside is None or name == world.current:
            return
        for is_last in (False, True):
            if is_last:
                world.outside.keep_all()
            target = world.external(name)
            copying = Migration(
                world.store.blobs, world.outside.catalog, target, now=world.clock.now, threads=1
            )
            assert not copying.run(Run(world.clock)).failed
            world.upload.tend(room)
        self.choose(name)

    @rule(name=st.sampled_from(["", *NAMES, *NAMES, *NAMES]))
    def come_home(self, name: str) -> None:
        """Fetch everything back, and mostly choose a volume again soon."""
        world = self.world
        if world.outside is not None:
            world.outside.keep_all()
            local = Blobs(LocalVolume(world.path))
            assert not FetchedBack(world.store.blobs, local).run(Run(world.clock)).failed
            self.choose("")
            if name:
                self.choose(name)

    @rule(name=st.sampled_from(NAMES))
    def choose_again(self, name: str) -> None:
        if not self.world.current:
            self.choose(name)

    # ------------------------------------------------------------------------ purge

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @rule(step=st.integers(1, 90))
    def purge_and_die(self, step: int) -> None:
        def work() -> None:
            self.run(self.world.purge(force=True))
            self.world.reclaim()

        self._dying(step, work)

    @rule(place=st.integers(0, 50), count=st.integers(0, 5))
    def purge_twice(self, place: int, count: int) -> None:
        """Once grace is over nothing is left that nothing names: neither here nor, as an object, outside."""
        world = self.world
        self.remove(place=place, count=count)
        self.run(world.scan_all(force=True))
        world.clock.tick(40 * DAY)
        for _ in range(2):
            self.run(world.purge(force=True))
            world.reclaim()
            world.clock.tick(1.1 * DAY)
        loose = set(world.store.blobs.digests()) - world.may_be_named()
        assert not loose, f"outlived two purges: {loose}"
        if world.outside is not None:
            objects = Objects(world.outside.catalog, world.outside.catalog.number_of(world.current))
            assert not objects.dead(1)
            for number, live in world.outside.catalog.rows("SELECT id, live FROM objects"):
                assert live == len(objects.places_in(number))
            there = set(world.volumes[world.current].inner.names("items/"))
            known = {name for _, name in objects.names("", 10_000)}
            assert known <= there
            late = {one.name for one in objects.intents(world.clock.now() + timedelta(days=1))}
            assert there <= known | late, f"nobody knows of {there - known - late}"

    def _dying(self, step: int, work: Any) -> None:
        """Do something, and end at a durable step, as a process does that is killed; 0: live."""
        left = step

        def die(_name: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        durable.observe_steps(die)
        try:
            work()
        except Killed:
            durable.observe_steps(None)
            self.world.crash()
        finally:
            durable.observe_steps(None)

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def everything_needed_can_be_read(self) -> None:
        for states in self.world.histories().values():
            for state in states:
                if state.digest and "content" not in state.lacking and not state.held:
                    self.world.store.blobs.read(state.digest)


def noise(text: str) -> bytes:
    """Return bytes that nothing compresses, the same for the same text."""
    return random.Random(text).randbytes(BIG)


Lives.TestCase.settings = settings(
    max_examples=LIVES or 20,
    stateful_step_count=60 if LIVES else 30,
    deadline=None,
    derandomize=not LIVES,
    suppress_health_check=list(HealthCheck),
)
TestLives = Lives.TestCase
