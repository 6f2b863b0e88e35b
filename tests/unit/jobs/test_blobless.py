"""Blobless mode of recorder and scans: nothing is stored, all can be read; off again, all comes home."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backupd.appservers.base import Reading
from backupd.errors import AppServerUnavailable, BlobMissing, CorruptBlob, SpaceExhausted
from backupd.items import ItemKey, Kind, digest_of
from backupd.jobs.restore import ItemRestore
from backupd.jobs.smartscan.tally import ScanOptions
from backupd.operations import Run
from backupd.states import ChangeType
from backupd.store.history_format import parse
from tests.unit.jobs.worlds import ALICE, BODY, BackupWorld, change
from tests.unit.store.making import failing


class BloblessWorld(BackupWorld):
    """A backup that leaves contents with its AppServer while `blobless`."""

    blobless = True

    def open(self) -> None:
        super().open()
        self.store.keeping.leave_with(self.server.held, lambda: self.blobless)

    def digests(self) -> list[str]:
        """Return what is stored in the Backup Path."""
        return list(self.store.blobs.digests())

    def damaged(self) -> list[str]:
        """Return the items that would count as damaged: a state that needs a blob and has none."""
        return [
            found.key.item
            for found in self.store.histories.walk()
            for state in found.states
            if state.digest and not state.held and "content" not in state.lacking
            if not self.store.blobs.contains(state.digest)
        ]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BloblessWorld]:
    async with BloblessWorld(tmp_path) as made:
        await made.account()
        yield made


async def message(world: BloblessWorld, content: bytes = BODY) -> str:
    return await world.server.add(ALICE, Kind.MESSAGE, "INBOX", content)


async def test_a_scan_records_digests_and_stores_nothing(world: BloblessWorld) -> None:
    """Histories have digest and size and say `held`; no blob is written; a second scan finds nothing new."""
    item = await message(world)
    await world.scan_all()
    (state,) = world.history(item)
    assert (state.digest, state.size, state.held) == (digest_of(BODY), len(BODY), True)
    assert world.digests() == []
    assert world.store.blobs.read(state.digest or "") == BODY
    assert world.damaged() == []
    last = world.store.journal.last_sequence
    await world.scan_all(deep=True)
    assert world.store.journal.last_sequence == last


async def test_an_event_with_its_content_has_the_item_held(world: BloblessWorld) -> None:
    """The item itself is held, though the event brought its content along; the hold is durable by then."""
    item = await message(world)
    world.journal(change(item))
    await world.record()
    (state,) = world.history(item)
    assert state.held
    assert not state.lacking
    assert world.server.held.synced
    assert world.digests() == []
    assert world.server.held.contents == {digest_of(BODY): BODY}


async def test_what_was_gone_before_it_was_read_is_held_from_the_event(world: BloblessWorld) -> None:
    """Created and deleted at once: the content that came along is all there is, and it is kept."""
    world.journal(change("1", ChangeType.CREATED, at=0), change("1", ChangeType.DELETED, at=1, folder=None))
    await world.record()
    first, last = world.history("1")
    assert (first.lacking, first.held, last.deleted, last.held) == ((), True, True, True)
    assert world.store.blobs.read(digest_of(BODY)) == BODY


async def test_what_nobody_can_hold_is_told_as_lacking(world: BloblessWorld) -> None:
    """No content came along and the item is gone: `lacking` says so, and `held` does not claim anything."""
    world.journal(change("1", body=None))
    await world.record()
    (state,) = world.history("1")
    assert state.lacking == ("content",)
    assert not state.held


async def test_an_appserver_that_can_not_hold_at_the_moment_makes_wait(world: BloblessWorld) -> None:
    """A full mail storage delays the photograph, and nothing is recorded that could not be restored."""
    item = await message(world)
    world.server.held.unavailable = "no space"
    world.journal(change(item))
    await world.record()
    assert world.history(item) == []
    world.server.held.unavailable = ""
    await world.clock.advance(3)
    await world.recorder.waiting.retry()
    await world.record()
    assert [state.held for state in world.history(item)] == [True]
    assert world.digests() == []


async def test_a_deleted_item_is_restored_from_what_is_held(world: BloblessWorld) -> None:
    """What a user deleted for good comes back with its bytes, by the same restore as ever."""
    item = await message(world)
    await world.scan_all()
    world.server.remove(ALICE, item)
    await world.scan_all()
    assert world.history(item)[-1].deleted
    restored = await ItemRestore(world.store, world.server, clock=world.clock).run(
        ALICE, item, when=None, folder=None
    )
    copy = next(one for one in (await world.server.changes(ALICE, None)).items if one.kind is Kind.MESSAGE)
    assert copy.item != item
    assert world.server._accounts[ALICE].items[copy.item].content == BODY, restored


async def test_a_held_content_that_was_rewritten_is_never_given_out(world: BloblessWorld) -> None:
    """Other bytes under a digest are damage, and one that is gone is missing: neither is a content."""
    item = await message(world)
    await world.scan_all()
    world.server.held.contents[digest_of(BODY)] = b"rewritten"
    with pytest.raises(CorruptBlob):
        world.store.blobs.read(digest_of(BODY))
    world.server.held.contents.clear()
    with pytest.raises(BlobMissing):
        world.store.blobs.read(digest_of(BODY))
    # The item is still there: a deep scan has it held again.
    await world.scan_all(deep=True)
    assert world.store.blobs.read(digest_of(BODY)) == BODY
    assert len(world.history(item)) == 1


async def test_turned_on_it_keeps_the_blobs_that_are_there(world: BloblessWorld) -> None:
    """From now on nothing is stored; what was stored stays, and its states do not say `held`."""
    world.blobless = False
    before = await message(world)
    await world.scan_all()
    world.blobless = True
    after = await message(world, b"Subject: later\r\n\r\n")
    world.server.flag(ALICE, before, ["seen"])
    await world.scan_all()
    assert world.digests() == [digest_of(BODY)]
    assert [state.held for state in world.history(before)] == [False, False]
    assert [state.held for state in world.history(after)] == [True]
    assert world.damaged() == []


async def test_off_again_a_deep_scan_fetches_everything(world: BloblessWorld) -> None:
    """Contents of live, deleted and earlier states come home; then the AppServer need not hold them."""
    live, gone, edited = [await message(world, b"Subject: %d\r\n\r\n" % number) for number in range(3)]
    await world.scan_all()
    world.server.remove(ALICE, gone)
    world.server.edit(ALICE, edited, b"Subject: changed\r\n\r\n")
    await world.scan_all(deep=True)
    world.blobless = False
    assert len(list(world.store.keeping.not_fetched(world.store.index.known_blob))) == 4
    await world.scan_all()
    assert world.digests() == [], "only a deep scan fetches"
    # A change before that: the state still tells where its content is.
    world.server.remove(ALICE, live)
    world.journal(change(live, ChangeType.DELETED, folder=None))
    await world.record()
    assert world.history(live)[-1].held
    verdict = await world.scan_all(deep=True)
    assert "4 held contents fetched" in verdict
    assert len(world.digests()) == 4
    assert world.store.keeping.left == 0
    for state in (state for item in (live, gone, edited) for state in world.history(item)):
        assert world.store.blobs.contains(state.digest or "")
    # Held within this very moment is spared; the next deep scan lets it go.
    await world.scan_all(deep=True)
    assert all(world.store.blobs.contains(digest) for digest in world.server.held.contents)


async def test_the_verdict_counts_what_the_scan_itself_stored(world: BloblessWorld) -> None:
    """Contents of items that are all still there come home by the scan, and are told; the next tells none."""
    for number in range(3):
        await message(world, b"Subject: %d\r\n\r\n" % number)
    await world.scan_all()
    world.blobless = False
    assert "3 held contents fetched into the backup" in await world.scan_all(deep=True)
    assert len(world.digests()) == 3
    assert "fetched" not in await world.scan_all(deep=True)


async def test_a_scan_that_fails_for_one_item_fetches_all_the_same(world: BloblessWorld) -> None:
    """An item that can't be read does not keep what was deleted from coming home."""
    gone, unreadable = await message(world), await message(world, b"Subject: 2\r\n\r\n")
    await world.scan_all()
    world.server.remove(ALICE, gone)
    await world.scan_all()
    world.blobless = False
    read = world.server.read

    async def refusing(key: ItemKey) -> Reading:
        if key.item == unreadable:
            raise AppServerUnavailable("input/output error")
        return await read(key)

    world.server.read = refusing  # type: ignore[method-assign]
    with pytest.raises(AppServerUnavailable, match=r"1 unreadable.* held contents fetched"):
        await world.scan.run_all(Run(world.clock), ScanOptions(deep=True))
    assert digest_of(BODY) in world.digests()


