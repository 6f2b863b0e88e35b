"""The routes of the control socket: what can be asked of the daemon, by whom, and how it is answered.

`ROUTES` is all there is. Answers are the structs of `backupd.control`; errors too. Who may do what is told by
the kernel (SO_PEERCRED): root and the daemon's own user may change, they and the socket file's group may
read, nobody else gets an answer but 403. Commands are looked up in the table of commands and their values
checked before the `Service` (the daemon) hears of them. An unexpected exception is logged, answered with
500 and never ends the daemon. Requests are bounded in size; a stream to a slow reader skips to the newest
view instead of piling up.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from backupd.commands import Command, CommandKind
from backupd.control import (
    EVENT_ENDED,
    EVENT_PROGRESS,
    REQUEST_BYTES_MAX,
    SERVER_HEADER,
    CommandRequest,
    ErrorReply,
    OperationReply,
    OperationsReply,
    Reply,
    StatusReply,
    decode_request,
    encode,
)
from backupd.errors import BackupdError, UsageError
from backupd.grammar import command_at, complete, module_named
from backupd.items import is_digest
from backupd.views import OperationView
from daemon.peers import Caller, Forbidden, Owners, caller_of, peer_of

log = structlog.get_logger(__name__)

KEEP_ALIVE_SECONDS = 15.0

HTTP_STATUS_OF_EXIT = {64: 400, 65: 400, 66: 404, 69: 503, 74: 500, 75: 503, 77: 403, 78: 409}
HTTP_CONFLICT = 409
"""HTTP status of an error by its exit status; of all others, 409: the daemon understood and will not."""


class Service(Protocol):
    """What the daemon does for those who ask. Operating errors are raised as `BackupdError`."""

    @property
    def names(self) -> frozenset[str]:
        """The names by which an admin may mean this server: its name and its id."""
        ...

    async def status(self) -> StatusReply:
        """Return the state of everything, in less than 0.1 s."""
        ...

    async def execute(self, request: CommandRequest, caller: Caller) -> Reply:
        """Do a command whose rights and values have been checked; an operation is queued, not waited for.

        Never called for `status`, `getAllOperations` and `monitor`, which the other methods answer.
        """
        ...

    async def operations(self) -> Sequence[OperationView]:
        """Return the operations that are kept, ended ones too, in the order of submission."""
        ...

    async def operation(self, uuid: str) -> OperationView:
        """Return one operation. Raises a `BackupdError` with exit status 66 if there is none."""
        ...

    def progress(self, uuid: str) -> AsyncIterator[OperationView]:
        """Yield an operation as it is now, then whenever it changed, at last as it ended. Raises as above."""
        ...

    async def blob(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Open a content and return its uncompressed bytes in pieces, verified before the last one."""
        ...

    async def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        ...


def application(service: Service, owners: Owners) -> web.Application:
    """Return the web application that answers for a service."""
    answers = _Answers(service, owners)
    app = web.Application(middlewares=[_errors_as_replies], client_max_size=REQUEST_BYTES_MAX)
    for method, path, answer in ROUTES:
        app.router.add_route(method, path, answer.__get__(answers))
    return app


