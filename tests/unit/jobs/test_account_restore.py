"""Restoring into accounts: as of any moment, repeatable, resumable, proved; the source stays as it is."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.appservers.base import Account
from backupd.errors import (
    AppServerRefused,
    AppServerUnavailable,
    OperationStopped,
    UnknownAccount,
    UnknownItem,
    UsageError,
)
from backupd.items import Area, Kind, digest_of
from backupd.jobs.restore import putting
from backupd.jobs.restore.accounts import NewAccount
from backupd.operations import Run
from backupd.states import Photograph
from tests.unit.jobs.restoring_worlds import ADDRESS, NEW, RestoreWorld
from tests.unit.jobs.worlds import ALICE


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RestoreWorld]:
    async with RestoreWorld(tmp_path) as made:
        await made.server.create_account(
            Account(id=ALICE, name=ADDRESS, metadata={"quota": 7, "aliases": ["al@example.com"]})
        )
        for number in range(12):
            folder = ("INBOX", "INBOX/Projects", "Sent")[number % 3]
            await made.server.add(
                ALICE,
                Kind.MESSAGE,
                folder,
                b"Subject: number %d\r\n\r\nbody" % number,
                flags=["seen"] if number % 2 else [],
                tags=["work"] if number % 4 == 0 else [],
                when=made.clock.now() - timedelta(days=number),
            )
        await made.server.add(ALICE, Kind.DOCUMENT, "Plans", b"a plan", name="plan.txt")
        await made.server.create_folder(ALICE, Area.MAIL, "Empty")
        await made.server.create_folder(ALICE, Area.CONTACTS, "")
        yield made


async def everything(world: RestoreWorld) -> tuple[Any, Any]:
    return await world.mailbox(ALICE), await world.folders(ALICE)


async def test_a_new_account_is_the_old_one_at_that_moment(world: RestoreWorld) -> None:
    """Whatever happened since, content, folders (empty ones too), flags, tags and dates are those of then."""
    before, folders = await everything(world)
    then = await world.tick()
    for listed in (await world.server.changes(ALICE, None)).items:
        if listed.kind is Kind.MESSAGE and listed.metadata["folder"] == "Sent":
            world.server.remove(ALICE, listed.item)
        elif listed.kind is Kind.MESSAGE:
            world.server.flag(ALICE, listed.item, ["flagged"])
    await world.tick()
    verdict = await world.restore(then)
    new = await world.account_id(NEW)
    assert await world.mailbox(new) == before
    assert await world.folders(new) == folders
    assert verdict.successful
    assert verdict.counts | {"folders": 0} == {
        "expected": 13,
        "restored": 13,
        "skipped": 0,
        "unrestored": 0,
        "folders": 0,
        "folders_failed": 0,
        "left_out": 0,
    }
    account = next(one for one in await world.server.accounts() if one.id == new)
    assert account.metadata["quota"] == 7
    assert "aliases" not in account.metadata


async def test_restoring_changes_no_history_of_the_source(world: RestoreWorld) -> None:
    """The source's histories are the same files, and its mailbox the same mailbox."""
    then = await world.tick()
    before = await everything(world)
    files = {
        path: path.read_bytes() for path in world.store.layout.account(ALICE).rglob("*") if path.is_file()
    }
    await world.restore(then)
    assert {path: path.read_bytes() for path in files} == files
    assert await everything(world) == before


async def test_a_second_run_restores_nothing_twice(world: RestoreWorld) -> None:
    """All is skipped; what was deleted from the target meanwhile comes back."""
    then = await world.tick()
    await world.restore(then)
    new = await world.account_id(NEW)
    restored = await world.mailbox(new)
    verdict = await world.restore(then)
    assert (verdict.counts["restored"], verdict.counts["skipped"]) == (0, 13)
    gone = next(one for one in (await world.server.changes(new, None)).items if one.kind is Kind.MESSAGE)
    world.server.remove(new, gone.item)
    verdict = await world.restore(then)
    assert (verdict.counts["restored"], verdict.counts["skipped"]) == (1, 12)
    assert await world.mailbox(new) == restored


