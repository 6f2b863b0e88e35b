"""Comparing: an account at two moments, counted and listed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backupd.clock import moment
from backupd.items import Area, Kind
from backupd.jobs.restore.comparing import compare, turns_of
from backupd.store.index_queries import KnownItem
from tests.unit.jobs.worlds import ALICE, BackupWorld

ITEMS = 20_000


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BackupWorld]:
    async with BackupWorld(tmp_path) as made:
        await made.account()
        yield made


async def recorded(world: BackupWorld) -> Any:
    await world.scan_all()
    now = world.clock.now()
    await world.clock.advance(60)
    return now


def known(item: str, transaction: int, kind: Kind = Kind.MESSAGE, **more: Any) -> KnownItem:
    metadata = {"folder": "INBOX", **more.pop("metadata", {})}
    facts = {"deleted": False, "digest": None, "size": None, "deleted_at": None, "lacking": (), **more}
    when = moment(transaction)
    return KnownItem(
        account=ALICE,
        kind=kind,
        item=item,
        transaction=transaction,
        metadata=metadata,
        first=when,
        last=when,
        **facts,
    )


async def test_what_happened_between_two_moments_is_counted_and_listed(world):
    """Each kind of change is in its group, the account and folders stand first, the rest is left out."""
    server = world.server
    ids = [
        await server.add(ALICE, Kind.MESSAGE, "INBOX", b"Subject: %d\r\n\r\n" % number, flags=[])
        for number in range(6)
    ]
    await server.create_folder(ALICE, Area.MAIL, "Old")
    start = await recorded(world)
    server.remove(ALICE, ids[0])
    server.flag(ALICE, ids[1], ["seen"])
    new = await server.add(ALICE, Kind.MESSAGE, "Sent", b"Subject: new\r\n\r\n")
    await server.create_folder(ALICE, Area.MAIL, "Made")
    end = await recorded(world)
    server.remove(ALICE, ids[2])
    await recorded(world)
    index = world.store.index
    compared = compare(index.items_at(ALICE, start), index.items_at(ALICE, end))
    counts = {name: count for name, count in compared.counts.items() if count}
    assert counts.pop("folders_made") >= 1
    assert counts == {"appeared": 1, "vanished": 1, "reflagged": 1}
    assert compared.items[0].item.kind is Kind.FOLDER
    by_id = {one.item.item: one.words for one in compared.items}
    assert by_id[ids[1]] == "read"
    assert by_id[ids[0]] == "deleted from INBOX"
    assert by_id[new].startswith("created in Sent")
    assert ids[2] not in by_id
    same = compare(index.items_at(ALICE, end), index.items_at(ALICE, end))
    assert (sum(same.counts.values()), same.items) == (0, ())


def test_a_renamed_folder_is_one_change_and_not_one_for_each_item():
    """Items that are elsewhere only because of the folder's new name are counted apart, not listed."""
    folder = {"area": "mail", "folder": "Old"}
    before = [
        known("1", 1),
        known("2", 2, metadata={"folder": "Old"}),
        known("f", 3, Kind.FOLDER, metadata=folder),
    ]
    after = [
        known("1", 1),
        known("2", 4, metadata={"folder": "New"}),
        known("f", 5, Kind.FOLDER, metadata={**folder, "folder": "New"}),
    ]
    compared = compare(before, after)
    counts = {name: count for name, count in compared.counts.items() if count}
    assert counts == {"folders_renamed": 1, "moved_with_folder": 1}
    assert [one.words for one in compared.items] == ["renamed Old -> New"]


def test_attributes_of_the_account_are_counted_one_by_one():
    """Two attributes changed are two, in one line."""
    before = [known(ALICE, 1, Kind.ACCOUNT, metadata={"quota": 1, "cos": "a"})]
    after = [known(ALICE, 2, Kind.ACCOUNT, metadata={"quota": 2, "cos": "b"})]
    compared = compare(before, after)
    assert compared.counts["attributes_changed"] == 2
    assert "quota changed 1 -> 2" in compared.items[0].words


def test_twenty_thousand_items_are_compared_quickly():
    """Twenty thousand changed items take well below a second to compare."""
    before = [known(f"{number:06d}", number) for number in range(ITEMS)]
    after = [known(f"{number:06d}", ITEMS + number, metadata={"flags": ["seen"]}) for number in range(ITEMS)]
    began = time.process_time()
    compared = compare(before, after)
    assert compared.counts["reflagged"] == ITEMS
    assert time.process_time() - began < 1.5


async def test_an_items_life_is_told_state_by_state(world):
    """Each state of a history has its line, from creation to deletion."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"Subject: x\r\n\r\n", flags=[])
    await recorded(world)
    world.server.flag(ALICE, item, ["flagged"])
    await recorded(world)
    world.server.remove(ALICE, item)
    await recorded(world)
    words = [turn.words for turn in turns_of(world.history(item))]
    assert words == ["created in INBOX (14 B)", "flagged important", "deleted from INBOX"]
