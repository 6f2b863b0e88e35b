"""The metrics' own TCP address: answers GET /metrics to whoever reaches it, and nothing else.

Off unless `[metrics] listen` is set. What goes wrong with the address (in use, unknown, malformed) is logged
and shown in `trouble`, tried again, and never ends the daemon. However many ask, metrics are gathered at
most once per `FRESH_SECONDS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from backupd.clock import Clock
from backupd.errors import BackupdError

PATH = "/metrics"
FRESH_SECONDS = 1.0
RETRY_SECONDS = 30.0
SHUTDOWN_SECONDS = 1.0
BACKLOG_CONNECTIONS = 64
PORT_MAX = 65_535

log = structlog.get_logger(__name__)


class MetricsListener:
    """Serves on `listen` (None: nowhere) while `run` runs."""

    def __init__(self, listen: str | None, *, clock: Clock) -> None:
        self._listen = listen
        self._clock = clock
        self._turn = asyncio.Lock()
        self._text = ""
        self._gathered: float | None = None
        self.trouble = ""
        """Why nobody is answered though somebody should be; empty while all is well."""
        self.port = 0
        """The port in use, 0 while there is none."""

    async def run(self, gather: Callable[[], Awaitable[str]]) -> None:
        """Serve what `gather` returns, until cancelled; return at once where there is no address."""
        if self._listen is None:
            return
        while True:
            try:
                host, port = parsed(self._listen)
                await self._serve(host, port, gather)
            except (OSError, ValueError, OverflowError) as error:
                trouble = f"{self._listen}: {error}"
                if trouble != self.trouble:
                    self.trouble = trouble
                    log.error("metrics_not_served", reason=trouble, retry_seconds=RETRY_SECONDS)
            await self._clock.sleep(RETRY_SECONDS)

    async def _serve(self, host: str, port: int, gather: Callable[[], Awaitable[str]]) -> None:
        """Listen until cancelled. Raises what the address is refused with."""
        runner = web.AppRunner(self._application(gather), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        try:
            await runner.setup()
            await web.TCPSite(runner, host, port, backlog=BACKLOG_CONNECTIONS).start()
            self.trouble = ""
            self.port = int(runner.addresses[0][1])
            log.info("metrics_served", address=host, port=self.port)
            await asyncio.Event().wait()
        finally:
            self.port = 0
            await runner.cleanup()

    def _application(self, gather: Callable[[], Awaitable[str]]) -> web.Application:
        async def metrics(_request: web.Request) -> web.Response:
            try:
                text = await self._fresh(gather)
            except (BackupdError, OSError) as error:
                log.error("metrics_not_gathered", reason=str(error))
                raise web.HTTPServiceUnavailable(text=f"metrics can't be gathered: {error}\n") from error
            return web.Response(text=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

        async def where(_request: web.Request) -> web.Response:
            return web.Response(text=f"backupd: metrics are at {PATH}\n")

        app = web.Application(client_max_size=0)
        app.router.add_get(PATH, metrics)
        app.router.add_get("/", where)
        return app

    async def _fresh(self, gather: Callable[[], Awaitable[str]]) -> str:
        async with self._turn:
            now = self._clock.monotonic()
            if self._gathered is None or now - self._gathered >= FRESH_SECONDS:
                self._text = await gather()
                self._gathered = now
            return self._text


def parsed(listen: str) -> tuple[str, int]:
    """Return host and port of `host:port`; an IPv6 address may stand in brackets. Raises `ValueError`."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > PORT_MAX:
        raise ValueError(f"no address of the form host:port, with a port of at most {PORT_MAX}")
    if host.startswith("[") != host.endswith("]"):
        raise ValueError("an IPv6 address has two brackets, or none")
    return host.removeprefix("[").removesuffix("]"), int(port)
