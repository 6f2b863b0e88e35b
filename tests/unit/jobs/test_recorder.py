"""Recorder: what reaches histories and index, whatever order, repetition, crash and failure do to it."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest

from backupd.appservers.base import Reading
from backupd.errors import SpaceExhausted, VolumeError
from backupd.items import ItemKey, Kind, digest_of
from backupd.jobs.record import recorder as recorder_module
from backupd.jobs.record.recorder import RECENT_EVENTS_MAX
from backupd.states import ChangeType
from tests.unit.jobs.worlds import ALICE, BODY, BackupWorld, change, finding
from tests.unit.store.making import failing

DELETED, CREATED, MOVED = ChangeType.DELETED, ChangeType.CREATED, ChangeType.MOVED


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BackupWorld]:
    async with BackupWorld(tmp_path) as made:
        await made.account()
        yield made


def folders(world: BackupWorld, item: str) -> list[str]:
    return [
        "deleted" if state.deleted else state.metadata.get("folder", "?") for state in world.history(item)
    ]


async def test_a_body_that_came_along_is_stored_and_nothing_is_asked(world: BackupWorld) -> None:
    """An event with photograph and body is recorded without the AppServer."""
    world.server.unavailable = "it is down"
    world.journal(change("1", CREATED, event="e1"))
    await world.record()
    (state,) = world.history("1")
    assert world.store.blobs.read(state.digest or "") == BODY
    assert state.events == ("source#e1",)
    assert world.store.index.item(ALICE, "1") is not None


async def test_an_older_finding_behind_a_newer_event_is_not_believed(world: BackupWorld) -> None:
    """A finding whose listing began before an event of the same batch does not undo that event."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    basis = world.store.journal.last_sequence
    await world.server.move(ALICE, item, "Later")
    world.journal(
        change(item, MOVED, event="e1", folder="Later"),
        finding(item, basis, CREATED, folder="INBOX"),
    )
    await world.record()
    assert folders(world, item)[-1] == "Later"


async def test_an_older_finding_behind_events_that_changed_nothing_is_not_believed(
    world: BackupWorld,
) -> None:
    """Two events that undid each other while an account was listed win over what was listed in between."""
    world.journal(change("1", CREATED, folder="INBOX", event="e0"))
    await world.record()
    basis = world.store.journal.last_sequence
    world.server.vanished.add("1")
    for crashes in (False, True):
        world.journal(
            change("1", MOVED, folder="Trash", event=f"a{crashes}", at=1),
            change("1", MOVED, folder="INBOX", event=f"b{crashes}", at=1),
        )
        await world.record()
        if crashes:
            world.crash()
        asked = await _reads(world, finding("1", basis, folder="Trash", at=1))
        assert asked == ["1"]


