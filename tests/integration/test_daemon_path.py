"""The whole daemon and its Backup Path: who may use it, and what is damaged in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backupd.clock import SystemClock
from backupd.items import ItemKey, Kind
from backupd.store.layout import Layout
from backupd.store.store import Store
from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.patience import eventually

CONFIGURATION_REFUSED = 78
CORRUPT = 74


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, MailHost]]:
    """Return a daemon on the embedded broker after its first scan, and the host it follows."""
    place = tmp_path_factory.mktemp("path")
    tree = mailtree.build(place / "vmail", accounts=2, messages=20, size=300)
    with Daemon(place / "b", tree.root) as daemon:
        daemon.wait_until_scanned()
        yield daemon, MailHost(tree)


def refused(daemon: Daemon) -> str:
    """Start a daemon that must not start; return what it says on its one line."""
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "--config", daemon.config],
        capture_output=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == CONFIGURATION_REFUSED, done
    lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr.decode()
    return lines[0]


def another(daemon: Daemon, place: Path, **options: Any) -> Daemon:
    """Return a daemon that is not started, on the Backup Path of another one."""
    second = Daemon(place, daemon.root, **options)
    configured = second.config.read_text().replace(str(second.backup_path), str(daemon.backup_path))
    second.config.write_text(configured)
    return second


def account_of(daemon: Daemon, address: str) -> str:
    return str(daemon.command("backup/doItemSearch", account=address)["account"])


def history_of(daemon: Daemon, address: str, item: str, kind: Kind = Kind.MESSAGE) -> Path:
    return Layout(daemon.backup_path).history(ItemKey(account_of(daemon, address), kind, item))


def flip(path: Path, place: int) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 0x5A
    path.write_bytes(bytes(content))


def index_of(daemon: Daemon) -> list[tuple[Any, ...]]:
    """Return what the index says, as comparable rows."""
    with Store.open(
        daemon.backup_path, server_id="", server_name="", clock=SystemClock(), writable=False
    ) as store:
        return sorted(store.index.dump(), key=repr)


def test_a_second_daemon_is_refused_and_told_who_holds_the_path(world, tmp_path):
    """One Backup Path has one daemon; the line names process and host, and the first one goes on."""
    daemon, _ = world
    assert daemon.process is not None
    line = refused(another(daemon, tmp_path / "second"))
    assert f"it is in use by process {daemon.process.pid} on {os.uname().nodename}" in line
    assert str(daemon.backup_path) in line
    assert daemon.status()["pid"] == daemon.process.pid


def test_another_servers_path_is_refused(world, tmp_path):
    """A Backup Path of another server is not touched, whether its daemon runs or not."""
    daemon, _ = world
    other = "99999999-2222-4333-8444-555555555555"
    line = refused(another(daemon, tmp_path / "other", server_id=other))
    assert "it is the backup of another server" in line
    assert "map_11111111" in line
    assert not (daemon.backup_path / f"map_{other}").exists()


@pytest.mark.parametrize("damage", ["deleted", "torn", "garbage"])
def test_an_index_that_cannot_be_used_is_built_anew(world, damage):
    """Deleted, cut or overwritten: the index says the same after the next start, and live changes go on."""
    daemon, host = world
    address = host.addresses[0]
    before = index_of(daemon)
    assert daemon.stop() == 0
    index = daemon.backup_path / "index.sqlite"
    for path in daemon.backup_path.glob("index.sqlite-*"):
        path.unlink()
    match damage:
        case "deleted":
            index.unlink()
        case "torn":
            os.truncate(index, 5000)
        case _:
            index.write_bytes(os.urandom(30_000))
    daemon.start()
    daemon.wait_until_scanned()
    assert index_of(daemon) == before
    subject = f"After the index was {damage}"
    host.deliver_text(address, subject)
    eventually("live again", lambda: daemon.find(address, subject))
    assert [one for one in daemon.status()["problems"] if "damaged" in one["message"]] == []


def test_a_corrupt_history_is_named_and_the_rest_goes_on(world):
    """A history that is no JSON any more is named in status; others go on; mended, it gets what waited."""
    daemon, host = world
    address = host.addresses[0]
    path = host.messages(address, "Sent")[0]
    item = path.name.partition(":2,")[0]
    history = history_of(daemon, address, item)
    whole = history.read_bytes()
    flip(history, len(whole) - len("}\n]\n"))
    done = daemon.console("backup", "getItem", address, item, check=False)
    assert done.returncode == CORRUPT
    assert str(history).encode() in done.stderr
    host.flag(path, "F")
    eventually("the status names it", lambda: names(daemon, str(history)), 30)
    host.deliver_text(address, "Beside a corrupt history")
    eventually("another item", lambda: daemon.find(address, "Beside a corrupt history"))
    history.write_bytes(whole)
    daemon.stop()
    daemon.start()
    daemon.wait_until_scanned()
    eventually("what waited", lambda: daemon.last(address, item)["metadata"]["flags"] == ["flagged"])
    daemon.run("backup/doCoherencyCheck", backup_path=str(daemon.backup_path))
    eventually("all is well", lambda: daemon.status()["problems"] == [])


def names(daemon: Daemon, text: str) -> bool:
    return any(text in one["message"] for one in daemon.status()["problems"])


def test_a_corrupt_history_is_found_while_the_index_is_built(world):
    """Building the index reads every history: the one that is damaged is named, the others are in it."""
    daemon, host = world
    address = host.addresses[0]
    damaged, healthy = (path.name.partition(":2,")[0] for path in host.messages(address, "Sent")[1:3])
    history = history_of(daemon, address, damaged)
    whole = history.read_bytes()
    daemon.stop()
    history.write_bytes(b"[\nthis is no state\n]\n")
    (daemon.backup_path / "index.sqlite").unlink()
    daemon.start()
    try:
        assert names(daemon, str(history))
        assert daemon.states(address, healthy)
        host.deliver_text(address, "Beside a history without a state")
        eventually("another item", lambda: daemon.find(address, "Beside a history without a state"))
    finally:
        daemon.stop()
        history.write_bytes(whole)
        daemon.start()
    daemon.wait_until_scanned()
    daemon.run("backup/doCoherencyCheck", backup_path=str(daemon.backup_path))
    eventually("all is well", lambda: daemon.status()["problems"] == [])


def test_a_corrupt_blob_is_named_and_restores_nothing(world):
    """A blob with a flipped byte is never given out as content: reading and restoring it fail by name."""
    daemon, host = world
    address = host.addresses[1]
    path, other = host.messages(address, "INBOX")[:2]
    item = path.name.partition(":2,")[0]
    state = daemon.last(address, item)
    content = path.read_bytes()
    path.unlink()
    eventually("deleted", lambda: daemon.last(address, item)["deleted"])
    blob = daemon.backup_path / state["blob_path"]
    whole = blob.read_bytes()
    flip(blob, len(whole) // 2)
    dumped = daemon.console("backup", "getItem", address, item, "dump_blob", "true", check=False)
    assert dumped.returncode == CORRUPT
    assert dumped.stdout != content
    restored = daemon.restore(address, item)
    assert restored["status"] == "failed"
    assert state["digest"] in restored["verdict"]
    assert names(daemon, state["digest"])
    assert [one for one in host.messages(address, "INBOX") if one.read_bytes() == content] == []
    host.flag(other, "F")
    flagged = other.name.partition(":2,")[0]
    eventually("the rest", lambda: daemon.last(address, flagged)["metadata"]["flags"] == ["flagged"])
    blob.write_bytes(whole)
    restored = daemon.restore(address, item)
    assert restored["status"] == "successful", restored
    assert [one for one in host.messages(address, "INBOX") if one.read_bytes() == content]
