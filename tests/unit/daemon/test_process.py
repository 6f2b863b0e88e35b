"""Lifetimes of a real daemon in this process: what signals, reloads and changed settings do to it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from backupd import config as configuration
from backupd.attributes import Scopes
from backupd.errors import BackupPathRefused, ConfigError
from daemon import process as process_module
from daemon.health import Notifier
from daemon.lifetime import Daemon
from daemon.process import Process

CONFIG = """
[server]
id = "11111111-2222-4333-8444-555555555555"
name = "{name}"
backup_path = "{place}/backup"
state_directory = "{place}/state"
[broker]
url = "embedded"
[appserver]
kind = "directory"
root = "{place}/vmail"
watch = false
[control]
socket = "{place}/s"
[scan]
workers = 0
"""


class Told(Notifier):
    """Keeps what the service manager would hear."""

    def __init__(self) -> None:
        super().__init__("")
        self.lines: list[str] = []

    def _send(self, *lines: str) -> None:
        self.lines += [line for line in lines if line]


class World:
    """A configuration in a directory of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.file = place / "backupd.toml"
        self.notifier = Told()
        (place / "vmail").mkdir()
        self.write()

    def write(self, name: str = "mail.example.com", extra: str = "") -> None:
        self.file.write_text(CONFIG.format(place=self.place, name=name) + extra)

    async def until(self, line: str, *, times: int = 1) -> None:
        async with asyncio.timeout(30):
            while sum(line in told for told in self.notifier.lines) < times:  # noqa: ASYNC110 - threads work
                await asyncio.sleep(0.005)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    interval, root = sys.getswitchinterval(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield World(tmp_path)
    sys.setswitchinterval(interval)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what the daemon has logged."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]


@asynccontextmanager
async def running(world: World) -> AsyncIterator[Process]:
    process = Process(configuration.load(world.file), world.notifier)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(process.run())
        await world.until("READY=1")
        yield process
        process.stop()
        await task


async def test_a_first_start_tells_that_it_opens_and_then_that_it_is_ready(world: World) -> None:
    """The service manager hears of the opening with a request for time, and of the start once."""
    async with running(world):
        pass
    lines = world.notifier.lines
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in lines[: lines.index("READY=1")])
    assert lines.count("READY=1") == 1
    assert "STATUS=backing up mail.example.com" in lines
    assert lines[-2:] == ["STOPPING=1", "STATUS=stopping"]
    assert not (world.place / "s").exists()


@pytest.mark.parametrize("broken", [True, False])
async def test_a_reload_that_says_nothing_new_ends_nothing(
    world: World, capsys: pytest.CaptureFixture[str], *, broken: bool
) -> None:
    """An unchanged configuration, and one that can't be used, leave the daemon running as it is."""
    async with running(world) as process:
        if broken:
            world.write(extra="[nonsense]\n")
        process.reload()
        await world.until("READY=1", times=2)
        assert process._current is not None
        problems = (await process._current._front.standing.status()).problems
        assert ("configuration_broken" in {one.name for one in problems}) == broken
        world.write()
        process.reload()
        await world.until("READY=1", times=3)
        problems = (await process._current._front.standing.status()).problems
        assert "configuration_broken" not in {one.name for one in problems}
    events = [entry["event"] for entry in logged(capsys)]
    assert events.count("daemon_started") == 1
    assert ("configuration_not_reloaded" if broken else "configuration_unchanged") in events


async def test_a_backup_that_is_gone_is_no_place_for_a_new_one(world: World) -> None:
    """An empty directory where a backup was is a lost mount: refused, until the admin says it is lost."""
    async with running(world):
        pass
    backup = world.place / "backup"
    backup.rename(world.place / "unmounted")
    backup.mkdir(mode=0o700)
    with pytest.raises(BackupPathRefused, match="is its file system mounted") as refused:
        async with asyncio.timeout(30):
            await Process(configuration.load(world.file), world.notifier).run()
    assert list(backup.iterdir()) == []
    kept = Path(refused.value.hint.rpartition(" ")[2])
    assert str(backup) in kept.read_text()
    kept.unlink()
    world.notifier.lines.clear()
    async with running(world):
        pass
    assert list(backup.glob("map_*"))


