"""Enrolling: an account that is not backed up is left as it is, and followed again without a hole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.appservers.base import Account, DirectoryEntry
from backupd.attributes import Scopes, Settings
from backupd.enrolment import Enrolment
from backupd.events import Change
from backupd.items import Kind
from backupd.states import ChangeType, Origin
from daemon.enrolling import GAP_REASON, GAPS_MAX, Enrolling
from tests.unit.jobs.worlds import ALICE, BackupWorld, change

BOB = "bob"
BASIC = DirectoryEntry(kind=Kind.COS, id="c1", metadata={"name": "basic"})
PREMIUM = DirectoryEntry(kind=Kind.COS, id="c2", metadata={"name": "premium"})


class EnrolledWorld(BackupWorld):
    """Two accounts: Alice in the COS `basic`, Bob without one."""

    def make_enrolment(self) -> Enrolment:
        self.settings = Settings(self.store.ledger)
        self.enrolling = Enrolling(self.store, self.settings, now=self.clock.now)
        return self.enrolling

    async def fill(self) -> None:
        self.server.entries = [BASIC, PREMIUM]
        await self.server.create_account(account(ALICE, "basic"))
        await self.server.create_account(account(BOB))
        self.items = {
            one: await self.server.add(one, Kind.MESSAGE, "INBOX", b"Subject: first\r\n\r\n")
            for one in (ALICE, BOB)
        }
        await self.scan_all()

    def leave_out(self, *, cos: str = "", account: str = "", enabled: bool = False) -> None:
        self.settings.set("backupEnabled", Scopes(cos=cos, account=account), enabled)

    def said(self, type_: ChangeType, cos: str, *, at: float = 0.0) -> Change:
        """Return what an event says of Alice herself."""
        metadata = None if type_ is ChangeType.DELETED else account(ALICE, cos).metadata
        return Change(
            account=ALICE,
            kind=Kind.ACCOUNT,
            item=ALICE,
            type=type_,
            time=self.clock.now() + timedelta(seconds=at),
            origin=Origin.REALTIME,
            event=f"source#{type_}{cos}{at}",
            metadata=metadata,
        )

    def messages(self, account: str = ALICE) -> int:
        return sum(one.kind is Kind.MESSAGE for one in self.store.index.items(account))


def account(identifier: str, cos: str = "") -> Account:
    name = f"{identifier}@example.com"
    return Account(id=identifier, name=name, metadata={"name": name, **({"cos": cos} if cos else {})})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[EnrolledWorld]:
    async with EnrolledWorld(tmp_path) as made:
        await made.fill()
        yield made


@pytest.mark.parametrize("level", ["cos", "account"])
async def test_neither_events_nor_scans_record_what_is_not_backed_up(
    world: EnrolledWorld, level: str
) -> None:
    """Left out by COS (meant by name) or by itself, an account gets no new state, and nothing is deleted."""
    world.leave_out(**{level: {"cos": "c1", "account": ALICE}[level]})
    world.clock.tick(60)
    world.server.remove(ALICE, world.items[ALICE])
    await world.server.add(BOB, Kind.MESSAGE, "INBOX", b"Subject: second\r\n\r\n")
    world.journal(change("99", ChangeType.CREATED, event="e1", at=10_000.0))
    await world.record()
    assert world.recorder.counts.unwanted == 1
    verdict = await world.scan_all()
    assert "1 accounts left out that are not backed up" in verdict
    assert (world.messages(ALICE), world.messages(BOB)) == (1, 2)
    assert "is not backed up" in await world.scan_account(ALICE)
    assert not world.enrolling.is_enabled(ALICE)


async def test_an_account_may_be_backed_up_though_its_cos_is_not(world: EnrolledWorld) -> None:
    """The account's own setting wins over that of its COS."""
    world.leave_out(cos="c1")
    world.leave_out(account=ALICE, enabled=True)
    assert world.enrolling.is_enabled(ALICE)
    assert world.enrolling.disabled_since(ALICE) is None


async def test_since_when_is_kept(world: EnrolledWorld) -> None:
    """The moment outlives the process and later changes of other settings."""
    began = world.clock.now()
    world.leave_out(cos="c1")
    world.clock.tick(3600)
    world.crash()
    world.leave_out(account=BOB)
    assert world.enrolling.disabled_since(ALICE) == began
    assert world.enrolling.disabled_since(BOB) == began + timedelta(hours=1)


async def test_what_was_made_before_is_recorded_though_it_comes_later(world: EnrolledWorld) -> None:
    """A change that was in the journal when its account was left out is recorded."""
    world.journal(change("98", ChangeType.CREATED, event="e1", at=0.0))
    world.clock.tick(60)
    world.leave_out(account=ALICE)
    await world.record()
    assert world.messages() == 2


