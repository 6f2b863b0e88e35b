"""One damaged object on a volume that tells damage itself: it is listed, and stops nothing else.

Here an encrypted volume, which refuses what was changed, and a store that compares each reading with the
SHA-256 it was given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest

from backupd.errors import BackupdError, CorruptBlob, VolumeError
from backupd.jobs.metadata import MetadataUpload, names
from backupd.store.outside import reclaiming
from backupd.store.outside.rebuilding import rebuild
from backupd.store.ownership import Identity
from backupd.volumes.encrypting import EncryptingVolume
from backupd.volumes.failures import AccessRefused, CorruptObject
from backupd.volumes.keyring import Keyring, MasterKey
from backupd.volumes.memory import MemoryVolume
from tests.unit.jobs.test_metadata import SendingWorld, histories_in
from tests.unit.jobs.worlds import ALICE
from tests.unit.store.outside_making import a_run, mails
from tests.world.outside import OutsideWorld
from tests.world.quick_disk import quick_directory

Damage = Callable[[str], None]


class Comparing(MemoryVolume):
    """A store that keeps a checksum beside each object, and compares it when the object is read."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged: set[str] = set()

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        if name in self.damaged:
            raise CorruptObject(f"{name!r} was read with another SHA-256")
        return super().get(name, offset=offset, length=length)

    def delete(self, name: str) -> bool:
        self.damaged.discard(name)
        return super().delete(name)

    def damage(self, name: str) -> None:
        self.damaged.add(name)


class Sealed(EncryptingVolume):
    """An encrypted volume in memory."""

    def __init__(self) -> None:
        self.inner = MemoryVolume()
        super().__init__(self.inner, Keyring([MasterKey(b"k" * 32)]))

    def damage(self, name: str) -> None:
        """Change a byte in the midst of what rests under a name."""
        rests = self._sealed(name)
        whole = self.inner._contents[rests]
        middle = len(whole) // 2
        self.inner._contents[rests] = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


@pytest.fixture(params=[Comparing, Sealed])
def volume(request: pytest.FixtureRequest) -> Comparing | Sealed:
    made = request.param()
    assert isinstance(made, Comparing | Sealed)
    return made


async def test_a_damaged_archive_is_replaced_by_the_one_before(
    volume: Comparing | Sealed, tmp_path: Path
) -> None:
    """A retrieval takes the older archive and the parcels since, and names what could not be read."""
    async with SendingWorld(tmp_path / "backup", volume) as world:
        await world.account(ALICE)
        await world.scan_all()
        await world.receive("1")
        world.upload.archive(world.run())
        await world.clock.advance(60)
        await world.receive("2")
        world.upload.archive(world.run())
        await world.receive("3")
        world.upload.send_changes()
        damaged = [list(volume.names(names.account_folder(ALICE)))[-1]]
        damaged += list(volume.names(names.SUMMARIES))[-1:]
        damaged += list(volume.names(names.JOURNAL))[:1]
        for one in damaged:
            volume.damage(one)
        run = world.run()
        verdict = world.retrieve(tmp_path / "back", run)
        assert histories_in(tmp_path / "back") == world.everything()
        assert not verdict.successful
        assert {error.item for error in run.errors} == {damaged[0], damaged[2]}


@pytest.fixture
def world(volume: Comparing | Sealed) -> Iterator[OutsideWorld]:
    with quick_directory() as directory:
        made = OutsideWorld(directory / "path", volume)
        yield made
        made.close()


def packs(world: OutsideWorld) -> list[str]:
    return [name for (name,) in world.catalog.rows("SELECT name FROM objects WHERE is_pack ORDER BY id")]


def test_reading_tells_of_a_damaged_content(world: OutsideWorld, volume: Comparing | Sealed) -> None:
    """It is damage of this content, in a pack and alone, and no trouble of the volume."""
    digests = world.keep(*mails(2), bytes(range(256)) * 6000)
    world.send(cache_bytes_max=0)
    for (name,) in world.catalog.rows("SELECT name FROM objects"):
        volume.damage(name)
    for digest in digests:
        with pytest.raises(CorruptBlob, match="bucket one/items"):
            world.blobs.read(digest)


