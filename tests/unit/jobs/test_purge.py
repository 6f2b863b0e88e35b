"""The purge over a backup of an AppServer in memory: what goes, what stays, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest

from backupd.errors import UnknownItem, UsageError
from backupd.items import ItemKey, Kind, digest_of
from backupd.jobs.purge import plan
from backupd.jobs.purge.purge import PurgeRefused
from backupd.jobs.restore import ItemRestore
from backupd.retention import Retention, Stay
from backupd.states import ChangeType
from backupd.store import purging
from tests.unit.jobs.purging import THIRTY, PurgedWorld, content
from tests.unit.jobs.worlds import ALICE, change
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


async def test_what_was_deleted_longer_ago_than_retention_goes(world: PurgedWorld) -> None:
    """History and content of an item go once its deletion is older than retention; nothing else does."""
    old, young, live = await world.have("old", "young", "live")
    await world.delete(old)
    world.pass_days(20)
    await world.delete(young)
    world.pass_days(10.5)
    verdict = await world.purge()
    assert message(old) not in world.histories()
    assert {message(young), message(live)} <= set(world.histories())
    assert digest_of(content("old")) not in world.blobs()
    assert world.blobs() == world.referenced()
    assert world.index_is_true()
    assert verdict.counts["histories"] == 1
    assert "1 history and 0 accounts removed; 1 blob removed" in verdict.sentence
    assert "deleted within retention 1" in verdict.sentence


async def test_a_deleted_account_stays_whole_then_goes_whole(world: PurgedWorld) -> None:
    """All that went with an account can be brought back until its own retention has passed; then none."""
    world.rules = msgspec.structs.replace(
        world.rules, retention=Retention(data_days=10, account_days=40, archive_days=0)
    )
    before, with_it, live = await world.have("long before", "with the account", "left in it")
    await world.have("bob's", account=BOB)
    await world.delete(before)
    world.pass_days(15)
    await world.delete(with_it)
    world.pass_days(0.5)
    await world.delete_account()
    world.pass_days(35)
    await world.purge()
    kept = set(world.histories())
    assert message(before) not in kept
    assert {message(with_it), message(live), ItemKey(ALICE, Kind.ACCOUNT, ALICE)} <= kept
    world.pass_days(6)
    verdict = await world.purge()
    assert {key.account for key in world.histories()} == {BOB, ""} - {""}
    assert not world.store.layout.account(ALICE).exists()
    assert not purging.moved_aside(world.store.layout)
    assert world.blobs() == {digest_of(content("bob's"))}
    assert world.index_is_true()
    assert (verdict.counts["accounts"], verdict.counts["accountHistories"]) == (1, 4)
    assert world.store.index.find_account(f"{ALICE}@example.com") is None


@pytest.mark.parametrize("reason", [Stay.LEGAL_HOLD, Stay.SUSPENDED])
async def test_a_protection_overrides_every_retention(world: PurgedWorld, reason: Stay) -> None:
    """Of a protected account nothing goes, neither an item nor the account, and the verdict says why."""
    items = await world.have("one", "two")
    await world.delete(items[0])
    await world.delete_account()
    world.kept.protections[ALICE] = reason
    before = world.histories()
    world.pass_days(400)
    verdict = await world.purge(days=1)
    assert world.histories() == before
    assert world.referenced() == world.blobs()
    assert verdict.counts["accounts"] == 0
    world.kept.protections.clear()
    await world.purge(days=1)
    assert not world.histories()


async def test_an_account_that_is_not_recorded_any_more_goes_like_a_deleted_one(world: PurgedWorld) -> None:
    """Retention counts from when an account was disabled; one that is enabled again stays."""
    await world.have("alice's")
    await world.have("bob's", account=BOB)
    world.kept.disabled = {ALICE: world.clock.now(), BOB: world.clock.now()}
    world.pass_days(29)
    await world.purge()
    assert {ALICE, BOB} <= {key.account for key in world.histories()}
    world.pass_days(2)
    del world.kept.disabled[BOB]
    await world.purge()
    assert {key.account for key in world.histories()} == {BOB}


async def test_each_class_is_for_ever_by_itself(world: PurgedWorld) -> None:
    """0 days keep one class for ever; with all at 0 the purge ends at once and says so."""
    (item,) = await world.have("item")
    await world.delete(item)
    await world.have("bob's", account=BOB)
    await world.delete_account(BOB)
    world.pass_days(1000)
    world.rules = msgspec.structs.replace(world.rules, retention=FOR_EVER)
    before = world.histories()
    assert "infinite retention" in (await world.purge()).sentence
    assert world.store.statistics.backup().last_purge_ended == world.clock.now()
    assert world.histories() == before
    assert not world.manifest()
    accounts_only = msgspec.structs.replace(FOR_EVER, account_days=30)
    world.rules = msgspec.structs.replace(world.rules, retention=accounts_only)
    verdict = await world.purge()
    assert message(item) in world.histories()
    assert not world.store.layout.account(BOB).exists()
    assert "ZxBackup_DataRetentionDays is 0" in verdict.sentence


async def test_a_dry_run_tells_and_changes_nothing(world: PurgedWorld) -> None:
    """A dry run counts what would go and changes no file of the backup."""
    items = await world.have("one", "two", "three")
    await world.delete(*items[:2])
    world.pass_days(31)
    before = {path: path.read_bytes() for path in world.path.rglob("*") if path.is_file()}
    verdict = await world.purge(dry_run=True)
    assert "dry run, nothing was changed: 2 histories (2 message) and 0 accounts would go" in verdict.sentence
    after = {path: path.read_bytes() for path in world.path.rglob("*") if path.is_file()}
    assert after == before


async def test_an_unusual_share_asks_for_force(world: PurgedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purge that would take more than the share in force stops before anything goes, until it is forced."""
    world.rules = msgspec.structs.replace(world.rules, share_max=20)
    monkeypatch.setattr(plan, "SHARE_ITEMS_MIN", 50)
    await world.account()
    for number in range(60):
        world.journal(change(f"m{number}", ChangeType.CREATED))
    await world.record()
    for number in range(55):
        world.journal(change(f"m{number}", ChangeType.DELETED, at=60))
    await world.record()
    world.pass_days(31)
    with pytest.raises(PurgeRefused, match=r"55 of 60 items would go, more than 20%"):
        await world.purge()
    assert len(world.histories()) == 60
    assert "without force true this purge would stop" in (await world.purge(dry_run=True)).sentence
    await world.purge(force=True)
    assert len(world.histories()) == 5