async def test_a_bare_change_is_not_taken_for_answered_by_an_older_finding(world: BackupWorld) -> None:
    """An event without a photograph is read from the AppServer, though an older finding follows it."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "Now", BODY)
    world.journal(change(item, MOVED, event="e1", folder=None), finding(item, 0, CREATED, folder="Before"))
    await world.record()
    assert folders(world, item) == ["Now"]
    assert world.history(item)[0].events == ("source#e1",)


async def test_a_finding_as_new_as_the_history_is_recorded_as_it_is(world: BackupWorld) -> None:
    """A finding whose listing began after everything known needs no second look."""
    world.journal(change("1", CREATED, event="e1"))
    await world.record()
    asked = await _reads(world, finding("1", world.store.journal.last_sequence, folder="Found", at=5))
    assert asked == []
    assert folders(world, "1") == ["INBOX", "Found"]


@pytest.mark.parametrize("crashes", [False, True])
async def test_an_event_delivered_again_changes_nothing_even_if_it_left_no_state(
    world: BackupWorld, *, crashes: bool
) -> None:
    """A repeated event that had left the item as it was does not come to life behind a later deletion."""
    nothing_new = change("1", event="e2", at=1)
    world.journal(change("1", CREATED, event="e1"), nothing_new, change("1", DELETED, event="e3", at=2))
    await world.record()
    if crashes:
        world.crash()
    world.journal(nothing_new, change("1", DELETED, event="e3", at=2))
    await world.record()
    assert folders(world, "1") == ["INBOX", "deleted"]
    assert world.recorder.counts.duplicates == 2


async def test_a_late_change_of_a_deleted_item_does_not_bring_it_to_life(world: BackupWorld) -> None:
    """A change without a photograph of an item that is recorded as deleted, and is gone, adds nothing."""
    world.journal(change("1", CREATED, event="e1"), finding("1", 1, DELETED, at=5))
    await world.record()
    world.journal(change("1", event="late", folder=None, at=1))
    await world.record()
    assert folders(world, "1") == ["INBOX", "deleted"]


async def test_an_item_created_again_lives_again(world: BackupWorld) -> None:
    """A creation with its photograph behind a deletion is a new creation in the same history."""
    world.journal(change("1", CREATED, event="e1"), change("1", DELETED, event="e2", at=1))
    world.journal(change("1", CREATED, event="e3", at=2, folder="Again"))
    await world.record()
    assert [(state.change, state.deleted) for state in world.history("1")] == [
        (CREATED, False),
        (DELETED, True),
        (CREATED, False),
    ]


async def test_what_vanished_before_it_was_read_is_recorded_as_told(world: BackupWorld) -> None:
    """A gone item is recorded with what its event said and named as lacking content; its end keeps that."""
    world.journal(change("9", CREATED, event="e1", body=None))
    await world.record()
    (state,) = world.history("9")
    assert (state.lacking, state.metadata) == (("content",), {"folder": "INBOX"})
    assert world.recorder.counts.vanished == 1


async def test_a_lacking_state_is_completed_by_a_whole_photograph(world: BackupWorld) -> None:
    """Once the content is there, a new state says so, also where the photograph is the same."""
    digest, size = digest_of(BODY), len(BODY)
    world.journal(change("9", CREATED, event="e1", body=None, digest=digest, size=size))
    await world.record()
    world.journal(change("9", event="e2", at=1))
    await world.record()
    assert [state.lacking for state in world.history("9")] == [("content",), ()]
    assert {state.digest for state in world.history("9")} == {digest}


async def test_a_finding_about_a_vanished_item_is_its_deletion(world: BackupWorld) -> None:
    """A stale finding of an item that is gone when it is looked at marks it as deleted."""
    last = world.journal(change("1", CREATED, event="e1"))
    await world.record()
    world.journal(finding("1", last - 1, folder="Stale", at=1))
    await world.record()
    assert folders(world, "1") == ["INBOX", "deleted"]


async def test_a_deletion_found_too_early_is_taken_back_by_a_look(world: BackupWorld) -> None:
    """An item that arrived after the listing began, and seemed gone, is seen to be there."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    sequence = world.journal(change(item, CREATED, event="e1", folder=None))
    world.journal(finding(item, sequence - 1, DELETED, at=1))
    await world.record()
    assert folders(world, item) == ["INBOX"]


async def test_a_crash_before_the_checkpoint_repeats_nothing(world: BackupWorld) -> None:
    """Replayed entries leave histories and index as they were."""
    world.journal(
        *(change(str(number), CREATED, event=f"c{number}") for number in range(20)),
        *(change(str(number), event=f"m{number}", folder="B", at=1) for number in range(20)),
    )
    while (await world.recorder.record_next(1 << 60)).more:
        pass
    before = {str(number): world.history(str(number)) for number in range(20)}
    dump = list(world.store.index.dump())
    world.crash()
    assert world.recorder.cursor == 0
    await world.record()
    assert {str(number): world.history(str(number)) for number in range(20)} == before
    assert list(world.store.index.dump()) == dump


