"""Reloading: reads the configuration again when asked, and ends a lifetime that another one shall follow.

A configuration that can't be used, or says the same, is told and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from backupd import config as configuration
from backupd.config import Config
from backupd.errors import BackupdError
from daemon.health import Notifier

log = structlog.get_logger(__name__)


class Reloading:
    """`end` ends the lifetime, `status` says in one line how it stands."""

    def __init__(
        self, config: Config, notifier: Notifier, *, end: Callable[[], None], status: Callable[[], str]
    ) -> None:
        self._config = config
        self._notifier = notifier
        self._end = end
        self._status = status
        self._asked = asyncio.Event()
        self.trouble = ""
        """Why the configuration as it stands now can't be used; empty where it can."""

    def ask(self) -> None:
        """Read the configuration again, soon."""
        self._asked.set()

    async def run(self) -> None:
        """Reload whenever asked, until cancelled or the lifetime ends."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._notifier.reloading()
            try:
                config = await asyncio.to_thread(configuration.load, self._config.file)
            except BackupdError as error:
                log.error("configuration_not_reloaded", reason=str(error))
                self.trouble = str(error)
            else:
                self.trouble = ""
                if config != self._config:
                    self._end()
                    return
                log.info("configuration_unchanged", file=str(config.file))
            self._notifier.ready(self._status())
