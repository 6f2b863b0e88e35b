"""The embedded broker: amqtt on a loopback port in the daemon, where no broker is installed.

It speaks MQTT 3.1.1 and keeps nothing: every start is a lost session, which an incremental SmartScan heals,
and so is every lost connection to it (what it confirmed to a publisher that then went may be dropped). It
listens on 127.0.0.1 only and lets in only who knows the secret that is made at each start, or the user and
password it was given; anonymous clients only where asked for.
It has no bound on what it holds for a subscriber that does not read, therefore our publisher waits while
the subscription takes nothing. Fails with `BrokerUnavailable` where the port is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from amqtt.broker import Broker
from amqtt.errors import AMQTTError, BrokerError
from amqtt.plugins.base import BaseAuthPlugin

from backupd.errors import BackupdError
from daemon.broker_address import BrokerAddress

HOST = "127.0.0.1"
USERNAME = "backupd"
SHUTDOWN_SECONDS_MAX = 2.0


class BrokerUnavailable(BackupdError):
    """The embedded broker can't be started."""

    exit_status = 69


class SecretAuthentication(BaseAuthPlugin):  # type: ignore[misc]  # amqtt ships no types
    """Lets in who knows the secret. amqtt finds this class by its dotted name."""

    @dataclass
    class Config:
        """What amqtt hands over from the configuration below."""

        username: str = USERNAME
        password: str = ""

    async def authenticate(self, *, session: Any) -> bool:
        """Tell whether a session's user and password are ours; compared in constant time."""
        given = f"{session.username}\0{session.password}".encode()
        expected = f"{self.config.username}\0{self.config.password}".encode()
        return bool(self.config.password) and hmac.compare_digest(given, expected)


class EmbeddedBroker:
    """`async with EmbeddedBroker() as broker: … broker.address`. Each entering is a new broker."""

    def __init__(
        self, *, port: int = 0, username: str = USERNAME, password: str | None = None, anonymous: bool = False
    ) -> None:
        self._port = port
        self._username = username
        self._password = password
        self._is_anonymous = anonymous
        self._broker: Any = None
        self.address = BrokerAddress(host=HOST, port=port)

    async def __aenter__(self) -> Self:
        for name in ("amqtt", "transitions"):
            # amqtt logs each packet, and errors of clients that went away; our status tells what matters.
            logging.getLogger(name).setLevel(logging.CRITICAL)
        port = self._port or _free_port()
        secret = self._password or secrets.token_urlsafe(24)
        if self._is_anonymous:
            plugins: dict[str, Any] = {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            }
        else:
            own = f"{SecretAuthentication.__module__}.{SecretAuthentication.__qualname__}"
            plugins = {own: {"username": self._username, "password": secret}}
        broker = Broker(
            {"listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}}, "plugins": plugins}
        )
        try:
            await broker.start()
        except (AMQTTError, BrokerError) as error:
            raise BrokerUnavailable(
                f"the embedded broker can't listen on {HOST}:{port}: {error}",
                hint="is another daemon running, or something else on this port?",
                port=port,
            ) from error
        self._broker = broker
        self.address = BrokerAddress(
            host=HOST,
            port=port,
            username=None if self._is_anonymous else self._username,
            secret=None if self._is_anonymous else secret,
            forgets=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        broker, self._broker = self._broker, None
        # A broker that keeps nothing has nothing to lose by a bad end. amqtt waits for ever where it is to
        # end just as a client's session begins: the reader it waits for was cancelled before it ran.
        with contextlib.suppress(AMQTTError, BrokerError, OSError, TimeoutError):
            async with asyncio.timeout(SHUTDOWN_SECONDS_MAX):
                await broker.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