@pytest.mark.parametrize(
    "step", ["history.append", "history.appended", "index.begin", "blobs.commit", "index.commit"]
)
async def test_a_disk_that_fails_in_any_step_costs_a_repetition_and_no_more(
    world: BackupWorld, step: str
) -> None:
    """After a failed round the next one records the same, once; nothing staged is left behind."""
    world.journal(
        *(change(str(number), CREATED, event=f"e{number}", body=b"%d" % number) for number in range(5))
    )
    bare = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"read from the server")
    world.journal(change(bare, CREATED, event="e9", folder=None))
    with failing(step), pytest.raises((OSError, SpaceExhausted, VolumeError)):
        await world.record()
    await world.record()
    for item in (*map(str, range(5)), bare):
        assert len(world.history(item)) == 1
        assert world.store.index.item(ALICE, item) is not None
    assert list((world.path / ".staged").iterdir()) == []


@pytest.mark.parametrize("body", [BODY, None])
async def test_contents_staged_in_vain_are_dropped(world: BackupWorld, body: bytes | None) -> None:
    """A full disk is not filled further by what a failed round had staged, read or come along."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    world.journal(change(item, CREATED, event="e1", body=body))
    with failing("blobs.commit"), pytest.raises(OSError, match="injected"):
        await world.record()
    assert list((world.path / ".staged").iterdir()) == []


async def test_one_unreadable_content_does_not_stop_the_others(world: BackupWorld, tmp_path: Path) -> None:
    """A content with a bad sector makes its item wait; what came with it is recorded."""
    bad = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    read = world.server.read

    class BadContent:
        size = 3

        def open(self) -> object:
            return _BadFile()

    async def read_badly(key: ItemKey) -> Reading:
        reading = await read(key)
        return Reading(metadata=reading.metadata, content=BadContent()) if key.item == bad else reading

    world.server.read = read_badly  # type: ignore[method-assign]
    world.journal(change(bad, CREATED, event="e1", folder=None), change("2", CREATED, event="e2"))
    await world.record()
    assert (world.history(bad), len(world.history("2"))) == ([], 1)
    waiting = world.store.ledger.waiting(ItemKey(ALICE, Kind.MESSAGE, bad))
    assert waiting is not None
    assert "can't be read" in waiting.reason


class _BadFile:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def read(self, _size: int) -> bytes:
        raise OSError(errno.EIO, "bad sector")


async def test_a_corrupt_history_makes_its_item_wait_and_the_rest_go_on(world: BackupWorld) -> None:
    """What can't be appended waits, in order, until the history is moved aside."""
    world.journal(change("1", CREATED, event="e1"), change("2", CREATED, event="e2"))
    await world.record()
    path = next(path for path in world.path.rglob("1") if path.is_file())
    whole = path.read_bytes()
    path.write_bytes(b"[\n{garbage}\n{more garbage}\n")
    world.crash()
    world.journal(
        change("1", event="e3", folder="A", at=1),
        change("1", event="e4", folder="B", at=2),
        change("2", event="e5", folder="A", at=1),
    )
    await world.record()
    world.journal(change("1", event="e6", folder="C", at=3))
    await world.record()
    assert folders(world, "2") == ["INBOX", "A"]
    path.write_bytes(whole)
    world.crash()
    await world.clock.advance(100)
    assert (await world.recorder.waiting.retry()).settled == 1
    await world.record()
    assert folders(world, "1") == ["INBOX", "C"]
    assert set(world.history("1")[-1].events) == {"source#e3", "source#e4", "source#e6"}
    assert world.store.ledger.waiting_count() == 0


async def test_a_publishers_hole_opens_one_gap_whatever_is_replayed(world: BackupWorld) -> None:
    """A missing number opens a gap of its account; reading the same entries again opens none."""
    world.journal(change("1", CREATED, event="e1", number=1), change("2", CREATED, event="e4", number=4))
    await world.recorder.record_next(1 << 60)
    (gap,) = world.store.ledger.gaps()
    assert (gap.account, gap.reason) == (ALICE, "sequence_hole")
    world.store.ledger.close_gap(gap.id, world.clock.now())
    world.crash()
    world.journal(change("3", CREATED, event="e5", number=5))
    await world.record()
    assert world.store.ledger.gaps() == []


