"""Logs of operations: every line with an operation is kept with it, bounded, in order, over restarts."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from backupd.config_sections import LogFormat, LogLevel
from backupd.operations import Operation, OperationStatus, Run, UnknownOperation
from backupd.store.ledger import Ledger
from backupd.store.ledger_tables import KeptLogs, KeptNotifications
from daemon import logs
from daemon.kept_operations import KeptOperations
from daemon.operation_logs import FIRST_LINES, LAST_LINES, LINE_BYTES_MAX, OperationLogs, encoded, place_of
from daemon.operations_queue import LOG_SECONDS, OperationsQueue
from daemon.telling import Telling
from tests.world.clocks import FakeClock

FOREVER = 10_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "state.sqlite")
    yield made
    made.close()


@pytest.fixture
def kept(ledger: Ledger) -> KeptLogs:
    return KeptLogs(ledger)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    written = io.StringIO()
    logs.configure(LogFormat.JSON, LogLevel.INFO, stream=written)
    yield written
    logs.copy_to(None)
    structlog.reset_defaults()


def line(number: int, operation: str = "u1") -> dict[str, Any]:
    return {"operation": operation, "event": f"line_{number}", "level": "info", "timestamp": f"{number}"}


async def events(collected: OperationLogs, operation: str = "u1") -> tuple[list[str], int]:
    lines, dropped = await collected.lines([operation], lines_max=FOREVER)
    return [one.event for one in lines], dropped


async def test_lines_come_back_in_order(kept: KeptLogs) -> None:
    """What was logged for an operation is read as it came, whether it was kept already or not."""
    collected = OperationLogs(kept, clock=FakeClock())
    collected.take({**line(0), "item": "alice/7"})
    await collected.flush()
    collected.take(line(1))
    collected.take(line(2, "u2"))
    collected.take({"event": "nobody's"})
    (first, second), dropped = await collected.lines(["u1"], lines_max=FOREVER)
    assert (first.event, first.level, first.facts) == ("line_0", "info", {"item": "alice/7"})
    assert (second.event, second.operation, dropped) == ("line_1", "u1", 0)


@pytest.mark.parametrize("pieces", [1, 7, 60])
async def test_only_the_first_and_the_last_are_kept(kept: KeptLogs, pieces: int) -> None:
    """However the lines come, the first and last hundred stay, and the others are counted."""
    collected = OperationLogs(kept, clock=FakeClock())
    for number in range(730):
        collected.take(line(number))
        if number % (730 // pieces) == 0:
            await collected.flush()
    names, dropped = await events(collected)
    assert names == [f"line_{number}" for number in (*range(FIRST_LINES), *range(730 - LAST_LINES, 730))]
    assert dropped == 730 - FIRST_LINES - LAST_LINES
    assert len(kept.of("u1")) == FIRST_LINES + LAST_LINES


async def test_another_process_goes_on_where_one_ended(kept: KeptLogs) -> None:
    """Lines of a later process follow those of an earlier one: none is replaced."""
    for process in range(2):
        collected = OperationLogs(kept, clock=FakeClock())
        for number in range(3):
            collected.take(line(10 * process + number))
        await collected.flush()
    names, _ = await events(collected)
    assert names == [f"line_{number}" for number in (0, 1, 2, 10, 11, 12)]


async def test_lines_are_kept_while_it_runs(kept: KeptLogs) -> None:
    """A few seconds after it was logged, or when asked to, a line is kept: a killed daemon keeps it."""
    clock = FakeClock()
    collected = OperationLogs(kept, clock=clock)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(collected.run())
        collected.take(line(0))
        await clock.wait_until_asleep()
        await clock.advance(3)
        await clock.wait_until_asleep()
        assert len(kept.of("u1")) == 1
        collected.take(line(1))
        collected.keep_soon()
        async with asyncio.timeout(30):
            while len(kept.of("u1")) < 2:  # noqa: ASYNC110 - a thread keeps it
                await asyncio.sleep(0.001)
        task.cancel()


async def test_the_newest_lines_fit_first(kept: KeptLogs) -> None:
    """Where a reply has no room for all, the oldest lines of the oldest operations go."""
    collected = OperationLogs(kept, clock=FakeClock())
    for operation in ("u1", "u2"):
        for number in range(5):
            collected.take(line(number, operation))
    lines, dropped = await collected.lines(["u1", "u2"], lines_max=7)
    assert [(one.operation, one.event) for one in lines[:3]] == [
        ("u1", "line_3"), ("u1", "line_4"), ("u2", "line_0"),
    ]  # fmt: skip
    assert (len(lines), dropped) == (7, 3)


async def test_a_full_disk_costs_lines_only(kept: KeptLogs) -> None:
    """Lines that can't be kept are lost, and nothing is raised."""

    class Full(KeptLogs):
        def add(self, operation: str, lines: Any) -> None:
            raise OSError(28, "No space left")

    collected = OperationLogs(Full(kept._ledger), clock=FakeClock())
    collected.take(line(0))
    await collected.flush()
    assert await events(collected) == ([], 0)