async def test_what_can_not_be_fetched_is_named_and_stays_counted(world: BloblessWorld) -> None:
    """A held content that is damaged is listed in the verdict, counted as left, and never released."""
    item = await message(world)
    await world.scan_all()
    world.server.remove(ALICE, item)
    await world.scan_all()
    world.blobless = False
    world.server.held.contents[digest_of(BODY)] = b"rewritten"
    run = Run(world.clock)
    verdict = await world.scan.run_all(run, ScanOptions(deep=True))
    assert "1 held contents could not be fetched" in verdict
    assert digest_of(BODY) in {error.item for error in run.errors}
    assert world.store.keeping.left == 1
    assert world.server.held.contains(digest_of(BODY))
    assert world.digests() == []


@pytest.mark.parametrize("step", ["history.append", "index.commit", "checkpoint.sync"])
async def test_a_crash_on_the_way_records_the_same_states(world: BloblessWorld, step: str) -> None:
    """Broken off and begun again, a round ends as an undisturbed one: held, whole, once."""
    item = await message(world)
    world.journal(change(item))
    with failing(step), pytest.raises((OSError, SpaceExhausted)):
        await world.record()
    world.crash()
    await world.record()
    (state,) = world.history(item)
    assert state.held
    assert world.store.blobs.read(state.digest or "") == BODY


async def test_a_hold_that_is_not_durable_records_nothing(world: BloblessWorld) -> None:
    """Where the sync of what is held fails, no history refers to it yet."""
    item = await message(world)
    world.journal(change(item))

    def unsynced() -> None:
        raise AppServerUnavailable("input/output error")

    world.server.held.make_durable = unsynced  # type: ignore[method-assign]
    with pytest.raises(AppServerUnavailable):
        await world.record()
    assert world.history(item) == []
    del world.server.held.make_durable  # type: ignore[method-assign]
    await world.record()
    assert world.history(item)[0].held


async def test_a_history_with_and_without_the_mark_reads_alike(world: BloblessWorld) -> None:
    """The mark is one more key of a state: absent, it is false, and the file is JSON as ever."""
    item = await message(world)
    await world.scan_all()
    content = world.store.layout.history(world.store.index.item(ALICE, item).key).read_bytes()  # type: ignore[union-attr]
    assert b'"held":true' in content
    old = parse(content.replace(b',"held":true', b""), "old").states
    assert [state.held for state in old] == [False]
