"""Comparison of the backup with the AppServer: what differs is told, once it differs twice."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from backupd.items import Kind
from daemon.comparison import Comparison
from tests.unit.jobs.worlds import ALICE, BackupWorld


async def compared(world: BackupWorld) -> dict[str, list[str]]:
    """Return the items that differ, by code."""
    comparison = Comparison(world.store, world.server, world, world.clock)  # type: ignore[arg-type]
    found: dict[str, list[str]] = {}
    for one in await comparison.run(()):
        found.setdefault(one.code, []).append(one.items[0] if one.items else one.detail)
    return found


async def test_what_differs_is_told_by_its_code(tmp_path: Path) -> None:
    """Gone, new, flagged and edited items and an account that is gone are told; what is equal is not."""
    async with BackupWorld(tmp_path / "backup") as world:
        await world.account()
        await world.account("bob")
        add = partial(world.server.add, ALICE)
        ids = [await add(Kind.MESSAGE, "INBOX", b"Subject: %d\r\n\r\n" % one) for one in range(4)]
        document = await add(Kind.DOCUMENT, "", b"text", name="a.txt")
        await world.scan_all()
        assert await compared(world) == {}
        world.server.remove(ALICE, ids[0])
        world.server.flag(ALICE, ids[1], ["seen"])
        world.server.edit(ALICE, document, b"another text")
        fresh = await add(Kind.MESSAGE, "INBOX", b"Subject: fresh\r\n\r\n")
        world.server.remove_account("bob")
        found = await compared(world)
        assert sorted(found.pop("appserver.differs")) == sorted([ids[1], document])
        assert found == {"appserver.missing": [ids[0], "the whole account"], "appserver.unknown": [fresh]}
        await world.scan_all(force=True)
        assert await compared(world) == {}
