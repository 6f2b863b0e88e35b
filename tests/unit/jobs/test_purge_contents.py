"""The purge of contents, archives, entries of the server and the journal; and what it leaves behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest

from backupd.appservers.base import DirectoryEntry
from backupd.items import ItemKey, Kind, digest_of
from backupd.retention import Retention
from backupd.states import ChangeType
from backupd.store.ledger_tables import Condemned, KeptRestores
from tests.unit.jobs.purging import PurgedWorld, content
from tests.unit.jobs.worlds import ALICE, change, finding
from tests.world.quick_disk import quick_directory

BOB = "bob"
FOR_EVER = Retention(data_days=0, account_days=0, archive_days=0)


@pytest.fixture
async def world() -> AsyncIterator[PurgedWorld]:
    with quick_directory() as place:
        async with PurgedWorld(place / "backup") as made:
            yield made


def message(item: str, account: str = ALICE) -> ItemKey:
    return ItemKey(account, Kind.MESSAGE, item)


async def test_every_content_that_an_item_ever_had_goes_with_it(world: PurgedWorld) -> None:
    """All versions of a content go, not the last one alone; one that another item refers to stays."""
    (message_id,) = await world.have("first")
    other = await world.server.add(ALICE, Kind.DOCUMENT, "Files", content("shared"))
    edited = await world.server.add(ALICE, Kind.DOCUMENT, "Files", content("shared"))
    await world.scan_all()
    for text in ("second", "third"):
        world.pass_days(1)
        world.server.edit(ALICE, edited, content(text))
        await world.scan_all()
    assert len(world.history(edited, kind=Kind.DOCUMENT)) == 3
    await world.delete(edited)
    world.pass_days(31)
    await world.purge()
    assert world.blobs() == {digest_of(content(text)) for text in ("first", "shared")}
    assert {message_id, other} <= {key.item for key in world.histories()}


async def test_a_blob_goes_only_after_grace(world: PurgedWorld) -> None:
    """A content without a reference stays for the grace; a new reference in it saves it."""
    world.rules = msgspec.structs.replace(world.rules, grace=timedelta(hours=24))
    one, two = await world.have("one", "two")
    await world.delete(one, two)
    world.pass_days(31)
    verdict = await world.purge()
    assert verdict.counts["condemned"] == 2
    assert len(world.blobs()) == 2
    world.pass_days(0.9)
    await world.have("two")
    world.pass_days(0.2)
    verdict = await world.purge()
    assert world.blobs() == {digest_of(content("two"))}
    assert verdict.counts["condemned"] == 0


async def test_a_content_that_only_the_journal_names_is_saved(world: PurgedWorld) -> None:
    """A reference that no history holds yet, but the journal does, keeps a content."""
    staged = world.store.blobs.stage(content("lonely"))
    world.store.blobs.commit([staged])
    world.journal(
        change("9", ChangeType.CREATED, body=None, metadata={"folder": "INBOX"}, digest=staged.digest)
    )
    await world.purge()
    assert staged.digest in world.blobs()
    await world.record()
    await world.purge()
    assert staged.digest in world.referenced() & world.blobs()


async def test_the_histories_save_a_content_that_the_index_does_not_know(world: PurgedWorld) -> None:
    """A content that a history names stays, though the index does not know it; a damaged one counts."""
    (item,) = await world.have("item")
    world.store.index.forget(message(item))
    world.store.index.commit(world.store.index.cursor())
    path = world.store.layout.history(message(item))
    path.write_bytes(path.read_bytes()[:-20])
    verdict = await world.purge()
    assert digest_of(content("item")) in world.blobs()
    assert "referred to after all 1" in verdict.sentence
    assert Condemned(world.store.ledger).count() == 0


async def test_orphans_on_disk_are_found(world: PurgedWorld) -> None:
    """A blob that nobody knows goes, as a crash between content and history leaves one."""
    staged = world.store.blobs.stage(b"nobody's")
    world.store.blobs.commit([staged])
    await world.purge()
    assert staged.digest not in world.blobs()


async def test_an_unreadable_history_saves_every_content(world: PurgedWorld) -> None:
    """While a history file can't be read, nothing is proven to be without a reference."""
    staged = world.store.blobs.stage(b"nobody's")
    world.store.blobs.commit([staged])
    (item,) = await world.have("item")
    path = world.store.layout.history(message(item))
    path.with_name("link").symlink_to(path)
    await world.purge()
    assert staged.digest in world.blobs()
    assert any("a history can't be read" in error.reason for error in world.run.errors)


