"""Announcing: the parts that tell admins of what happens, put together for a lifetime.

Operations and news become messages, messages become notifications on the configured ways; a SmartScan's end
becomes a ping; lines logged for an operation are kept with it. `close` comes after everything else has ended
and before the store closes, so that the last words are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from backupd.attributes import Scopes, Settings
from backupd.clock import Clock
from backupd.config import Config
from backupd.config_sections import Notifications as Section
from backupd.control import StatusReply
from backupd.operations import Operation
from backupd.parameters import is_e_mail
from backupd.store.ledger import Ledger
from backupd.store.ledger_tables import KeptLogs, KeptNotifications
from daemon import logs, messages
from daemon.delivery import Way
from daemon.mail import Mail
from daemon.messages import Level, Message
from daemon.notifications import MAIL, WEBHOOK, Notifications
from daemon.operation_logs import OperationLogs
from daemon.problem_news import NewsWatch
from daemon.webhook import Ping, Webhook

LEVEL_ATTRIBUTE = "backupNotificationLevel"

log = structlog.get_logger(__name__)


class Announcing:
    """Everything that tells."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        settings: Settings,
        *,
        server_id: str,
        clock: Clock,
    ) -> None:
        section, self._server = config.notifications, config.server.name
        self._settings = settings
        self._server_id = server_id
        self._wrong = [one for one in section.recipients if not is_e_mail(one)]
        self.kept = KeptNotifications(ledger)
        self.logs = OperationLogs(KeptLogs(ledger), clock=clock)
        self._notifications = Notifications(
            self.kept,
            _ways(section, server_id=server_id, server_name=self._server),
            clock=clock,
            recipients=tuple(one for one in dict.fromkeys(section.recipients) if is_e_mail(one)),
            threshold=self._threshold,
        )
        self._ping = Ping(section.ping_url, clock=clock)
        self._watch = NewsWatch(ledger, self._notifications.tell, server=self._server, clock=clock)
        logs.copy_to(self.logs.take)

    def operation_changed(self, operation: Operation) -> None:
        """Tell of an operation that began or ended; from the event loop's thread, without waiting."""
        message = messages.of_operation(operation, self._server)
        if message is not None:
            self._notifications.tell(message)
        self._ping.operation_changed(operation)
        self.logs.keep_soon()

    def tell(self, message: Message) -> None:
        """Tell something by itself; from the event loop's thread, without waiting."""
        self._notifications.tell(message)

    def look_soon(self) -> None:
        """Look for news at once: something has changed."""
        self._watch.look_soon()

    def unsent(self) -> str:
        """Return in words what admins could not be told; empty where all is well."""
        troubles = [self._notifications.unsent()]
        troubles += [f"the ping failed: {self._ping.trouble}"] if self._ping.trouble else []
        troubles += [f"{one!r} in notifications.recipients is no e-mail address" for one in self._wrong]
        return "; ".join(trouble for trouble in troubles if trouble)

    async def run(self, status: Callable[[], Awaitable[StatusReply]]) -> None:
        """Tell until cancelled; `status` is asked for problems."""
        for one in self._wrong:
            log.error(
                "recipient_not_usable", recipient=one, hint="give a plain address such as a@example.com"
            )
        told = await self._notifications.load()
        await self._watch.load(told)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._notifications.run(), name="notifications")
            group.create_task(self._watch.run(status), name="news")
            group.create_task(self._ping.run(), name="ping")
            group.create_task(self.logs.run(), name="operation logs")

    async def close(self) -> None:
        """Keep the last words."""
        await self._notifications.close()
        await self.logs.flush()
        logs.copy_to(None)

    def _threshold(self) -> Level:
        return Level(str(self._settings.get(LEVEL_ATTRIBUTE, Scopes(server=self._server_id)).value))


def _ways(section: Section, *, server_id: str, server_name: str) -> Mapping[str, Way]:
    ways: dict[str, Way] = {}
    if section.smtp_host is not None:
        ways[MAIL] = Mail(section, server_name=server_name)
    if section.webhook_url is not None:
        ways[WEBHOOK] = Webhook(
            section.webhook_url, section.webhook_token_file, server_id=server_id, server_name=server_name
        )
    return ways