@pytest.mark.parametrize("puts", range(14))
async def test_a_killed_run_goes_on_where_it_stopped(
    world: RestoreWorld, monkeypatch: pytest.MonkeyPatch, puts: int
) -> None:
    """Whatever the AppServer had taken when it died, the next run makes the rest, and nothing twice."""
    monkeypatch.setattr(putting, "CHUNK_ITEMS", 5)
    before, folders = await everything(world)
    then = await world.tick()
    put, taken = world.server.put, 0

    class Killed(BaseException):
        """The end of the process, as far as this test goes."""

    async def deadly(*arguments: Any) -> str:
        nonlocal taken
        if taken >= puts:
            raise Killed
        taken += 1
        return await put(*arguments)

    world.server.put = deadly  # type: ignore[method-assign]
    restoring = world.restoring()
    restoring._putting._kept.end = lambda _account, _restored: None  # type: ignore[method-assign]
    asked = NewAccount(source=ADDRESS, destination=NEW, when=then)
    killed = False
    try:
        await restoring.on_new_account(Run(world.clock), asked)
    except (Killed, BaseExceptionGroup):
        killed = True
    assert killed == (puts < 13)
    world.server.put = put  # type: ignore[method-assign]
    verdict = await world.restore(then)
    new = await world.account_id(NEW)
    assert await world.mailbox(new) == before
    assert await world.folders(new) == folders
    assert verdict.counts["restored"] + verdict.counts["skipped"] == 13


async def test_a_living_destination_is_refused(world: RestoreWorld) -> None:
    """An account that nobody restored is never written into; neither is the source itself."""
    then = await world.tick()
    await world.server.create_account(Account(id="bob", name="bob@example.com", metadata={}))
    for destination in ("bob@example.com", ADDRESS):
        with pytest.raises(AppServerRefused, match="there already"):
            await world.restore(then, to=destination)
    assert await world.mailbox("bob") == {}


async def test_a_deleted_account_comes_back_under_its_own_name(world: RestoreWorld) -> None:
    """With its aliases, under a new id or, where asked for, under its own."""
    before, _ = await everything(world)
    await world.server.create_account(Account(id="bob", name="bob@example.com", metadata={}))
    then = await world.tick()
    with pytest.raises(UsageError, match="lives"):
        await world.restore(then, keep_id=True)
    world.server.remove_account(ALICE)
    await world.scan_all(force=True)
    await world.clock.advance(60)
    verdict = await world.restore(then, to=ADDRESS, keep_id=True)
    assert verdict.successful
    assert await world.mailbox(ALICE) == before
    account = next(one for one in await world.server.accounts() if one.id == ALICE)
    assert account.metadata["aliases"] == ["al@example.com"]


async def test_an_emptied_moment_is_warned_of_and_a_better_one_named(world: RestoreWorld) -> None:
    """The last state of an emptied account restores nothing; the verdict names when it held everything."""
    before, _ = await everything(world)
    await world.tick()
    for listed in (await world.server.changes(ALICE, None)).items:
        if listed.kind is not Kind.FOLDER:
            world.server.remove(ALICE, listed.item)
    await world.scan_all(force=True)
    await world.clock.advance(60)
    verdict = await world.restore(None)
    assert verdict.counts["expected"] == 0
    assert "nearly empty" in verdict.sentence
    better = datetime.fromisoformat(verdict.sentence.rpartition("until ")[2])
    again = await world.restore(better, to="better@example.com")
    assert again.counts["restored"] == 13
    assert "nearly empty" not in again.sentence
    assert await world.mailbox(await world.account_id("better@example.com")) == before


async def test_undelete_brings_what_was_deleted_back_to_its_folder(world: RestoreWorld) -> None:
    """Only what went in the window, tagged with the day, without IMAP's mark; a second run does nothing."""
    listing = [one for one in (await world.server.changes(ALICE, None)).items if one.kind is Kind.MESSAGE]
    early, marked, late = listing[0], listing[1], listing[2]
    world.server.flag(ALICE, marked.item, ["deleted", "seen"])
    await world.tick()
    world.server.remove(ALICE, early.item)
    start = await world.tick()
    world.server.remove(ALICE, marked.item)
    end = await world.tick()
    world.server.remove(ALICE, late.item)
    await world.tick()
    window = {"start": start + timedelta(seconds=1), "end": end}
    dry = await world.undelete(**window, dry_run=True)
    assert "1 items would be restored" in dry.sentence
    verdict = await world.undelete(**window)
    assert verdict.counts["restored"] == 1
    fresh = [
        one
        for one in (await world.server.changes(ALICE, None)).items
        if "undelete_23_11_26" in one.metadata.get("tags", ())
    ]
    assert [one.metadata["folder"] for one in fresh] == [marked.metadata["folder"]]
    assert fresh[0].metadata["flags"] == ["seen"]
    assert (await world.undelete(**window)).counts["skipped"] == 1
    assert (await world.undelete()).counts["restored"] == 2


async def test_undelete_into_a_folder_of_its_own(world: RestoreWorld) -> None:
    """The folders of then stand below one that names the moment."""
    await world.tick()
    one = next(each for each in (await world.server.changes(ALICE, None)).items if each.kind is Kind.MESSAGE)
    world.server.remove(ALICE, one.item)
    await world.tick()
    await world.undelete(to_original_folder=False)
    folders = {folder for _, folder in await world.folders(ALICE)}
    assert any(folder.startswith("Undeleted 2026-11-23") and folder.endswith("INBOX") for folder in folders)


