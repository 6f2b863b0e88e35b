"""Telling: what the daemon answers of notifications and of operations' logs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from backupd.control import NotificationsReply, OperationLogReply, Reply
from backupd.decoding import decoder
from backupd.errors import BackupdError
from backupd.store.ledger_tables import KeptNotifications
from daemon import delivery
from daemon.answering import Answering, Given
from daemon.delivery import Notification
from daemon.notifications import KEPT_MAX
from daemon.operation_logs import OperationLogs
from daemon.operations_queue import OperationsQueue
from daemon.peers import Caller

LINES_MAX = 5_000
"""Lines of logs in one reply."""

_decoder = decoder(Notification)


class UnknownNotification(BackupdError):
    """No notification of this number is kept."""

    exit_status = 66


class Telling:
    """Answers `core getNotification`, `getOperationLog` and `getUnfinishedOperationLog`."""

    def __init__(self, kept: KeptNotifications, logs: OperationLogs, queue: OperationsQueue) -> None:
        self._kept = kept
        self._logs = logs
        self._queue = queue

    def table(self) -> dict[str, Answering]:
        """Return what answers each command, by its title."""
        return {
            "core getNotification": _answering(self.notifications),
            "core getOperationLog": _answering(self.operation_log),
            "core getUnfinishedOperationLog": _answering(self.unfinished_operation_log),
        }

    async def notifications(self, given: Mapping[str, Any]) -> NotificationsReply:
        """Return the newest notifications, or one with its text. Raises `UnknownNotification`."""
        number = given.get("id")
        if number is not None:
            content = await asyncio.to_thread(self._kept.get, int(number))
            if content is None:
                raise UnknownNotification(f"no notification {number}", hint="getNotification lists them")
            view = delivery.view(int(number), _decoder.decode(content), with_text=True)
            return NotificationsReply(notifications=(view,))
        limit = max(1, min(given.get("limit") or KEPT_MAX, KEPT_MAX))
        rows = await asyncio.to_thread(self._kept.newest, limit)
        return NotificationsReply(
            notifications=tuple(
                delivery.view(number, _decoder.decode(content), with_text=False) for number, content in rows
            )
        )

    async def operation_log(self, given: Mapping[str, Any]) -> OperationLogReply:
        """Return what was logged for one operation, or for all that are kept. Raises `UnknownOperation`."""
        uuid = given.get("operation_uuid")
        operations = [self._queue.get(str(uuid))] if uuid is not None else self._queue.operations()
        return await self._log_of([one.uuid for one in operations])

    async def unfinished_operation_log(self, _given: Mapping[str, Any]) -> OperationLogReply:
        """Return what was logged so far for operations that have not ended."""
        return await self._log_of([one.uuid for one in self._queue.operations() if not one.has_ended])

    async def _log_of(self, operations: list[str]) -> OperationLogReply:
        lines, dropped = await self._logs.lines(operations, lines_max=LINES_MAX)
        return OperationLogReply(lines=tuple(lines), dropped=dropped)


def _answering(answer: Callable[[Mapping[str, Any]], Awaitable[Reply]]) -> Answering:
    async def answering(given: Given, _caller: Caller) -> Reply:
        return await answer(given)

    return answering
