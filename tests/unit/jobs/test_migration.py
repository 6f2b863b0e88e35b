"""Migration: everything is copied, verified, once, whatever ends it; then what is missed is listed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backupd import durable
from backupd.errors import VolumeError
from backupd.items import Kind, digest_of
from backupd.jobs.migrate import FetchedBack, LostContents, Migration
from backupd.jobs.migrate.migration import Tally
from backupd.operations import Run
from backupd.store.blobs import Blobs
from backupd.store.layout import PACKS
from backupd.store.outside.catalog import Catalog
from backupd.store.outside.reading import BlobsOutside, External
from backupd.store.packs import PACKED_BYTES_MAX
from backupd.volumes.encrypting import EncryptingVolume
from backupd.volumes.failures import AccessRefused
from backupd.volumes.keyring import Keyring, MasterKey
from backupd.volumes.local import LocalVolume
from backupd.volumes.memory import MemoryVolume
from tests.unit.jobs.worlds import ALICE, BackupWorld

BIG = bytes(range(256)) * (PACKED_BYTES_MAX // 256 + 1)
SMALL = [b"Subject: %d\r\n\r\ntext %d\r\n" % (number, number) for number in range(40)]


class MovingWorld(BackupWorld):
    """A backup with contents, and a volume to migrate to."""

    def __init__(self, path: Path) -> None:
        self.target = MemoryVolume()
        super().__init__(path)
        self.catalog = Catalog(path / "volume.sqlite")

    @property
    def digests(self) -> set[str]:
        return {digest_of(content) for content in (*SMALL, BIG)}

    def external(self, *, is_remote: bool = True) -> External:
        return External(identity="bucket:there", title="there", volume=self.target, is_remote=is_remote)

    def migrate(self, *, is_remote: bool = True) -> Tally:
        migration = Migration(
            self.store.blobs, self.catalog, self.external(is_remote=is_remote), now=self.clock.now, threads=2
        )
        return migration.run(Run(self.clock))

    def readable(self) -> set[str]:
        """Return what the target alone gives, verified, of a backup without its own blobs."""
        self.store.blobs.outside = BlobsOutside(self.catalog, self.external(), now=self.clock.now)
        for blob in (self.path / "items").rglob("*="):
            blob.unlink()
        for digest in self.digests:
            assert digest_of(self.store.blobs.read(digest)) == digest
        return set(self.catalog.digests())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MovingWorld]:
    async with MovingWorld(tmp_path / "backup") as made:
        await made.account()
        for content in (*SMALL, BIG):
            await made.server.add(ALICE, Kind.MESSAGE, "INBOX", content)
        await made.scan_all()
        yield made
        made.catalog.close()


@pytest.mark.parametrize("is_remote", [True, False])
async def test_everything_is_copied_once(world: MovingWorld, is_remote: bool) -> None:
    """Packs on a store, single objects on a mount; given again nothing is sent; the source stays."""
    before = set(world.store.blobs.digests())
    done = world.migrate(is_remote=is_remote)
    assert (done.copied, done.failed) == (len(world.digests), 0)
    assert world.migrate(is_remote=is_remote).there == len(world.digests)
    names = list(world.target.names())
    assert (len(names) < len(SMALL)) is is_remote
    assert set(world.store.blobs.digests()) == before
    assert world.readable() == world.digests


async def test_many_small_contents_fill_packs(world: MovingWorld) -> None:
    """They go into few packs, not into small ones that the next purge would write anew, all of them."""
    blobs = world.store.blobs
    texts = [b"Subject: %d\r\n\r\n" % number + b"Hello again. " * 40 for number in range(2_500)]
    blobs.commit([blobs.stage(text) for text in texts])
    assert world.migrate().copied == len(world.digests) + len(texts)
    assert len([name for name in world.target.names() if name.startswith(PACKS)]) == 1


@pytest.mark.parametrize("is_remote", [True, False])
async def test_what_vanished_from_the_target_is_copied_again(world: MovingWorld, is_remote: bool) -> None:
    """What an earlier migration brought there is believed only where it still is."""
    world.migrate(is_remote=is_remote)
    first, *others = list(world.target.names())
    for name in others:
        world.target.delete(name)
    done = world.migrate(is_remote=is_remote)
    assert done.copied > 0
    assert done.copied + done.there == len(world.digests)
    assert world.target.exists(first)
    assert world.readable() == world.digests


@pytest.mark.parametrize("step", ["migrate.put", "migrate.read_back"])
async def test_one_that_is_ended_goes_on_and_leaves_no_second_copy(world: MovingWorld, step: str) -> None:
    """Whatever it was ended at, the next one completes it; nothing unconfirmed stays on the volume."""

    def stop(name: str) -> None:
        if name == step:
            raise OSError(5, step)

    durable.observe_steps(stop)
    try:
        with pytest.raises(OSError, match=step):
            world.migrate()
    finally:
        durable.observe_steps(None)
    assert world.migrate().failed == 0
    known = {name for name in world.target.names() if world.target.size(name)}
    assert world.readable() == world.digests
    rows = world.catalog.rows("SELECT name FROM objects")
    assert known == {name for (name,) in rows}


async def test_wrong_bytes_outside_fail_the_migration(world: MovingWorld) -> None:
    """What reads back otherwise than it was sent is removed and told, and is no copy."""
    get = world.target.get
    world.target.get = lambda name, **more: get(name, **{**more, "length": 3})  # type: ignore[method-assign]
    with pytest.raises(VolumeError, match="not what was sent"):
        world.migrate()
    world.target.get = get  # type: ignore[method-assign]
    assert list(world.catalog.digests(world.catalog.number_of("bucket:there"))) == []


@pytest.mark.parametrize("step", ["migrate.put", "migrate.read_back"])
async def test_a_key_that_may_not_delete_completes_one_that_was_ended(world: MovingWorld, step: str) -> None:
    """What an ended migration left can't be removed by such a key: it stays, and is no hindrance."""

    def stop(name: str) -> None:
        if name == step:
            raise OSError(5, step)

    def refuse(_name: str) -> bool:
        raise AccessRefused("it may not be deleted")

    world.target.delete = refuse  # type: ignore[method-assign]
    durable.observe_steps(stop)
    try:
        with pytest.raises(OSError, match=step):
            world.migrate()
    finally:
        durable.observe_steps(None)
    assert world.migrate().failed == 0
    assert world.readable() == world.digests


