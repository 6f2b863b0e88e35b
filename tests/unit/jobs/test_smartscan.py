"""SmartScan over an AppServer in memory: what is found, what is not believed, what an interruption leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from backupd.appservers.base import Account, DirectoryEntry, Listing, Reading
from backupd.errors import (
    AppServerRefused,
    AppServerUnavailable,
    OperationStopped,
    SuspiciousListing,
    UnknownAccount,
)
from backupd.items import ItemKey, Kind
from backupd.jobs.smartscan import work as work_module
from backupd.jobs.smartscan.tally import ScanOptions
from backupd.operations import Run
from backupd.states import ChangeType
from tests.unit.jobs.worlds import ALICE, BackupWorld, change


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BackupWorld]:
    async with BackupWorld(tmp_path) as made:
        await made.account()
        yield made


async def messages(world: BackupWorld, count: int, folder: str = "INBOX", account: str = ALICE) -> list[str]:
    return [
        await world.server.add(account, Kind.MESSAGE, folder, b"Subject: %d\r\n\r\n" % number)
        for number in range(count)
    ]


def live(world: BackupWorld, account: str = ALICE) -> set[str]:
    return {item.item for item in world.store.index.items(account) if item.kind is Kind.MESSAGE}


async def test_a_first_scan_records_everything_and_a_second_writes_nothing(world: BackupWorld) -> None:
    """Every item gets its history and its content; a scan of the same again journals nothing."""
    items = await messages(world, 5)
    contact = await world.server.add(
        ALICE, Kind.CONTACT, "Personal", b"BEGIN:VCARD\r\nFN:Bob\r\nEND:VCARD\r\n"
    )
    world.server.entries = [DirectoryEntry(kind=Kind.DOMAIN, id="d1", metadata={"name": "example.com"})]
    verdict = await world.scan_all()
    assert "1 accounts" in verdict
    for number, item in enumerate(items):
        (state,) = world.history(item)
        assert world.store.blobs.read(state.digest or "") == b"Subject: %d\r\n\r\n" % number
    assert len(world.history(contact, kind=Kind.CONTACT)) == 1
    assert len(world.store.histories.read(ItemKey("", Kind.DOMAIN, "d1"))) == 1
    last = world.store.journal.last_sequence
    assert "1 of them unchanged" in await world.scan_all()
    assert world.store.journal.last_sequence == last


async def test_a_scan_finds_what_changed_moved_and_went(world: BackupWorld) -> None:
    """Flags, a move and a deletion unseen by events are in the history after an incremental scan."""
    flagged, moved, gone, kept = await messages(world, 4)
    await world.scan_all()
    world.server.flag(ALICE, flagged, ["seen"])
    await world.server.move(ALICE, moved, "Later")
    world.server.remove(ALICE, gone)
    await world.scan_all()
    assert world.history(flagged)[-1].metadata["flags"] == ["seen"]
    assert (world.history(moved)[-1].change, world.history(moved)[-1].metadata["folder"]) == (
        ChangeType.MOVED,
        "Later",
    )
    assert world.history(gone)[-1].deleted
    assert len(world.history(kept)) == 1
    assert live(world) == {flagged, moved, kept}


async def test_an_item_found_again_after_its_deletion_lives(world: BackupWorld) -> None:
    """An item recorded as deleted that is listed again is created again."""
    (item,) = await messages(world, 1)
    await world.scan_all()
    world.journal(change(item, ChangeType.DELETED, event="e1", at=5))
    await world.record()
    await world.scan_all(deep=True)
    assert [state.deleted for state in world.history(item)] == [False, True, False]


async def test_a_deep_scan_stores_a_lost_content_again(world: BackupWorld) -> None:
    """A blob that is gone from the Backup Path is back after a deep scan, without a new state."""
    (item,) = await messages(world, 1)
    await world.scan_all()
    (state,) = world.history(item)
    next(path for path in (world.path / "items").rglob("*") if path.name == state.digest).unlink()
    assert not world.store.blobs.contains(state.digest or "")
    await world.scan_all(deep=True)
    assert world.store.blobs.contains(state.digest or "")
    assert len(world.history(item)) == 1
    assert list((world.path / ".staged").iterdir()) == []


async def test_a_listing_that_lost_most_is_refused_unless_forced(world: BackupWorld) -> None:
    """More than half of an account missing fails the scan and marks nothing; force believes it."""
    items = await messages(world, 20)
    await world.scan_all()
    for item in items[:15]:
        world.server.remove(ALICE, item)
    with pytest.raises(SuspiciousListing, match="15 of"):
        await world.scan_all()
    assert live(world) == set(items)
    with pytest.raises(SuspiciousListing):
        await world.scan_account(ALICE)
    await world.scan_all(force=True)
    assert live(world) == set(items[15:])


async def test_an_account_that_was_deleted_and_made_anew_is_believed(world: BackupWorld) -> None:
    """What it held in its former life is missing for a reason; what it held since is not."""
    former = await messages(world, 20)
    await world.account("bob")
    await world.account("carl")
    await world.scan_all()
    world.server.remove_account(ALICE)
    await world.scan_all()
    await world.account()
    latter = await messages(world, 12)
    for _ in range(2):
        await world.clock.advance(60)
        await world.scan_all()
    assert live(world) == set(latter)
    assert not live(world) & set(former)
    for item in latter:
        world.server.remove(ALICE, item)
    with pytest.raises(SuspiciousListing, match="12 of"):
        await world.scan_all()


async def test_deletions_told_and_not_recorded_yet_are_not_suspicious(world: BackupWorld) -> None:
    """A user who deleted most of a mailbox just now does not make the scan fail."""
    items = await messages(world, 20)
    await world.scan_all()
    for item in items[:15]:
        world.server.remove(ALICE, item)
        world.journal(change(item, ChangeType.DELETED, event=item, at=5))
    await world.scan_all()
    assert live(world) == set(items[15:])


async def test_an_emptied_folder_explains_a_loss(world: BackupWorld) -> None:
    """With an open gap of an emptied folder the same loss is believed."""
    items = await messages(world, 20)
    await world.scan_all()
    for item in items:
        world.server.remove(ALICE, item)
    world.store.ledger.open_gap(ALICE, "folder_emptied", "INBOX", world.clock.now())
    await world.scan_account(ALICE)
    assert live(world) == set()


@pytest.mark.parametrize("whole", [True, False])
async def test_an_empty_list_of_accounts_deletes_none(world: BackupWorld, *, whole: bool) -> None:
    """A mail tree that seems to hold nobody is not believed, by no kind of scan, unless forced."""
    await messages(world, 1)
    await world.scan_all()
    world.server.remove_account(ALICE)
    scan = world.scan_all if whole else (lambda **options: world.scan_account(ALICE, **options))
    with pytest.raises(SuspiciousListing, match="1 of 1"):
        await scan()
    assert not world.history(ALICE, kind=Kind.ACCOUNT)[-1].deleted
    await scan(force=True)
    assert world.history(ALICE, kind=Kind.ACCOUNT)[-1].deleted


async def test_missing_domains_and_lists_are_not_believed_all_at_once(world: BackupWorld) -> None:
    """Entries that all went missing fail the scan; a single one may go."""
    world.server.entries = [
        DirectoryEntry(kind=Kind.MAILING_LIST, id=f"l{number}", metadata={"name": f"l{number}"})
        for number in range(3)
    ]
    await world.scan_all()
    world.server.entries.pop()
    await world.scan_all()
    assert world.store.histories.read(ItemKey("", Kind.MAILING_LIST, "l2"))[-1].deleted
    world.server.entries = []
    with pytest.raises(SuspiciousListing, match="2 of 2"):
        await world.scan_all()
    assert not world.store.histories.read(ItemKey("", Kind.MAILING_LIST, "l0"))[-1].deleted


async def test_an_account_scan_of_a_deleted_account_has_nothing_to_do(world: BackupWorld) -> None:
    """An account recorded as deleted is a success, one that nobody ever knew is an error that says so."""
    await world.account("bob")
    await world.scan_all()
    world.server.remove_account("bob")
    assert "1 deleted" in await world.scan_account("bob@example.com")
    assert "nothing to scan" in await world.scan_account("bob@example.com")
    with pytest.raises(UnknownAccount, match="carol"):
        await world.scan_account("carol")


@pytest.mark.parametrize("renamed", [False, True])
async def test_an_account_in_another_spelling_is_no_deleted_one(world: BackupWorld, *, renamed: bool) -> None:
    """Its address in other case, or the one that it had before, means the account that is listed."""
    await world.account("bob")
    await world.scan_all()
    if renamed:
        bob = world.server._accounts["bob"]
        bob.account = msgspec.structs.replace(bob.account, name="robert@example.com")
    verdict = await world.scan_account("BOB@Example.com")
    assert "0 deleted" in verdict
    assert not world.history("bob", account="bob", kind=Kind.ACCOUNT)[-1].deleted
    assert "0 deleted" in await world.scan_account("bob")


async def test_a_new_account_under_an_old_address_is_recorded(world: BackupWorld) -> None:
    """An account made again under the same address gets a history of its own."""
    await world.scan_all()
    world.server.remove_account(ALICE)
    await world.server.create_account(Account(id="alice-2", name="alice@example.com", metadata={}))
    await world.scan_account("alice@example.com", force=True)
    assert len(world.history("alice-2", account="alice-2", kind=Kind.ACCOUNT)) == 1


async def test_an_account_that_can_not_be_listed_fails_the_scan_and_loses_nothing(world: BackupWorld) -> None:
    """The others are scanned; nothing of the unreadable one is marked as deleted, its cursor stays."""
    await world.account("bob")
    items = await messages(world, 2)
    await world.scan_all()
    await messages(world, 1, account="bob")
    before = world.store.statistics.account(ALICE)
    changes = world.server.changes

    async def broken(account: str, since: str | None) -> Listing:
        if account == ALICE:
            raise AppServerUnavailable("Maildir can't be read")
        return await changes(account, since)

    world.server.changes = broken  # type: ignore[method-assign]
    run = Run(world.clock)
    with pytest.raises(AppServerUnavailable, match="1 accounts could not be listed"):
        await world.scan.run_all(run, ScanOptions())
    assert str(run.errors[0]) == "alice@example.com: Maildir can't be read"
    assert live(world) == set(items)
    assert len(live(world, "bob")) == 1
    assert world.store.statistics.account(ALICE) == before


async def test_an_account_that_goes_during_the_scan_does_not_fail_it(world: BackupWorld) -> None:
    """An account deleted between the list of accounts and its own listing is noted."""
    await world.account("bob")
    changes = world.server.changes

    async def gone(account: str, since: str | None) -> Listing:
        if account == "bob":
            raise AppServerRefused("there is no account 'bob'")
        return await changes(account, since)

    world.server.changes = gone  # type: ignore[method-assign]
    assert "1 vanished" in await world.scan_all()


@pytest.mark.parametrize("error", [AppServerUnavailable("a bad sector"), None])
async def test_unreadable_and_vanished_items_are_listed_and_stop_nothing(
    world: BackupWorld, error: AppServerUnavailable | None
) -> None:
    """An unreadable item fails the scan at its end and keeps the cursor back; a vanished one does neither."""
    bad, *good = await messages(world, 4)
    read = world.server.read

    async def reading(key: ItemKey) -> Reading:
        if key.item == bad and error is not None:
            raise error
        return await read(key)

    world.server.read = reading  # type: ignore[method-assign]
    if error is None:
        world.server.vanished.add(bad)
        assert "1 vanished" in await world.scan_all()
        assert world.store.statistics.account(ALICE).cursor is not None
    else:
        with pytest.raises(AppServerUnavailable, match="1 unreadable"):
            await world.scan_all()
        assert world.store.statistics.account(ALICE).cursor is None
        world.server.read = read  # type: ignore[method-assign]
        await world.scan_all()
        assert len(world.history(bad)) == 1
    assert all(len(world.history(item)) == 1 for item in good)


@pytest.mark.parametrize(("bound", "gives_up"), [(2, False), (1, True), (0, True)])
async def test_a_scan_gives_up_after_so_many_unreadable_items(
    world: BackupWorld, bound: int, *, gives_up: bool
) -> None:
    """`read_error_threshold` is how many unreadable items are borne."""
    bad = (await messages(world, 6))[:2]
    read = world.server.read

    async def reading(key: ItemKey) -> Reading:
        if key.item in bad:
            raise AppServerUnavailable("a bad sector")
        return await read(key)

    world.server.read = reading  # type: ignore[method-assign]
    with pytest.raises(AppServerUnavailable, match="more than" if gives_up else "2 unreadable"):
        await world.scan_all(read_errors_max=bound)
    assert list((world.path / ".staged").iterdir()) == []


async def test_an_interrupted_scan_keeps_no_cursor_of_what_is_not_recorded(
    world: BackupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two flushes, a scan repeats what was not recorded and loses nothing."""
    monkeypatch.setattr(work_module, "CHUNK_ITEMS", 2)
    monkeypatch.setattr(work_module, "FLUSH_ITEMS", 4)
    items = await messages(world, 10)
    run = Run(world.clock)
    read = world.server.read
    left = [5]

    async def reading(key: ItemKey) -> Reading:
        left[0] -= 1
        if left[0] == 0:
            run.request_stop()
        return await read(key)

    world.server.read = reading  # type: ignore[method-assign]
    with pytest.raises(OperationStopped):
        await world.scan.run_all(run, ScanOptions())
    assert world.store.statistics.account(ALICE).cursor is None
    assert world.store.journal.last_sequence > 0
    assert list((world.path / ".staged").iterdir()) == []
    world.crash()
    await world.scan_all()
    assert live(world) == set(items)
    assert all(len(world.history(item)) == 1 for item in items)
