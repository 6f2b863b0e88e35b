"""External restore: another server's backup comes in whole, beside what is there, once, whatever happens."""

from __future__ import annotations

import io
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backupd.appservers.base import Account, DirectoryEntry
from backupd.errors import AppServerUnavailable, BackupPathRefused, OperationStopped, UsageError
from backupd.items import ItemKey, Kind
from backupd.jobs.restore import patience, putting
from backupd.jobs.restore.external import ExternalRestore
from backupd.jobs.restore.importing import ExternalWanted
from backupd.operations import Run
from backupd.states import Photograph
from backupd.store import ownership
from backupd.store.id_mapper import IdMapper
from backupd.store.store import Store
from tests.unit.jobs.external_worlds import USERS, Mailbox, Source, Target, mailbox


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Source]:
    async with Source(tmp_path / "source") as made:
        # Another server's path: the world's own id is `SERVER`.
        await made.fill()
        await made.scan_all()
        await made.clock.advance(60)
        yield made


@pytest.fixture
def target(tmp_path: Path, source: Source) -> Any:
    made = Target(tmp_path / "target", source.path)
    yield made
    made.store.close()


async def there(source: Source) -> dict[str, Mailbox]:
    return {f"{user}@old.test": await mailbox(source.server, f"{user}-there") for user in USERS}


def files_of(path: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in path.rglob("*")
        if one.is_file() and not one.name.endswith(("-shm", "-wal"))
    }


async def test_a_server_comes_in_whole_and_twice_changes_nothing(source: Source, target: Target) -> None:
    """Items are the same, entries and attributes there, ids mapped; the source is untouched; again skips."""
    before = files_of(source.path)
    verdict = await target.restore()
    assert verdict.successful, (verdict, target.run.errors)
    assert await target.mailboxes() == await there(source)
    ann = (await target.accounts())["ann@old.test"]
    gold = target.entry(Kind.COS, "gold")
    assert gold.id != "cos-there-gold"
    assert gold.metadata["quota"] == 5
    assert ann.metadata["zimbraCOSId"] == gold.id
    assert ann.metadata["password_hash"] == "{SSHA}x"
    assert ann.metadata["aliases"] == ["ann.alias@old.test"]
    sent = next(
        one.item
        for one in (await target.server.changes(ann.id, None)).items
        if one.kind is Kind.FOLDER and one.metadata["folder"] == "Sent"
    )
    assert ann.metadata["zimbraPrefWhenInFolderIds"] == [sent, "7"]
    members = target.entry(Kind.MAILING_LIST, "all@old.test").metadata
    assert (members["members"], members["owners"]) == (["ann@old.test"], [ann.id])
    assert [one.metadata["name"] for one in target.server.entries if one.kind is Kind.COS] == ["gold"]
    assert target.entry(Kind.DOMAIN, "old.test").metadata["note"] == "d"
    again = await target.restore()
    assert again.successful
    assert (again.counts["restored"], again.counts["skipped"]) == (0, verdict.counts["restored"])
    assert await target.mailboxes() == await there(source)
    assert files_of(source.path) == before


async def test_ids_are_kept_in_the_map_and_in_each_account(source: Source, target: Target) -> None:
    """The map file names source and entries, each account's log its items; a second run adds no line."""
    await target.restore()
    ann = (await target.accounts())["ann@old.test"]
    content = msgspec.json.decode(target.store.layout.map_file("here").read_bytes())
    assert content["imported_from"] == source.store.identity.server
    assert content["account:ann-there"] == ann.id
    assert content["cos:cos-there-gold"] == target.entry(Kind.COS, "gold").id
    mapper = IdMapper(target.store.layout)
    lines = mapper.read(ann.id)
    kinds = sorted(one.kind.value for one in lines if one.kind is not Kind.FOLDER)
    assert kinds == ["contact-group", "document", *["message"] * 9]
    for one in lines:
        now = await target.server.read(ItemKey(ann.id, one.kind, one.target))
        then = await source.server.read(ItemKey("ann-there", one.kind, one.source))
        assert now.metadata["folder"] == then.metadata["folder"]
    text = mapper.path(ann.id).read_bytes()
    await target.restore()
    assert mapper.path(ann.id).read_bytes() == text
    # A new name of the server leaves what the map holds.
    target.store.close()
    target.store = Store.open(target.path, server_id="here", server_name="new", clock=target.clock)
    kept = msgspec.json.decode(target.store.layout.map_file("here").read_bytes())
    assert kept == content | {"name": "new"}
    assert ownership.check(target.store.layout, "here", writable=True) == target.store.identity


