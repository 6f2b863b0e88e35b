"""The purge over a backup of an AppServer in memory: what goes, what stays, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from backupd.appservers.base import DirectoryEntry
from backupd.errors import UsageError
from backupd.items import ItemKey, Kind, digest_of
from backupd.jobs.purge.purge import PurgeRefused
from backupd.retention import Retention, Stay
from backupd.states import ChangeType
from backupd.store import purging
from backupd.store.ledger_tables import Condemned, KeptRestores
from tests.unit.jobs.purging import THIRTY, PurgedWorld, content
from tests.unit.jobs.worlds import ALICE, change, finding

BOB = "bob"
FOR_EVER = Retention(data_days=0, account_days=0, archive_days=0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[PurgedWorld]:
    async with PurgedWorld(tmp_path / "backup") as made:
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


async def test_an_unusual_share_asks_for_force(world: PurgedWorld) -> None:
    """A purge that would take more than the share in force stops before anything goes, until it is forced."""
    world.rules = msgspec.structs.replace(world.rules, share_max=20)
    await world.account()
    for number in range(600):
        world.journal(change(f"m{number}", ChangeType.CREATED))
    await world.record()
    for number in range(550):
        world.journal(change(f"m{number}", ChangeType.DELETED, at=60))
    await world.record()
    world.pass_days(31)
    with pytest.raises(PurgeRefused, match=r"550 of 600 items would go, more than 20%"):
        await world.purge()
    assert len(world.histories()) == 600
    assert "without force true this purge would stop" in (await world.purge(dry_run=True)).sentence
    await world.purge(force=True)
    assert len(world.histories()) == 50


async def test_a_clock_in_doubt_purges_nothing(world: PurgedWorld) -> None:
    """A purge refuses while the clock is in doubt, says why, and acts once somebody vouches for the clock."""
    (item,) = await world.have("item")
    await world.delete(item)
    world.pass_days(31)
    world.doubt = "the clock says another year"
    with pytest.raises(PurgeRefused, match="clock is in doubt: the clock says another year") as refused:
        await world.purge()
    assert "force true" in refused.value.hint
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
    with pytest.raises(UsageError, match="1 or more"):
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
    for number in range(400):
        world.journal(change(f"m{number}", ChangeType.CREATED, body=content(str(number))))
        world.journal(change(f"m{number}", ChangeType.DELETED, at=60))
    await world.record()
    world.pass_days(31)
    written = 0

    async def intake() -> None:
        nonlocal written
        while not purging_task.done():
            written += 1
            text = content(str(written % 400))
            world.journal(change(f"new{written}", ChangeType.CREATED, at=31 * 86_400, body=text))
            await world.record()
            await asyncio.sleep(0)

    purging_task = asyncio.ensure_future(world.purge(force=True))
    await intake()
    await purging_task
    assert {key.item for key in world.histories() if key.kind is Kind.MESSAGE} == {
        f"new{number}" for number in range(1, written + 1)
    }
    assert world.referenced() <= world.blobs()
    assert world.index_is_true()
