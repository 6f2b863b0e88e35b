"""Contents beyond the Backup Path: purge, repair and the list of what is lost know where they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.events import encode_change
from backupd.items import ItemKey, digest_of
from backupd.jobs.coherency import losses
from backupd.jobs.coherency.findings import Finding
from backupd.jobs.coherency.keeping import StoreKeeper
from backupd.jobs.coherency.repair import Repair
from backupd.jobs.migrate import LostContents
from backupd.operations import Run
from backupd.store.foreign_files import Tree
from backupd.store.ledger import Waiting
from backupd.store.outside.cache import Cache
from backupd.store.outside.catalog import Catalog
from backupd.store.outside.reading import BlobsOutside, External
from backupd.store.outside.sending import Sender
from backupd.volumes.memory import MemoryVolume
from tests.unit.jobs.purging import PurgedWorld, content
from tests.unit.jobs.worlds import change
from tests.world.quick_disk import quick_directory

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


class BeyondWorld(PurgedWorld):
    """A backup that leaves contents with its AppServer while `blobless`."""

    blobless = False

    def open(self) -> None:
        super().open()
        self.store.keeping.leave_with(self.server.held, lambda: self.blobless)

    def make_held_long_ago(self) -> None:
        self.server.held.held_at = dict.fromkeys(self.server.held.contents, LONG_AGO)


@pytest.fixture
async def world() -> AsyncIterator[BeyondWorld]:
    with quick_directory() as place:
        async with BeyondWorld(place / "backup") as made:
            yield made


@pytest.fixture
async def held(world: BeyondWorld) -> tuple[str, str]:
    """Have two contents held alone, one of an item that is gone beyond retention; return the items."""
    world.blobless = True
    gone, stays = await world.have("gone", "stays")
    await world.delete(gone)
    world.pass_days(31)
    world.make_held_long_ago()
    assert not world.blobs()
    return gone, stays


@pytest.mark.usefixtures("held")
async def test_what_is_held_for_a_purged_item_is_let_go_and_nothing_else(world: BeyondWorld) -> None:
    """A held content goes with its last history; one of an item that lives stays readable."""
    await world.purge()
    assert set(world.server.held.contents) == {digest_of(content("stays"))} == world.referenced()


@pytest.mark.usefixtures("held")
async def test_an_appserver_that_is_away_fails_no_purge(world: BeyondWorld) -> None:
    """Histories go, the reason is listed, and what is held is let go by the next purge."""
    world.server.held.unavailable = "the mail storage is away"
    verdict = await world.purge()
    assert verdict.counts["histories"] == 1
    assert any("mail storage is away" in error.reason for error in world.run.errors)
    world.server.held.unavailable = ""
    await world.purge()
    assert set(world.server.held.contents) == {digest_of(content("stays"))}


@pytest.mark.usefixtures("held")
async def test_what_is_held_is_not_lost(world: BeyondWorld) -> None:
    """The list of lost contents names none that the AppServer holds."""
    verdict = LostContents(world.store).run(Run(world.clock), world.clock.now())
    assert verdict.successful, verdict.sentence


def repaired(world: BeyondWorld, finding: Finding) -> set[str]:
    """Repair with an AppServer that has nothing any more; return what is known as lost then."""
    Repair(world.path, StoreKeeper(world.store), clock=world.clock).run(Run(world.clock), [finding])
    return losses.known(Tree(world.path))


async def test_a_missing_content_that_is_held_is_stored_and_not_lost(world: BeyondWorld) -> None:
    """A blob that vanished comes back from what the AppServer holds."""
    await world.have("one")
    digest = digest_of(content("one"))
    world.server.held.contents[digest] = content("one")
    path = next((world.path / "items").rglob(digest))
    path.unlink()
    finding = Finding(code="blob.missing", path=str(path.relative_to(world.path)), digest=digest)
    assert repaired(world, finding) == set()
    assert path.exists()
    assert repaired(world, Finding(code="blob.missing", path=finding.path, digest=digest)) == set()


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_damaged_file_of_a_content_that_is_outside_is_no_loss(
    world: BeyondWorld, is_running: bool
) -> None:
    """It is moved aside, and read from the volume from then on; also where no daemon runs."""
    await world.have("one")
    digest = digest_of(content("one"))
    with outside_of(world) as outside:
        path = next((world.path / "items").rglob(digest))
        path.write_bytes(b"not it")
        if not is_running:
            world.store.blobs.outside = None
        finding = Finding(code="blob.corrupt", path=str(path.relative_to(world.path)), digest=digest)
        assert repaired(world, finding) == set()
        assert not path.exists()
        world.store.blobs.outside = outside
        assert world.store.blobs.read(digest) == content("one")


async def test_a_content_that_a_waiting_change_names_is_no_orphan(world: BeyondWorld) -> None:
    """Nothing is moved aside that a change needs which came while the check ran."""
    body = b"Subject: it waits\r\n\r\n"
    waiting = change("9", body=body)
    world.store.blobs.commit([world.store.blobs.stage(body)])
    world.store.ledger.put_waiting(
        Waiting(
            key=ItemKey(waiting.account, waiting.kind, waiting.item),
            sequence=1,
            change=encode_change(waiting),
            attempts=0,
            next_try=world.clock.now(),
            reason="away",
        )
    )
    assert StoreKeeper(world.store).is_awaited(digest_of(body))


@contextmanager
def outside_of(world: BeyondWorld) -> Iterator[BlobsOutside]:
    """Send everything to an external volume."""
    catalog = Catalog(world.store.layout.catalog)
    external = External(identity="there", title="there", volume=MemoryVolume(), is_remote=False)
    outside = BlobsOutside(catalog, external, now=world.clock.now)
    cache = Cache(Path(world.path))
    cache.sweep(catalog)
    Sender(outside, cache, now=world.clock.now).send_singles(catalog.queued(10))
    world.store.blobs.outside = outside
    try:
        yield outside
    finally:
        catalog.close()