async def test_what_cannot_be_restored_is_listed_and_the_rest_is(world: RestoreWorld) -> None:
    """A missing blob, a broken one and an item that the AppServer refuses: each with its reason."""
    then = await world.tick()
    digests = [digest_of(b"Subject: number %d\r\n\r\nbody" % number) for number in range(2)]
    missing, broken = (world.store.layout.root / f"items/{one[-3:-1]}/{one}" for one in digests)
    missing.unlink()
    broken.write_bytes(b"\x28\xb5\x2f\xfdnonsense")
    put = world.server.put

    async def choosy(account: str, kind: Kind, photograph: Photograph, content: io.BytesIO) -> str:
        if kind is Kind.DOCUMENT:
            raise AppServerRefused("documents are not for here")
        return await put(account, kind, photograph, content)

    world.server.put = choosy  # type: ignore[method-assign]
    verdict = await world.restore(then)
    assert not verdict.successful
    assert (verdict.counts["restored"], verdict.counts["unrestored"]) == (10, 3)
    reasons = " ".join(error.reason for error in world.run.errors)
    assert "documents are not for here" in reasons
    assert len(world.run.errors) == 3


async def test_an_item_that_reads_back_otherwise_is_not_restored(world: RestoreWorld) -> None:
    """Flags that the AppServer dropped on the way make the item an unrestored one, with both values told."""
    then = await world.tick()
    put = world.server.put

    async def lossy(account: str, kind: Kind, photograph: Photograph, content: io.BytesIO) -> str:
        metadata = {**photograph.metadata, "flags": []}
        return await put(account, kind, Photograph(metadata=metadata, digest=photograph.digest), content)

    world.server.put = lossy  # type: ignore[method-assign]
    verdict = await world.restore(then)
    assert verdict.counts["unrestored"] == 6
    assert "flags [] instead of ['seen']" in world.run.errors[0].reason


async def test_an_appserver_that_goes_away_is_waited_for(world: RestoreWorld) -> None:
    """Away for some minutes: the restore waits and ends whole; away for longer: it fails and can go on."""
    before, _ = await everything(world)
    then = await world.tick()
    put, calls = world.server.put, 0

    async def shaky(*arguments: Any) -> str:
        nonlocal calls
        calls += 1
        if calls == 3:
            world.server.unavailable = "it restarts"
        return await put(*arguments)

    async def come_back(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) >= away:
            world.server.unavailable = ""
        world.clock._monotonic += seconds

    world.server.put = shaky  # type: ignore[method-assign]
    world.clock.sleep = come_back  # type: ignore[method-assign]
    slept: list[float] = []
    away = 10**6
    with pytest.raises(AppServerUnavailable, match="stayed away"):
        await world.restore(then)
    world.server.unavailable = ""
    slept, away, calls = [], 5, 0
    verdict = await world.restore(then)
    assert verdict.counts["restored"] + verdict.counts["skipped"] == 13
    assert await world.mailbox(await world.account_id(NEW)) == before
    assert len(slept) >= 5


async def test_a_stop_ends_it_between_chunks(world: RestoreWorld) -> None:
    """Asked to stop, it ends as stopped, and another run goes on."""
    then = await world.tick()
    run = Run(world.clock)
    run.request_stop()
    with pytest.raises(OperationStopped):
        await world.restoring().on_new_account(run, NewAccount(source=ADDRESS, destination=NEW, when=then))
    assert (await world.restore(then)).successful


async def test_moments_that_cannot_be(world: RestoreWorld) -> None:
    """The future, a time before the account, a window that ends before it starts, an unknown account."""
    then = await world.tick()
    with pytest.raises(UsageError, match="future"):
        await world.restore(then + timedelta(days=1))
    with pytest.raises(UnknownItem, match="no state at that time"):
        await world.restore(then - timedelta(days=900))
    with pytest.raises(UsageError, match="ends before"):
        await world.undelete(start=then, end=then - timedelta(seconds=1))
    asked = NewAccount(source="nobody@example.com", destination=NEW)
    with pytest.raises(UnknownAccount, match="nobody"):
        await world.restoring().on_new_account(Run(world.clock), asked)
    assert [one.name for one in await world.server.accounts()] == [ADDRESS]


async def test_a_dry_run_makes_nothing(world: RestoreWorld) -> None:
    """It counts what would happen, and no account is there afterwards."""
    then = await world.tick()
    verdict = await world.restore(then, dry_run=True)
    assert verdict.counts["expected"] == 13
    assert "would be restored" in verdict.sentence
    assert [one.name for one in await world.server.accounts()] == [ADDRESS]
