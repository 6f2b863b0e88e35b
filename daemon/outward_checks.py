"""Checks of the doctor that talk to others: the mail server that takes notifications, and our metrics port.

Nothing is sent: the mail server hears EHLO, STARTTLS and the login where they are configured, and QUIT; the
metrics port is asked as Prometheus does.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

import aiosmtplib
import msgspec

from backupd.config_sections import Notifications, SmtpSecurity
from backupd.errors import ConfigError
from backupd.jobs.doctor import verdict
from backupd.secret import read_secret
from backupd.views import CheckView

NOTIFICATIONS_NAME = "notifications"
METRICS_NAME = "metrics"
CONNECT_SECONDS_MAX = 5.0
ANSWER_BYTES_MAX = 4096
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})


class MailServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How the mail server answered: `error` is empty where it would take our mail."""

    error: str = ""


async def call_mail_server(section: Notifications) -> MailServerFacts:
    """Talk to the configured mail server as far as the login. Never raises for what it may do."""
    assert section.smtp_host is not None
    try:
        trust, password = await asyncio.to_thread(_trust_and_password, section)
        client = aiosmtplib.SMTP(
            hostname=section.smtp_host,
            port=section.smtp_port,
            use_tls=section.smtp_security is SmtpSecurity.TLS,
            start_tls=section.smtp_security is SmtpSecurity.STARTTLS,
            tls_context=trust,
            timeout=CONNECT_SECONDS_MAX,
        )
        await client.connect()
        try:
            await client.ehlo()
            if section.smtp_username is not None:
                await client.login(section.smtp_username, password)
        finally:
            with suppress(aiosmtplib.SMTPException, OSError):
                await client.quit()
    except (aiosmtplib.SMTPException, OSError, ConfigError) as error:
        return MailServerFacts(error=" ".join(str(error).split()) or type(error).__name__)
    return MailServerFacts()


def _trust_and_password(section: Notifications) -> tuple[ssl.SSLContext | None, str]:
    trust = None
    if section.smtp_security is not SmtpSecurity.NONE:
        trust = ssl.create_default_context(cafile=section.smtp_ca_file)
    file = section.smtp_password_file
    return trust, read_secret(file).revealed if file is not None else ""


def judge_notifications(section: Notifications, mail: MailServerFacts | None) -> list[CheckView]:
    """Judge who is told of problems, and whether the mail server would take it."""
    name = NOTIFICATIONS_NAME
    ways = []
    if section.smtp_host is not None:
        ways.append(f"e-mail to {', '.join(section.recipients) or 'nobody'} by {section.smtp_host}")
    ways += [
        what
        for what, url in (("webhook", section.webhook_url), ("ping", section.ping_url))
        if url is not None
    ]
    if not ways:
        cure = (
            "set [notifications] smtp_host, sender and recipients, or webhook_url, or ping_url; then reload"
        )
        return [verdict.ok(name, "none configured: nobody is told when something fails", cure)]
    found = []
    if section.smtp_host is not None and not section.recipients:
        text = "no e-mail goes out: [notifications] recipients is missing"
        found.append(verdict.warning(name, text, "set it, then: systemctl reload backupd"))
    if mail is not None and mail.error:
        text = (
            f"the mail server {section.smtp_host}:{section.smtp_port} would not take our mail: {mail.error}"
        )
        cure = "correct [notifications] smtp_host, smtp_port, smtp_security or the login; is it running?"
        found.append(verdict.warning(name, text, cure))
    if not section.ping_url:
        ways.append("no ping_url: a daemon that is dead can't say so")
    return found or [verdict.ok(name, "; ".join(ways))]


class ListenerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How the metrics port answered: `error` is empty where metrics came."""

    error: str = ""


async def call_listener(listen: str) -> ListenerFacts:
    """Ask the metrics port for metrics. Never raises for what may answer there."""
    host, _, port = listen.rpartition(":")
    where = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - what others bound
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            reader, writer = await asyncio.open_connection(where, int(port))
            try:
                writer.write(f"GET /metrics HTTP/1.1\r\nHost: {listen}\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read(ANSWER_BYTES_MAX)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, ValueError, OverflowError) as error:
        return ListenerFacts(error=getattr(error, "strerror", None) or "no answer in time")
    status = answer.split(b"\r\n", 1)[0].decode("latin-1")
    return ListenerFacts(
        error="" if status.startswith("HTTP/1.") and " 200" in status else "no metrics there"
    )


def judge_listener(listen: str | None, facts: ListenerFacts | None) -> CheckView:
    """Judge the metrics port."""
    name = METRICS_NAME
    if listen is None or facts is None:
        return verdict.ok(name, "on the control socket only (GET /metrics); [metrics] listen opens a port")
    if facts.error:
        cure = "is something else on that port? See the log (metrics), and: ss -ltnp"
        return verdict.warning(name, f"{listen} gives none: {facts.error}", cure)
    if listen.rpartition(":")[0] not in LOOPBACK:
        text = f"{listen} answers, to whoever reaches it"
        return verdict.ok(name, f"{text}: keep it behind a firewall")
    return verdict.ok(name, f"{listen} answers")
