"""The operation `doPurge`: rules from attributes, protections from the ledger, and other Backup Paths."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backupd.attributes import Scopes, Settings
from backupd.errors import BackupPathRefused, UsageError
from backupd.items import ItemKey, Kind
from backupd.jobs.purge.purge import PurgeRefused
from backupd.operations import Operation, Run, Verdict
from backupd.retention import Retention
from backupd.schedules import JOBS
from backupd.states import ChangeType
from backupd.store.protections import ALL, Protections
from backupd.store.store import Store
from backupd.timekeeping import Uptime
from daemon.clock_watch import ClockWatch
from daemon.guarding import make_guard
from daemon.purging import Purging
from tests.unit.jobs.purging import PurgedWorld
from tests.unit.jobs.worlds import ALICE, SERVER, change
from tests.world.quick_disk import quick_directory

YEAR = 365 * 86_400.0


class Purger(PurgedWorld):
    """A backup with the operation as the daemon makes it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.settings = Settings(self.store.ledger)
        self.watch = ClockWatch(self.store, clock=self.clock, uptime=self.uptime)
        self.purging = Purging(
            self.store,
            self.recorder,
            self.settings,
            self.watch,
            server_id=SERVER,
            clock=self.clock,
            guard=make_guard(self.store, self.settings, SERVER),
            sent_through=lambda: None,
            reclaim=lambda _run: None,
        )
        self.set("backupBlobGraceHours", 0)

    def uptime(self) -> Uptime:
        return Uptime("boot", self.clock.monotonic())

    def set(self, attribute: str, value: object) -> None:
        self.settings.set(attribute, Scopes(), value)

    async def do_purge(self, **given: Any) -> Verdict:
        operation = Operation(uuid="u", order=1, type="doPurge", parameters=given, submitted=self.clock.now())
        self.run = Run(self.clock)
        verdict = await self.purging.factories()["doPurge"](operation)(self.run)
        assert isinstance(verdict, Verdict)
        return verdict


@pytest.fixture
async def world() -> AsyncIterator[Purger]:
    with quick_directory() as place:
        async with Purger(place / "backup") as made:
            yield made


def copied(world: Purger, to: Path) -> Path:
    """Return a copy of the Backup Path, as another server's would be."""
    shutil.copytree(world.path, to)
    return to


async def aged(world: Purger) -> ItemKey:
    (item,) = await world.have("item")
    await world.delete(item)
    world.pass_days(31)
    return ItemKey(ALICE, Kind.MESSAGE, item)


async def test_the_attributes_rule_at_once(world: Purger) -> None:
    """A change of an attribute counts at the next purge."""
    key = await aged(world)
    assert world.purging.rules().retention == Retention(data_days=30, account_days=30, archive_days=30)
    world.set("ZxBackup_DataRetentionDays", 40)
    await world.do_purge()
    assert key in world.histories()
    world.set("ZxBackup_DataRetentionDays", 15)
    await world.do_purge()
    assert key not in world.histories()
    assert world.store.statistics.backup().last_purge_ended == world.clock.now()
    assert world.settings.get("backupBlobGraceHours", Scopes(server=SERVER)).value == 0


async def test_holds_of_the_ledger_protect(world: Purger) -> None:
    """A hold on an account, or on all of them, keeps everything; taken away, retention acts again."""
    key = await aged(world)
    protections = Protections(world.store.ledger)
    for held in (ALICE, ALL):
        protections.set_holds([held], by="admin", now=world.clock.now())
        assert "legal hold 1" in (await world.do_purge()).sentence
        assert key in world.histories()
        protections.unset_holds([held])
    await world.do_purge()
    assert key not in world.histories()


@pytest.mark.parametrize("seconds", [YEAR, -YEAR])
async def test_a_clock_set_by_a_year_purges_nothing(world: Purger, seconds: float) -> None:
    """The purge fails and says why; back at the right time it works by itself."""
    key = await aged(world)
    (young,) = await world.have("young")
    world.watch.look()
    await world.delete(young)
    world.clock.jump(seconds)
    with pytest.raises(PurgeRefused, match="the clock is in doubt: the clock says"):
        await world.do_purge()
    world.clock.tick(600)
    with pytest.raises(PurgeRefused):
        await world.do_purge()
    assert {key, ItemKey(ALICE, Kind.MESSAGE, young)} <= set(world.histories())
    world.clock.jump(-seconds)
    await world.do_purge()
    assert key not in world.histories()
    assert ItemKey(ALICE, Kind.MESSAGE, young) in world.histories()