async def test_followed_again_means_a_gap_and_a_history_that_goes_on(world: EnrolledWorld) -> None:
    """Enabling again opens a gap; the scan finds what was missed, deletions too."""
    world.leave_out(cos="c1")
    world.server.remove(ALICE, world.items[ALICE])
    await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"Subject: meanwhile\r\n\r\n")
    world.settings.unset("backupEnabled", Scopes(cos="c1"))
    assert [gap.reason for gap in world.store.ledger.gaps(account=ALICE)] == [GAP_REASON]
    await world.scan_account(ALICE, force=True)
    assert world.history(world.items[ALICE])[-1].deleted
    assert world.messages() == 1


async def test_gaps_of_what_is_left_out_close(world: EnrolledWorld) -> None:
    """Nobody needs to heal what is not backed up; nor does a hole in its events open a gap."""
    world.store.ledger.open_gap(ALICE, "test", "", world.clock.now())
    world.store.ledger.open_gap(BOB, "test", "", world.clock.now())
    world.leave_out(account=ALICE)
    world.journal(change("99", ChangeType.CREATED, event="e1", at=10_000.0, number=7))
    await world.record()
    assert [gap.account for gap in world.store.ledger.gaps()] == [BOB]


async def test_many_accounts_enabled_again_are_scanned_together(world: EnrolledWorld) -> None:
    """More than a few get one gap of the whole server."""
    for number in range(GAPS_MAX + 1):
        await world.server.create_account(account(f"a{number}", "basic"))
    await world.scan_all()
    world.leave_out(cos="c1")
    world.leave_out(cos="c1", enabled=True)
    assert [gap.account for gap in world.store.ledger.gaps()] == [""]


async def test_moving_to_another_cos_counts(world: EnrolledWorld) -> None:
    """An event that moves an account to a COS left out is its last; one that moves it back is recorded."""
    world.leave_out(cos="c2")
    world.journal(world.said(ChangeType.MODIFIED, "premium"), change("99", event="e1", at=10_000.0))
    await world.record()
    assert world.store.index.find_account(ALICE).metadata["cos"] == "premium"
    assert not world.enrolling.is_enabled(ALICE)
    assert world.messages() == 1
    world.clock.tick(60)
    world.journal(
        world.said(ChangeType.MODIFIED, "basic"), change("98", ChangeType.CREATED, event="e2", at=20_000.0)
    )
    await world.record()
    assert world.enrolling.is_enabled(ALICE)
    assert world.messages() == 2


async def test_a_scan_sees_that_an_account_moved_to_another_cos(world: EnrolledWorld) -> None:
    """Without events the list of accounts tells, in both directions, and no item is lost on the way."""
    world.leave_out(cos="c2")
    (alice, _) = await world.server.accounts()
    alice.metadata["cos"] = "premium"
    await world.scan_all()
    assert not world.enrolling.is_enabled(ALICE)
    await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"Subject: second\r\n\r\n")
    alice.metadata["cos"] = "basic"
    await world.scan_all()
    assert world.messages() == 2


async def test_a_scan_journals_nothing_of_an_account_left_out(world: EnrolledWorld) -> None:
    """Whatever becomes of its attributes: scan after scan finds nothing to say."""
    world.leave_out(account=ALICE)
    (alice, _) = await world.server.accounts()
    alice.metadata["cos"] = "premium"
    last = world.store.journal.last_sequence
    world.clock.tick(60)
    await world.scan_all()
    assert world.store.journal.last_sequence == last


async def test_deletion_of_an_account_left_out_is_recorded(world: EnrolledWorld) -> None:
    """Retention must know that the account is gone."""
    world.leave_out(cos="c1")
    world.clock.tick(60)
    world.journal(world.said(ChangeType.DELETED, "basic"))
    await world.record()
    assert world.store.index.find_account(ALICE).deleted


async def test_what_was_never_recorded_stays_unknown(world: EnrolledWorld) -> None:
    """A new account of a COS left out gets no history, neither by a scan nor by events that follow."""
    world.leave_out(cos="c1")
    await world.server.create_account(account("carol", "basic"))
    await world.scan_all()
    late = change("77", ChangeType.CREATED, event="e1", at=10_000.0)
    world.journal(
        Change(**{**{name: getattr(late, name) for name in late.__struct_fields__}, "account": "carol"})
    )
    await world.record()
    assert world.store.index.find_account("carol@example.com") is None
    assert world.messages("carol") == 0


async def test_mailing_lists_are_left_as_they_are_where_they_are_skipped(world: EnrolledWorld) -> None:
    """backupSkipDLAndDynamicGroups: neither new lists nor lost ones are recorded, domains and COS are."""
    world.server.entries.append(DirectoryEntry(kind=Kind.MAILING_LIST, id="l1", metadata={"name": "all@x"}))
    await world.scan_all()
    world.skips_lists = True
    world.server.entries = [BASIC, DirectoryEntry(kind=Kind.MAILING_LIST, id="l2", metadata={"name": "b@x"})]
    await world.scan_all()
    assert [one.item for one in world.store.index.entries(Kind.MAILING_LIST)] == ["l1"]
    assert [one.item for one in world.store.index.entries(Kind.COS)] == ["c1"]
