"""The doctor and others: a real mail server that must get no mail, and a port that gives metrics or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from backupd.config_sections import Notifications, SmtpSecurity
from backupd.views import Outcome
from daemon.outward_checks import (
    ListenerFacts,
    MailServerFacts,
    call_listener,
    call_mail_server,
    judge_listener,
    judge_notifications,
)
from tests.world.brokers import free_port

OK, WARNING = Outcome.OK, Outcome.WARNING
MAIL = Notifications(smtp_host="mail", sender="a@example.com", recipients=("b@example.com",))


class Postbox:
    """Counts what a mail server is asked for."""

    def __init__(self) -> None:
        self.mails = 0
        self.said: list[str] = []

    async def handle_EHLO(self, _server: Any, session: Any, _envelope: Any, hostname: str, replies: Any):  # noqa: N802 - aiosmtpd finds it by this name
        self.said.append("EHLO")
        session.host_name = hostname
        return replies

    async def handle_QUIT(self, *_: Any) -> str:  # noqa: N802 - aiosmtpd finds it by this name
        self.said.append("QUIT")
        return "221 Bye"

    async def handle_MAIL(self, *_: Any) -> str:  # noqa: N802 - aiosmtpd finds it by this name
        self.mails += 1
        return "250 OK"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any):
        return AuthResult(success=given.password == b"right", handled=False)


@pytest.fixture
def postbox() -> Iterator[tuple[Postbox, int]]:
    """Start a mail server; yield what it counts and its port."""
    box = Postbox()
    port = free_port()
    server = Controller(
        box,
        hostname="127.0.0.1",
        port=port,
        authenticator=box.authenticate,
        auth_require_tls=False,
    )
    server.start()
    yield box, port
    server.stop()


def section(port: int, **changes: Any) -> Notifications:
    made = Notifications(
        smtp_host="127.0.0.1",
        smtp_port=port,
        smtp_security=SmtpSecurity.NONE,
        sender="backupd@example.com",
        recipients=("admin@example.com",),
    )
    return msgspec.structs.replace(made, **changes)


async def test_a_mail_server_is_greeted_and_left(postbox: tuple[Postbox, int]):
    """The mail server hears EHLO and QUIT, and no mail."""
    box, port = postbox
    assert (await call_mail_server(section(port))).error == ""
    assert (box.said[0], box.said[-1], box.mails) == ("EHLO", "QUIT", 0)


async def test_what_keeps_mail_from_going_out_is_told(postbox: tuple[Postbox, int], tmp_path: Path):
    """A wrong password, missing STARTTLS, a secret that is not there and a dead port are told in words."""
    box, port = postbox
    secret = tmp_path / "password"
    secret.write_text("right\n")
    login = section(port, smtp_username="u", smtp_password_file=secret)
    assert (await call_mail_server(login)).error == ""
    secret.write_text("wrong\n")
    assert "credentials" in (await call_mail_server(login)).error
    assert (await call_mail_server(section(port, smtp_security=SmtpSecurity.STARTTLS))).error
    assert (
        "can't be read"
        in (
            await call_mail_server(section(port, smtp_username="u", smtp_password_file=tmp_path / "none"))
        ).error
    )
    assert (await call_mail_server(section(free_port()))).error
    assert box.mails == 0


@pytest.mark.parametrize(
    ("made", "mail", "outcome", "word"),
    [
        (Notifications(), None, OK, "nobody is told"),
        (MAIL, MailServerFacts(), OK, "no ping_url"),
        (msgspec.structs.replace(MAIL, ping_url="https://p"), MailServerFacts(), OK, "ping"),
        (MAIL, MailServerFacts(error="no route"), WARNING, "no route"),
        (msgspec.structs.replace(MAIL, recipients=()), MailServerFacts(), WARNING, "recipients is missing"),
        (msgspec.structs.replace(MAIL, sender=None), MailServerFacts(), OK, "e-mail"),
        (Notifications(webhook_url="https://w"), None, OK, "webhook"),
    ],
)
def test_notifications_are_judged(
    made: Notifications, mail: MailServerFacts | None, outcome: Outcome, word: str
):
    """Half told or not reachable is a warning: failures stay unseen; nobody told is the admin's choice."""
    checks = judge_notifications(made, mail)
    assert [check.outcome for check in checks] == [outcome]
    assert word in f"{checks[0].found} | {checks[0].cure}"


@pytest.fixture
async def web() -> AsyncIterator[tuple[dict[str, bytes], int]]:
    """Serve one answer, which the test may change, on a port."""
    said = {"answer": b"HTTP/1.1 200 OK\r\n\r\nbackupd_up 1\n"}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said["answer"])
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield said, server.sockets[0].getsockname()[1]


async def test_the_metrics_port_must_give_metrics(web: tuple[dict[str, bytes], int]):
    """A port that answers 200 is well, one that answers otherwise or not at all is told."""
    said, port = web
    assert (await call_listener(f"127.0.0.1:{port}")).error == ""
    assert (await call_listener(f"0.0.0.0:{port}")).error == ""
    said["answer"] = b"HTTP/1.1 404 Not Found\r\n\r\n"
    assert (await call_listener(f"127.0.0.1:{port}")).error == "no metrics there"
    assert (await call_listener("127.0.0.1:1")).error
    assert (await call_listener("127.0.0.1:99999")).error


@pytest.mark.parametrize(
    ("listen", "facts", "outcome", "word"),
    [
        (None, None, OK, "control socket only"),
        ("127.0.0.1:9469", ListenerFacts(), OK, "answers"),
        ("0.0.0.0:9469", ListenerFacts(), OK, "firewall"),
        ("127.0.0.1:9469", ListenerFacts(error="refused"), WARNING, "ss -ltnp"),
    ],
)
def test_the_metrics_port_is_judged(
    listen: str | None, facts: ListenerFacts | None, outcome: Outcome, word: str
):
    """No port is fine, one for everybody is told, one that does not answer is a warning."""
    check = judge_listener(listen, facts)
    assert check.outcome is outcome
    assert word in f"{check.found} | {check.cure}"
