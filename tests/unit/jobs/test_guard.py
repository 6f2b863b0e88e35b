"""The guard over a real index: a loss suspends retention until it is lifted, whatever times it claims."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from backupd.events import Change
from backupd.items import Kind
from backupd.jobs.guard import Guard, Limits
from backupd.states import ChangeType
from backupd.store.protections import Protections
from tests.unit.jobs.worlds import ALICE, BackupWorld, change

LIMITS = Limits(share=30, hours=24, minimum=5)


class GuardedWorld(BackupWorld):
    """Alice has ten messages."""

    def open(self) -> None:
        super().open()
        self.protections = Protections(self.store.ledger)
        self.guard = Guard(self.store, limits_of=lambda _account: LIMITS, least=lambda: LIMITS)

    async def fill(self, account: str = ALICE, count: int = 10) -> None:
        await self.account(account)
        for number in range(count):
            await self.server.add(account, Kind.MESSAGE, "INBOX", b"Subject: %d\r\n\r\n" % number)
        await self.scan_all()
        self.clock.tick(3600)

    def messages(self, account: str = ALICE) -> list[str]:
        return [one.item for one in self.store.index.items(account) if one.kind is Kind.MESSAGE]

    async def lose(self, count: int, *, days_ago: float = 0.0) -> None:
        """Have events delete messages of Alice, which claim to be so old."""
        when = self.clock.now() - timedelta(days=days_ago)
        gone = [change(item, ChangeType.DELETED, event=f"gone {item}") for item in self.messages()[:count]]
        self.journal(*(msgspec.structs.replace(one, time=when) for one in gone))
        await self.record()

    def examine(self) -> list[str]:
        return [one.account for one in self.guard.examine(self.clock.now())]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GuardedWorld]:
    async with GuardedWorld(tmp_path) as made:
        await made.fill()
        yield made


async def test_a_loss_suspends_until_it_is_lifted(world: GuardedWorld) -> None:
    """An emptied account is suspended once, over a crash too, and the same loss does not suspend it again."""
    await world.lose(10)
    assert world.examine() == [ALICE]
    assert world.examine() == []
    world.crash()
    (why,) = world.protections.why(ALICE)
    assert "10 of 10 items" in why.sentence
    world.protections.lift(
        [ALICE], by="root", now=world.clock.now(), through=world.store.journal.last_sequence
    )
    assert world.examine() == []
    assert world.protections.why(ALICE) == ()


async def test_a_new_loss_after_a_lift_suspends_again(world: GuardedWorld) -> None:
    """Lifting is no licence for what comes later."""
    await world.lose(5)
    assert world.examine() == [ALICE]
    world.protections.lift(
        [ALICE], by="root", now=world.clock.now(), through=world.store.journal.last_sequence
    )
    await world.lose(5)
    assert world.examine() == [ALICE]


async def test_little_is_no_loss(world: GuardedWorld) -> None:
    """Fewer than the minimum don't suspend; one more does."""
    await world.lose(4)
    assert world.examine() == []
    await world.lose(1)
    assert world.examine() == [ALICE]


async def test_deletions_that_claim_to_be_old_are_seen(world: GuardedWorld) -> None:
    """Events dated before the window count by when they were recorded: nobody ages history out by a date."""
    assert world.examine() == []
    world.clock.tick(25 * 3600)
    await world.lose(10, days_ago=400)
    assert world.examine() == [ALICE]


async def test_putting_back_does_not_lift(world: GuardedWorld) -> None:
    """Items that come back under new ids leave the suspension in force."""
    await world.lose(10)
    world.examine()
    for number in range(10):
        await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"Subject: again %d\r\n\r\n" % number)
    await world.scan_all(force=True)
    world.examine()
    assert world.protections.why(ALICE)


async def test_a_loss_that_a_scan_finds_counts(world: GuardedWorld) -> None:
    """It does not matter who told of the deletions."""
    for item in world.messages():
        world.server.remove(ALICE, item)
    await world.scan_all(force=True)
    assert world.examine() == [ALICE]


async def test_one_account_is_examined_alone(world: GuardedWorld) -> None:
    """Asked for another account the guard leaves this one for later."""
    await world.lose(10)
    assert world.guard.examine(world.clock.now(), "bob") == []
    assert [one.account for one in world.guard.examine(world.clock.now(), ALICE)] == [ALICE]


async def test_many_accounts_that_go_together_are_suspended(world: GuardedWorld) -> None:
    """Deleted accounts are judged as the items of the server; two of them are an admin's business."""
    for name in ("bob", "carol", "dave"):
        await world.fill(name, 1)

    def gone(name: str) -> Change:
        return Change(
            account=name,
            kind=Kind.ACCOUNT,
            item=name,
            type=ChangeType.DELETED,
            time=world.clock.now(),
            origin=change().origin,
            event=f"s#{name}",
        )

    world.journal(gone("bob"), gone("carol"))
    await world.record()
    assert world.examine() == []
    world.journal(gone("dave"))
    await world.record()
    assert world.examine() == ["bob", "carol", "dave"]
    assert "3 of 4 accounts" in world.protections.why("bob")[0].sentence
    world.protections.lift(
        ["bob", "carol", "dave"], by="root", now=world.clock.now(), through=world.store.journal.last_sequence
    )
    assert world.examine() == []


async def test_an_index_of_an_older_version_gets_what_the_guard_asks(world: GuardedWorld) -> None:
    """The index of deleted items is made where it lacks, and the answers use it."""
    connection = world.store.index._writer
    connection.execute("DROP INDEX items_gone")
    world.crash()
    plan = world.store.index._writer.execute(
        "EXPLAIN QUERY PLAN SELECT items.account FROM items WHERE items.deleted = 1"
        " AND (items.last >= 1 OR items.state > 1) AND items.kind NOT IN ('account', 'folder')"
        " AND items.account != '' GROUP BY items.account HAVING count(*) >= 1"
    ).fetchall()
    assert "COVERING INDEX items_gone" in str(plan)
