"""The process: lifetimes one after the other, and what signals mean.

SIGTERM and SIGINT end the process, SIGHUP reads the configuration again; another one begins a new lifetime,
and so does another Backup Path. Where a new lifetime can't begin, the daemon goes on as it was before.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from pathlib import Path

import structlog

from backupd import config as configuration
from backupd.clock import SystemClock
from backupd.config import Config
from backupd.errors import BackupdError
from backupd.store.ledger import SetAttribute
from daemon import logs
from daemon.control_socket import ControlAddress
from daemon.health import Notifier
from daemon.lifetime import Daemon
from daemon.surroundings import Surroundings

SWITCH_SECONDS = 0.0002
"""How long a thread may hold the interpreter while others wait: the intake must not wait for the recorder."""
COLLECTED_OBJECTS = (20_000, 50, 100)
"""When cyclic garbage is looked for (`gc.set_threshold`): records hold no cycles, and each look stops all."""

log = structlog.get_logger(__name__)


async def run_process(file: Path | None, notifier: Notifier) -> int:
    """Run lifetimes until told to end; return the exit status. Raises `BackupdError` where none can begin."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(*COLLECTED_OBJECTS)
    gc.freeze()
    config = await asyncio.to_thread(configuration.load, file)
    process = Process(config, notifier)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.stop)
    loop.add_signal_handler(signal.SIGHUP, process.reload)
    await process.run()
    log.info("daemon_stopped")
    return 0


class Process:
    """Lifetimes, one after the other."""

    def __init__(self, config: Config, notifier: Notifier) -> None:
        self._config = config
        self._notifier = notifier
        self._address = ControlAddress()
        self._surroundings = Surroundings(SystemClock(), notifier, self._address)
        self._current: Daemon | None = None
        self._is_stopping = False
        self._before: tuple[Config, Path] | None = None
        self._carried: list[SetAttribute] = []

    def stop(self) -> None:
        """End this lifetime, and begin no other."""
        self._is_stopping = True
        if self._current is not None:
            self._current.end()

    def reload(self) -> None:
        """Read the configuration again."""
        if self._current is not None:
            self._current.reload()

    async def run(self) -> None:
        """Run until stopped. Raises `BackupdError`, `OSError` where the first lifetime can't begin."""
        with self._address:
            while not self._is_stopping:
                await self._live_or_return()

    async def _live_or_return(self) -> None:
        _configure(self._config)
        try:
            await self._live()
        except (BackupdError, OSError) as error:
            if self._before is None:
                raise
            (self._config, path), self._before = self._before, None
            log.error("new_lifetime_refused", reason=str(error), goes_on_with=str(path))
            await asyncio.to_thread(_return_to, self._config, path)

    async def _live(self) -> None:
        daemon = Daemon(self._config, self._surroundings, carried=self._carried)
        async with daemon:
            if self._is_stopping:
                return
            self._current = daemon
            try:
                await daemon.run()
            finally:
                self._current = None
            if self._is_stopping or not daemon.begin_anew:
                self._is_stopping = True
                # Nobody is to wait for an answer that nobody will give.
                self._address.close()
                self._notifier.stopping()
                return
            self._notifier.reloading()
            self._carried = await asyncio.to_thread(daemon.attributes)
            self._before = self._config, daemon.backup_path
            self._config = await _reloaded(self._config)


def _configure(config: Config) -> None:
    logs.configure(config.log.format, config.log.level)
    for sentence in configuration.warnings(config):
        log.warning("configuration_warning", reason=sentence)


def _return_to(config: Config, path: Path) -> None:
    """Choose the Backup Path of the lifetime before; blocks."""
    is_configured = path == config.server.backup_path.resolve()
    configuration.choose_backup_path(config.server, None if is_configured else path)


async def _reloaded(old: Config) -> Config:
    """Read the configuration again; one that can't be used is told, and the old one stays in force."""
    try:
        return await asyncio.to_thread(configuration.load, old.file)
    except BackupdError as error:
        log.error("configuration_not_reloaded", reason=str(error))
        return old