async def test_an_emptied_folder_opens_a_gap_and_no_history(world: BackupWorld) -> None:
    """A bulk action without a list of items is a gap."""
    world.journal(change("f", ChangeType.EMPTIED, event="e1"))
    await world.record()
    assert [gap.reason for gap in world.store.ledger.gaps()] == ["folder_emptied"]
    assert world.history("f") == []
    assert world.recorder.durable_cursor == 1


async def test_a_corrupt_record_is_a_gap_of_all_and_the_rest_is_recorded(world: BackupWorld) -> None:
    """Recording goes on behind a damaged journal record, and says what was skipped."""
    world.journal(change("1", CREATED, event="e1"))
    world.journal(change("2", CREATED, event="e2"))
    world.journal(change("3", CREATED, event="e3"))
    segment = next((world.path / "journal").iterdir())
    content = bytearray(segment.read_bytes())
    content[content.index(b"source#e2")] ^= 0xFF
    segment.write_bytes(content)
    world.crash()
    await world.record()
    assert [bool(world.history(item)) for item in "123"] == [True, False, True]
    (gap,) = world.store.ledger.gaps()
    assert (gap.account, gap.reason) == ("", "journal_corrupt")


async def test_memory_of_one_item_is_bounded(world: BackupWorld) -> None:
    """An item that changes for ever does not make the recorder remember all its events."""
    world.journal(
        *(
            change("1", event=f"e{number}", folder=str(number), at=number)
            for number in range(RECENT_EVENTS_MAX * 3)
        )
    )
    await world.record()
    (recent,) = world.recorder._recent.values()
    assert len(recent.events) <= RECENT_EVENTS_MAX + 1
    assert len(world.history("1")) == RECENT_EVENTS_MAX * 3


async def test_contents_are_staged_as_they_come(world: BackupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many items that must be read, no more than a few contents are in memory at a time."""
    items = [await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"%d" % number) for number in range(50)]
    alive: list[int] = []
    most = 0
    read = world.server.read
    stage = world.store.blobs.stage

    async def counted(key: ItemKey) -> Reading:
        nonlocal most
        alive.append(1)
        most = max(most, len(alive))
        return await read(key)

    def staged(content: object) -> object:
        alive.pop()
        return stage(content)

    monkeypatch.setattr(world.server, "read", counted)
    monkeypatch.setattr(world.store.blobs, "stage", staged)
    world.journal(*(change(item, CREATED, event=item, folder=None) for item in items))
    await world.record()
    assert most <= recorder_module.READS_AT_ONCE
    assert all(len(world.history(item)) == 1 for item in items)


async def test_unripe_changes_are_held_back_and_the_cursor_with_them(world: BackupWorld) -> None:
    """The cursor stays before a change that may still be merged with one to come."""
    world.journal(change("1", CREATED, event="e1", at=0))
    await world.record(ripe_through=0)
    assert (world.history("1"), world.recorder.cursor) == ([], 0)
    world.journal(change("1", event="e2", folder="B", at=timedelta(milliseconds=50).total_seconds()))
    await world.record()
    (state,) = world.history("1")
    assert (state.change, state.events) == (CREATED, ("source#e1", "source#e2"))


async def _reads(world: BackupWorld, *changes: object) -> list[str]:
    """Record changes; return the items that the AppServer was asked for."""
    asked = []
    read = world.server.read

    async def noted(key: ItemKey) -> Reading:
        asked.append(key.item)
        return await read(key)

    world.server.read = noted  # type: ignore[method-assign]
    world.journal(*changes)  # type: ignore[arg-type]
    await world.record()
    world.server.read = read  # type: ignore[method-assign]
    return asked
