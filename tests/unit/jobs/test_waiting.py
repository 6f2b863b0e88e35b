"""The waiting room: what could not be read waits in order, survives crashes, and ends as the item is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.appservers.base import Reading
from backupd.errors import AppServerUnavailable
from backupd.items import ItemKey, Kind
from backupd.states import ChangeType
from tests.unit.jobs.worlds import ALICE, BODY, BackupWorld, change, finding

DELETED, CREATED, MOVED = ChangeType.DELETED, ChangeType.CREATED, ChangeType.MOVED


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BackupWorld]:
    async with BackupWorld(tmp_path) as made:
        await made.account()
        yield made


def states(world: BackupWorld, item: str) -> list[tuple[str, str]]:
    return [(state.change.value, state.metadata.get("folder", "?")) for state in world.history(item)]


async def retried(world: BackupWorld, seconds: float = 5.0) -> None:
    await world.clock.advance(seconds)
    await world.recorder.waiting.retry()
    await world.record()


async def test_an_outage_delays_photographs_and_not_the_cursor(world: BackupWorld) -> None:
    """While the AppServer is down the cursor goes on; afterwards the item has its state and its events."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    world.server.unavailable = "it is down"
    last = world.journal(change(item, CREATED, event="e1", folder=None))
    await world.record()
    assert (world.recorder.durable_cursor, world.history(item)) == (last, [])
    await retried(world)
    assert world.store.ledger.waiting_count() == 1
    world.crash()
    world.server.unavailable = ""
    await retried(world)
    assert states(world, item) == [("created", "INBOX")]
    assert world.history(item)[0].events == ("source#e1",)
    assert world.store.ledger.waiting_count() == 0


async def test_what_comes_after_a_waiting_change_does_not_overtake_it(world: BackupWorld) -> None:
    """A later photograph of an item that waits is its last state, however the outage ends."""
    world.server.unavailable = "it is down"
    world.journal(change("1", CREATED, event="e1", folder="Old", body=None))
    await world.record()
    world.journal(change("1", MOVED, event="e2", folder="New", at=9))
    await world.record()
    world.server.unavailable = ""
    await retried(world)
    assert states(world, "1") == [("created", "New")]
    assert world.history("1")[0].events == ("source#e1", "source#e2")


async def test_a_deletion_during_an_outage_stays_a_deletion(world: BackupWorld) -> None:
    """An item deleted while its creation waited is recorded as deleted, with what was told of it."""
    world.server.unavailable = "it is down"
    world.journal(change("1", CREATED, event="e1", folder="Told", body=None))
    await world.record()
    world.journal(change("1", DELETED, event="e2", at=9))
    await world.record()
    await retried(world)
    (state,) = world.history("1")
    assert (state.deleted, state.metadata, state.lacking) == (True, {"folder": "Told"}, ("content",))
    assert state.events == ("source#e1", "source#e2")
    world.server.unavailable = ""
    await retried(world, 4_000)
    assert len(world.history("1")) == 1


async def test_a_deletion_keeps_the_last_whole_photograph(world: BackupWorld) -> None:
    """What waited without its content does not take the place of a content that is stored."""
    world.journal(change("1", CREATED, event="e1"))
    await world.record()
    world.server.unavailable = "it is down"
    world.journal(
        change("1", event="e2", folder="B", body=None, at=1), change("1", DELETED, event="e3", at=9)
    )
    await world.record()
    await retried(world)
    last = world.history("1")[-1]
    assert (last.deleted, last.lacking) == (True, ())
    assert world.store.blobs.read(last.digest or "") == BODY


async def test_a_change_journaled_before_the_settled_one_was_recorded_wins(world: BackupWorld) -> None:
    """A row settled while newer changes of its item stand in the journal does not undo those."""
    world.server.unavailable = "it is down"
    world.journal(change("1", CREATED, event="e1", folder="Old", body=None))
    await world.record()
    world.journal(change("1", DELETED, event="e2", at=9))
    world.server.unavailable = ""
    await retried(world)
    assert world.history("1")[-1].deleted
    await retried(world, 4_000)
    assert world.history("1")[-1].deleted
    assert world.store.ledger.waiting_count() == 0


