"""Looking back over the control socket's answers: history, diff, folders, and a search of a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.clock import written
from backupd.commands import COMMANDS
from backupd.errors import UnknownAccount, UnknownItem, UsageError
from backupd.grammar import complete
from backupd.items import Area, Kind
from backupd.states import ChangeType
from tests.unit.daemon.making import AnsweringWorld
from tests.unit.jobs.worlds import ALICE, change

ADDRESS = f"{ALICE}@example.com"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    async with AnsweringWorld(tmp_path) as made:
        await made.account()
        yield made


async def ask(world: AnsweringWorld, name: str, **parameters: Any) -> Any:
    """Ask as the control socket does."""
    command = next(one for one in COMMANDS if name in one.names and one.module == "backup")
    return await world.ask("backup", command.name, **complete(command, {"account": ADDRESS, **parameters}))


async def tick(world: AnsweringWorld) -> datetime:
    await world.scan_all()
    now = world.clock.now()
    await world.clock.advance(60)
    return now


async def test_a_history_tells_who_did_what(world: AnsweringWorld) -> None:
    """Words, origin, merged events, and the client where the event named it."""
    actor = {"client": "imap", "address": "192.0.2.7"}
    world.journal(
        change("1", ChangeType.CREATED, event="e1", metadata={"folder": "INBOX"}),
        change("1", event="e2", at=0.01, metadata={"folder": "INBOX", "flags": ["seen"]}),
        change("1", event="e3", at=9, metadata={"folder": "INBOX", "flags": []}, actor=actor),
        change("1", ChangeType.DELETED, event="e4", at=20),
    )
    await world.scan_all()
    await world.record()
    reply = await ask(world, "getHistory", item="1")
    assert [turn.words for turn in reply.turns][1:] == ["marked unread", "deleted from INBOX"]
    assert [turn.actor for turn in reply.turns] == [None, actor, None]
    assert len(reply.turns[0].events) == 2
    assert [turn.origin for turn in reply.turns] == ["realtime"] * 3
    with pytest.raises(UnknownItem):
        await ask(world, "history", item="nothing")


async def test_a_diff_counts_all_and_lists_up_to_the_limit(world: AnsweringWorld) -> None:
    """Whatever the limit, everything is counted; moments in the wrong order and nobody's are refused."""
    start = await tick(world)
    for number in range(5):
        await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"Subject: %d\r\n\r\n" % number)
    end = await tick(world)
    reply = await ask(world, "diff", start_date=written(start), end_date=written(end), limit=2)
    assert (reply.counts["appeared"], len(reply.items)) == (5, 2)
    assert reply.items_total >= 5
    again = await ask(world, "diff", start_date=written(end))
    assert (sum(again.counts.values()), again.items) == (0, ())
    with pytest.raises(UsageError):
        await ask(world, "diff", start_date=written(end), end_date=written(start))
    with pytest.raises(UnknownAccount):
        await ask(world, "diff", start_date=written(start), account="nobody")


async def test_folders_are_those_of_the_moment_with_what_was_in_them(world: AnsweringWorld) -> None:
    """Counts, unread and sizes of then, empty folders too, children after their parents."""
    for folder, flags in (("INBOX", ["seen"]), ("INBOX", []), ("INBOX/Sub", [])):
        await world.server.add(ALICE, Kind.MESSAGE, folder, b"12345", flags=flags)
    await world.server.create_folder(ALICE, Area.MAIL, "Empty")
    then = await tick(world)
    await world.server.add(ALICE, Kind.MESSAGE, "Later", b"1", flags=[])
    await tick(world)
    reply = await ask(world, "getFolders", date=written(then))
    found = {one.folder: (one.items, one.unread, one.size) for one in reply.folders if one.area == "mail"}
    assert found["INBOX"] == (2, 1, 10)
    assert found["INBOX/Sub"] == (1, 1, 5)
    assert found["Empty"] == (0, 0, 0)
    assert "Later" not in found
    assert list(found).index("INBOX") < list(found).index("INBOX/Sub")
    assert "Later" in {one.folder for one in (await ask(world, "getFolders")).folders}


async def test_a_search_of_a_moment_finds_what_was_deleted_since(world: AnsweringWorld) -> None:
    """As of then it was there; `recursive` without a folder is refused."""
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX/Sub", b"Subject: Plan\r\n\r\n")
    then = await tick(world)
    world.server.remove(ALICE, item)
    await tick(world)
    asked: dict[str, Any] = {"folder": "inbox", "recursive": True, "ignore_case": True}
    there = await ask(
        world, "doItemSearch", date=written(then + timedelta(seconds=1)), search_filter="not_deleted", **asked
    )
    assert [hit.id for hit in there.items] == [item]
    assert (await ask(world, "doItemSearch", search_filter="not_deleted", **asked)).items == ()
    with pytest.raises(UsageError):
        await ask(world, "doItemSearch", recursive=True)
