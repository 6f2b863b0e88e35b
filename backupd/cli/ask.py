"""Asking the daemon: HTTP over its Unix socket, blocking, with one clear error for each way it can fail.

Nobody there or no answer in time is `DaemonUnreachable` (69), no right to the socket is `NotPermitted` (77),
and what the daemon itself refuses is `Refused`, with the daemon's words and exit status.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from backupd.commands import Command
from backupd.control import (
    SERVER_HEADER,
    SERVICE_SOCKET,
    USER_SOCKET,
    CommandRequest,
    ErrorReply,
    OperationReply,
    Reply,
    decode_reply,
    encode,
)
from backupd.errors import BackupdError, DaemonUnreachable
from backupd.parameters import Value
from backupd.replies import BlobReply
from backupd.views import OperationView

ANSWER_SECONDS = 120.0
"""How long to wait for any sign of life; streams send one every 15 seconds."""
STATUS_SECONDS = 15.0
"""The status comes within a moment: one that does not is an answer, too."""
PIECE_BYTES = 1 << 16
EVENT_LINE_BYTES_MAX = 1 << 22

Result = TypeVar("Result")


class NotPermitted(BackupdError):
    """The socket is there, but not for this user."""

    exit_status = 77


class Refused(Exception):
    """The daemon answered with an error."""

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.message)
        self.reply = reply


class BrokenContent(BackupdError):
    """A content ended before it was complete."""

    exit_status = 74


def socket_path(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the socket to ask: as given, by BACKUPD_SOCKET, the user's own daemon's, or the service's."""
    if given or environ.get("BACKUPD_SOCKET"):
        return given or environ["BACKUPD_SOCKET"]
    directory = environ.get("XDG_RUNTIME_DIR", "")
    own = Path(directory, USER_SOCKET)
    return str(own) if directory and own.exists() else SERVICE_SOCKET


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("backupd", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    """The daemon behind a socket. Each question is a connection of its own, with a bound on its silence."""

    def __init__(self, path: str, *, server: str | None = None, seconds: float | None = None) -> None:
        self._path = path
        self._seconds = ANSWER_SECONDS if seconds is None else seconds
        self._headers = {SERVER_HEADER: server.encode()} if server else {}

    def command(self, command: Command, parameters: Mapping[str, Value]) -> tuple[Reply, bytes]:
        """Give a command; return the answer, and the JSON it came as."""
        words = "/".join(quote(word) for word in command.name.split())
        given = {name: value for name, value in parameters.items() if value is not None}
        body = encode(CommandRequest(parameters=given))
        content = b""
        if command.name == "status":
            self._seconds = min(self._seconds, STATUS_SECONDS)
        with self._answer("POST", f"/v1/commands/{command.module}/{words}", body) as answer:
            content = self._read(answer)
        return self._decoded(content), content

    def events(self, uuid: str) -> Iterator[OperationView]:
        """Yield an operation's views as they come, until it ended or the stream breaks off."""
        with self._answer("GET", f"/v1/operations/{quote(uuid)}/events") as answer:
            while line := self._guarded(lambda: answer.readline(EVENT_LINE_BYTES_MAX)):
                if line.startswith(b"data: "):
                    reply = self._decoded(line[6:])
                    if isinstance(reply, OperationReply):
                        yield reply.operation

    def blob(self, blob: BlobReply) -> Iterator[bytes]:
        """Yield a content in pieces. Raises `BrokenContent` where it ends before its end."""
        length = 0
        with self._answer("GET", f"/v1/blobs/{quote(blob.digest, safe='')}") as answer:
            while True:
                try:
                    piece = answer.read(PIECE_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    raise self._broken(blob, length) from error
                if not piece:
                    break
                length += len(piece)
                yield piece
        if length != blob.size:
            raise self._broken(blob, length)

    def _broken(self, blob: BlobReply, length: int) -> BackupdError:
        return BrokenContent(
            f"content {blob.digest} broke off after {length} of {blob.size} bytes",
            hint="what was written is not to be trusted; the daemon's log names the reason",
        )

    def _answer(self, method: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        connection = _UnixConnection(self._path, self._seconds)

        def ask() -> http.client.HTTPResponse:
            connection.request(method, path, body, {**self._headers, "Connection": "close"})
            return connection.getresponse()

        answer = self._guarded(ask)
        if answer.status >= http.client.BAD_REQUEST:
            content = self._read(answer)
            self._decoded(content)
            raise DaemonUnreachable(f"something else than backupd answers on {self._path}")
        return answer

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        return self._guarded(answer.read)

    def _decoded(self, content: bytes) -> Reply:
        try:
            reply = decode_reply(content)
        except msgspec.DecodeError as error:
            raise DaemonUnreachable(
                f"what answers on {self._path} is no backupd of this version: {error}",
                hint="use the backupctl that was installed with the daemon",
            ) from error
        if isinstance(reply, ErrorReply):
            raise Refused(reply)
        return reply

    def _guarded(self, act: Callable[[], Result]) -> Result:
        """Do something with the socket and say clearly what was wrong with it."""
        try:
            return act()
        except PermissionError as error:
            raise NotPermitted(
                f"{_user()} may not use the control socket {self._path}",
                hint="be root, the service's user or a member of the socket's group",
            ) from error
        except TimeoutError as error:
            raise DaemonUnreachable(
                f"the daemon on {self._path} gave no answer for {self._seconds:.0f} s",
                hint="it is busy or hangs: see its log; systemctl kill -s USR1 backupd has it tell where",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise DaemonUnreachable(
                f"no daemon answers on {self._path}",
                hint="systemctl start backupd, or name its socket by --socket or BACKUPD_SOCKET",
            ) from error


def _user() -> str:
    return os.environ.get("USER") or f"user {os.getuid()}"
