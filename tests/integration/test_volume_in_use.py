"""A real daemon with an external volume: contents go out, leave the disk, and every command finds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.items import is_digest
from tests.world import mailtree
from tests.world.daemon_with_volume import VARIABLE
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.patience import eventually


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Daemon, MailHost, Path]]:
    """Return a daemon on a mail host, and the directory that is its external volume."""
    tree = mailtree.build(tmp_path / "vmail", accounts=2, messages=12, contacts=2, documents=2, size=300)
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    with Daemon(
        tmp_path / "b",
        tree.root,
        module="tests.world.daemon_with_volume",
        environment={VARIABLE: str(volume)},
        extra="[scan]\nworkers = 2",
    ) as daemon:
        yield daemon, MailHost(tree), volume


def cached(daemon: Daemon) -> list[str]:
    return [one.name for one in (daemon.backup_path / "items").rglob("*") if is_digest(one.name)]


def everything_is_outside(daemon: Daemon) -> bool:
    status = daemon.status()
    return not status["volume"]["waiting_objects"] and status["volume"]["sent_objects"] > 0


def test_contents_go_out_and_come_back(world):
    """Everything goes out; with an empty cache a drill, a new scan and a restart find all as it was."""
    daemon, _host, volume = world
    daemon.wait_until_scanned()
    eventually("all is outside", lambda: everything_is_outside(daemon))
    kept = cached(daemon)
    assert kept
    assert list(volume.rglob("*.pack"))
    daemon.console("config", "set", "global", "backupBlobCacheSize", "0")
    eventually("the cache is empty", lambda: not cached(daemon))
    passed = daemon.run("backup/doRestoreDrill", items=40, account_restores=1)
    assert passed["status"] == "successful", passed
    assert "0 differ" in passed["verdict"]
    puts = daemon.status()["volume"]["requests"]["put"]
    deep = daemon.scan(deep=True)
    assert deep["status"] == "successful", deep
    assert daemon.status()["volume"]["requests"]["put"] == puts
    assert not cached(daemon)
    assert "the test's bucket, everything is outside" in daemon.console("status").stdout.decode()
    daemon.kill()
    daemon.start()
    passed = daemon.run("backup/doRestoreDrill", items=10, account_restores=0)
    assert passed["status"] == "successful", passed


def test_a_store_that_is_away_stops_nothing(world):
    """With the store away all is recorded as ever, the status says so, and later all goes out."""
    daemon, host, volume = world
    volume.with_name("away").touch()
    daemon.wait_until_scanned()
    status = eventually("it is told", lambda: _failing(daemon))
    assert status["volume"]["error"] == "the store is away"
    assert status["volume"]["waiting_objects"] > 0
    address = host.addresses[0]
    host.deliver(address, b"Subject: while away\r\n\r\nHello\r\n")
    eventually("it is recorded", lambda: daemon.find(address, "while away"))
    assert not list(volume.rglob("*.pack"))
    volume.with_name("away").unlink()
    daemon.kill()
    daemon.start()
    eventually("all is outside", lambda: everything_is_outside(daemon))


def _failing(daemon):
    status = daemon.status()
    return status if not status["volume"]["reachable"] and status["volume"]["waiting_objects"] else None
