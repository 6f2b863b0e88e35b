"""Works: what operations do with their parameters, and which gaps a scan closes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backupd.clock import written
from backupd.errors import AppServerUnavailable, ConfigError, SpaceExhausted, UnknownAccount, UnknownItem
from backupd.items import Kind
from backupd.jobs.archive.configuration import ConfigurationDump
from backupd.jobs.archive.customizations import Customizations
from backupd.jobs.metadata import MetadataUpload
from backupd.jobs.restore import (
    AccountRestore,
    ContentRestore,
    Export,
    ExternalRestore,
    ItemRestore,
    RestoreDrill,
)
from backupd.operations import Operation, Run
from backupd.store import archives
from backupd.store.archives import ArchiveType
from daemon.blob_archives import BlobArchive
from daemon.healing import HEALING
from daemon.metadata_sending import MetadataSending
from daemon.wiring import export_target_maker
from daemon.works import SCHEDULE, Works
from tests.unit.jobs.worlds import ALICE, BODY, BackupWorld
from tests.world.clocks import START


def no_archive(wanted: str, source: Path) -> BlobArchive:
    raise AssertionError(f"nobody asks for {wanted} of {source} here")


class WorksWorld(BackupWorld):
    """A backup with the works over it; `paths` are the server's own files."""

    paths: Sequence[Path] = ()
    archives_customizations = True
    upload: MetadataUpload | None = None

    def works(self) -> Works:
        async def gathering() -> None:
            self.gathered = True

        return Works(
            store=self.store,
            scan=self.scan,
            restore=ItemRestore(self.store, self.server, clock=self.clock),
            accounts=AccountRestore(self.store, self.server, clock=self.clock),
            export=Export(
                self.store, clock=self.clock, make_target=export_target_maker(self.clock), forbidden=()
            ),
            drill=RestoreDrill(
                self.store,
                clock=self.clock,
                make_target=export_target_maker(self.clock),
                parent=self.path / "drills",
                forbidden=(),
            ),
            external=ExternalRestore(self.store, self.server, clock=self.clock),
            contents=ContentRestore(self.store, self.server, clock=self.clock),
            dump=ConfigurationDump(self.store.layout, self.dumped),
            customizations=Customizations(self.store.layout, self.paths, file_bytes_max=1 << 20),
            archives_customizations=lambda: self.archives_customizations,
            clock=self.clock,
            wait_until_gathering=gathering,
            metadata=MetadataSending(self.upload, clock=self.clock),
            archives_metadata=lambda: True,
            open_archive=no_archive,
        )

    async def do(self, type_: str, started_by: str = "root", **parameters: Any) -> str:
        operation = Operation(
            uuid="u", order=1, type=type_, parameters=parameters, started_by=started_by, submitted=START
        )
        self.run = Run(self.clock)
        verdict = await self.works().factories()[type_](operation)(self.run)
        return verdict if isinstance(verdict, str) else verdict.sentence

    def gap(self, account: str) -> None:
        self.store.ledger.open_gap(account, "sequence_hole", "1", self.clock.now())

    def gaps(self) -> list[str]:
        return [gap.account for gap in self.store.ledger.gaps()]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[WorksWorld]:
    async with WorksWorld(tmp_path) as made:
        await made.account()
        yield made


async def test_a_smartscan_closes_all_gaps_and_an_account_scan_its_own(world: WorksWorld) -> None:
    """By id and by address; a gap of the whole server needs a SmartScan."""
    for account in (ALICE, "bob", ""):
        world.gap(account)
    await world.do("doAccountScan", account="alice@example.com")
    assert sorted(world.gaps()) == ["", "bob"]
    await world.do("doSmartScan")
    assert world.gaps() == []
    assert world.gathered


async def test_a_gap_that_grows_during_the_scan_stays_open(world: WorksWorld) -> None:
    """What was missed while the scan listed is not taken for healed."""
    world.gap(ALICE)
    changes = world.server.changes

    async def growing(account: str, since: str | None) -> Any:
        world.gap(ALICE)
        return await changes(account, since)

    world.server.changes = growing  # type: ignore[method-assign]
    await world.do("doAccountScan", account=ALICE)
    assert world.gaps() == [ALICE]


