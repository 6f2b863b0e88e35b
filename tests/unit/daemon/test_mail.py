"""E-mail: over a real SMTP server with TLS and a login, and one that refuses, hangs or is not there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backupd.config_sections import Notifications as Section
from backupd.config_sections import SmtpSecurity
from daemon.delivery import Notification, Undelivered
from daemon.mail import Mail, ascii_address, compose, domain_of
from daemon.messages import Level
from tests.world.brokers import make_certificates
from tests.world.clocks import START
from tests.world.receivers import PASSWORD, USERNAME, MailServer

ADMIN = "admin@example.com"
YOU = "you@example.com"
TOLD = Notification(
    id="0192f3c4-0000",
    time=START,
    level=Level.CRITICAL,
    subject="[backupd mail] Prüfung fehlgeschlagen ✗",
    text="Ein Umlaut: ü\n" + "x" * 2_000 + "\n.\nend\n",
    to=(ADMIN,),
)
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="apt-get install openssl")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


def mail(server: MailServer, *, seconds: float = 5.0, **section: Any) -> Mail:
    plain = {"smtp_host": "localhost", "smtp_security": SmtpSecurity.NONE, "smtp_port": server.port}
    return Mail(
        Section(**{**plain, **section}),
        server_name="Mail Host_1.example.com",
        command_seconds=seconds,
        send_seconds=seconds,
    )


async def test_a_mail_arrives_as_it_was_meant() -> None:
    """Sender, subject, text, identity and the marks of an automatic mail arrive; the text is whole."""
    with MailServer() as server:
        outcome = await mail(server).send(TOLD, (ADMIN, YOU))
    (received,) = server.received
    assert (outcome.refused, outcome.later) == ({}, {})
    assert received.sender == "backupd@mail-host-1.example.com"
    assert received.recipients == [ADMIN, YOU]
    head = received.message
    assert head["From"] == received.sender
    assert head["Subject"] == TOLD.subject
    assert received.text.replace("\r\n", "\n") == TOLD.text
    assert head["Message-ID"] == "<0192f3c4-0000@mail-host-1.example.com>"
    assert head["Date"].datetime == START
    assert head["Auto-Submitted"] == "auto-generated"
    assert (head["X-Backupd-Level"], head["Importance"]) == ("critical", "high")


async def test_the_sender_may_have_a_name_and_must_be_an_address() -> None:
    """A sender with a name is one; what is no address is told by the key's name, and nothing is sent."""
    with MailServer() as server:
        await mail(server, sender="Prüfer <backup@x.org>").send(TOLD, (ADMIN,))
        with pytest.raises(Undelivered, match=r"notifications\.sender"):
            await mail(server, sender="nobody").send(TOLD, (ADMIN,))
    (received,) = server.received
    assert received.sender == "backup@x.org"
    assert received.message["From"] == "Prüfer <backup@x.org>"


async def test_own_recipients_stand_in_no_header() -> None:
    """`To` names the admins alone; without an admin it names nobody."""
    with MailServer() as server:
        await mail(server).send(TOLD, (ADMIN, YOU))
        await mail(server).send(msgspec.structs.replace(TOLD, to=()), (YOU,))
    both, alone = server.received
    assert both.message["To"] == ADMIN
    assert YOU not in both.message.as_string()
    assert alone.message["To"] == "undisclosed-recipients:;"
    assert YOU not in alone.message.as_string()


@needs_openssl
async def test_starttls_and_login(certificates: Path, secret: Path) -> None:
    """The password goes over TLS that was checked by the given authority, read anew at each attempt."""
    with MailServer(certificates=certificates, login=True) as server:
        way = mail(
            server,
            smtp_security=SmtpSecurity.STARTTLS,
            smtp_ca_file=certificates / "ca.crt",
            smtp_username=USERNAME,
            smtp_password_file=secret,
        )
        secret.write_text("wrong\n")
        with pytest.raises(Undelivered, match="refused the login") as caught:
            await way.send(TOLD, (ADMIN,))
        assert "wrong" not in str(caught.value)
        secret.write_text(PASSWORD)
        await way.send(TOLD, (ADMIN,))
    assert not any(server.logins[:-1])
    assert server.logins[-1]
    assert len(server.received) == 1