async def test_a_finding_older_than_what_waits_is_left_out(world: BackupWorld) -> None:
    """A scan that listed before a waiting change does not answer it; one that listed after does."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "Now", BODY)
    world.server.unavailable = "it is down"
    world.journal(change(item, CREATED, event="e1", folder=None))
    await world.record()
    world.journal(finding(item, 0, CREATED, folder="Before", at=1))
    await world.record()
    world.server.unavailable = ""
    await retried(world)
    assert states(world, item) == [("created", "Now")]


async def test_a_newer_finding_answers_what_waits(world: BackupWorld) -> None:
    """What a scan read after the waiting change needs no second reading."""
    world.server.unavailable = "it is down"
    last = world.journal(change("1", CREATED, event="e1", folder=None))
    await world.record()
    world.journal(finding("1", last + 1, CREATED, folder="Found", at=1))
    await world.record()
    await retried(world)
    assert states(world, "1") == [("created", "Found")]


async def test_a_finding_that_can_not_be_proved_waits_for_the_truth(world: BackupWorld) -> None:
    """A doubtful deletion found during an outage is looked at later, and taken back where it is none."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    last = world.journal(change(item, CREATED, event="e1"))
    await world.record()
    world.server.unavailable = "it is down"
    world.journal(finding(item, last - 1, DELETED, at=1))
    await world.record()
    assert world.store.ledger.waiting_count() == 1
    world.server.unavailable = ""
    await retried(world)
    assert not world.history(item)[-1].deleted


async def test_a_doubtful_deletion_that_is_true_is_recorded_later(world: BackupWorld) -> None:
    """The same finding, where the item is gone in the end."""
    last = world.journal(change("1", CREATED, event="e1"))
    await world.record()
    world.server.unavailable = "it is down"
    world.journal(finding("1", last - 1, DELETED, at=1))
    await world.record()
    world.server.unavailable = ""
    await retried(world)
    assert world.history("1")[-1].deleted


async def test_a_crash_between_journal_and_ledger_repeats_nothing(world: BackupWorld) -> None:
    """A row that was journaled and not yet removed is settled again without a second state."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    world.server.unavailable = "it is down"
    world.journal(change(item, CREATED, event="e1", folder=None))
    await world.record()
    row = world.store.ledger.waiting(ItemKey(ALICE, Kind.MESSAGE, item))
    assert row is not None
    world.server.unavailable = ""
    await retried(world)
    world.store.ledger.put_waiting(row)
    world.crash()
    await retried(world)
    assert states(world, item) == [("created", "INBOX")]
    assert world.store.ledger.waiting_count() == 0


async def test_a_replay_does_not_change_what_waits(world: BackupWorld) -> None:
    """Entries that joined a row before a crash do not join it again."""
    world.server.unavailable = "it is down"
    world.journal(change("1", CREATED, event="e1", folder=None), change("1", DELETED, event="e2", at=9))
    world.journal(change("2", CREATED, event="e3", folder=None))
    await world.recorder.record_next(1 << 60)
    before = world.store.ledger.waiting_after(None, limit=9)
    world.crash()
    await world.recorder.record_next(1 << 60)
    assert world.store.ledger.waiting_after(None, limit=9) == before


async def test_what_joins_while_a_row_is_read_is_not_lost(world: BackupWorld) -> None:
    """A change that joined a row during its reading is neither removed with it nor overwritten."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    world.server.unavailable = "it is down"
    world.journal(change(item, CREATED, event="e1", folder=None))
    await world.record()
    world.server.unavailable = ""
    read = world.server.read
    failures = [AppServerUnavailable("once more"), None]

    async def interrupted(key: ItemKey) -> Reading:
        failure = failures.pop(0) if failures else None
        world.journal(change(item, MOVED, event=f"e{len(failures) + 2}", folder=None, at=9))
        world.server.read = read  # type: ignore[method-assign]
        await world.record()
        world.server.read = interrupted  # type: ignore[method-assign]
        if failure is not None:
            raise failure
        return await read(key)

    world.server.read = interrupted  # type: ignore[method-assign]
    await retried(world)
    await retried(world)
    world.server.read = read  # type: ignore[method-assign]
    await retried(world, 4_000)
    assert set(world.history(item)[0].events) == {"source#e1", "source#e2", "source#e3"}


