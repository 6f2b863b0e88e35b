"""Webhook and ping: notifications as JSON by POST, and a sign of life by GET after each SmartScan.

Redirects are not followed: they would carry the token to another place. Neither URL nor token reaches a log
or a reply, for the path of a URL may be as secret as a token: reasons are told in words of our own. A ping
that fails is tried again a few times; a newer one takes its place, for only the last scan counts.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec
import structlog

from backupd import __version__
from backupd.clock import Clock, wait_until_set
from backupd.errors import BackupdError, ConfigError
from backupd.operations import Operation, OperationStatus
from backupd.secret import read_secret
from daemon.delivery import Notification, Outcome, Undelivered

PAYLOAD_VERSION = 1
REQUEST_SECONDS_MAX = 20.0
PING_RETRY_SECONDS = (5.0, 20.0, 60.0, 300.0)
"""Pauses before a ping that failed is tried again; then it is given up."""
UNPROCESSABLE = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
)
"""Answers that say that this very notification will never be taken."""

log = structlog.get_logger(__name__)


class Webhook:
    """The way by webhook. Satisfies `daemon.delivery.Way`."""

    def __init__(
        self,
        url: str,
        token_file: Path | None,
        *,
        server_id: str,
        server_name: str,
        seconds: float = REQUEST_SECONDS_MAX,
    ) -> None:
        self._url = url
        self._token_file = token_file
        self._server = {"id": server_id, "name": server_name}
        self._seconds = seconds

    async def send(self, notification: Notification, recipients: tuple[str, ...]) -> Outcome:  # noqa: ARG002 - a webhook has none
        """Post a notification. Raises `Undelivered`."""
        headers = {"Content-Type": "application/json"}
        if self._token_file is not None:
            try:
                token = await asyncio.to_thread(read_secret, self._token_file)
            except ConfigError as error:
                raise Undelivered(f"the webhook's token: {error.message}") from error
            headers["Authorization"] = f"Bearer {token.revealed}"
        body = payload(notification, self._server)
        status = await request("POST", self._url, seconds=self._seconds, headers=headers, body=body)
        if not is_success(status):
            raise Undelivered(f"the webhook answered {_said(status)}", permanent=status in UNPROCESSABLE)
        return Outcome()


def payload(notification: Notification, server: dict[str, str]) -> bytes:
    """Return what is posted, as docs/notifications.md tells it."""
    content: dict[str, Any] = {
        "version": PAYLOAD_VERSION,
        "id": notification.id,
        "time": notification.time,
        "level": notification.level.value,
        "subject": notification.subject,
        "text": notification.text,
        "server": server,
        "operation": notification.operation,
        "facts": notification.facts,
    }
    return msgspec.json.encode(content, enc_hook=str)


class Ping:
    """Tells a dead man's switch how SmartScans ended, one after the other."""

    def __init__(self, url: str | None, *, clock: Clock, seconds: float = REQUEST_SECONDS_MAX) -> None:
        self._url = url
        self._clock = clock
        self._seconds = seconds
        self._suffix: str | None = None
        self._wake = asyncio.Event()
        self.trouble = ""

    def operation_changed(self, operation: Operation) -> None:
        """Note how a SmartScan ended, to be told soon; from the event loop's thread."""
        suffix = suffix_of(operation)
        if self._url is not None and suffix is not None:
            self._suffix = suffix
            self._wake.set()

    async def run(self) -> None:
        """Ping until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._ping()

    async def _ping(self) -> None:
        for pause in (*PING_RETRY_SECONDS, 0.0):
            if self._url is None or self._suffix is None:
                return
            try:
                status = await request("GET", with_suffix(self._url, self._suffix), seconds=self._seconds)
                self.trouble = "" if is_success(status) else f"answered {_said(status)}"
            except Undelivered as error:
                self.trouble = error.message
            if not self.trouble:
                log.info("ping_sent", outcome=self._suffix.strip("/") or "success")
                return
            log.warning("ping_failed", reason=self.trouble, retry_seconds=pause or None)
            if pause and await wait_until_set(self._wake, self._clock, pause):
                return  # a newer one is to be sent


def suffix_of(operation: Operation) -> str | None:
    """Return what a ping's URL gets added for an operation, None where it makes no ping.

    There is no `/start`: a scan that an admin stops would then raise an alarm although nothing is late.
    """
    if operation.type != "doSmartScan":
        return None
    return {OperationStatus.SUCCESSFUL: "", OperationStatus.FAILED: "/fail"}.get(operation.status)


def with_suffix(url: str, suffix: str) -> str:
    """Return a URL with something added to its path; what follows the path stays."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix)) if suffix else url


async def request(
    method: str,
    url: str,
    *,
    seconds: float,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> int:
    """Return the status that a request is answered with. Raises `Undelivered` without the URL in it."""
    timeout = aiohttp.ClientTimeout(total=seconds)
    agent = {"User-Agent": f"backupd/{__version__}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(
                method, url, data=body, headers={**agent, **(headers or {})}, allow_redirects=False
            ) as response,
        ):
            return response.status
    except TimeoutError as error:
        raise Undelivered(f"no answer within {seconds:g} s") from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise Undelivered("its certificate is not trusted") from error
    except aiohttp.ClientConnectorError as error:
        raise Undelivered(f"no connection: {error.os_error.strerror or 'refused'}") from error
    except (aiohttp.ClientError, OSError, ValueError, BackupdError) as error:
        # Some of these carry the URL in their text.
        raise Undelivered(f"the request failed: {type(error).__name__}") from error


def is_success(status: int) -> bool:
    """Tell whether an answer means that it was taken; a redirect means that the URL is not right."""
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def _said(status: int) -> str:
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return f"{status}, a redirect, which is not followed"
    return str(status)