async def test_a_clock_in_doubt_purges_nothing(world: PurgedWorld) -> None:
    """A purge refuses while the clock is in doubt, says why, and acts once somebody vouches for the clock."""
    (item,) = await world.have("item")
    await world.delete(item)
    world.pass_days(31)
    world.doubt = "the clock says another year"
    with pytest.raises(PurgeRefused, match="clock is in doubt: the clock says another year") as refused:
        await world.purge()
    assert "force true" in refused.value.hint
    foreseen = (await world.purge(dry_run=True)).sentence
    assert "1 history" in foreseen
    assert "would stop: the clock is in doubt: the clock says another year" in foreseen
    assert message(item) in world.histories()
    await world.purge(force=True)
    assert world.accepted == 1
    assert message(item) not in world.histories()


async def test_many_items_of_the_future_put_the_clock_in_doubt(world: PurgedWorld) -> None:
    """A clock set back is noticed by what was recorded, though not by a single item with a wrong time."""
    await world.account()
    for number in range(19):
        world.journal(change(f"m{number}", ChangeType.CREATED, at=7200))
    await world.record()
    await world.purge()
    world.journal(change("m19", ChangeType.CREATED, at=7200))
    await world.record()
    with pytest.raises(PurgeRefused, match="20 items changed later than now"):
        await world.purge()


async def test_purge_days_stand_in_for_every_class(world: PurgedWorld) -> None:
    """`purgeDays` overrides the days of this run alone; 0 is refused with what to do instead."""
    (item,) = await world.have("item")
    await world.delete(item)
    world.pass_days(3)
    with pytest.raises(UsageError, match="1 to 36,500"):
        await world.purge(days=0)
    await world.purge()
    assert message(item) in world.histories()
    await world.purge(days=2)
    assert message(item) not in world.histories()
    assert world.rules.retention == THIRTY


