"""Answers: what the daemon says and does for those who ask over the control socket.

Implements `control_routes.Service`. Queries read the store in threads; operations are queued; settings act
at once. How the daemon stands is told by `daemon.standing`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from backupd.attributes import Resolved, Scopes, Settings, attribute_named
from backupd.clock import Clock, parse_moment
from backupd.control import (
    AttributeReply,
    BackupInfoReply,
    BlobReply,
    CommandRequest,
    ConfigReply,
    DoneReply,
    ItemReply,
    OperationReply,
    OperationsReply,
    Reply,
    SearchReply,
    StatusReply,
)
from backupd.errors import BackupdError, UnknownAccount, UsageError
from backupd.items import Kind
from backupd.store.store import Store
from backupd.views import AttributeView, OperationView
from daemon import views
from daemon.doctor import Doctor
from daemon.operations_queue import OperationsQueue
from daemon.peers import Caller
from daemon.standing import Standing

PIECE_BYTES = 1 << 18
OPERATION_TYPES = frozenset({"doSmartScan", "doAccountScan", "doItemRestore"})
"""Commands that are queued; the name is also the operation's type."""


class Answers:
    """The daemon's side of the control socket. `names` are those by which this server may be meant."""

    def __init__(
        self,
        *,
        store: Store,
        queue: OperationsQueue,
        settings: Settings,
        standing: Standing,
        doctor: Doctor,
        server_id: str,
        server_name: str,
        clock: Clock,
        metrics: Callable[[], str],
    ) -> None:
        self._store = store
        self._queue = queue
        self._settings = settings
        self._standing = standing
        self._doctor = doctor
        self._server_id = server_id
        self._server_name = server_name
        self._clock = clock
        self._metrics = metrics
        self._setting = asyncio.Lock()

    @property
    def names(self) -> frozenset[str]:
        """The names by which an admin may mean this server."""
        return frozenset({self._server_id, self._server_name, "localhost", "local", "all_servers"})

    async def status(self) -> StatusReply:
        """Return the state of everything."""
        return await self._standing.status()

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        return self._metrics()

    # --------------------------------------------------------------- operations

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

    # ------------------------------------------------------------------ commands

    async def execute(self, request: CommandRequest, caller: Caller) -> Reply:
        """Do a command whose rights and values have been checked."""
        given = request.parameters
        reply: Reply
        if request.command in OPERATION_TYPES:
            reply = await self._queued(request.command, given, caller)
        elif request.module == "config":
            reply = await self._configure(request.command, given)
        else:
            reply = await self._look_or_stop(request, given)
        return reply

    async def _look_or_stop(self, request: CommandRequest, given: dict[str, Any]) -> Reply:
        match request.command:
            case "doctor":
                return await self._doctor.examine()
            case "getItem":
                return await self._get_item(given)
            case "doItemSearch":
                return await asyncio.to_thread(self._search, given)
            case "getBackupInfo":
                return await asyncio.to_thread(self._backup_info, given)
            case "doStopOperation":
                operation = await self._queue.stop(given["operation_uuid"])
                return OperationReply(operation=views.operation_view(operation))
            case "doStopAllOperations":
                stopped = await self._queue.stop_all()
                return OperationsReply(operations=tuple(views.operation_view(one) for one in stopped))
            case _:
                raise BackupdError(f"{request.module} {request.command} is not done by this daemon")

    async def _queued(self, type_: str, given: dict[str, Any], caller: Caller) -> Reply:
        """Queue an operation, after what can be known to fail has been refused at once."""
        account = given.get("account")
        if type_ == "doItemRestore":
            await asyncio.to_thread(views.history_of, self._store, str(account), given["item_id"])
        parameters = {name: value for name, value in given.items() if value is not None}
        operation = await self._queue.submit(type_, parameters, started_by=caller.name)
        return OperationReply(operation=views.operation_view(operation))

    # --------------------------------------------------------------------- items

    async def _get_item(self, given: dict[str, Any]) -> ItemReply | BlobReply:
        account, item, date = given["account"], given["item"], given["date"]

        def look(store: Store) -> ItemReply | BlobReply:
            if not given["dump_blob"]:
                return views.item_reply(store, account, item, date)
            state = views.state_to_dump(store, account, item, date)
            store.blobs.stored_size(state.digest or "")
            return BlobReply(digest=state.digest or "", size=state.size or 0)

        if given["backup_path"] is None:
            return await asyncio.to_thread(look, self._store)
        if given["dump_blob"]:
            raise UsageError(
                "dump_blob and backup_path can't be combined", hint="use the blob path of getItem"
            )
        return await asyncio.to_thread(self._elsewhere, given["backup_path"], look)

    def _elsewhere(self, path: str, look: Callable[[Store], Any]) -> Any:
        """Look into another Backup Path, read-only."""
        with Store.open(Path(path), server_id="", server_name="", clock=self._clock, writable=False) as store:
            return look(store)

    def _search(self, given: dict[str, Any]) -> SearchReply:
        if given["backup_path"] is not None:
            reply: SearchReply = self._elsewhere(given["backup_path"], lambda store: _search_in(store, given))
            return reply
        return _search_in(self._store, given)

    async def blob(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Open a content and return its bytes in pieces; the last comes only once all are verified."""
        file = await asyncio.to_thread(self._store.blobs.open, digest)

        async def pieces() -> AsyncGenerator[bytes, None]:
            with file:
                while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                    yield piece

        return pieces()

    def _backup_info(self, given: dict[str, Any]) -> BackupInfoReply:
        if given["backup_path"] is not None:
            reply: BackupInfoReply = self._elsewhere(given["backup_path"], views.backup_info)
            return reply
        return views.backup_info(self._store)

    # ------------------------------------------------------------------ settings

    async def _configure(self, command: str, given: dict[str, Any]) -> Reply:
        verb, _, level = command.partition(" ")
        if verb == "info":
            return _attribute_told(given["attribute"])
        scopes = await asyncio.to_thread(self._scopes, level, given)
        subject = scopes.account or scopes.cos or scopes.server
        match verb:
            case "get":
                values = [self._settings.get(given["attribute"], scopes)]
            case "dump":
                values = self._settings.dump(scopes, show_inherited=given["show_inherited"])
            case "set":
                async with self._setting:  # one at a time, for each builds on the settings before
                    await asyncio.to_thread(self._settings.set, given["attribute"], scopes, given["value"])
                return DoneReply()
            case _:
                async with self._setting:
                    await asyncio.to_thread(self._settings.unset, given["attribute"], scopes)
                return DoneReply()
        return ConfigReply(
            level=level, subject=subject, values=tuple(_attribute_view(value) for value in values)
        )

    def _scopes(self, level: str, given: dict[str, Any]) -> Scopes:
        match level:
            case "server":
                named = given["server"]
                if named.casefold() not in {name.casefold() for name in self.names}:
                    raise UsageError(
                        f"no server {named!r} here", hint=f"valid: {self._server_name}, {self._server_id}"
                    )
                return Scopes(server=self._server_id)
            case "account":
                found = self._store.index.find_account(given["account"])
                if found is None:
                    raise UnknownAccount(f"no account {given['account']!r} in the backup")
                return Scopes(server=self._server_id, account=found.item)
            case "cos":
                for entry in self._store.index.entries(Kind.COS):
                    if given["cos"] in (entry.item, entry.metadata.get("name")):
                        return Scopes(server=self._server_id, cos=entry.item)
                raise UsageError(f"no class of service {given['cos']!r} in the backup")
            case _:
                return Scopes()


def _search_in(store: Store, given: dict[str, Any]) -> SearchReply:
    owner = store.index.find_account(given["account"])
    account = owner.item if owner is not None else given["account"]
    kind = None if given["type"] == "all" else Kind(given["type"])
    limit = max(1, min(given["limit"], views.SEARCH_LIMIT_MAX))
    if owner is None and not any(store.index.account_counts(account)):
        raise UnknownAccount(f"no account {given['account']!r} in the backup", hint="give its address or id")
    if given["id"] is not None:
        one = store.index.item(account, given["id"])
        hits = [one] if one is not None else []
    else:
        hits = store.index.search(
            account,
            kind=kind,
            text=given["search_string"],
            before=parse_moment(given["before"]) if given["before"] else None,
            after=parse_moment(given["after"]) if given["after"] else None,
            deleted={"deleted": True, "not_deleted": False, "all": None}[given["search_filter"]],
            limit=limit + 1,
        )
    return views.found_items(hits[:limit], owner, account, raw=given["raw_metadata"], more=len(hits) > limit)


def _attribute_view(resolved: Resolved) -> AttributeView:
    level = resolved.level
    inherited_from = ("default" if level is None else level.value) if resolved.is_inherited else ""
    return AttributeView(
        attribute=resolved.attribute.name,
        value=resolved.value,
        is_inherited=resolved.is_inherited,
        inherited_from=inherited_from,
        modules=(resolved.attribute.module,),
    )


def _attribute_told(name: str) -> AttributeReply:
    attribute = attribute_named(name)
    no_effect = f" No effect here: {attribute.no_effect}." if attribute.no_effect else ""
    return AttributeReply(
        attribute=attribute.name,
        type=attribute.type.value,
        default=attribute.default,
        range=attribute.range,
        levels=tuple(level.value for level in attribute.levels),
        meaning=attribute.meaning + no_effect,
        modules=(attribute.module,),
    )