async def test_what_is_there_is_used_as_it_is(source: Source, target: Target) -> None:
    """Entries and accounts of the same names keep what they have, get nothing; items come beside theirs."""
    await target.server.put_entry(
        DirectoryEntry(kind=Kind.DOMAIN, id="d", metadata={"name": "old.test", "mine": 1})
    )
    await target.server.create_account(Account(id="ann", name="ann@old.test", metadata={"mine": 1}))
    own = await target.server.add("ann", Kind.MESSAGE, "INBOX", b"Subject: mine\r\n\r\n")
    before = (await target.accounts())["ann@old.test"]
    assert (await target.restore()).successful
    assert (await target.accounts())["ann@old.test"] == before
    assert target.entry(Kind.DOMAIN, "old.test").metadata == {"name": "old.test", "mine": 1}
    assert (await target.server.read(ItemKey("ann", Kind.MESSAGE, own))).content is not None
    assert len(await mailbox(target.server, "ann")) == len((await there(source))["ann@old.test"]) + 1


@pytest.mark.parametrize("puts", [0, 1, 5, 11, 12, 20, 21])
async def test_a_killed_run_goes_on(
    source: Source, target: Target, monkeypatch: pytest.MonkeyPatch, puts: int
) -> None:
    """Whatever the AppServer had taken when all ended, the next run makes it whole, and nothing twice."""
    monkeypatch.setattr(putting, "CHUNK_ITEMS", 4)
    put, taken = target.server.put, 0

    class Killed(BaseException):
        """The end of the process, as far as this test goes."""

    async def deadly(*arguments: Any) -> str:
        nonlocal taken
        if taken >= puts:
            raise Killed
        taken += 1
        return await put(*arguments)

    monkeypatch.setattr(target.server, "put", deadly)
    with pytest.raises((Killed, BaseExceptionGroup)):
        await target.restore(concurrent_accounts=2)
    monkeypatch.setattr(target.server, "put", put)
    verdict = await target.restore()
    assert verdict.counts["restored"] + verdict.counts["skipped"] == 22
    assert await target.mailboxes() == await there(source)
    ann = (await target.accounts())["ann@old.test"]
    assert ann.metadata["password_hash"] == "{SSHA}x"
    assert len([one for one in IdMapper(target.store.layout).read(ann.id) if one.kind is Kind.MESSAGE]) == 9


