"""Answers: what the daemon says and does for those who ask over the control socket.

Implements `control_routes.Service`. Each part of the daemon that answers brings a table of titles and
answers; operations are queued here. How the daemon stands is told by `daemon.standing`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

from backupd.commands import COMMANDS, CommandKind
from backupd.control import CommandRequest, OperationReply, OperationsReply, Reply, ServicesReply, StatusReply
from backupd.errors import BackupdError, UnknownAccount, UsageError
from backupd.store.store import Store
from backupd.views import OperationView
from daemon import views
from daemon.answering import Answering, Given
from daemon.looking import Looking
from daemon.operations_queue import OperationsQueue
from daemon.peers import Caller
from daemon.services import Services
from daemon.standing import Standing

OPERATION_TYPES = tuple(one.name for one in COMMANDS if one.kind is CommandKind.OPERATION and one.available)
"""Commands of the module `backup` that are queued; the name is also the operation's type."""


def names_of(server_id: str, server_name: str) -> frozenset[str]:
    """Return the names by which an admin may mean this server."""
    return frozenset({server_id, server_name, "localhost", "local", "all_servers"})


_WHOSE = {"doUndelete": "account", "doRestoreOnNewAccount": "source_account"}
"""The parameters of operations that name an account which the backup must know."""
NO_MAIL = "nobody is told by e-mail: [notifications] smtp_host is not set in backupd.toml"


class Answers:
    """The daemon's side of the control socket. `parts` are the tables of those who answer besides."""

    def __init__(
        self,
        *,
        store: Store,
        queue: OperationsQueue,
        services: Services,
        standing: Standing,
        looking: Looking,
        names: frozenset[str],
        metrics: Callable[[], Awaitable[str]],
        parts: Iterable[Mapping[str, Answering]],
        sends_mail: bool = True,
    ) -> None:
        self._sends_mail = sends_mail
        self._store = store
        self._queue = queue
        self._services = services
        self._standing = standing
        self._looking = looking
        self._names = names
        self._metrics = metrics
        self._table: dict[str, Answering] = {**self._own(), **looking.table()}
        for part in parts:
            self._table |= part

    @property
    def names(self) -> frozenset[str]:
        """The names by which an admin may mean this server."""
        return self._names

    @property
    def titles(self) -> frozenset[str]:
        """The commands that `execute` answers."""
        return frozenset(self._table)

    async def status(self) -> StatusReply:
        """Return the state of everything."""
        return await self._standing.status()

    async def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        return await self._metrics()

    async def blob(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Open a content and return its bytes in pieces; the last comes only once all are verified."""
        return await self._looking.blob(digest)

    async def operations(self) -> Sequence[OperationView]:
        """Return the operations that are kept, in the order of submission."""
        return [views.operation_view(operation) for operation in self._queue.operations()]

    async def operation(self, uuid: str) -> OperationView:
        """Return one operation. Raises `UnknownOperation`."""
        return views.operation_view(self._queue.get(uuid))

    async def progress(self, uuid: str) -> AsyncIterator[OperationView]:
        """Yield an operation now, and whenever it changed."""
        async for operation in self._queue.follow(uuid):
            yield views.operation_view(operation)

    async def execute(self, request: CommandRequest, caller: Caller) -> Reply:
        """Do a command whose rights and values have been checked."""
        answer = self._table.get(f"{request.module} {request.command}")
        if answer is None:
            raise BackupdError(f"{request.module} {request.command} is not done by this daemon")
        return await answer(request.parameters, caller)

    # ---------------------------------------------------------------- own table

    def _own(self) -> dict[str, Answering]:
        table: dict[str, Answering] = {f"backup {name}": self._queued(name) for name in OPERATION_TYPES}
        for title in ("backup getServices", "core getAllServicesStatus"):
            table[title] = self._get_services
        return table | {
            "backup doStopOperation": self._stop,
            "backup doStopAllOperations": self._stop_all,
            "backup doStartService": self._start_service,
            "backup doStopService": self._stop_service,
            "backup doRestartService": self._restart_service,
        }

    def _queued(self, type_: str) -> Answering:
        async def answering(given: Given, caller: Caller) -> Reply:
            """Queue an operation, after what can be known to fail has been refused at once."""
            if given.get("input_file") is not None:
                raise UsageError(
                    "input_file is read by the console, as the user who asks", hint="give accounts instead"
                )
            if type_ == "doItemRestore":
                account, item = str(given["account"]), given["item_id"]
                await asyncio.to_thread(views.history_of, self._store, account, item)
            elif type_ in _WHOSE:
                await asyncio.to_thread(self._check_account, str(given[_WHOSE[type_]]))
            parameters = {name: value for name, value in given.items() if value is not None}
            operation = await self._queue.submit(type_, parameters, started_by=caller.name)
            note = "" if self._sends_mail or not given.get("notifications") else NO_MAIL
            return OperationReply(operation=views.operation_view(operation), note=note)

        return answering

    def _check_account(self, account: str) -> None:
        if self._store.index.find_account(account) is None:
            raise UnknownAccount(
                f"no account {account[:100]!r} in the backup", hint="getAvailableAccounts lists them"
            )

    async def _stop(self, given: Given, _caller: Caller) -> Reply:
        operation = await self._queue.stop(given["operation_uuid"])
        return OperationReply(operation=views.operation_view(operation))

    async def _stop_all(self, _given: Given, _caller: Caller) -> Reply:
        stopped = await self._queue.stop_all()
        return OperationsReply(operations=tuple(views.operation_view(one) for one in stopped))

    async def _get_services(self, _given: Given, _caller: Caller) -> Reply:
        return ServicesReply(services=self._services.views())

    async def _start_service(self, given: Given, _caller: Caller) -> Reply:
        self._services.start(given["service_name"])
        return ServicesReply(services=self._services.views())

    async def _stop_service(self, given: Given, _caller: Caller) -> Reply:
        self._services.stop(given["service_name"])
        return ServicesReply(services=self._services.views())

    async def _restart_service(self, given: Given, _caller: Caller) -> Reply:
        self._services.stop(given["service_name"])
        self._services.start(given["service_name"])
        return ServicesReply(services=self._services.views())
