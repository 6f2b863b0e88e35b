"""Kept operations: what the queue saves is there again after a restart, and one bad row spoils nothing."""

from __future__ import annotations

from pathlib import Path

from backupd.operations import ItemError, Operation, OperationStatus
from backupd.store.ledger import Ledger
from daemon.kept_operations import KeptOperations
from tests.world.clocks import START

ONE = Operation(
    uuid="u1",
    order=1,
    type="doItemRestore",
    parameters={"account": "alice", "date": None, "limit": 3},
    submitted=START,
    errors=(ItemError("alice/1", "gone"),),
    errors_total=7,
)


def test_an_operation_is_kept_whole_and_replaced_by_its_newer_value(tmp_path: Path) -> None:
    """Every field survives; a second save takes the place of the first."""
    kept = KeptOperations(Ledger(tmp_path / "state.sqlite"))
    kept.save_operation(ONE)
    ended = Operation(uuid="u1", order=1, type="x", submitted=START, status=OperationStatus.FAILED, hint="h")
    kept.save_operation(ended)
    kept.save_operation(Operation(uuid="u2", order=2, type="y", submitted=START))
    kept.save_operation(ONE)
    again = KeptOperations(Ledger(tmp_path / "state.sqlite")).operations()
    assert {operation.uuid: operation for operation in again}["u1"] == ONE
    kept.forget_operations(["u1"])
    assert [operation.uuid for operation in kept.operations()] == ["u2"]


def test_a_row_that_can_not_be_read_is_left_out(tmp_path: Path) -> None:
    """Another version's row does not keep the daemon from starting."""
    ledger = Ledger(tmp_path / "state.sqlite")
    KeptOperations(ledger).save_operation(ONE)
    ledger.put_operation("u9", "queued", b'{"uuid": 9}')
    assert KeptOperations(ledger).operations() == [ONE]