@pytest.mark.parametrize("calls", range(8))
async def test_killed_in_phase_1_it_is_made_whole_later(
    source: Source, target: Target, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Entries and accounts that were made empty get their attributes from the next run."""

    class Killed(BaseException):
        """The end of the process, as far as this test goes."""

    made = 0

    def deadly(method: Any) -> Any:
        async def counted(*arguments: Any) -> Any:
            nonlocal made
            if made >= calls:
                raise Killed
            made += 1
            return await method(*arguments)

        return counted

    with monkeypatch.context() as patch:
        for name in ("put_entry", "create_account"):
            patch.setattr(target.server, name, deadly(getattr(target.server, name)))
        with pytest.raises(Killed):
            await target.restore()
    assert (await target.restore()).successful
    assert target.entry(Kind.COS, "gold").metadata["quota"] == 5
    assert target.entry(Kind.DOMAIN, "old.test").metadata["note"] == "d"
    assert target.entry(Kind.MAILING_LIST, "all@old.test").metadata["members"] == ["ann@old.test"]
    for account in (await target.accounts()).values():
        assert account.metadata["password_hash"] == "{SSHA}x"
    assert await target.mailboxes() == await there(source)


async def test_filters_choose(source: Source, target: Target) -> None:
    """What is not wanted stays out: accounts, domains, kinds of entries; an unknown account is told."""
    await source.server.create_account(
        Account(id="spam-there", name="spam@old.test", metadata={"system": True})
    )
    await source.scan_all()
    assert (await target.restore(domains=("else.test",), skip_coses=True)).counts["accounts"] == 0
    assert [one.metadata["name"] for one in target.server.entries] == ["else.test"]
    verdict = await target.restore(
        accounts=("ANN@old.test", "nobody@old.test"), skip_aliases=True, skip_distribution_lists=True
    )
    assert list(await target.accounts()) == ["ann@old.test"]
    assert "aliases" not in (await target.accounts())["ann@old.test"].metadata
    assert ("nobody@old.test", "there is no such account in that backup") in [
        (one.item, one.reason) for one in target.run.errors
    ]
    assert not verdict.successful
    assert not [one for one in target.server.entries if one.kind is Kind.MAILING_LIST]
    await target.restore(skip_account_provisioning=True, skip_system_accounts=False)
    assert list(await target.accounts()) == ["ann@old.test"]
    assert sum("none was to be made" in one.reason for one in target.run.errors) == 2


async def test_only_provisioning_and_dry_run_bring_no_items(source: Source, target: Target) -> None:
    """A dry run makes nothing at all; provisioning alone makes accounts that a later run fills."""
    assert "2 accounts" in (await target.restore(dry_run=True)).sentence
    assert await target.accounts() == {}
    assert target.server.entries == []
    assert "only provisioning" in (await target.restore(provisioning_only=True)).sentence
    assert {len(one) for one in (await target.mailboxes()).values()} == {1}
    await target.restore()
    assert await target.mailboxes() == await there(source)


async def test_a_dry_run_counts_as_the_run_will(source: Source, target: Target) -> None:
    """Before the first run, between two, and with a limit: what is left out is counted, too."""
    counts = ("expected", "restored", "skipped", "unrestored", "left_out", "accounts")
    for asked, skipped, left_out in (({}, 0, 0), ({}, 22, 0), ({"file_bytes_max": 6}, 2, 20)):
        dry = await target.restore(**asked, dry_run=True)
        real = await target.restore(**asked)
        assert {name: dry.counts[name] for name in counts} == {name: real.counts[name] for name in counts}
        assert (real.counts["skipped"], real.counts["left_out"]) == (skipped, left_out)
    assert "20 left out" in real.sentence


async def test_a_domain_or_a_moment_that_backup_knows_nothing_of_is_told(
    source: Source, target: Target
) -> None:
    """A word that is misspelt brings nothing in, and is no success."""
    for asked in ({"domains": ("odl.test",)}, {"when": source.clock.now() - timedelta(days=9)}):
        verdict = await target.restore(**asked)
        assert (verdict.successful, verdict.counts["accounts"], len(target.run.errors)) == (False, 0, 1)


async def test_a_moment_before_and_what_was_deleted_since(source: Source, target: Target) -> None:
    """`date` brings items as of then; deleted ones come only without `filter_deleted`, and are marked."""
    before = await there(source)
    then = source.clock.now()
    gone = [one for one in (await source.server.changes("ben-there", None)).items if one.kind is Kind.MESSAGE]
    for one in gone[:4]:
        source.server.remove("ben-there", one.item)
    await source.clock.advance(60)
    await source.scan_all(force=True)
    target.clock = source.clock
    await target.restore()
    now = await target.mailboxes()
    assert now == await there(source)
    await target.restore(when=then)
    assert await target.mailboxes() == before
    with pytest.raises(UsageError, match="future"):
        await target.restore(when=source.clock.now() + timedelta(days=1))
    for listed in (await target.server.changes((await target.accounts())["ben@old.test"].id, None)).items:
        if listed.kind is Kind.MESSAGE:
            target.server.remove((await target.accounts())["ben@old.test"].id, listed.item)
    await target.restore(filter_deleted=False)
    ben = (await target.mailboxes())["ben@old.test"]
    assert sum("undelete_" in facts[0] for facts in ben.values()) == 4


async def test_an_account_that_can_t_be_taken_holds_no_other_up(
    source: Source, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the AppServer refuses of one account is listed with its reason; the other comes in whole."""
    monkeypatch.setattr(putting, "REFUSED_IN_A_ROW_MAX", 3)
    put = target.server.put

    async def choosy(account: str, kind: Kind, photograph: Photograph, content: io.BytesIO) -> str:
        if account == (await target.accounts())["ann@old.test"].id:
            raise putting.AppServerRefused("full")
        return await put(account, kind, photograph, content)

    monkeypatch.setattr(target.server, "put", choosy)
    verdict = await target.restore()
    assert not verdict.successful
    assert (await target.mailboxes())["ben@old.test"] == (await there(source))["ben@old.test"]
    reasons = [str(one) for one in target.run.errors]
    assert any(one.startswith("ann@old.test: item-") and "full" in one for one in reasons)


async def test_it_stops_when_asked_and_goes_on(
    source: Source, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop ends it between items, all accounts of it; given again, it ends whole."""
    monkeypatch.setattr(putting, "CHUNK_ITEMS", 4)
    run, put = Run(target.clock), target.server.put

    async def stopping(*arguments: Any) -> str:
        run.request_stop()
        return await put(*arguments)

    monkeypatch.setattr(target.server, "put", stopping)
    wanted = ExternalWanted(source_path=str(target.source))
    with pytest.raises(OperationStopped):
        await ExternalRestore(target.store, target.server, clock=target.clock).run(run, wanted)
    monkeypatch.setattr(target.server, "put", put)
    verdict = await target.restore()
    assert 0 < verdict.counts["skipped"] <= 8
    assert await target.mailboxes() == await there(source)


async def test_own_and_unknown_paths_are_refused(source: Source, target: Target, tmp_path: Path) -> None:
    """Our own Backup Path, one in it, one around it, relative ones, and what is no Backup Path."""
    link = tmp_path / "link"
    link.symlink_to(target.path)
    for path in (target.path, target.path / "accounts", tmp_path, link, "relative"):
        with pytest.raises(UsageError):
            await target.restore(source_path=str(path))
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(BackupPathRefused):
            await target.restore(source_path=str(path))
    copy = tmp_path / "copy"
    shutil.copytree(target.path, copy)
    with pytest.raises(UsageError, match="very server"):
        await target.restore(source_path=str(copy))
    assert (await target.restore(source_path=str(copy), force=True)).successful


async def test_an_appserver_that_stays_away_fails_it_resumable(
    source: Source, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the operating one, not a group of them."""
    monkeypatch.setattr(patience, "SECONDS_MAX", -1.0)
    target.server.unavailable = "down"
    with pytest.raises(AppServerUnavailable, match="stayed away"):
        await target.restore()
    target.server.unavailable = ""
    assert (await target.restore()).successful
