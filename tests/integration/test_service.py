"""The service as an admin meets it: the real console and signals against a whole daemon."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.patience import eventually

USAGE, NO_INPUT, UNAVAILABLE = 64, 66, 69
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, MailHost]]:
    """Return a daemon on the embedded broker after its first scan, and the host it follows."""
    place = tmp_path_factory.mktemp("service")
    tree = mailtree.build(place / "vmail", accounts=1, messages=12, contacts=2, size=300)
    with Daemon(place / "b", tree.root, module="daemon") as daemon:
        daemon.wait_until_scanned()
        yield daemon, MailHost(tree)


@pytest.fixture
def message(world: tuple[Daemon, MailHost]) -> tuple[str, str, bytes]:
    """Return the address, id and bytes of a message."""
    _, host = world
    path = host.messages(host.addresses[0])[0]
    return host.addresses[0], path.name.partition(":2,")[0], path.read_bytes()


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("backup doSmartScn start", USAGE, "doSmartScan"),
        ("bakcup status", USAGE, "backup"),
        ("backup doSmartScan start depe true", USAGE, "deep"),
        ("backup doSmartScan start deep perhaps", USAGE, "true"),
        ("backup getItem {address} {item} date yesterdayish", USAGE, "yesterdayish"),
        ("backup doItemRestore {address} {item} date 31/31/2026", USAGE, "31/31/2026"),
        ("config get global ZxBackup_RealTimeScaner", USAGE, "ZxBackup_RealTimeScanner"),
        ("config set global ZxBackup_RealTimeScanner perhaps", USAGE, "perhaps"),
        ("backup doItemSearch nobody@example.test", NO_INPUT, "nobody@example.test"),
        ("backup getItem nobody@example.test 7", NO_INPUT, "nobody@example.test"),
        ("backup getItem {address} 4711", NO_INPUT, "4711"),
        ("backup doItemRestore {address} 4711", NO_INPUT, "4711"),
        ("backup getItem {address} {item} date 2001-01-01T00:00:00Z", NO_INPUT, "its first is of"),
        (f"backup monitor {NOBODY}", NO_INPUT, NOBODY),
        (f"backup doStopOperation {NOBODY}", NO_INPUT, NOBODY),
    ],
)
def test_a_mistake_is_one_clear_line_and_its_exit_status(world, message, line, status, told):
    """What does not exist or does not fit ends with its status and a line that names it or what is valid."""
    daemon, _ = world
    address, item, _ = message
    done = daemon.console(*line.format(address=address, item=item).split(), check=False)
    assert (done.returncode, done.stdout) == (status, b""), done
    (said,) = done.stderr.decode().splitlines()
    assert told in said


def test_a_restore_to_before_the_item_fails_as_it_is_told(world, message):
    """A date before the first state is known to the operation alone: it fails with the reason and 1."""
    daemon, _ = world
    address, item, _ = message
    words = ("backup", "doItemRestore", address, item, "date", "2001-01-01T00:00:00Z", "--sync")
    done = daemon.console(*words, check=False)
    assert done.returncode == 1, done
    assert "had no state at 2001-01-01" in done.stdout.decode() + done.stderr.decode()


def test_without_a_daemon_the_console_says_so(tmp_path):
    """Nobody on the socket is one line and exit status 69."""
    done = Daemon(tmp_path / "none", tmp_path).console("backup", "status", check=False)
    assert (done.returncode, done.stdout) == (UNAVAILABLE, b"")
    (said,) = done.stderr.decode().splitlines()
    assert str(tmp_path / "none" / "s") in said


def test_a_whole_visit_with_json_sync_and_progress(world, message):
    """Scan, search, look and restore by console alone: JSON is the contract's, progress ends in a verdict."""
    daemon, host = world
    address, item, content = message
    done = daemon.console("backup", "doSmartScan", "start", "--deep", "--sync", "--json")
    scan = json.loads(done.stdout)["operation"]
    assert (scan["status"], scan["parameters"]["deep"]) == ("successful", True)
    done = daemon.console("backup", "doAccountScan", address, "deep", "true", "--progress")
    assert "successful" in done.stdout.decode()
    assert "items looked at" in done.stdout.decode().splitlines()[-1]
    found = json.loads(daemon.console("backup", "doItemSearch", address, "id", item, "--json").stdout)
    (hit,) = found["items"]
    assert (hit["id"], hit["deleted"]) == (item, False)
    dumped = daemon.console("backup", "getItem", address, item, "dump_blob", "true").stdout
    assert dumped == content
    words = ("backup", "doItemRestore", address, item, "restore_folder", "Brought back", "--sync", "--json")
    restored = json.loads(daemon.console(*words).stdout)["operation"]
    assert restored["verdict"].startswith("1 expected, 1 restored as item ")
    assert [one.read_bytes() for one in host.messages(address, "Brought back")] == [content]
    again = json.loads(daemon.console(*words).stdout)["operation"]
    assert "1 expected, 0 restored, 1 skipped" in again["verdict"]
    assert len(host.messages(address, "Brought back")) == 1
    monitored = json.loads(daemon.console("backup", "monitor", restored["uuid"], "--json").stdout)
    assert monitored["operation"]["verdict"] == restored["verdict"]
    listed = json.loads(daemon.console("backup", "getAllOperations", "verbose", "true", "--json").stdout)
    assert {scan["uuid"], restored["uuid"]} <= {one["uuid"] for one in listed["operations"]}
    about = json.loads(daemon.console("backup", "getBackupInfo", "--json").stdout)
    assert (about["accounts"], about["backup_path"]) == (1, str(daemon.backup_path))
    status = json.loads(daemon.console("backup", "status", "--json").stdout)
    assert status["problems"] == []