def test_lines_have_a_bounded_size_whatever_is_in_them() -> None:
    """Huge, odd and nested values make a line that can be kept; of an exception its text stays."""
    endless: dict[str, Any] = {}
    endless["again"] = endless
    frames = [{"exc_type": "OSError", "exc_value": "No such file", "frames": [{"line": "x" * 9_000}]}]
    for facts in (
        {"text": "x" * 100_000},
        {f"key {number}": "ü" * 400 for number in range(500)},
        {"loop": endless, "huge": 10**400, "surrogate": "caf\udce9", "raw": b"x", "odd": object},
        {"exception": frames},
    ):
        content = encoded(3, {"event": "e", **facts})
        assert len(content) <= LINE_BYTES_MAX
    assert b"OSError: No such file" in content
    assert [place_of(number) for number in (0, 99, 100, 199, 200)] == [0, 99, 100, 199, 100]


async def test_what_an_operation_logs_is_kept_with_it(ledger: Ledger, stream: io.StringIO) -> None:
    """Its life, its phases, its item errors and what its threads log are its log, without secrets."""
    clock = FakeClock()
    collected = OperationLogs(KeptLogs(ledger), clock=clock)
    logs.copy_to(collected.take)
    queue = OperationsQueue(KeptOperations(ledger), {}, clock=clock)
    noted, go = asyncio.Event(), asyncio.Event()

    def in_a_thread() -> None:
        assert threading.current_thread() is not threading.main_thread()
        structlog.get_logger().info("thread_said", password="hunter2")

    async def work(run: Run) -> str:
        run.report(1, 10, unit="accounts")
        await asyncio.to_thread(in_a_thread)
        run.note_error("alice/7", "unreadable")
        noted.set()
        await go.wait()
        return "all done"

    operation = await queue.submit("Scan", {"deep": True}, started_by="root", work=work)
    structlog.get_logger().info("another_line")
    telling = Telling(KeptNotifications(ledger), collected, queue)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(queue.run())
        await noted.wait()
        await clock.wait_until_asleep()
        await clock.advance(LOG_SECONDS + 1)
        unfinished = await telling.unfinished_operation_log({})
        go.set()
        await queue.wait_until_ended(operation.uuid)
        task.cancel()
    assert unfinished.lines[0].event == "operation_queued"
    reply = await telling.operation_log({"operation_uuid": operation.uuid})
    told = {one.event: one for one in reply.lines}
    life = ("operation_queued", "operation_started", "thread_said", "item_failed", "operation_progress")
    assert list(told) == [*life, "operation_ended"]
    assert told["operation_started"].facts["parameters"] == {"deep": True}
    assert told["item_failed"].facts == {"item": "alice/7", "reason": "unreadable"}
    assert told["thread_said"].facts["password"] == "(secret)"
    assert told["operation_ended"].facts["verdict"] == "all done"
    assert (await telling.unfinished_operation_log({})).lines == ()
    assert "hunter2" not in stream.getvalue()
    with pytest.raises(UnknownOperation):
        await telling.operation_log({"operation_uuid": "nobody"})


async def test_logs_are_forgotten_with_their_operation(ledger: Ledger) -> None:
    """Once an operation is forgotten, nothing of its log is left."""
    operations, kept = KeptOperations(ledger), KeptLogs(ledger)
    collected = OperationLogs(kept, clock=FakeClock())
    for uuid in ("u1", "u2"):
        done = Operation(
            uuid=uuid, order=1, type="Scan", submitted=FakeClock().now(), status=OperationStatus.FAILED
        )
        operations.save_operation(done)
        collected.take(line(0, uuid))
    await collected.flush()
    operations.forget_operations(["u1"])
    assert (kept.of("u1"), len(kept.of("u2"))) == ([], 1)
