"""The whole daemon when a scan meets trouble, and when scanners are turned off and on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.patience import eventually

MESSAGES = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, MailHost]]:
    """Return a daemon on the embedded broker after its first scan, and the host it follows."""
    place = tmp_path_factory.mktemp("scanners")
    tree = mailtree.build(place / "vmail", accounts=6, messages=MESSAGES, size=300)
    with Daemon(place / "b", tree.root) as daemon:
        daemon.wait_until_scanned()
        yield daemon, MailHost(tree)


@pytest.fixture
def realtime_off(world: tuple[Daemon, MailHost]) -> Iterator[None]:
    """Keep the Realtime Scanner off during a test, so that nothing but scans sees changes."""
    turn_realtime(world[0], on=False)
    yield
    turn_realtime(world[0], on=True)


def turn_realtime(daemon: Daemon, *, on: bool) -> None:
    daemon.console("config", "set", "global", "ZxBackup_RealTimeScanner", str(on).upper())
    eventually("it is so", lambda: daemon.status()["realtime"]["active"] is on)
    eventually("what that asked for was scanned", lambda: is_idle(daemon))


def is_idle(daemon: Daemon) -> bool:
    status = daemon.status()
    return not status["operations"] and not status["gaps"] and not status["recorder"]["lag_entries"]


def alive(daemon: Daemon, address: str) -> set[str]:
    """Return the ids of an account's living messages."""
    return {hit["id"] for hit in daemon.search(address, search_filter="not_deleted")}


def counts(daemon: Daemon) -> dict[str, int]:
    return {one["kind"]: one["items"] for one in daemon.status()["counts"]}


def test_a_root_that_is_missing_fails_the_scan_and_deletes_nothing(world):
    """Without its root the AppServer can't be listed: the scan says so; once back, all is as it was."""
    daemon, host = world
    root = host.tree.root
    before = counts(daemon)
    root.rename(root.with_name("elsewhere"))
    try:
        scan = daemon.scan()
        assert scan["status"] == "failed"
        assert str(root) in scan["verdict"]
        problem = next(one for one in daemon.status()["problems"] if "SmartScan" in one["message"])
        assert str(root) in problem["message"]
        time.sleep(0.5)
        assert counts(daemon) == before
    finally:
        root.with_name("elsewhere").rename(root)
    assert daemon.scan()["status"] == "successful"
    eventually("healed", lambda: is_idle(daemon), 30)
    assert counts(daemon) == before
    host.deliver_text(host.addresses[0], "Followed again")
    eventually("the watch goes on", lambda: daemon.find(host.addresses[0], "Followed again"), 30)


def test_an_account_that_cannot_be_read_is_named_and_kept(world):
    """A folder whose messages can't be listed fails its account alone; nothing of it is marked as deleted."""
    daemon, host = world
    broken, other = host.addresses[1], host.addresses[2]
    before = alive(daemon, broken)
    cur = host.tree.maildir(broken) / "cur"
    aside = host.tree.root.with_name("cur")
    cur.rename(aside)
    cur.write_text("no directory")
    try:
        added = host.deliver_text(other, "In another account")
        scan = daemon.scan()
        assert scan["status"] == "failed", scan
        assert "1 accounts could not be listed" in scan["verdict"]
        assert any("cur" in error for error in scan["errors"]), scan
        assert daemon.find(other, "In another account") == added.name.partition(":")[0]
        time.sleep(0.5)
        assert alive(daemon, broken) == before
    finally:
        cur.unlink()
        aside.rename(cur)
    assert daemon.scan()["status"] == "successful"
    eventually("healed", lambda: is_idle(daemon), 30)
    assert alive(daemon, broken) == before
    assert daemon.deleted(broken) == []


