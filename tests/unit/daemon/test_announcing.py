"""Announcing: the parts that tell, put together: the threshold, last words, wrong addresses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from backupd import config as configuration
from backupd.attributes import Scopes, Settings
from backupd.control import StatusReply
from backupd.operations import Operation, OperationStatus
from backupd.store.ledger import Ledger
from daemon.announcing import Announcing
from daemon.delivery import Notification
from tests.world.clocks import START, FakeClock

SERVER = "11111111-2222-4333-8444-555555555555"
ENDED = Operation(
    uuid="u1", order=1, type="doItemRestore", submitted=START, status=OperationStatus.SUCCESSFUL
)


class World:
    """What tells, over a ledger, without any way to tell."""

    def __init__(self, place: Path, lines: str = "") -> None:
        file = place / "backupd.toml"
        file.write_text(f'[appserver]\nroot = "/m"\n[server]\nname = "mail"\n[notifications]\n{lines}')
        self.ledger = Ledger(place / "state.sqlite")
        self.settings = Settings(self.ledger)
        self.clock = FakeClock()
        self.all = Announcing(
            configuration.load(file, environ={"HOME": str(place)}, uid=1000),
            self.ledger,
            self.settings,
            server_id=SERVER,
            clock=self.clock,
        )

    def told(self) -> list[str]:
        rows = self.all.kept.newest(100)
        return [msgspec.json.decode(content, type=Notification).subject for _, content in reversed(rows)]

    async def status(self) -> StatusReply:
        return StatusReply(server_id=SERVER, server_name="mail", backup_path="/b", started=START, now=START)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.ledger.close()
    structlog.reset_defaults()


async def test_last_words_are_kept(world: World) -> None:
    """An operation that ended while everything else ends is kept, for the next start to send."""
    world.all.operation_changed(ENDED)
    assert world.told() == []
    await world.all.close()
    assert world.told() == ["[backupd mail] doItemRestore successful"]


async def test_the_attribute_is_the_threshold(world: World) -> None:
    """What is below `backupNotificationLevel` is not told, from the moment it is set."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.all.run(world.status))
        await world.clock.wait_until_asleep()
        world.settings.set("backupNotificationLevel", Scopes(), "error")
        world.all.operation_changed(ENDED)
        world.all.operation_changed(msgspec.structs.replace(ENDED, status=OperationStatus.FAILED))
        async with asyncio.timeout(30):
            while not world.told():  # noqa: ASYNC110 - a thread keeps it
                await asyncio.sleep(0.001)
        task.cancel()
    assert world.told() == ["[backupd mail] doItemRestore failed"]


def test_a_recipient_that_is_no_address_shows(tmp_path: Path) -> None:
    """A wrong address in the configuration hinders nothing, and is told as a problem."""
    world = World(tmp_path, 'recipients = ["Admin", "a@example.com"]')
    assert "'Admin' in notifications.recipients" in world.all.unsent()
    assert "a@example.com" not in world.all.unsent()
    world.ledger.close()
