"""Restores and an AppServer that answers, yet can't store anything for a while: its disk is full, say."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backupd.appservers.base import Account
from backupd.errors import AppServerUnavailable
from backupd.items import Kind
from backupd.states import Photograph
from tests.unit.jobs.restoring_worlds import ADDRESS, NEW, RestoreWorld
from tests.unit.jobs.worlds import ALICE

MESSAGES = 7


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RestoreWorld]:
    async with RestoreWorld(tmp_path) as made:
        await made.server.create_account(Account(id=ALICE, name=ADDRESS, metadata={}))
        for number in range(MESSAGES):
            folder = "INBOX" if number else "Sent"
            await made.server.add(ALICE, Kind.MESSAGE, folder, b"Subject: %d\r\n\r\nbody" % number)
        yield made


async def test_an_appserver_that_answers_and_cannot_write_is_waited_for(world: RestoreWorld) -> None:
    """No item is given up while none can be stored; one that fails while others are taken is."""
    before = await world.mailbox(ALICE)
    then = await world.tick()
    put, stubborn = world.server.put, False
    slept: list[float] = []

    async def full(account: str, kind: Kind, photograph: Photograph, content: io.BytesIO) -> str:
        if len(slept) < 6 or (stubborn and photograph.metadata["folder"] == "Sent"):
            raise AppServerUnavailable("no space left")
        return await put(account, kind, photograph, content)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        world.clock._monotonic += seconds

    world.server.put = full  # type: ignore[method-assign]
    world.clock.sleep = sleep  # type: ignore[method-assign]
    verdict = await world.restore(then)
    assert (verdict.counts["restored"], world.run.errors) == (MESSAGES, ())
    assert await world.mailbox(await world.account_id(NEW)) == before
    slept, stubborn = [1.0] * 6, True
    verdict = await world.restore(then, to="second@example.com")
    assert (verdict.counts["restored"], verdict.counts["unrestored"]) == (MESSAGES - 1, 1)
    assert [one.reason for one in world.run.errors] == ["no space left"]
    assert len(slept) == 6 + 1, "one more try tells that it is about this item"
