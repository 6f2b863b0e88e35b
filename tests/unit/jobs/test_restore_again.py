"""Restores that are given again, or foreseen: what is in doubt stays so, and a dry run tells what will be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.appservers.base import Account, DirectoryEntry
from backupd.errors import AppServerRefused, AppServerUnavailable, BackupdError, UsageError
from backupd.items import Area, ItemKey, Kind
from tests.unit.jobs.restoring_worlds import ADDRESS, NEW, RestoreWorld
from tests.unit.jobs.worlds import ALICE


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RestoreWorld]:
    async with RestoreWorld(tmp_path) as made:
        await made.server.create_account(Account(id=ALICE, name=ADDRESS, metadata={}))
        for number in range(3):
            await made.server.add(ALICE, Kind.MESSAGE, "INBOX", b"Subject: %d\r\n\r\nbody" % number)
        await made.tick()
        yield made


def passing(world: RestoreWorld) -> Callable[[float], Awaitable[None]]:
    """Return a sleep that only lets the clock go on."""

    async def sleep(seconds: float) -> None:
        world.clock._monotonic += seconds

    return sleep


async def items(world: RestoreWorld, account: str = ALICE) -> list[str]:
    listing = await world.server.changes(account, None)
    return sorted(one.item for one in listing.items if one.kind is not Kind.FOLDER)


def losing_tags(world: RestoreWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server take items without their tags, as a Maildir does where 26 keywords are in use."""
    put = world.server.put

    async def put_without(account: str, kind: Kind, photograph: Any, content: Any) -> str:
        metadata = {**photograph.metadata, "tags": []}
        return await put(
            account,
            kind,
            photograph.__class__(metadata=metadata, digest=photograph.digest, size=photograph.size),
            content,
        )

    monkeypatch.setattr(world.server, "put", put_without)