async def test_a_drill_restores_into_a_scratch_server(world: WorksWorld, tmp_path: Path) -> None:
    """With its parameters, and with those of a schedule, which gives none; the AppServer is not asked."""
    await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    await world.do("doSmartScan")
    world.server.unavailable = "it must not be asked"
    told = await world.do("doRestoreDrill", items=1, account_restores=0, seed=7, accounts=[ALICE])
    assert "drill with seed 7: 1 items and 0 whole accounts" in told
    told = await world.do("doRestoreDrill", started_by=SCHEDULE)
    assert "1 items and 1 whole accounts at random past moments; 2 expected, 2 restored and equal" in told
    (tmp_path.parent / f"{tmp_path.name}-apart").mkdir()
    told = await world.do(
        "doRestoreDrill", keep=True, scratch_path=str(tmp_path.parent / f"{tmp_path.name}-apart")
    )
    assert f"kept in {tmp_path.parent / f'{tmp_path.name}-apart'}" in told


async def test_a_scan_that_fails_closes_nothing(world: WorksWorld) -> None:
    """The gap stays for the next try."""
    world.gap(ALICE)
    world.server.unavailable = "it is down"
    for type_, given in (("doSmartScan", {}), ("doAccountScan", {"account": ALICE})):
        with pytest.raises(AppServerUnavailable):
            await world.do(type_, **given)
    assert world.gaps() == [ALICE]


async def test_a_gap_of_an_account_that_is_nowhere_is_closed_by_healing_alone(world: WorksWorld) -> None:
    """An event that named no account of ours does not ask for scans for ever; an admin's typo is an error."""
    world.gap("ghost")
    with pytest.raises(UnknownAccount):
        await world.do("doAccountScan", account="ghost")
    assert world.gaps() == ["ghost"]
    assert "nothing to scan" in await world.do("doAccountScan", started_by=HEALING, account="ghost")
    assert world.gaps() == []


async def test_a_gap_of_an_account_that_was_deleted_is_closed(world: WorksWorld) -> None:
    """The scan of an account that is recorded as deleted succeeds."""
    await world.account("bob")
    await world.do("doSmartScan")
    world.server.remove_account("bob")
    await world.do("doAccountScan", account="bob")
    world.gap("bob")
    await world.do("doAccountScan", account="bob")
    assert world.gaps() == []


async def test_an_item_is_restored_by_the_operations_parameters(world: WorksWorld) -> None:
    """Date and folder are read from the texts that are kept; the verdict counts."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    await world.do("doSmartScan")
    world.server.remove(ALICE, item)
    verdict = await world.do("doItemRestore", account=ALICE, item_id=item, restore_folder="Back")
    assert "1 expected, 1 restored" in verdict
    with pytest.raises(UnknownItem, match="no state at"):
        await world.do("doItemRestore", account=ALICE, item_id=item, date="2001-01-01")
    assert "1 skipped" in await world.do(
        "doItemRestore", account=ALICE, item_id=item, date="last", restore_folder="Back"
    )


async def test_a_scans_options_are_taken(world: WorksWorld) -> None:
    """Deep, force and the threshold reach the scan."""
    items = [await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"%d" % number) for number in range(20)]
    await world.do("doSmartScan")
    assert "20 as recorded" in (await world.do("doSmartScan", deep=True)).replace("21 as", "20 as")
    for item in items:
        world.server.remove(ALICE, item)
    assert "20 deleted" in await world.do("doSmartScan", force=True)
    await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"bad")
    read = world.server.read

    async def unreadable(key: Any) -> Any:
        if key.kind is Kind.MESSAGE:
            raise AppServerUnavailable("a bad sector")
        return await read(key)

    world.server.read = unreadable  # type: ignore[method-assign]
    with pytest.raises(AppServerUnavailable, match="more than 0"):
        await world.do("doSmartScan", read_error_threshold=0)


def archived(world: WorksWorld, type_: ArchiveType) -> int:
    return len(archives.archives(world.store.layout, type_))


async def test_the_cluster_is_recorded_and_dumped_whenever_asked(world: WorksWorld) -> None:
    """Domains, COS and lists are compared, and each call makes a new archive; a schedule makes one a day."""
    verdict = await world.do("doBackupCluster", action="start")
    assert verdict.startswith("domains, COS and mailing lists: 0 new")
    assert archived(world, ArchiveType.CONFIGURATION) == 1
    assert "there already" in await world.do("doBackupCluster", started_by=SCHEDULE)
    assert archived(world, ArchiveType.CONFIGURATION) == 1
    await world.clock.advance(1.0)
    await world.do("doBackupCluster", action="start")
    assert archived(world, ArchiveType.CONFIGURATION) == 2
    await world.clock.advance(86_400.0)
    assert "configuration dumped in" in await world.do("doBackupCluster", started_by=SCHEDULE)


async def test_customizations_go_with_the_first_scan_of_a_day(world: WorksWorld, tmp_path: Path) -> None:
    """Once a day where files are configured, not where the attribute says no; what fails is told."""
    assert "archived" not in await world.do("doSmartScan")
    world.paths = [tmp_path / "missing"]
    (tmp_path / "main.cf").write_text("x")
    world.paths = [tmp_path / "main.cf", tmp_path / "missing"]
    world.archives_customizations = False
    await world.do("doSmartScan")
    assert archived(world, ArchiveType.CUSTOMIZATIONS) == 0
    world.archives_customizations = True
    assert "; 1 files archived" in await world.do("doSmartScan")
    assert [error.item for error in world.run.errors] == [str(tmp_path / "missing")]
    assert "archived" not in await world.do("doSmartScan")
    assert archived(world, ArchiveType.CUSTOMIZATIONS) == 1


async def test_customizations_are_archived_when_asked(world: WorksWorld, tmp_path: Path) -> None:
    """The command archives whatever the day's scan did; without paths it fails and says what to set."""
    with pytest.raises(ConfigError, match="no files are named"):
        await world.do("doBackupServerCustomizations", action="start")
    (tmp_path / "main.cf").write_text("x")
    world.paths = [tmp_path / "main.cf"]
    assert await world.do("doBackupServerCustomizations", action="start")
    assert archived(world, ArchiveType.CUSTOMIZATIONS) == 1


