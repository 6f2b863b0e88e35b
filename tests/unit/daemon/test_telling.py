"""Telling: the list of notifications, one with its text, and who answers which command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from backupd.commands import COMMANDS
from backupd.store.ledger import Ledger
from backupd.store.ledger_tables import KeptLogs, KeptNotifications
from daemon.delivery import Delivery, Notification, State
from daemon.kept_operations import KeptOperations
from daemon.messages import Level
from daemon.operation_logs import OperationLogs
from daemon.operations_queue import OperationsQueue
from daemon.telling import Telling, UnknownNotification
from tests.world.clocks import START, FakeClock


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[KeptNotifications]:
    ledger = Ledger(tmp_path / "state.sqlite")
    yield KeptNotifications(ledger)
    ledger.close()


@pytest.fixture
def telling(kept: KeptNotifications) -> Telling:
    ledger, clock = kept._ledger, FakeClock()
    for number in range(1, 6):
        ways = {
            "mail": Delivery(state=State.PENDING, attempts=3, recipients=("a@x.org",), reason="refused"),
            "webhook": Delivery(state=State.DELIVERED, attempts=1),
        }
        notification = Notification(
            id=f"n{number}",
            time=START,
            level=Level.ERROR,
            subject=f"subject {number}",
            text="the text",
            operation="u-1",
            ways=ways,
        )
        kept.add(msgspec.json.encode(notification), pending=True)
    return Telling(
        kept,
        OperationLogs(KeptLogs(ledger), clock=clock),
        OperationsQueue(KeptOperations(ledger), {}, clock=clock),
    )


async def test_notifications_are_listed_newest_first(telling: Telling) -> None:
    """The list has the newest ones, without their texts, and how far each way has come."""
    reply = await telling.notifications({"id": None, "limit": 2})
    assert [(one.id, one.subject, one.text) for one in reply.notifications] == [
        (5, "subject 5", ""), (4, "subject 4", ""),
    ]  # fmt: skip
    first = reply.notifications[0]
    assert (first.delivered, first.pending, first.failed) == (("webhook",), ("mail",), ())
    assert (first.level, first.operation, first.time) == ("error", "u-1", START)
    assert len((await telling.notifications({"id": None, "limit": 0})).notifications) == 5
    assert len((await telling.notifications({"id": None, "limit": -3})).notifications) == 1


async def test_one_is_told_with_its_text(telling: Telling) -> None:
    """One that is asked for by its number comes with its text and why a way has not gone it yet."""
    (one,) = (await telling.notifications({"id": 3, "limit": 50})).notifications
    assert (one.id, one.subject) == (3, "subject 3")
    assert one.text.startswith("the text")
    assert "mail: refused" in one.text


@pytest.mark.parametrize("number", [99, 0, -1])
async def test_an_unknown_number_is_refused(telling: Telling, number: int) -> None:
    """A number that is not kept is an error that says how to find one."""
    with pytest.raises(UnknownNotification, match=str(number)) as caught:
        await telling.notifications({"id": number, "limit": 50})
    assert caught.value.exit_status == 66
    assert caught.value.hint


def test_its_answers_are_commands(telling: Telling) -> None:
    """What it answers are commands of the table."""
    known = {f"{one.module} {one.name}" for one in COMMANDS}
    assert set(telling.table()) <= known
