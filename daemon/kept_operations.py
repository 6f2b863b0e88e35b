"""Kept operations: the queue's operations in the ledger, one row each."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from backupd.operations import Operation, decode_operation, encode_operation
from backupd.store.ledger import Ledger
from backupd.store.ledger_tables import KeptLogs

log = structlog.get_logger(__name__)


class KeptOperations:
    """Implements what `OperationsQueue` needs of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._logs = KeptLogs(ledger)

    def operations(self) -> list[Operation]:
        """Return every kept operation; one that can't be read is logged and left out."""
        found = []
        for stored in self._ledger.operations():
            try:
                found.append(decode_operation(stored.facts))
            except msgspec.DecodeError as error:
                log.error("operation_not_readable", operation=stored.uuid, reason=str(error))
        return found

    def save_operation(self, operation: Operation) -> None:
        """Keep an operation in place of its older value."""
        self._ledger.put_operation(operation.uuid, operation.status.value, encode_operation(operation))

    def forget_operations(self, uuids: Sequence[str]) -> None:
        """Remove operations, and what was logged for them."""
        with self._ledger.batch():
            self._ledger.remove_operations(uuids)
            self._logs.forget(uuids)