async def test_what_is_damaged_on_the_volume_in_use_is_noted_and_the_rest_is_copied(
    world: MovingWorld, tmp_path: Path
) -> None:
    """A content that an encrypted source refuses, in a pack or alone, is listed; nothing is ended by it."""
    sealed = MemoryVolume()
    source = External(
        identity="bucket:here",
        title="here",
        volume=EncryptingVolume(sealed, Keyring([MasterKey(b"k" * 32)])),
        is_remote=True,
    )
    Migration(world.store.blobs, world.catalog, source, now=world.clock.now).run(Run(world.clock))
    world.store.blobs.outside = BlobsOutside(world.catalog, source, now=world.clock.now)
    for blob in (world.path / "items").rglob("*="):
        blob.unlink()
    (alone,) = [name for name in source.volume.names() if not name.startswith(PACKS)]
    rests = source.volume._sealed(alone)  # type: ignore[attr-defined]
    sealed._contents[rests] = sealed._contents[rests][:-1] + b"\0"
    done = world.migrate()
    assert (done.failed, done.copied) == (1, len(SMALL))


async def test_a_damaged_content_is_noted_and_the_rest_is_copied(world: MovingWorld) -> None:
    """It fails the migration's tally, so that nobody switches to a volume that lacks it."""
    victim = next((world.path / "items").rglob("*="))
    victim.chmod(0o600)
    victim.write_bytes(victim.read_bytes()[:-4] + b"\0\0\0\0")
    done = world.migrate()
    assert (done.failed, done.copied) == (1, len(world.digests) - 1)
    assert not done.verdict("there", "here", switched=False).successful


async def test_contents_come_home(world: MovingWorld) -> None:
    """All that is outside alone is fetched into the Backup Path, which then needs the volume no more."""
    world.migrate()
    world.readable()
    local = Blobs(LocalVolume(world.path))
    done = FetchedBack(world.store.blobs, local).run(Run(world.clock))
    assert (done.copied, done.failed) == (len(world.digests), 0)
    world.store.blobs.outside = None
    assert {one for one in world.store.blobs.digests() if world.store.blobs.read(one)} == world.digests


async def test_what_nothing_at_hand_holds_is_listed(world: MovingWorld) -> None:
    """The list names each item, and there is none where nothing is missed."""
    lost = LostContents(world.store)
    assert lost.run(Run(world.clock), world.clock.now()).successful
    run = Run(world.clock)
    doubtful = lost.run(run, world.clock.now(), doubt="it is away")
    assert not doubtful.successful
    assert "it is away" in doubtful.sentence
    assert [error.reason.partition(":")[0] for error in run.errors] == ["it is away"]
    (world.path / "items" / next(iter(world.digests))[-3:-1]).rename(world.path.parent / "away")
    verdict = lost.run(Run(world.clock), world.clock.now())
    assert not verdict.successful
    (path,) = (world.path / "lost").iterdir()
    assert len(path.read_text().splitlines()) == verdict.counts["items"] >= 1