@needs_openssl
async def test_a_certificate_that_is_not_trusted_gets_nothing(certificates: Path, secret: Path) -> None:
    """Without its authority the server's certificate is refused, before any password or mail."""
    with MailServer(certificates=certificates, login=True) as server:
        way = mail(
            server,
            smtp_security=SmtpSecurity.STARTTLS,
            smtp_username=USERNAME,
            smtp_password_file=secret,
        )
        with pytest.raises(Undelivered, match="certificate"):
            await way.send(TOLD, (ADMIN,))
    assert (server.logins, server.received) == ([], [])


async def test_a_server_without_starttls_gets_nothing() -> None:
    """Where TLS is asked for and the server has none, the mail is not sent in the clear."""
    with MailServer() as server:
        with pytest.raises(Undelivered):
            await mail(server, smtp_security=SmtpSecurity.STARTTLS).send(TOLD, (ADMIN,))
        assert server.received == []


async def test_a_password_leaves_this_machine_over_tls_only(secret: Path) -> None:
    """With `none` a password goes to the loopback interface alone; a missing file is told by its key."""
    with MailServer() as server:
        bare = mail(server, smtp_host="mx.example.com", smtp_username="u", smtp_password_file=secret)
        with pytest.raises(Undelivered, match="without TLS"):
            await bare.send(TOLD, (ADMIN,))
        with pytest.raises(Undelivered, match="smtp_password_file"):
            await mail(server, smtp_username="u").send(TOLD, (ADMIN,))
        absent = mail(server, smtp_username="u", smtp_password_file=secret / "none")
        with pytest.raises(Undelivered, match="can't be read"):
            await absent.send(TOLD, (ADMIN,))


async def test_refused_recipients_do_not_keep_others_from_it() -> None:
    """One refused for good and one for now are told apart; the third gets the mail."""
    with MailServer() as server:
        server.refuse = {"gone@x.org": "550 no such user", "full@x.org": "452 mailbox full"}
        outcome = await mail(server).send(TOLD, ("gone@x.org", "full@x.org", ADMIN))
        assert outcome.refused == {"gone@x.org": "550 no such user"}
        assert outcome.later == {"full@x.org": "452 mailbox full"}
        assert [one.recipients for one in server.received] == [[ADMIN]]
        none = await mail(server).send(TOLD, ("gone@x.org", "jörg@x.org"))
        assert set(none.refused) == {"gone@x.org", "jörg@x.org"}
        assert len(server.received) == 1


@pytest.mark.parametrize(
    ("answer", "permanent"), [("554 spam", True), ("451 try later", False), ("421 going down", False)]
)
async def test_a_refused_message_is_told_with_the_servers_words(answer: str, permanent: bool) -> None:
    """A message refused for good fails; one refused for now can be tried again."""
    with MailServer() as server:
        server.answer = answer
        with pytest.raises(Undelivered, match=answer[4:]) as caught:
            await mail(server).send(TOLD, (ADMIN,))
    assert caught.value.permanent is permanent


async def test_a_server_that_hangs_or_is_down_costs_a_bounded_time() -> None:
    """Neither a server that does not answer nor one that is not there holds the way for long."""
    with MailServer() as server:
        server.hangs = True
        with pytest.raises(Undelivered) as caught:
            await mail(server, seconds=0.3).send(TOLD, (ADMIN,))
        assert caught.value.way_is_down
        server.hangs = False
    with pytest.raises(Undelivered, match="localhost") as caught:
        await mail(server).send(TOLD, (ADMIN,))
    assert caught.value.way_is_down


def test_no_header_can_be_smuggled_in() -> None:
    """Neither subject nor addresses can begin another header."""
    nasty = msgspec.structs.replace(
        TOLD, subject="x\r\nBcc: evil@x.org", to=("a@x.org\r\nBcc: evil@x.org", "a@x.org, evil@x.org")
    )
    message = compose(nasty, sender="backupd@x.org", domain="x.org")
    assert message["Bcc"] is None
    assert "\nBcc:" not in message.as_string()
    assert message["To"] == "undisclosed-recipients:;"


def test_addresses_are_written_as_every_server_takes_them() -> None:
    """A domain beyond ASCII is written in IDNA; a local part beyond it, or no address at all, is none."""
    assert ascii_address("info@müller.example") == "info@xn--mller-kva.example"
    assert [ascii_address(word) for word in ("jörg@x.org", "a b@x.org", "nobody", "a@b@c d")] == [""] * 4
    assert (domain_of("mail"), domain_of("…")) == ("mail", "localhost")