async def test_one_item_that_can_not_be_read_does_not_hold_up_the_others(world: BackupWorld) -> None:
    """A row whose reading fails for a reason of its own waits longer; the rows behind it are settled."""
    items = [await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"%d" % number) for number in range(3)]
    world.server.unavailable = "it is down"
    world.journal(*(change(item, CREATED, event=item, folder=None) for item in items))
    await world.record()
    world.server.unavailable = ""
    read = world.server.read

    async def bad(key: ItemKey) -> Reading:
        if key.item == items[0]:
            raise OSError(5, "bad sector")
        return await read(key)

    world.server.read = bad  # type: ignore[method-assign]
    await retried(world)
    assert [len(world.history(item)) for item in items] == [0, 1, 1]


async def test_an_unreachable_appserver_is_asked_once_a_round_and_deletions_go_on(world: BackupWorld) -> None:
    """Of many waiting rows one is tried; what needs no reading is settled all the same."""
    world.server.unavailable = "it is down"
    world.journal(*(change(str(number), CREATED, event=f"e{number}", folder=None) for number in range(9)))
    await world.record()
    world.journal(change("8", DELETED, event="gone", at=9))
    await world.record()
    asked = 0
    read = world.server.read

    async def counted(key: ItemKey) -> Reading:
        nonlocal asked
        asked += 1
        return await read(key)

    world.server.read = counted  # type: ignore[method-assign]
    await retried(world)
    assert asked == 1
    assert world.history("8")[-1].deleted
    assert world.store.ledger.waiting_count() == 8


async def test_what_waits_in_vain_is_tried_less_and_less_often(world: BackupWorld) -> None:
    """Each failure doubles the time to the next try, up to an hour."""
    world.server.unavailable = "it is down"
    world.journal(change("1", CREATED, event="e1", folder=None))
    await world.record()
    key = ItemKey(ALICE, Kind.MESSAGE, "1")
    waits = []
    for _ in range(14):
        row = world.store.ledger.waiting(key)
        assert row is not None
        await world.clock.advance(max(0.0, (row.next_try - world.clock.now()).total_seconds()))
        await world.recorder.waiting.retry()
        again = world.store.ledger.waiting(key)
        assert again is not None
        waits.append((again.next_try - world.clock.now()).total_seconds())
    assert waits[:4] == [2.0, 4.0, 8.0, 16.0]
    assert waits[-1] == 3600.0


async def test_what_waits_tells_since_when(world: BackupWorld) -> None:
    """The oldest change counts, not the newest that joined it; nothing of that reaches the journal."""
    start = world.clock.now()
    world.server.unavailable = "it is down"
    world.journal(change("1", CREATED, event="e1", folder=None, at=1.5))
    await world.record()
    for at in (30, 60):
        world.journal(
            change("1", event=f"e{at}", folder=None, at=at), change("2", CREATED, folder=None, at=40)
        )
        await world.record()
    assert world.store.ledger.waiting_since() == {ALICE: start + timedelta(seconds=1)}
    world.server.unavailable = ""
    await retried(world)
    assert world.store.ledger.waiting_since() == {}
    assert all(entry.change.since is None for entry in world.store.journal.read(0))
    assert world.history("1")[0].start == start + timedelta(seconds=60)