async def test_a_deletion_under_a_clock_that_was_behind_is_young(world: Purger) -> None:
    """A clock that was behind by a year dates a deletion too early; it counts from when it was recorded."""
    (item,) = await world.have("item")
    key = ItemKey(ALICE, Kind.MESSAGE, item)
    world.pass_days(60)
    world.watch.look()
    world.clock.jump(-YEAR)
    assert world.watch.look()
    await world.delete(item)
    await world.delete_account()
    world.clock.jump(YEAR)
    world.pass_days(1)
    await world.do_purge()
    assert key in world.histories()
    world.pass_days(28)
    await world.do_purge()
    assert key in world.histories()
    world.pass_days(2)
    await world.do_purge()
    assert not world.histories()


async def test_an_event_that_claims_to_be_old_ages_nothing(world: Purger) -> None:
    """A deletion with a time of long ago, by a publisher's wrong clock, stays for as long as any other."""
    (item,) = await world.have("item")
    world.pass_days(60)
    world.watch.look()
    world.journal(change(item, ChangeType.DELETED, folder=None, at=86_400.0))
    await world.record()
    key = ItemKey(ALICE, Kind.MESSAGE, item)
    assert world.histories()[key][-1].deleted
    world.pass_days(29)
    await world.do_purge()
    assert key in world.histories()
    world.pass_days(2)
    await world.do_purge()
    assert key not in world.histories()


async def test_another_backup_path_is_purged_with_its_own_protections(world: Purger) -> None:
    """Another path is purged under its own lock; its own holds count there, and ours is left alone."""
    key = await aged(world)
    other = copied(world, world.path.with_name("other"))
    held = copied(world, world.path.with_name("held"))
    with Store.open(held, server_id=SERVER, server_name="mail", clock=world.clock) as store:
        Protections(store.ledger).set_holds([ALICE], by="admin", now=world.clock.now())
    await world.do_purge(backup_path=str(other))
    await world.do_purge(backup_path=str(held))
    assert key in world.histories()
    for path, is_there in ((other, False), (held, True)):
        with Store.open(path, server_id=SERVER, server_name="mail", clock=world.clock) as store:
            assert bool(store.histories.read(key)) is is_there
    await world.do_purge(backup_path=str(world.path))
    assert key not in world.histories()


async def test_paths_that_can_t_be_purged_are_refused(world: Purger) -> None:
    """In use, ours by a part, no backup, or no absolute path: each is refused, and nothing changes."""
    await world.have("item")
    used = copied(world, world.path.with_name("used"))
    with (
        Store.open(used, server_id=SERVER, server_name="mail", clock=world.clock),
        pytest.raises(BackupPathRefused, match="in use by process"),
    ):
        await world.do_purge(backup_path=str(used))
    for path in (world.path.parent, world.path / "accounts"):
        with pytest.raises(UsageError, match="own Backup Path"):
            await world.do_purge(backup_path=str(path))
    empty = world.path.with_name("empty")
    empty.mkdir()
    with pytest.raises(BackupPathRefused, match="no backup in it"):
        await world.do_purge(backup_path=str(empty))
    assert not list(empty.iterdir())
    with pytest.raises(UsageError, match="no absolute path"):
        await world.do_purge(backup_path="other")
    with pytest.raises(UsageError, match="1 to 36,500"):
        await world.do_purge(purge_days=0)


def test_the_scan_of_the_same_minute_comes_first() -> None:
    """SmartScan stands before the purge in the table of jobs, so that both due together are queued so."""
    names = [job.name for job in JOBS]
    assert names.index("SmartScan") < names.index("purge")
    purge = next(job for job in JOBS if job.name == "purge")
    assert purge.operation == "doPurge"