async def test_old_archives_go_but_the_newest(world: PurgedWorld) -> None:
    """Archives follow their own retention, but the newest of each kind; all stay where they do not follow."""
    await world.have("one")
    world.pass_days(31)
    await world.purge()
    assert len(list(world.store.layout.servers.glob("configuration_*"))) == 1
    await world.scan_all()
    assert len(list(world.store.layout.servers.glob("configuration_*"))) == 2
    world.rules = msgspec.structs.replace(world.rules, archives_follow=False)
    await world.purge()
    assert len(list(world.store.layout.servers.glob("configuration_*"))) == 2
    world.rules = msgspec.structs.replace(world.rules, archives_follow=True)
    verdict = await world.purge()
    assert len(list(world.store.layout.servers.glob("configuration_*"))) == 1
    assert verdict.counts["archives"] == 1


async def test_deleted_entries_of_the_server_go(world: PurgedWorld) -> None:
    """Domains, COS and mailing lists follow the retention of data."""
    world.server.entries = [
        DirectoryEntry(kind=Kind.DOMAIN, id="d1", metadata={"name": "example.com"}),
        DirectoryEntry(kind=Kind.COS, id="c1", metadata={"name": "default"}),
    ]
    await world.scan_all()
    world.server.entries.pop()
    await world.scan_all(force=True)
    world.pass_days(31)
    await world.purge()
    assert set(world.histories()) == {ItemKey("", Kind.DOMAIN, "d1")}


async def test_the_manifest_tells_what_went(world: PurgedWorld) -> None:
    """Each purge that takes something leaves a list: what, when it was deleted, its last content, and why."""
    (item,) = await world.have("item")
    deleted_at = world.clock.now()
    await world.delete(item)
    await world.have("bob's", account=BOB)
    await world.delete_account(BOB)
    world.pass_days(31)
    await world.purge()
    lines = world.manifest()
    (history,) = [line for line in lines if line["what"] == "history" and line["item"] == item]
    assert history["account"] == ALICE
    assert history["digest"] == digest_of(content("item"))
    assert history["deleted"][:10] == f"{deleted_at:%Y-%m-%d}"
    assert [line["account"] for line in lines if line["what"] == "account"] == [BOB]
    assert {line["digest"] for line in lines if line["what"] == "blob"} == {
        digest_of(content("item")),
        digest_of(content("bob's")),
    }
    assert lines[-1]["what"] == "end"


async def test_what_restores_put_back_is_forgotten_with_the_item(world: PurgedWorld) -> None:
    """The ledger keeps nothing of items that are gone."""
    (item,) = await world.have("item")
    restores = KeptRestores(world.store.ledger)
    restores.end(ALICE, {(item, 1, "somewhere"): "new"})
    restores.begin(ALICE, [(item, 2, "somewhere")], 5)
    await world.delete(item)
    world.pass_days(31)
    await world.purge()
    assert not restores.restored(ALICE)
    assert not restores.begun(ALICE)


async def test_an_index_built_anew_does_not_bring_purged_items_back(world: PurgedWorld) -> None:
    """The journal still tells of purged items; losing the index does not have them recorded again."""
    (item,) = await world.have("item")
    await world.delete(item)
    world.pass_days(31)
    await world.purge()
    world.recorder.close()
    world.store.close()
    for path in world.path.glob("index.sqlite*"):
        path.unlink()
    world.open()
    assert world.store.index_was_built
    await world.record()
    assert message(item) not in world.histories()


async def test_old_journal_segments_go(world: PurgedWorld) -> None:
    """Segments of what is recorded go with the data; the one that is written to and the recent ones stay."""
    world.store.journal._segment_bytes_max = 200_000
    await world.account()
    for start in range(0, 16_000, 1_000):
        world.journal(
            *(finding(str(start + one), 0, metadata={"folder": "INBOX"}, body=None) for one in range(1_000))
        )
    before = len(list(world.store.layout.journal.iterdir()))
    cursor = world.store.journal.last_sequence
    world.store.index.commit(cursor)
    world.pass_days(31 + 3000)
    await world.purge()
    after = len(list(world.store.layout.journal.iterdir()))
    assert 1 < after < before
    assert world.store.journal.first_sequence <= cursor - 10_000 + 1