async def test_another_configuration_begins_a_new_lifetime(world: World) -> None:
    """A changed configuration is in force after a reload."""
    async with running(world) as process:
        world.write(name="other.example.com")
        process.reload()
        await world.until("backing up other.example.com")
    assert "RELOADING=1" in world.notifier.lines


async def test_a_new_lifetime_that_can_not_begin_is_told_and_the_old_one_goes_on(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reload with a Backup Path that is refused leaves the backup where it was."""
    elsewhere = world.place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").write_text("no backup of ours")
    async with running(world) as process:
        text = world.file.read_text().replace(f"{world.place}/backup", str(elsewhere))
        world.file.write_text(text)
        process.reload()
        await world.until("READY=1", times=2)
        assert process._current is not None
        assert process._current.backup_path == world.place / "backup"
    refused = [entry for entry in logged(capsys) if entry["event"] == "new_lifetime_refused"]
    assert [entry["goes_on_with"] for entry in refused] == [str(world.place / "backup")]
    assert [path.name for path in elsewhere.iterdir()] == ["precious.txt"]


async def test_a_first_lifetime_that_can_not_begin_is_an_error(world: World) -> None:
    """At the start a refused Backup Path ends the process with its reason, plainly."""
    (world.place / "backup").mkdir()
    (world.place / "backup" / "precious.txt").write_text("no backup of ours")
    with pytest.raises(BackupPathRefused):
        await Process(configuration.load(world.file), world.notifier).run()


async def test_a_control_socket_that_can_not_be_made_is_an_error(world: World) -> None:
    """What stands in the socket's place is named, and everything opened is closed again."""
    (world.place / "s").write_text("a file")
    with pytest.raises(ConfigError, match="no socket"):
        await Process(configuration.load(world.file), world.notifier).run()
    (world.place / "s").unlink()
    async with running(world):
        pass


async def test_a_signal_during_the_start_is_heeded(world: World) -> None:
    """A stop before the first lifetime runs ends the process without it."""
    process = Process(configuration.load(world.file), world.notifier)
    process.stop()
    await process.run()
    assert "READY=1" not in world.notifier.lines


async def test_signals_reach_the_process(world: World) -> None:
    """SIGHUP reads the configuration again, SIGTERM ends the process with status 0."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(process_module.run_process(world.file, world.notifier))
        await world.until("READY=1")
        os.kill(os.getpid(), signal.SIGHUP)
        await world.until("READY=1", times=2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await task == 0
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.remove_signal_handler(number)


async def test_both_scanners_off_is_said_loudly_until_one_is_on(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """The service manager's line, and the log, say that no backup is being made; on again opens a gap."""
    async with running(world) as process:
        daemon = process._current
        assert daemon is not None
        await _set(daemon, "backupSmartScanScheduler", '{"cron-enabled": false, "cron-pattern": "0 4 * * *"}')
        await _set(daemon, "ZxBackup_RealTimeScanner", "FALSE")
        await world.until("NO BACKUP IS BEING MADE")
        await _set(daemon, "ZxBackup_RealTimeScanner", "TRUE")
        await world.until("STATUS=backing up", times=3)
        assert world.notifier.lines[-1] == "STATUS=backing up mail.example.com"
        async with asyncio.timeout(30):
            while "realtime_was_off" not in _gaps(daemon):  # noqa: ASYNC110 - a thread stores it
                await asyncio.sleep(0.01)
    assert "no_backup_is_being_made" in [entry["event"] for entry in logged(capsys)]


async def test_a_hung_journal_starves_the_watchdog(world: World) -> None:
    """While the journal's write does not come back, the daemon says that it is unwell."""
    async with running(world) as process:
        daemon = process._current
        assert daemon is not None
        assert daemon._unwell() == ""
        daemon._journaling.pulse._last = daemon._clock.monotonic() - 10_000
        assert "the journal gave no sign of life" in daemon._unwell()
        daemon._journaling.pulse.rest()
        daemon._recording.pulse._last = daemon._clock.monotonic() - 10_000
        assert "recording gave no sign of life" in daemon._unwell()
        daemon._recording.pulse.rest()


async def _set(daemon: Daemon, name: str, value: str) -> None:
    await asyncio.to_thread(daemon._settings.set, name, Scopes(), value)


def _gaps(daemon: Daemon) -> list[str]:
    return [gap.reason for gap in daemon._store.ledger.gaps(is_open=None)]