def test_a_catalog_is_rebuilt_beside_a_damaged_object(
    world: OutsideWorld, volume: Comparing | Sealed, tmp_path: Path
) -> None:
    """The damaged pack is listed, all others come into the catalog."""
    first = world.keep(*mails(10))
    world.send()
    second = world.keep(*mails(10, start=10))
    world.send()
    damaged = packs(world)[0]
    volume.damage(damaged)
    fresh = OutsideWorld(tmp_path / "fresh", volume)
    run = a_run()
    done = rebuild(fresh.outside, run, now=lambda: fresh.now)
    assert (done.contents, done.damaged) == (10, 1)
    assert [error.item for error in run.errors] == [damaged]
    assert set(fresh.catalog.digests()) == set(second)
    assert not set(first) & set(second)
    fresh.close()


def test_reclaiming_goes_on_beside_a_damaged_pack(world: OutsideWorld, volume: Comparing | Sealed) -> None:
    """What can't be read is listed and stays, other packs are written anew and what is dead goes."""
    digests = world.keep(*mails(10))
    world.send(cache_bytes_max=0)
    others = world.keep(*mails(10, start=10))
    world.send(cache_bytes_max=0)
    damaged = packs(world)[0]
    volume.damage(damaged)
    world.outside.forget([*digests[1:], *others[1:]])
    run = a_run()
    done = reclaiming.reclaim(world.outside, world.sender, run)
    assert (done.problems, done.contents_moved, done.objects_deleted) == (1, 1, 1)
    assert [error.item for error in run.errors] == [damaged]
    assert world.blobs.read(others[0]) == mails(1, start=10)[0]


def refusing(volume: Comparing | Sealed, error: BackupdError) -> None:
    def refuse(_name: str) -> bool:
        raise error

    volume.delete = refuse  # type: ignore[method-assign]


@pytest.mark.parametrize("may_delete", [True, False])
def test_an_object_that_is_damaged_as_it_arrives_stops_no_other(
    world: OutsideWorld, volume: Comparing | Sealed, monkeypatch: pytest.MonkeyPatch, may_delete: bool
) -> None:
    """It is sent again; one that may not be removed is left where it is, and everything else goes out."""
    put, arriving = volume.put, 0

    def damaging(name: str, content: object) -> bool:
        nonlocal arriving
        done = put(name, content)  # type: ignore[arg-type]
        arriving += 1
        if arriving <= 2:
            volume.damage(name)
        return done

    monkeypatch.setattr(volume, "put", damaging)
    if not may_delete:
        refusing(volume, AccessRefused("it may not be deleted"))
    alone = world.keep(bytes(range(256)) * 6000)
    small = world.keep(*mails(5))
    world.upload.tend(1 << 40)
    for _ in range(6):
        world.now += timedelta(hours=2)
        with contextlib.suppress(VolumeError):
            world.upload.round()
    assert set(world.catalog.digests()) == {*small, *(alone if may_delete else ())}
    backlog = world.catalog.backlog()
    assert backlog.troubled == (0 if may_delete else 1)
    if not may_delete:
        assert "can't be removed" in backlog.trouble


@pytest.mark.parametrize("damaged", [1, 2])
async def test_a_place_with_a_damaged_summary_is_looked_at_all_the_same(
    volume: Comparing | Sealed, tmp_path: Path, damaged: int
) -> None:
    """Whose backup rests there is told by the summary before; where none can be read the place is refused."""
    async with SendingWorld(tmp_path / "backup", volume) as world:
        await world.account(ALICE)
        await world.scan_all()
        for item in ("1", "2"):
            await world.receive(item)
            world.upload.archive(world.run())
            await world.clock.advance(60)
        for name in list(volume.names(names.SUMMARIES))[-damaged:]:
            volume.damage(name)
        identity = world.store.identity
        other = msgspec.structs.replace(identity, since=world.clock.now())
        if damaged == 1:
            MetadataUpload.check_place(volume, identity)
        with pytest.raises(VolumeError) as told:
            MetadataUpload.check_place(volume, other if damaged == 1 else identity)
        assert told.value.permanent
        assert ("earlier backup" if damaged == 1 else "no summary") in told.value.message


def test_a_summary_that_is_none_refuses_the_place() -> None:
    """Nonsense under the name of a summary is an answer to whoever chooses the place, not a bug."""
    volume = MemoryVolume()
    volume.put(names.summary_name(7, datetime(2026, 11, 1, tzinfo=UTC)), b'{"map": ')
    identity = Identity(format=1, server="s", name="n", since=datetime(2026, 11, 1, tzinfo=UTC))
    with pytest.raises(VolumeError, match="no summary"):
        MetadataUpload.check_place(volume, identity)
