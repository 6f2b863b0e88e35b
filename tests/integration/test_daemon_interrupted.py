"""The whole daemon in the middle of a big scan: told to stop, ended, killed, and files that vanish."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.world import mailtree
from tests.world.daemons import STOP_SECONDS_MAX, Daemon
from tests.world.mailhost import MailHost
from tests.world.patience import eventually

ACCOUNTS = 2
MESSAGES = 1_500
TRIES = 3
STOPPED = 2


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> MailHost:
    """Return a mail host that takes a while to scan."""
    root = tmp_path_factory.mktemp("big") / "vmail"
    return MailHost(mailtree.build(root, accounts=ACCOUNTS, messages=MESSAGES, size=150))


@pytest.fixture(scope="module")
def scanned(host: MailHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Return a daemon after its first scan; deep scans read everything again."""
    with Daemon(tmp_path_factory.mktemp("scanned"), host.tree.root) as daemon:
        daemon.wait_until_scanned()
        yield daemon


def in_the_middle(daemon: Daemon) -> Any:
    """Return the running scan once it has read a part; None if it ended too soon."""

    def look() -> Any:
        scan = daemon.ask("GET", "/v1/operations")["operations"][-1]
        return scan if scan["ended"] or scan["progress"]["done"] else None

    scan = eventually("a scan makes progress", look, 30)
    return None if scan["ended"] else scan


def while_scanning(daemon: Daemon, act: Callable[[Any], None]) -> Any:
    """Start deep scans until one was acted upon in its middle; return it as it ended."""
    for _ in range(TRIES):
        reply = daemon.command("backup/doSmartScan", action="start", deep=True)
        scan = in_the_middle(daemon)
        if scan is not None:
            act(scan)
            return daemon.wait_for_operation(scan["uuid"])
        daemon.wait_for_operation(reply["operation"]["uuid"])
    return pytest.fail("every scan ended before it could be met in its middle")


def messages(daemon: Daemon) -> int:
    counts = {one["kind"]: one["items"] for one in daemon.status()["counts"]}
    return int(counts.get("message", 0))


def test_a_running_scan_stops_when_told(scanned):
    """`doStopOperation` ends a running scan soon; it is told as stopped, and who waited exits with 2."""
    console = Path(sys.executable).with_name("backupctl")
    waiting: list[subprocess.Popen[bytes]] = []

    def stop(scan: Any) -> None:
        words = ("backup", "monitor", scan["uuid"], "--sync")
        waiting.append(
            subprocess.Popen([console, "--socket", scanned.socket, *words], stdout=subprocess.PIPE)
        )
        reply = scanned.command("backup/doStopOperation", operation_uuid=scan["uuid"])
        assert reply["reply"] == "operation", reply

    for _ in range(TRIES):  # it may have ended by itself before it was told
        scan = while_scanning(scanned, stop)
        out, _ = waiting[-1].communicate(timeout=20)
        if scan["status"] == "stopped":
            break
    assert scan["status"] == "stopped", scan
    assert (waiting[-1].returncode, b"stopped" in out.lower()) == (STOPPED, True), out
    assert messages(scanned) == ACCOUNTS * MESSAGES


def test_messages_that_vanish_while_being_read_are_listed_and_not_fatal(host, scanned):
    """A scan whose files go away under it succeeds and counts them; they end as deleted, the rest stays."""
    gone: dict[str, set[str]] = {address: set() for address in host.addresses}

    def delete(_: Any) -> None:
        # Meanwhile the daemon and its workers stand still, so that no machine is too slow for this.
        group = os.getpgid(scanned.process.pid)
        os.killpg(group, signal.SIGSTOP)
        for address in host.addresses:
            for path in living(host, address)[::4]:
                path.unlink()
                gone[address].add(path.name.partition(":2,")[0])
        os.killpg(group, signal.SIGCONT)

    vanished = tries = 0
    while not vanished and tries < TRIES:
        tries += 1
        scan = while_scanning(scanned, delete)
        assert scan["status"] == "successful", scan
        vanished = int(
            scan["verdict"].partition(" vanished while being read")[0].split()[-1].replace(",", "")
        )
        assert scan["errors_total"] == vanished
    assert vanished > 0, "no scan was slow enough to see files vanish"
    for address in host.addresses:
        eventually("they are deleted", lambda address=address: deleted(scanned, address) == gone[address], 30)
    expected = len([path for one in host.addresses for path in living(host, one)])
    eventually("nothing else is", lambda: messages(scanned) == expected)


def deleted(daemon: Daemon, address: str) -> set[str]:
    return {hit["id"] for hit in daemon.search(address, search_filter="deleted", limit=10_000)}


def living(host: MailHost, address: str) -> list[Path]:
    return [path for folder in mailtree.FOLDERS for path in host.messages(address, folder)]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_scan_that_is_cut_off_is_interrupted_and_made_up_for(host, tmp_path, how):
    """SIGTERM ends within 10 s with 0, also mid-scan; after it, or a kill, the scan shows as interrupted.

    The next start scans again and has everything.
    """
    daemon = Daemon(tmp_path / "b", host.tree.root)
    with daemon:
        scan = in_the_middle(daemon)
        began = time.monotonic()
        if how == "SIGTERM":
            assert daemon.stop() == 0
            assert time.monotonic() - began < STOP_SECONDS_MAX
            assert "daemon_stopped" in daemon.log_text()
        else:
            daemon.kill()
        assert scan is not None, "the scan was too quick for this test: give it more messages"
        daemon.start()
        cut = daemon.ask("GET", f"/v1/operations/{scan['uuid']}")["operation"]
        assert cut["status"] == "interrupted", cut
        assert cut["ended"]
        shown = daemon.console("backup", "monitor", scan["uuid"], check=False)
        assert b"interrupted" in shown.stdout.lower()
        second = daemon.wait_for_operation(daemon.ask("GET", "/v1/operations")["operations"][-1]["uuid"])
        assert (second["type"], second["status"]) == ("doSmartScan", "successful"), second
        assert messages(daemon) == len([path for one in host.addresses for path in living(host, one)])