@web.middleware
async def _errors_as_replies(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn whatever goes wrong into an `ErrorReply`. A process boundary: everything unexpected ends here."""
    log.debug("control_request", method=request.method, path=request.path)
    try:
        return await handler(request)
    except BackupdError as error:
        status = HTTP_STATUS_OF_EXIT.get(error.exit_status, HTTP_CONFLICT)
        reply = ErrorReply(message=error.message, hint=error.hint, exit_status=error.exit_status)
    except web.HTTPException as error:
        status = error.status
        reply = _reply_to_http(request, error)
    except OSError as error:
        log.exception("control_request_failed", method=request.method, path=request.path)
        status = 500
        hint = "is the Backup Path mounted, and its disk well? Then see: backupctl status"
        reply = ErrorReply(message=f"a file failed: {error}", hint=hint, exit_status=os.EX_IOERR)
    except Exception:
        log.exception("control_request_failed", method=request.method, path=request.path)
        status = 500
        reply = ErrorReply(
            message="the daemon met a bug while it answered", hint="its log says more", exit_status=70
        )
    return _json(reply, status)


def _reply_to_http(request: web.Request, error: web.HTTPException) -> ErrorReply:
    match error.status:
        case web.HTTPNotFound.status_code:
            paths = ", ".join(dict.fromkeys(path.replace(":.+", "") for _, path, _ in ROUTES))
            return ErrorReply(
                message=f"nothing is at {request.path[:200]}", hint=f"valid: {paths}", exit_status=64
            )
        case web.HTTPMethodNotAllowed.status_code:
            return ErrorReply(message=f"{request.method} is not for {request.path[:200]}", exit_status=64)
        case web.HTTPRequestEntityTooLarge.status_code:
            return ErrorReply(message=f"a request has at most {REQUEST_BYTES_MAX} bytes", exit_status=64)
        case _:
            return ErrorReply(message=error.reason, exit_status=64)


def _json(reply: Reply, status: int = 200) -> web.Response:
    return web.Response(body=encode(reply) + b"\n", status=status, content_type="application/json")


def _event(view: OperationView) -> bytes:
    name = EVENT_ENDED if view.has_ended else EVENT_PROGRESS
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode(OperationReply(operation=view)))


class _Answers:
    """One method per route."""

    def __init__(self, service: Service, owners: Owners) -> None:
        self._service = service
        self._owners = owners

    def _caller(self, request: web.Request) -> Caller:
        """Return who asks, if they may read and mean this server. Raises `Forbidden` or `UsageError`."""
        caller = caller_of(peer_of(request.transport), self._owners)
        if not caller.may_read:
            log.warning("control_refused", uid=caller.uid, gid=caller.gid, pid=caller.pid)
            raise Forbidden(
                f"user {caller.name} may not ask this daemon",
                hint="root, the service's user and members of the socket's group may",
            )
        meant = request.headers.get(SERVER_HEADER, "")
        if meant and meant.casefold() not in {name.casefold() for name in self._service.names}:
            raise UsageError(
                f"this daemon backs up another server than {meant[:100]!r}",
                hint=f"valid: {', '.join(sorted(self._service.names))}",
            )
        return caller

    async def status(self, request: web.Request) -> web.StreamResponse:
        self._caller(request)
        return _json(await self._service.status())

    async def operations(self, request: web.Request) -> web.StreamResponse:
        self._caller(request)
        return _json(OperationsReply(operations=tuple(await self._service.operations())))

    async def operation(self, request: web.Request) -> web.StreamResponse:
        self._caller(request)
        view = await self._service.operation(request.match_info["uuid"])
        return _json(OperationReply(operation=view))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream an operation as server-sent events until it has ended."""
        self._caller(request)
        uuid = request.match_info["uuid"]
        await self._service.operation(uuid)  # an unknown one is refused before the stream begins
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        try:
            await self._send_events(response, uuid)
        except* ConnectionError:
            log.debug("control_reader_left", operation=uuid)
        except* Exception:
            log.exception("control_stream_failed", operation=uuid)
            _abort(request)
        return response

    async def _send_events(self, response: web.StreamResponse, uuid: str) -> None:
        newest: asyncio.Queue[OperationView | None] = asyncio.Queue(maxsize=1)

        async def collect() -> None:
            async for view in self._service.progress(uuid):
                _put_newest(newest, view)
            await newest.put(None)

        async with asyncio.TaskGroup() as group:
            collecting = group.create_task(collect(), name=f"progress of {uuid}")
            while True:
                try:
                    view = await asyncio.wait_for(newest.get(), KEEP_ALIVE_SECONDS)
                except TimeoutError:
                    await response.write(b": still here\n\n")
                    continue
                if view is None:
                    return
                await response.write(_event(view))
                if view.has_ended:
                    collecting.cancel()
                    return

    async def command(self, request: web.Request) -> web.StreamResponse:
        """Check a command against the table and the caller's rights, and have it done."""
        caller = self._caller(request)
        module = module_named(request.match_info["module"])
        words = request.match_info["command"].replace("/", " ").split()
        command, length = command_at(module, words)
        if length != len(words):
            raise UsageError(f"{command.title} takes its values in the request's body")
        if command.kind is not CommandKind.QUERY and not caller.may_change:
            raise Forbidden(
                f"user {caller.name} may read but not change",
                hint=f"{command.title} is for root and the service's user",
            )
        checked = await self._checked(request, command)
        if command.kind is not CommandKind.QUERY:
            given = sorted(name for name, value in checked.parameters.items() if value is not None)
            log.info("command_given", command=command.title, parameters=given, uid=caller.uid, pid=caller.pid)
        reply = await self._do(command, checked, caller)
        queued = command.kind is CommandKind.OPERATION and isinstance(reply, OperationReply)
        return _json(reply, 202 if queued else 200)

    async def _checked(self, request: web.Request, command: Command) -> CommandRequest:
        body = await request.read()
        try:
            given = decode_request(body) if body.strip() else CommandRequest()
        except (msgspec.DecodeError, RecursionError) as error:
            raise UsageError(
                f"the request's body is no command: {error}",
                hint='write {"parameters": {"name": "value"}}',
            ) from error
        parameters = complete(command, given.parameters)
        return CommandRequest(module=command.module, command=command.name, parameters=parameters)

    async def _do(self, command: Command, request: CommandRequest, caller: Caller) -> Reply:
        match command.name:
            case "status":
                return await self._service.status()
            case "getAllOperations":
                views = await self._service.operations()
                every = bool(request.parameters["verbose"])
                return OperationsReply(operations=tuple(one for one in views if every or not one.has_ended))
            case "monitor":
                view = await self._service.operation(str(request.parameters["operation_uuid"]))
                return OperationReply(operation=view)
            case _:
                return await self._service.execute(request, caller)

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """Stream a content; where it turns out corrupt the end is withheld, so that no reader takes it."""
        self._caller(request)
        digest = request.match_info["digest"]
        if not is_digest(digest):
            raise UsageError(f"{digest[:100]!r} is no digest")
        pieces = await self._service.blob(digest)
        async with aclosing(pieces):
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            try:
                async for piece in pieces:
                    await response.write(piece)
            except ConnectionError:
                log.debug("control_reader_left", digest=digest)
            except (BackupdError, OSError) as error:
                log.error("blob_stream_broken", digest=digest, reason=str(error))
                _abort(request)
        return response

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        self._caller(request)
        return web.Response(
            text=await self._service.metrics(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        )


def _put_newest(newest: asyncio.Queue[OperationView | None], view: OperationView) -> None:
    """Put a view where the reader finds it, in place of an older one not read yet."""
    if newest.full():
        newest.get_nowait()
    newest.put_nowait(view)


def _abort(request: web.Request) -> None:
    """Cut the connection: what has been sent must not look complete."""
    if request.transport is not None:
        request.transport.abort()


ROUTES = (
    ("GET", "/v1/status", _Answers.status),
    ("GET", "/v1/operations", _Answers.operations),
    ("GET", "/v1/operations/{uuid}", _Answers.operation),
    ("GET", "/v1/operations/{uuid}/events", _Answers.events),
    ("POST", "/v1/commands/{module}/{command:.+}", _Answers.command),
    ("GET", "/v1/blobs/{digest}", _Answers.blob),
    ("GET", "/metrics", _Answers.metrics),
)
"""Method, path and what answers. The words of a command are separated by `/`."""
