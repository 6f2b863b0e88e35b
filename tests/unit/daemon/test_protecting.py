"""Protecting: legal holds and suspended retention as an admin sets, sees and lifts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.attributes import Scopes
from backupd.errors import UnknownAccount, UsageError
from backupd.items import Kind
from backupd.replies import AccountReply, AccountsReply, HoldsReply, SuspensionsReply
from backupd.store.protections import HoldRefused
from daemon.protecting import LOOK_SECONDS
from tests.unit.daemon.making import AnsweringWorld

ALICE, BOB = "alice@example.com", "bob"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    """Return a world with Alice, Bob who is deleted, and Carol with twenty messages."""
    async with AnsweringWorld(tmp_path) as made:
        for name in ("alice", "bob", "carol"):
            await made.account(name)
        for number in range(20):
            await made.server.add("carol", Kind.MESSAGE, "INBOX", b"Subject: %d\r\n\r\n" % number)
        await made.scan_all()
        made.server.remove_account("bob")
        await made.scan_all(force=True)
        yield made


async def holds(world: AnsweringWorld, what: str, *accounts: str) -> dict[str, bool]:
    reply = await world.ask("backup", f"legalHold {what}", accounts=list(accounts) or None)
    assert isinstance(reply, HoldsReply)
    return {one.id: one.legal_hold for one in reply.accounts}


async def lose(world: AnsweringWorld) -> None:
    for item in [one.item for one in world.store.index.items("carol") if one.kind is Kind.MESSAGE]:
        world.server.remove("carol", item)
    await world.scan_all(force=True)
    world.settings.set("backupMassDeletionMinimum", Scopes(account="carol"), 10)
    world.guard.examine(world.clock.now())


async def test_a_hold_is_set_by_address_or_id_also_of_a_deleted_account(world: AnsweringWorld) -> None:
    """What was set is answered, shown with who and when, and taken away again."""
    assert await holds(world, "set", ALICE, BOB) == {"alice": True, "bob": True}
    assert await holds(world, "get", "all") == {"alice": True, "bob": True, "carol": False}
    assert await holds(world, "get") == await holds(world, "get", "all")
    reply = await world.ask("backup", "legalHold get", accounts=["bob"])
    assert isinstance(reply, HoldsReply)
    (bob,) = reply.accounts
    assert (bob.by, bob.since, bob.deleted) == ("root", world.clock.now(), True)
    assert await holds(world, "unset", "bob") == {"bob": False}


async def test_an_unknown_account_is_refused_by_name_and_nothing_is_half_set(world: AnsweringWorld) -> None:
    """Of a list with mistakes nothing is set, and every mistake is named."""
    with pytest.raises(UnknownAccount, match="'nobody', 'noone' in the backup: nothing was changed"):
        await holds(world, "set", "alice", "nobody", "noone")
    assert not any((await holds(world, "get")).values())
    with pytest.raises(UsageError, match="all stands alone"):
        await holds(world, "set", "alice", "all")


async def test_all_means_later_accounts_too(world: AnsweringWorld) -> None:
    """With all held none can be taken out, a later account is held, single holds outlive that of all."""
    await holds(world, "set", "alice")
    await holds(world, "set", "ALL")
    await world.account("dave")
    await world.scan_all()
    assert (await holds(world, "get", "dave@example.com")) == {"dave": True}
    with pytest.raises(HoldRefused):
        await holds(world, "unset", "dave")
    reply = await world.ask("backup", "legalHold unset", accounts=["all"])
    assert isinstance(reply, HoldsReply)
    assert "still held, each by itself: 1" in reply.note
    assert await holds(world, "get", "alice", "dave") == {"alice": True, "dave": False}
    await holds(world, "unset", "all")
    assert not any((await holds(world, "get")).values())


async def test_every_change_is_told_and_no_other(world: AnsweringWorld) -> None:
    """Admins hear who changed what; setting what is set already is no news."""
    await holds(world, "set", "alice")
    await holds(world, "set", "alice")
    await holds(world, "unset", "alice")
    assert [one.facts["change"] for one in world.told] == ["legal hold set", "legal hold unset"]
    assert ALICE in world.told[0].text
    assert "root" in world.told[0].text


async def test_holds_are_shown_where_one_looks(world: AnsweringWorld) -> None:
    """getAvailableAccounts, getAccountInfo and status show holds, suspensions and who is not backed up."""
    await holds(world, "set", "alice")
    await lose(world)
    world.settings.set("backupEnabled", Scopes(account="alice"), given=False)
    listed = await world.ask(
        "backup",
        "getAvailableAccounts",
        date="last",
        domains=None,
        hide_deleted=False,
        hide_system_accounts=False,
        hide_existing_accounts=False,
        backup_path=None,
    )
    assert isinstance(listed, AccountsReply)
    shown = {one.id: (one.legal_hold, one.retention_suspended, one.enabled) for one in listed.accounts}
    assert shown == {"alice": (True, False, False), "bob": (False, False, True), "carol": (False, True, True)}
    info = await world.ask(
        "backup", "getAccountInfo", account="alice", backup_path=None, date="most_recent", backupstats=False
    )
    assert isinstance(info, AccountReply)
    assert "under legal hold" in info.protections[0]
    assert info.not_enabled_since == world.clock.now()
    status = await world.standing.status()
    assert (status.legal_holds, status.retention_suspended, status.accounts_not_enabled) == (1, 1, 1)


async def test_suspended_retention_is_a_problem_until_it_is_lifted(world: AnsweringWorld) -> None:
    """Status names the account, what it lost and the command; lifting it ends the problem for good."""
    await lose(world)
    (problem,) = [one for one in (await world.standing.status()).problems if one.name == "mass_deletion"]
    assert "carol@example.com" in problem.message
    assert "20 of 20 items (100 %) were deleted within 24 hours" in problem.message
    assert "doResumeRetention carol" in problem.hint
    lifted = await world.ask("backup", "doResumeRetention", accounts=["carol@example.com"])
    assert isinstance(lifted, SuspensionsReply)
    assert [one.lifted_by for one in lifted.accounts] == ["root"]
    assert world.guard.examine(world.clock.now()) == []
    assert "mass_deletion" not in {one.name for one in (await world.standing.status()).problems}
    assert [one.facts["change"] for one in world.told] == ["suspended retention resumed"]


async def test_lifting_names_what_is_not_suspended(world: AnsweringWorld) -> None:
    """A mistake lifts nothing; all lifts what there is."""
    await lose(world)
    with pytest.raises(UnknownAccount, match="not suspended for 'alice': nothing was changed"):
        await world.ask("backup", "doResumeRetention", accounts=["carol", "alice"])
    listed = await world.ask("backup", "getSuspendedRetention", lifted=False)
    assert isinstance(listed, SuspensionsReply)
    assert [one.id for one in listed.accounts] == ["carol"]
    await world.ask("backup", "doResumeRetention", accounts=["all"])
    listed = await world.ask("backup", "getSuspendedRetention", lifted=True)
    assert isinstance(listed, SuspensionsReply)
    assert [one.lifted for one in listed.accounts] == [world.clock.now()]


async def test_the_guard_looks_by_itself(world: AnsweringWorld) -> None:
    """While it runs, a loss is seen without anybody asking, and so is a limit that was lowered."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.protecting.run())
        await world.clock.wait_until_asleep()
        for item in [one.item for one in world.store.index.items("carol") if one.kind is Kind.MESSAGE]:
            world.server.remove("carol", item)
        await world.scan_all(force=True)
        await world.clock.advance(LOOK_SECONDS)
        await world.clock.wait_until_asleep()
        assert (await world.standing.status()).retention_suspended == 0
        changed = world.settings.set("backupMassDeletionMinimum", Scopes(), 10).attribute
        world.protecting.setting_changed(changed)
        await world.clock.advance(LOOK_SECONDS)
        await world.clock.wait_until_asleep()
        assert (await world.standing.status()).retention_suspended == 1
        task.cancel()


async def test_a_clock_that_is_behind_suspends_nobody(world: AnsweringWorld) -> None:
    """Deletions of months are no loss of one day because the clock went back: the time is reckoned."""
    world.settings.set("backupMassDeletionMinimum", Scopes(), 5)
    messages = [one.item for one in world.store.index.items("carol") if one.kind is Kind.MESSAGE]
    for item in messages[: len(messages) // 2]:
        world.server.remove("carol", item)
        await world.scan_all(force=True)
        world.clock.tick(10 * 86_400)
    assert world.guard.examine(world.clock.now()) == []
    world.behind = timedelta(days=365)
    world.clock.jump(-365 * 86_400)
    await world.protecting._look(0.0)
    assert (await world.standing.status()).retention_suspended == 0
    assert world.guard.examine(world.clock.now()), "else the test proves nothing"


async def test_a_cos_may_have_limits_of_its_own(world: AnsweringWorld) -> None:
    """The guard reads its limits as settings are inherited: account before COS before server."""
    limits = world.guard._limits_of
    world.settings.set("backupMassDeletionShare", Scopes(), 50)
    world.settings.set("backupMassDeletionShare", Scopes(account="carol"), 0)
    assert (limits("alice").share, limits("carol").share) == (50, 0)
