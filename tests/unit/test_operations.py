"""Operations as values: the steps they may take, progress and estimates, and what a job tells of itself."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from backupd.errors import OperationStopped
from backupd.operations import (
    EXIT_STATUS_OF,
    ITEM_ERRORS_MAX,
    TRANSITIONS,
    IllegalTransition,
    ItemError,
    Operation,
    OperationStatus,
    Progress,
    Run,
    decode_operation,
    encode_operation,
    moved,
)
from tests.world.clocks import START, FakeClock

QUEUED = Operation(uuid="u", order=1, type="SmartScan", submitted=START)


def at(status: OperationStatus) -> Operation:
    """Return an operation that came to a status by legal steps."""
    operation = QUEUED
    if status in (OperationStatus.QUEUED, OperationStatus.REMOVED):
        return operation if status is OperationStatus.QUEUED else moved(operation, status, START)
    operation = moved(operation, OperationStatus.RUNNING, START)
    return operation if status is OperationStatus.RUNNING else moved(operation, status, START)


@pytest.mark.parametrize("before", OperationStatus)
@pytest.mark.parametrize("after", OperationStatus)
def test_only_steps_of_the_table_are_taken(before: OperationStatus, after: OperationStatus) -> None:
    """A step of the table sets the status; every other one is refused as a bug."""
    operation = at(before)
    if after in TRANSITIONS[before]:
        assert moved(operation, after, START).status is after
    else:
        with pytest.raises(IllegalTransition):
            moved(operation, after, START)


def test_an_ended_operation_has_an_exit_status() -> None:
    """Successful, failed, stopped, removed and interrupted are 0 to 4, and exactly these have ended."""
    names = ["successful", "failed", "stopped", "removed", "interrupted"]
    assert [EXIT_STATUS_OF[OperationStatus(name)] for name in names] == [0, 1, 2, 3, 4]
    assert {status for status in OperationStatus if at(status).has_ended} == set(EXIT_STATUS_OF)
    assert at(OperationStatus.RUNNING).exit_status is None


def test_an_end_is_never_before_the_start() -> None:
    """A clock set back while an operation runs gives no negative duration."""
    running = moved(QUEUED, OperationStatus.RUNNING, START + timedelta(hours=1))
    ended = moved(running, OperationStatus.SUCCESSFUL, START, verdict="done", counts={"items": 3})
    assert ended.started is not None
    assert ended.ended == ended.started
    assert (ended.verdict, ended.counts) == ("done", {"items": 3})
    assert moved(QUEUED, OperationStatus.RUNNING, START - timedelta(hours=1)).started == START


@pytest.mark.parametrize(
    ("progress", "rate", "remaining"),
    [
        (Progress(done=50, total=150, seconds=10), 5.0, 20.0),
        (Progress(done=0, total=150, seconds=10), 0.0, None),
        (Progress(done=50, total=None, seconds=10), 5.0, None),
        (Progress(done=50, total=50, seconds=10), 5.0, 0.0),
        (Progress(done=60, total=50, seconds=10), 6.0, 0.0),
        (Progress(done=50, total=60, seconds=0), 0.0, None),
        (Progress(), 0.0, None),
    ],
)
def test_progress_estimates(progress: Progress, rate: float, remaining: float | None) -> None:
    """Rate and remaining time follow from what was done; nothing is said where nothing is known."""
    assert (progress.rate, progress.remaining_seconds) == (rate, remaining)


def test_an_operation_is_kept_as_json() -> None:
    """Every field survives being written and read."""
    operation = moved(
        Operation(
            uuid="u", order=7, type="SmartScan", submitted=START, started_by="root",
            parameters={"deep": True},
            progress=Progress(done=1, total=2, unit="accounts", seconds=3.5),
            errors=(ItemError("a/1", "broken"),), errors_total=9,
        ),
        OperationStatus.REMOVED, START, verdict="taken out", hint="none",
    )  # fmt: skip
    assert decode_operation(encode_operation(operation)) == operation


def test_a_run_measures_each_phase() -> None:
    """Progress counts seconds from the start, and anew where the unit changes."""
    clock = FakeClock()
    run = Run(clock)
    clock.tick(10)
    run.report(5, 10, unit="accounts")
    assert run.progress == Progress(done=5, total=10, unit="accounts", seconds=10)
    clock.tick(10)
    run.report(0, 100, unit="items")
    clock.tick(4)
    run.report(8, 100, unit="items")
    assert run.progress.rate == 2.0


def test_a_run_lists_the_first_errors_and_counts_all() -> None:
    """Items that failed are bounded in number and length; their count is exact, from many threads too."""
    run = Run(FakeClock())

    def note() -> None:
        for number in range(ITEM_ERRORS_MAX):
            run.note_error(f"item {number}", "x" * 10_000)

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.errors_total == 4 * ITEM_ERRORS_MAX
    assert len(run.errors) == ITEM_ERRORS_MAX
    assert max(len(error.reason) for error in run.errors) < 1_000


def test_a_run_stops_only_where_asked() -> None:
    """`check` lets a job go on until somebody asked it to stop, then raises."""
    run = Run(FakeClock())
    run.check()
    run.request_stop()
    assert run.stop_requested
    with pytest.raises(OperationStopped):
        run.check()
