"""Health: what systemd is told (sd_notify(3)), and a watchdog that only beats while the daemon is well.

Messages are datagrams to the socket that `NOTIFY_SOCKET` names; without one nothing is sent. A message that
can't be sent is logged once and never disturbs the daemon. The watchdog is fed from the event loop: where
that hangs, or a check says what is not well, the feeding stops and systemd starts the daemon anew, which
replays its journal.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager

import structlog

from backupd.clock import Clock

STATUS_CHARACTERS_MAX = 200
PATIENCE_SECONDS = 10.0

log = structlog.get_logger(__name__)


class Notifier:
    """Speaks to the service manager; does nothing where there is none."""

    def __init__(self, address: str = "", *, watchdog_seconds: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._silenced = False
        self.watchdog_seconds = watchdog_seconds
        """Within how many seconds the watchdog wants to be fed; 0: there is none."""

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None) -> Notifier:
        """Return what the environment asks for, and take it out so that worker processes stay silent."""
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", str(os.getpid()))
        feeds = bool(address) and microseconds.isdigit() and watched == str(os.getpid())
        return cls(address, watchdog_seconds=int(microseconds) / 1_000_000 if feeds else 0.0)

    @property
    def is_heard(self) -> bool:
        """Whether a service manager listens."""
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """Say that the daemon has started, or has finished reloading."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Say in one line what the daemon is doing."""
        self._send(_status(text))

    def reloading(self) -> None:
        """Say that the configuration is read again; `ready` says when that is done."""
        monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic}")

    def stopping(self, status: str = "stopping") -> None:
        """Say that the daemon ends."""
        self._send("STOPPING=1", _status(status))

    def extend_timeout(self, seconds: float) -> None:
        """Ask for more time to start or stop: a rebuild of the index, a long replay."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def feed_watchdog(self) -> None:
        """Say that the daemon is alive and well."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        content = "\n".join(line for line in lines if line)
        if not self._address or not content:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(0)
                channel.sendto(content.encode(), self._address)
        except OSError as error:
            if not self._silenced:
                log.warning("service_manager_not_reached", reason=str(error))
            self._silenced = True


def _status(text: str) -> str:
    line = " ".join(text.split())[:STATUS_CHARACTERS_MAX]
    return f"STATUS={line}" if line else ""


async def feed_watchdog(notifier: Notifier, clock: Clock, unwell: Callable[[], str]) -> None:
    """Feed the watchdog, three times per interval, for as long as `unwell` returns an empty text.

    Returns at once where there is no watchdog.
    """
    if not notifier.watchdog_seconds:
        return
    was = ""
    while True:
        reason = unwell()
        if not reason:
            notifier.feed_watchdog()
        if reason != was:
            log.error("watchdog_starved", reason=reason) if reason else log.info("watchdog_fed_again")
            was = reason
        await clock.sleep(notifier.watchdog_seconds / 3)


@asynccontextmanager
async def patience(notifier: Notifier, clock: Clock, doing: str) -> AsyncIterator[None]:
    """Ask the service manager for more time, again and again, while something long is done in a thread."""

    async def ask() -> None:
        while True:
            notifier.status(doing)
            notifier.extend_timeout(PATIENCE_SECONDS * 3)
            notifier.feed_watchdog()
            await clock.sleep(PATIENCE_SECONDS)

    try:
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask(), name="asking for patience")
            try:
                yield
            finally:
                asking.cancel()
    except BaseExceptionGroup as group:
        # One error is what happened; the group around it says nothing more.
        raise group.exceptions[0] from None


class Pulse:
    """Signs of life of a thread or task that must not hang: it beats, the watchdog looks."""

    def __init__(self, name: str, clock: Clock, *, silent_seconds_max: float) -> None:
        self._name = name
        self._clock = clock
        self._silent_seconds_max = silent_seconds_max
        self._last: float | None = None

    def beat(self) -> None:
        """Give a sign of life; from then on the next is expected in time."""
        self._last = self._clock.monotonic()

    def rest(self) -> None:
        """Say that nothing is to be done: no sign of life is expected until the next beat."""
        self._last = None

    def unwell(self) -> str:
        """Return what is wrong in words, empty while all is well."""
        if self._last is None:
            return ""
        silent = self._clock.monotonic() - self._last
        if silent <= self._silent_seconds_max:
            return ""
        return f"{self._name} gave no sign of life for {silent:.0f} s"