async def test_what_differs_is_no_restored_item_the_next_time_either(
    world: RestoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is put once, read again by each run, and restored once it is as it was to be."""
    for item in await items(world):
        world.server.remove(ALICE, item)
    await world.tick()
    with monkeypatch.context() as patch:
        losing_tags(world, patch)
        first = await world.undelete()
    again = await world.undelete()
    for verdict in (first, again):
        assert (verdict.successful, verdict.counts["restored"], verdict.counts["unrestored"]) == (False, 0, 3)
    assert "tags" in world.run.errors[0].reason
    there = await items(world)
    assert len(there) == 3
    for item in there:
        world.server.flag(ALICE, item, [], [world.clock.now().strftime("undelete_%d_%m_%y")])
    for _ in range(2):
        verdict = await world.undelete()
        assert (verdict.successful, verdict.counts["skipped"]) == (True, 3)
    assert await items(world) == there


async def test_what_could_not_be_read_back_is_read_back_by_the_next_run(
    world: RestoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that goes away in between leaves nothing that counts as proven; what users did is no doubt."""
    when = world.clock.now()
    read = world.server.read

    async def away(_: ItemKey) -> Any:
        raise AppServerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(world.server, "read", away)
        patch.setattr(world.clock, "sleep", passing(world))
        assert not (await world.restore(when)).successful
    read_back = []

    async def seen(key: ItemKey) -> Any:
        read_back.append(key.item)
        return await read(key)

    monkeypatch.setattr(world.server, "read", seen)
    new = await world.account_id(NEW)
    world.server.flag(new, (await items(world, new))[0], ["seen"])
    verdict = await world.restore(when)
    assert (verdict.counts["skipped"], verdict.counts["restored"]) == (3, 0)
    assert sorted(read_back) == await items(world, await world.account_id(NEW))


async def test_an_item_that_differs_fails_again(world: RestoreWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single item's restore does not call a mismatch of before a success."""
    (item, *_) = before = await items(world)
    world.server.flag(ALICE, item, [], ["work"])
    await world.tick()
    with monkeypatch.context() as patch:
        losing_tags(world, patch)
        with pytest.raises(BackupdError, match="tags"):
            await world.restore_item(item)
    with pytest.raises(BackupdError, match="tags"):
        await world.restore_item(item)
    (made,) = set(await items(world)) - set(before)
    world.server.flag(ALICE, made, [], ["work"])
    assert (await world.restore_item(item)).skipped


async def test_a_folder_that_can_not_be_made_fails_the_restore_and_stops_nothing(
    world: RestoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its items fail with it, however many they are; what comes behind them is restored."""
    for number in range(60):
        await world.server.add(ALICE, Kind.MESSAGE, "A.B", b"Subject: dotted %d\r\n\r\n" % number)
    await world.server.add(ALICE, Kind.MESSAGE, "Z", b"Subject: last\r\n\r\n")
    await world.server.create_folder(ALICE, Area.MAIL, "Empty.One")
    when = await world.tick()
    create, put = world.server.create_folder, world.server.put

    async def create_plain(account: str, area: Area, folder: str) -> str:
        if "." in folder:
            raise AppServerRefused("no dots")
        return await create(account, area, folder)

    async def put_plain(account: str, kind: Kind, photograph: Any, content: Any) -> str:
        if "." in photograph.metadata["folder"]:
            raise AppServerRefused("no dots")
        return await put(account, kind, photograph, content)

    monkeypatch.setattr(world.server, "create_folder", create_plain)
    monkeypatch.setattr(world.server, "put", put_plain)
    verdict = await world.restore(when)
    assert not verdict.successful
    assert (verdict.counts["restored"], verdict.counts["unrestored"]) == (4, 60)
    assert verdict.counts["folders_failed"] == 2
    assert "2 folders could not be made" in verdict.sentence


async def test_what_was_deleted_comes_back_though_its_id_was_used_again(world: RestoreWorld) -> None:
    """The deletion is found in the past; whose content and folder are there again is left alone."""
    old, back, *_ = await items(world)
    start = world.clock.now()
    readings = {item: await world.server.read(ItemKey(ALICE, Kind.MESSAGE, item)) for item in (old, back)}
    for item in readings:
        world.server.remove(ALICE, item)
    end = await world.tick()
    await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"Subject: another\r\n\r\n", item=old)
    content = readings[back].content
    assert content is not None
    await world.server.add(ALICE, Kind.MESSAGE, "Kept", content.open().read(), item=back)
    await world.tick()
    dry = await world.undelete(start=start, end=end, dry_run=True)
    assert (dry.counts["restored"], dry.counts["skipped"]) == (1, 0)
    verdict = await world.undelete(start=start, end=end)
    assert (verdict.successful, verdict.counts["restored"]) == (True, 1)
    contents = [content for _, content in await world.mailbox(ALICE)]
    assert sorted(contents) == sorted(
        [b"Subject: another\r\n\r\n", *(b"Subject: %d\r\n\r\nbody" % number for number in range(3))]
    )
    again = await world.undelete(start=start, end=end)
    assert (again.counts["restored"], again.counts["skipped"]) == (0, 1)


async def test_an_undelete_makes_no_folder_for_what_lives_elsewhere(world: RestoreWorld) -> None:
    """What went and came back in another folder needs the former one no more."""
    start = world.clock.now()
    moved = await world.server.add(ALICE, Kind.MESSAGE, "Former", b"Subject: moved\r\n\r\n")
    await world.tick()
    world.server.remove(ALICE, moved)
    world.server.remove_folder(ALICE, Area.MAIL, "Former")
    end = await world.tick()
    await world.server.add(ALICE, Kind.MESSAGE, "Latter", b"Subject: moved\r\n\r\n", item=moved)
    await world.tick()
    verdict = await world.undelete(start=start, end=end)
    assert (verdict.successful, verdict.counts["expected"]) == (True, 0)
    assert ("mail", "Former") not in await world.folders(ALICE)


async def test_an_undelete_brings_nothing_that_the_accounts_restore_brought(world: RestoreWorld) -> None:
    """What a deleted account held is deleted for good once it is made anew, and there all the same."""
    await world.server.create_account(Account(id="bob", name="bob@example.com", metadata={}))
    await world.tick()
    world.server.remove_account(ALICE)
    await world.tick()
    await world.restore(to=ADDRESS, keep_id=True)
    (lost, *kept) = await items(world)
    await world.tick()
    verdict = await world.undelete()
    assert (verdict.counts["expected"], await items(world)) == (0, [lost, *kept])
    world.server.remove(ALICE, lost)
    await world.tick()
    verdict = await world.undelete()
    assert (verdict.counts["restored"], len(await items(world))) == (1, 3)


async def test_an_undelete_into_a_folder_of_its_own_restores_nothing_twice(world: RestoreWorld) -> None:
    """Given again some time later, it finds what it made."""
    for item in await items(world):
        world.server.remove(ALICE, item)
    await world.tick()
    for restored, skipped in ((3, 0), (0, 3)):
        verdict = await world.undelete(to_original_folder=False)
        assert (verdict.counts["restored"], verdict.counts["skipped"]) == (restored, skipped)
        await world.tick()
    assert len(await items(world)) == 3


async def test_a_dry_run_says_what_the_run_will_do(world: RestoreWorld) -> None:
    """Before, the same counts; afterwards, that all is there; and it is refused where the run is."""
    when = world.clock.now()
    dry = await world.restore(when, dry_run=True)
    assert NEW not in {one.name for one in await world.server.accounts()}
    real = await world.restore(when)
    assert dry.counts == real.counts
    dry, real = await world.restore(when, dry_run=True), await world.restore(when)
    assert dry.counts == real.counts
    assert "3 are there since an earlier restore" in dry.sentence
    with pytest.raises(AppServerRefused, match="there already"):
        await world.restore(when, to=ADDRESS, dry_run=True)
    with pytest.raises(UsageError, match="lives"):
        await world.restore(when, to="other@example.com", keep_id=True, dry_run=True)


@pytest.mark.parametrize(
    "destination", ["nobody", "@example.com", "a@", "a b@example.com", "a\n@example.com", "a/b@x", "a@b@x"]
)
async def test_what_is_no_address_becomes_no_account(world: RestoreWorld, destination: str) -> None:
    """It is refused before anything is made."""
    for dry_run in (True, False):
        with pytest.raises(UsageError, match="no address"):
            await world.restore(to=destination, dry_run=dry_run)
    assert [one.name for one in await world.server.accounts()] == [ADDRESS]


async def test_an_address_that_others_have_becomes_no_account(world: RestoreWorld) -> None:
    """Mail for a list, or for somebody's further address, would go astray."""
    world.server.entries.append(
        DirectoryEntry(kind=Kind.MAILING_LIST, id="l", metadata={"name": "all@example.com"})
    )
    await world.server.create_account(
        Account(id="bob", name="bob@example.com", metadata={"aliases": ["b@example.com"]})
    )
    for destination in ("All@example.com", "B@example.com"):
        with pytest.raises(AppServerRefused, match=r"mailing list|address of account bob"):
            await world.restore(to=destination)


async def test_a_moment_in_the_future_is_refused_everywhere(world: RestoreWorld) -> None:
    """Also as the beginning of a window, and for one item."""
    later = world.clock.now() + timedelta(hours=1)
    (item, *_) = await items(world)
    with pytest.raises(UsageError, match="future"):
        await world.restore_item(item, when=later)
    with pytest.raises(UsageError, match="future"):
        await world.undelete(start=later)
    with pytest.raises(UsageError, match="future"):
        await world.restore(undelete=True, undelete_from=later)


async def test_a_single_items_dry_run_says_what_the_run_will_do(world: RestoreWorld) -> None:
    """What was restored is told; what can't be is refused by both; nothing is made."""
    (item, *_) = before = await items(world)
    assert "would be restored into folder 'INBOX'" in await world.foresee_item(item)
    assert await items(world) == before
    made = (await world.restore_item(item)).item
    assert f"is there as item {made}" in await world.foresee_item(item)
    for act in (world.foresee_item, world.restore_item):
        with pytest.raises(AppServerRefused, match="kind is account"):
            await act(ALICE)


async def test_a_folder_that_is_there_is_skipped(world: RestoreWorld) -> None:
    """Its restore makes it once."""
    identifier = await world.server.create_folder(ALICE, Area.MAIL, "Plans")
    await world.tick()
    assert (await world.restore_item(identifier)).skipped
    assert "is there" in await world.foresee_item(identifier)
    assert not (await world.restore_item(identifier, folder="Below")).skipped
    assert (await world.restore_item(identifier, folder="Below")).skipped


async def test_a_single_item_waits_for_a_server_that_is_away(
    world: RestoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is restored as soon as the server answers; one that stays away ends the waiting."""
    (item, *_) = await items(world)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        world.clock._monotonic += seconds
        world.server.unavailable = "" if len(slept) == 3 else "away"

    monkeypatch.setattr(world.clock, "sleep", sleep)
    world.server.unavailable = "away"
    assert not (await world.restore_item(item)).skipped
    assert len(slept) == 3
    world.server.unavailable = "away"
    with pytest.raises(AppServerUnavailable, match="stayed away"):
        await world.restore_item(item)


async def test_a_try_that_failed_after_all_was_done_is_no_reason_for_another(
    world: RestoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item is looked for before it is put again."""
    (item, *_) = before = await items(world)
    put = world.server.put

    async def put_and_fail(*given: Any) -> str:
        await put(*given)
        monkeypatch.setattr(world.server, "put", put)
        raise AppServerUnavailable("away")

    monkeypatch.setattr(world.clock, "sleep", passing(world))
    monkeypatch.setattr(world.server, "put", put_and_fail)
    made = (await world.restore_item(item)).item
    assert set(await items(world)) == {*before, made}