async def test_a_gap_is_scanned_before_a_restore(world: WorksWorld) -> None:
    """What the gap hid is recorded first, the verdict says so, and the gap is closed; without one nothing."""
    first = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    await world.scan_all()
    second = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY + b"2")
    words = {"source_account": f"{ALICE}@example.com", "date": "last"}
    verdict = await world.do("doRestoreOnNewAccount", **words, destination_account="one@example.com")
    assert verdict.startswith("account ")
    assert "1 expected, 1 restored" in verdict
    world.gap(ALICE)
    to = "two@example.com"
    dry = await world.do("doRestoreOnNewAccount", **words, destination_account=to, dry_run=True)
    assert dry.startswith("changes may have been missed: the account would be scanned first; dry run")
    assert (world.gaps(), world.store.index.item(ALICE, second)) == ([ALICE], None)
    verdict = await world.do("doRestoreOnNewAccount", **words, destination_account=to)
    assert verdict.startswith("changes may have been missed, so the account was scanned first")
    assert "2 expected, 2 restored" in verdict
    assert world.gaps() == []
    assert first != second


async def test_a_scan_that_fails_does_not_keep_a_restore_back(world: WorksWorld) -> None:
    """A listing that is not believed is told, and what was recorded is restored all the same."""
    items = [await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"%d" % number) for number in range(20)]
    await world.scan_all()
    now = written(world.clock.now())
    for item in items:
        world.server.remove(ALICE, item)
    world.gap(ALICE)
    words = {"source_account": ALICE, "destination_account": "one@example.com", "date": now}
    verdict = await world.do("doRestoreOnNewAccount", **words)
    assert "the scan before the restore did not succeed" in verdict
    assert "20 expected, 20 restored" in verdict
    assert "scan before the restore" in [error.item for error in world.run.errors]


async def test_what_was_deleted_is_brought_back_by_the_operations_parameters(world: WorksWorld) -> None:
    """`first` and `last` are an open window; a dry run counts and restores nothing."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    await world.scan_all()
    world.server.remove(ALICE, item)
    await world.scan_all()
    words = {"account": ALICE, "start_date": "first", "end_date": "last"}
    assert "1 items would be restored" in await world.do("doUndelete", **words, dry_run=True)
    assert "1 expected, 1 restored" in await world.do("doUndelete", **words)
    foreseen = await world.do("doItemRestore", account=ALICE, item_id=item, dry_run=True)
    assert foreseen.startswith(f"dry run: message {item}")


async def test_an_export_takes_its_parameters(world: WorksWorld, tmp_path: Path) -> None:
    """Destination, filters and limits arrive; a threshold is in megabytes."""
    await world.scan_all()
    place = tmp_path.with_name(f"{tmp_path.name}-out")
    told = await world.do("doExport", destination_path=str(place), accounts=["alice@example.com"])
    assert "1 of 1 accounts" in told
    assert (place / "example.com" / "alice" / "account.toml").is_file()
    with pytest.raises(SpaceExhausted, match="MB"):
        await world.do("doExport", destination_path=str(place), threshold=1 << 40)