async def test_a_damaged_history_is_never_purged(world: PurgedWorld) -> None:
    """What can't be read can't be judged: it stays, with its account, and is listed."""
    first, second = await world.have("first", "second")
    await world.delete(first, second)
    path = world.store.layout.history(message(first))
    path.write_bytes(path.read_bytes().replace(b'"transaction"', b'"transactiox"', 1))
    world.pass_days(31)
    verdict = await world.purge()
    assert path.exists()
    assert message(second) not in world.histories()
    assert digest_of(content("first")) in world.blobs()
    assert verdict.counts["histories"] == 1
    assert any(first in error.item for error in world.run.errors)
    await world.delete_account()
    world.pass_days(31)
    await world.purge()
    assert path.exists()
    assert any("not purged" in error.reason for error in world.run.errors)


async def test_the_history_is_judged_and_not_the_index(world: PurgedWorld) -> None:
    """An index that calls a living item deleted costs nothing: its history says that it lives."""
    (item,) = await world.have("item")
    await world.delete(item)
    deleted = world.history(item)
    live = msgspec.structs.replace(
        deleted[0],
        transaction=deleted[-1].transaction + 1,
        start=deleted[-1].start + timedelta(seconds=1),
    )
    world.store.histories.append(message(item), [live])
    world.pass_days(31)
    verdict = await world.purge()
    assert [state.deleted for state in world.history(item)] == [False, True, False]
    assert "changed meanwhile 1" in verdict.sentence


async def test_a_change_that_waits_saves_its_item(world: PurgedWorld) -> None:
    """What the journal tells of an item, and no history yet, keeps it from being purged."""
    (item,) = await world.have("item")
    await world.delete(item)
    world.pass_days(31)
    world.journal(change(item, ChangeType.CREATED))
    verdict = await world.purge()
    assert message(item) in world.histories()
    assert "a change waits to be recorded 1" in verdict.sentence
    await world.record()
    await world.purge()
    assert not world.history(item)[-1].deleted


async def test_an_account_that_lives_again_stays(world: PurgedWorld) -> None:
    """An account that was deleted long ago and is there again is whole, with its older histories."""
    await world.have("one")
    await world.delete_account()
    world.pass_days(31)
    await world.have("two")
    await world.purge()
    assert ItemKey(ALICE, Kind.ACCOUNT, ALICE) in world.histories()
    assert not world.history(ALICE, kind=Kind.ACCOUNT)[-1].deleted


async def test_two_purges_find_nothing_left(world: PurgedWorld) -> None:
    """A second purge right after has nothing to do and leaves no list."""
    items = await world.have("one", "two")
    await world.delete(*items)
    world.pass_days(31)
    await world.purge()
    lists = len(list((world.path / "purged").iterdir()))
    verdict = await world.purge()
    assert verdict.counts["histories"] == verdict.counts["blobs"] == 0
    assert len(list((world.path / "purged").iterdir())) == lists


async def test_intake_goes_on_while_histories_go(world: PurgedWorld) -> None:
    """What is recorded during a purge is whole afterwards, and what was purged is gone."""
    await world.account()
    for number in range(200):
        world.journal(change(f"m{number}", ChangeType.CREATED, body=content(str(number))))
        world.journal(change(f"m{number}", ChangeType.DELETED, at=60))
    await world.record()
    world.pass_days(31)
    written, ended = 0, asyncio.Event()

    async def intake() -> None:
        nonlocal written
        while not ended.is_set():
            written += 1
            text = content(str(written % 400))
            world.journal(change(f"new{written}", ChangeType.CREATED, at=31 * 86_400, body=text))
            await world.record()
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(intake())
        await world.purge(force=True)
        ended.set()
    assert {key.item for key in world.histories() if key.kind is Kind.MESSAGE} == {
        f"new{number}" for number in range(1, written + 1)
    }
    assert world.referenced() <= world.blobs()
    assert world.index_is_true()


async def test_a_purged_item_is_no_item_of_the_backup_any_more(world: PurgedWorld) -> None:
    """Asking for it says so in words; a deletion that is told once more is kept as one and brings no life."""
    (item,) = await world.have("item")
    await world.delete(item)
    deleted = world.history(item)[-1]
    world.pass_days(31)
    await world.purge()
    with pytest.raises(UnknownItem, match=r"has no item .* in the backup") as refused:
        await ItemRestore(world.store, world.server, clock=world.clock).run(
            ALICE, item, when=None, folder=None
        )
    assert "purge" in refused.value.hint
    at = (deleted.start - change().time).total_seconds()
    world.journal(change(item, ChangeType.DELETED, at=at, event="again"))
    await world.record()
    (state,) = world.history(item)
    assert (state.deleted, state.digest) == (True, None)
    await world.purge()
    assert message(item) not in world.histories()
