"""E-mail: a notification as a message of RFC 5322, handed to one mail server over SMTP.

One message goes to all recipients. `To` names the admins of the configuration, who know each other; the
addresses that were given with an operation stand in the envelope alone (as Bcc does), for they may be
strangers to the admins and to each other. Nothing from outside reaches a header but as one printable line.
The password goes over TLS only, or to this very machine. What the server answers is told, cut; a recipient
that it refuses for now is tried again, one that it refuses for good is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Mapping
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, parseaddr

import aiosmtplib

from backupd.config_sections import Notifications as Section
from backupd.config_sections import SmtpSecurity
from backupd.errors import ConfigError
from backupd.parameters import is_e_mail
from backupd.secret import Secret, read_secret
from daemon.delivery import Notification, Outcome, Undelivered
from daemon.messages import Level

COMMAND_SECONDS_MAX = 20.0
"""How long the mail server may take for one answer."""
SEND_SECONDS_MAX = 60.0
"""How long a whole delivery may take."""
ANSWER_CHARACTERS_MAX = 150
UNDISCLOSED = "undisclosed-recipients:;"
_PERMANENT = 500
_NOT_IN_DOMAIN = re.compile(r"[^a-z0-9.-]+")
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


class Mail:
    """The way by e-mail. Satisfies `daemon.delivery.Way`."""

    def __init__(
        self,
        section: Section,
        *,
        server_name: str,
        command_seconds: float = COMMAND_SECONDS_MAX,
        send_seconds: float = SEND_SECONDS_MAX,
    ) -> None:
        assert section.smtp_host is not None
        self._host = section.smtp_host
        self._section = section
        self._domain = domain_of(server_name)
        self._sender = section.sender or f"backupd@{self._domain}"
        self._command_seconds = command_seconds
        self._send_seconds = send_seconds

    async def send(self, notification: Notification, recipients: tuple[str, ...]) -> Outcome:
        """Hand a notification to the mail server for these recipients. Raises `Undelivered`."""
        if not ascii_address(parseaddr(self._sender)[1]):
            raise Undelivered("notifications.sender is no e-mail address")
        message = compose(notification, sender=self._sender, domain=self._domain)
        writable = {one: ascii_address(one) for one in recipients}
        impossible = {
            one: "not an address that every mail server takes" for one in recipients if not writable[one]
        }
        envelope = {address: one for one, address in writable.items() if address}
        if not envelope:
            return Outcome(refused=impossible)
        try:
            async with asyncio.timeout(self._send_seconds):
                answers = await self._hand_over(message, list(envelope))
        except TimeoutError as error:
            raise Undelivered(f"the mail server {self._where} did not answer in time") from error
        except ConfigError as error:
            raise Undelivered(error.message) from error
        except aiosmtplib.SMTPRecipientsRefused as error:
            answers = {one.recipient: (one.code, one.message) for one in error.recipients}
        except (aiosmtplib.SMTPException, OSError) as error:
            raise self._undelivered(error) from error
        refused, later = judged(answers)
        return Outcome(
            refused={**impossible, **{envelope[address]: why for address, why in refused.items()}},
            later={envelope[address]: why for address, why in later.items()},
        )

    @property
    def _where(self) -> str:
        return f"{self._host}:{self._section.smtp_port}"

    async def _hand_over(self, message: EmailMessage, recipients: list[str]) -> Mapping[str, tuple[int, str]]:
        section = self._section
        password, context = await asyncio.to_thread(self._secrets)
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=section.smtp_port,
            local_hostname=self._domain,
            timeout=self._command_seconds,
            use_tls=section.smtp_security is SmtpSecurity.TLS,
            start_tls=section.smtp_security is SmtpSecurity.STARTTLS,
            tls_context=context,
        )
        try:
            await client.connect()
            if password is not None and section.smtp_username is not None:
                await client.login(section.smtp_username, password.revealed)
            answers, _ = await client.sendmail(self._sender, recipients, message.as_bytes(policy=SMTP_POLICY))
            with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                await client.quit()
        finally:
            client.close()
        return {one: (answer.code, answer.message) for one, answer in answers.items()}

    def _secrets(self) -> tuple[Secret | None, ssl.SSLContext | None]:
        """Return the password and what certificates are checked by; blocks. Raises `ConfigError`."""
        section = self._section
        context = None
        if section.smtp_security is not SmtpSecurity.NONE:
            try:
                context = ssl.create_default_context(cafile=section.smtp_ca_file)
            except OSError as error:
                raise ConfigError(f"notifications.smtp_ca_file can't be used: {error.strerror}") from error
        if section.smtp_username is None:
            return None, context
        if section.smtp_password_file is None:
            raise ConfigError("notifications.smtp_username is set and smtp_password_file is not")
        if context is None and self._host.casefold() not in _HERE:
            raise ConfigError(f"the password does not go to {self._host} without TLS: set smtp_security")
        return read_secret(section.smtp_password_file), context

    def _undelivered(self, error: aiosmtplib.SMTPException | OSError) -> Undelivered:
        match error:
            case aiosmtplib.SMTPAuthenticationError():
                return Undelivered(f"the mail server {self._where} refused the login: {error.code}")
            case aiosmtplib.SMTPDataError():
                said = f"{error.code} {_one_line(error.message)}"
                permanent = error.code >= _PERMANENT
                return Undelivered(
                    f"the mail server refused the message: {said}", permanent=permanent, way_is_down=False
                )
            case aiosmtplib.SMTPResponseException():
                return Undelivered(
                    f"the mail server {self._where} answered {error.code} {_one_line(error.message)}"
                )
            case _:
                return Undelivered(f"no e-mail over {self._where}: {_one_line(str(error))}")


def compose(notification: Notification, *, sender: str, domain: str) -> EmailMessage:
    """Return a notification as a message. Its identity stays the same however often it is tried."""
    message = EmailMessage(policy=SMTP_POLICY)
    message["From"] = sender
    to = [address for one in notification.to if (address := ascii_address(one))]
    message["To"] = [Address(addr_spec=one) for one in to] if to else UNDISCLOSED
    message["Subject"] = _one_line(notification.subject)
    message["Date"] = format_datetime(notification.time)
    message["Message-ID"] = f"<{notification.id}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Backupd-Level"] = notification.level.value
    if notification.level is Level.CRITICAL:
        message["Importance"] = "high"
    message.set_content(notification.text, charset="utf-8", cte="quoted-printable")
    return message


def domain_of(server_name: str) -> str:
    """Return a server's name as a domain: in lower case, without what no domain may hold."""
    return _NOT_IN_DOMAIN.sub("-", server_name.casefold()).strip("-.") or "localhost"


def ascii_address(address: str) -> str:
    """Return an address as every mail server takes it, its domain in IDNA; empty where there is none."""
    local, _, domain = address.rpartition("@")
    if not is_e_mail(address) or not local.isascii():
        return ""
    try:
        written = f"{local}@{domain.encode('idna').decode('ascii')}"
        Address(addr_spec=written)
    except (UnicodeError, ValueError):
        return ""
    return written


def judged(answers: Mapping[str, tuple[int, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the recipients that a server refused for good, and those for now, with its words."""
    words = {one: f"{code} {_one_line(text)}" for one, (code, text) in answers.items()}
    refused = {one: words[one] for one, (code, _) in answers.items() if code >= _PERMANENT}
    return refused, {one: why for one, why in words.items() if one not in refused}


def _one_line(text: str) -> str:
    """Return a text from outside as one printable line."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return shown if len(shown) <= ANSWER_CHARACTERS_MAX else shown[: ANSWER_CHARACTERS_MAX - 1] + "…"
