"""Receivers of notifications: a real SMTP server and a web server, each in a thread, each able to misbehave.

`MailServer` can ask for TLS and a login, refuse recipients, hang and be stopped and started again on its
port. `WebServer` answers with the status a test sets (a redirect too), or not at all while it hangs.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword

from tests.world.brokers import free_port

USERNAME = "backupd"
PASSWORD = "open sesame"
HANG_SECONDS_MAX = 30.0


@dataclass(frozen=True)
class Received:
    """One mail as it came."""

    sender: str
    recipients: list[str]
    message: EmailMessage

    @property
    def text(self) -> str:
        body = self.message.get_body()
        assert body is not None
        return str(body.get_content())


class MailServer:
    """An SMTP server on a loopback port. `refuse` maps recipients to what they are refused with."""

    def __init__(self, *, certificates: Path | None = None, login: bool = False) -> None:
        self.port = free_port()
        self.received: list[Received] = []
        self.sessions = 0
        self.refuse: dict[str, str] = {}
        self.answer = "250 taken"
        self.hangs = False
        self.logins: list[bool] = []
        self._certificates = certificates
        self._login = login
        self._controller: Controller | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, with STARTTLS where there are certificates."""
        context = None
        if self._certificates is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self._certificates / "server.crt", self._certificates / "server.key")
        logging.getLogger("mail.log").setLevel(logging.ERROR)
        self._controller = Controller(
            _Hooks(self),
            hostname="127.0.0.1",
            port=self.port,
            tls_context=context,
            require_starttls=context is not None,
            authenticator=self._judge if self._login else None,
            auth_required=self._login,
            auth_require_tls=context is not None,
        )
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def _judge(self, _server: Any, _session: Any, _envelope: Any, _way: str, given: Any) -> AuthResult:
        good = LoginPassword(USERNAME.encode(), PASSWORD.encode())
        self.logins.append(given == good)
        return AuthResult(success=given == good, handled=False)


class _Hooks:
    """What aiosmtpd asks at each step; it finds these by their names."""

    def __init__(self, server: MailServer) -> None:
        self._server = server
        setattr(self, "handle_" + "DATA", self._take)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _smtp: Any, _session: Any, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self._server.refuse:
            return self._server.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _smtp: Any, _session: Any, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        self._server.sessions += 1
        while self._server.hangs:  # noqa: ASYNC110 - another thread lets go
            await asyncio.sleep(0.01)
        envelope.mail_from = address
        return "250 OK"

    async def _take(self, _smtp: Any, _session: Any, envelope: Envelope) -> str:
        if self._server.answer.startswith("250"):
            content = envelope.original_content or b""
            message = message_from_bytes(content, policy=default)
            assert isinstance(message, EmailMessage)
            self._server.received.append(Received(envelope.mail_from or "", list(envelope.rcpt_tos), message))
        return self._server.answer


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class WebServer:
    """A web server on a loopback port that takes what comes."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.status = 200
        self.location = ""
        self._go = threading.Event()
        self._go.set()
        self._server: ThreadingHTTPServer | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def hang(self, *, on: bool) -> None:
        """Answer nothing from now on, or go on."""
        if on:
            self._go.clear()
        else:
            self._go.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._go.set()
        self.stop()

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._answering())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answering(self) -> type[BaseHTTPRequestHandler]:
        world = self

        class Answering(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                world.requests.append(Request(self.command, self.path, dict(self.headers), body))
                world._go.wait(HANG_SECONDS_MAX)
                self.send_response(world.status)
                if world.location:
                    self.send_header("Location", world.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = answer  # noqa: N815 - the base class's names

            def log_message(self, format: str, *_: Any) -> None:  # noqa: A002 - the base class's name
                """Say nothing."""

        return Answering