def test_settings_are_got_and_set_while_it_runs(world):
    """`config get` tells a value and whether it is inherited; `set` prints ok; `unset` undoes."""
    daemon, _ = world
    name = "ZxBackup_DataRetentionDays"
    before = daemon.console("config", "get", "global", name).stdout.decode()
    assert daemon.console("config", "set", "global", name, "15").stdout == b"ok\n"
    reply = json.loads(daemon.console("config", "get", "server", "mail.example.com", name, "--json").stdout)
    (value,) = reply["values"]
    assert (value["value"], value["isInherited"]) == (15, True)
    daemon.console("config", "unset", "global", name)
    assert daemon.console("config", "get", "global", name).stdout.decode() == before


def test_sighup_reads_the_configuration_again(world):
    """A changed name holds after SIGHUP in the same process; a broken file is told and the old one stays."""
    daemon, host = world
    assert daemon.process is not None
    pid = daemon.status()["pid"]
    whole = daemon.config.read_text()
    daemon.config.write_text(whole.replace('"mail.example.com"', '"renamed.example.com"'))
    daemon.process.send_signal(signal.SIGHUP)
    eventually("the new name", lambda: name_of(daemon) == "renamed.example.com")
    daemon.config.write_text(whole + "\n[nonsense]\n")
    daemon.process.send_signal(signal.SIGHUP)
    eventually("told", lambda: "configuration_not_reloaded" in daemon.log_text())
    eventually("it goes on", lambda: name_of(daemon) == "renamed.example.com")
    daemon.config.write_text(whole)
    daemon.process.send_signal(signal.SIGHUP)
    eventually("the old name", lambda: name_of(daemon) == "mail.example.com")
    assert daemon.status()["pid"] == pid
    host.deliver_text(host.addresses[0], "After the reloads")
    eventually("followed", lambda: daemon.find(host.addresses[0], "After the reloads"))


def name_of(daemon: Daemon) -> str:
    """Return the server's name; empty while one lifetime ends and the next has not begun."""
    try:
        return str(daemon.status()["server_name"])
    except (OSError, ValueError):
        return ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("[control]", "[contrl]"), "control"),
        (('kind = "directory"', 'kind = "directroy"'), "directory"),
        (("watch = true", "wacth = true"), "watch"),
        (('url = "embedded"', 'url = "http://x"'), "mqtt://"),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_what_is_valid(tmp_path, change, told):
    """On a configuration it does not understand the daemon does not start; it names what is valid."""
    daemon = Daemon(tmp_path / "b", tmp_path)
    daemon.config.write_text(daemon.config.read_text().replace(*change))
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "--config", daemon.config],
        capture_output=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout) == (78, b""), done
    (said,) = done.stderr.decode().splitlines()
    assert told in said
    assert str(daemon.config) in said


def test_sigusr1_says_in_the_log_where_each_thread_is(world):
    """The daemon goes on afterwards."""
    daemon, _ = world
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGUSR1)
    eventually("its main thread is in the log", lambda: "daemon/__main__.py" in daemon.log_text())
    assert "most recent call first" in daemon.log_text()
    assert daemon.status()["reply"] == "status"


def test_a_reload_refuses_nobody(world):
    """Whoever asks while a new lifetime begins waits for its answer."""
    daemon, _ = world
    assert daemon.process is not None
    text = daemon.config.read_text()
    for name in ("other.example.com", "third.example.com", "mail.example.com"):
        daemon.config.write_text(text.replace("mail.example.com", name))
        daemon.process.send_signal(signal.SIGHUP)
        # Asked without a pause, each time by a connection of its own.
        end = time.monotonic() + 30
        while daemon.status()["server_name"] != name:
            assert time.monotonic() < end


def test_sigterm_ends_it_with_nothing_left_behind(world):
    """SIGTERM ends with 0, and the socket is gone; the next start needs no repair and finds nothing new."""
    daemon, _ = world
    journaled = daemon.status()["recorder"]["journaled"]
    assert daemon.stop() == 0
    assert not daemon.socket.exists()
    daemon.start()
    scan = daemon.wait_until_scanned()
    assert scan["status"] == "successful"
    assert daemon.status()["recorder"]["journaled"] == journaled