@pytest.mark.usefixtures("realtime_off")
def test_a_listing_that_lost_most_is_refused_until_forced(world):
    """A suddenly empty account is not believed: the scan fails and says why; `force true` believes it."""
    daemon, host = world
    address = host.addresses[3]
    before = alive(daemon, address)
    assert len(before) == MESSAGES
    for folder in mailtree.FOLDERS:
        for path in host.messages(address, folder):
            path.unlink()
    refused = daemon.scan()
    assert refused["status"] == "failed"
    assert "1 listings refused" in refused["verdict"] or "suspicious" in refused["verdict"]
    assert any(f"{MESSAGES} of" in error for error in refused["errors"]), refused
    assert alive(daemon, address) == before
    done = daemon.console("backup", "doAccountScan", address, "force", "true", "--sync", check=False)
    assert done.returncode == 0, done
    assert set(daemon.deleted(address)) == before
    assert daemon.scan()["status"] == "successful"


def test_changes_while_the_realtime_scanner_is_off_are_found_when_it_is_on_again(world):
    """Off, nothing is followed; turning it on again scans by itself and finds what happened meanwhile."""
    daemon, host = world
    address = host.addresses[4]
    victim = host.messages(address)[0]
    moved = host.messages(address)[1]
    turn_realtime(daemon, on=False)
    try:
        assert daemon.status()["realtime"] == {
            "enabled": False, "active": False, "last_success": None, "note": "",
        }  # fmt: skip
        victim.unlink()
        moved = host.move(moved, address, "Archive")
        host.deliver_text(address, "While nobody looked")
        time.sleep(0.5)
        assert daemon.find(address, "While nobody looked") is None
        assert daemon.deleted(address) == []
    finally:
        turn_realtime(daemon, on=True)
    assert daemon.find(address, "While nobody looked")
    assert daemon.deleted(address) == [victim.name.partition(":2,")[0]]
    assert daemon.last(address, moved.name.partition(":2,")[0])["folder"] == "Archive"
    host.deliver_text(address, "Now it looks again")
    eventually("followed live", lambda: daemon.find(address, "Now it looks again"))


def test_both_scanners_off_is_told_loudly(world):
    """With both off, log and status say that no backup is being made; with one on they stop."""
    daemon, _ = world
    schedule = {"cron-enabled": False, "cron-pattern": "0 4 * * *"}
    daemon.console("config", "set", "global", "backupSmartScanScheduler", json.dumps(schedule))
    assert danger(daemon) == []
    said = daemon.log_text().count("no_backup_is_being_made")
    turn_realtime(daemon, on=False)
    try:
        (problem,) = danger(daemon)
        assert "NO BACKUP IS BEING MADE" in problem["message"]
        assert daemon.log_text().count("no_backup_is_being_made") > said
        shown = daemon.console("backup", "status").stdout.decode()
        assert "NO BACKUP IS BEING MADE" in shown
    finally:
        turn_realtime(daemon, on=True)
        daemon.console("config", "unset", "global", "backupSmartScanScheduler")
    assert danger(daemon) == []


def danger(daemon: Daemon) -> list[Any]:
    return [one for one in daemon.status()["problems"] if one["severity"] == "danger"]


def test_the_embedded_broker_forgets_so_a_restart_scans(world):
    """What happened while the daemon was down is found by the scan that a lost session asks for."""
    daemon, host = world
    address = host.addresses[5]
    daemon.console("config", "set", "global", "ZxBackup_DoSmartScanOnStartup", "FALSE")
    assert daemon.stop() == 0
    victim = host.messages(address)[0]
    victim.unlink()
    host.deliver_text(address, "While the daemon was down")
    daemon.start()
    eventually("the delivery", lambda: daemon.find(address, "While the daemon was down"))
    assert daemon.deleted(address) == [victim.name.partition(":2,")[0]]
    eventually("no gap is left", lambda: is_idle(daemon))
    operations = daemon.ask("GET", "/v1/operations")["operations"]
    assert operations[-1]["started_by"] == "healing"
    assert f"{len(host.addresses)} accounts" in operations[-1]["verdict"]
