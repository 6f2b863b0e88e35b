"""A real daemon checks and mends its Backup Path while it records; a console does it without one."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.items import digest_of
from tests.unit.jobs.coherency_worlds import make_old, tree_state
from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.patience import eventually


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, MailHost]]:
    """Return a daemon after its first scan, and the mail host behind it."""
    place = tmp_path_factory.mktemp("coherency")
    tree = mailtree.build(
        place / "vmail", accounts=2, messages=20, contacts=2, appointments=2, documents=1, size=300
    )
    with Daemon(place / "b", tree.root) as daemon:
        daemon.wait_until_scanned()
        yield daemon, MailHost(tree)


def checked(daemon: Daemon, **given: object) -> tuple[bool, dict[str, object]]:
    """Have the daemon check its path; tell whether it is clean, and return the operation."""
    ended = daemon.run("backup/doCoherencyCheck", backup_path=str(daemon.backup_path), **given)
    return ended["status"] == "successful", ended


def typed(daemon: Daemon, *words: str) -> tuple[int, dict[str, object]]:
    """Check on the command line; return the exit status and the answer."""
    command = ("backup", "doCoherencyCheck", str(daemon.backup_path), *words, "--sync", "--json")
    done = daemon.console(*command, check=False)
    return done.returncode, json.loads(done.stdout.decode().splitlines()[-1])


def known(daemon: Daemon) -> dict[str, object]:
    """Return what is known of the checks so far."""
    found: dict[str, object] = daemon.command("backup/getCoherencyFindings")
    return found


def findings(daemon: Daemon) -> dict[str, int]:
    """Return what is known to be wrong, by code."""
    return {one["code"]: one["count"] for one in known(daemon)["counts"]}  # type: ignore[attr-defined]


def blob_of(daemon: Daemon, host: MailHost, number: int) -> Path:
    """Return where the content of a message of the first account rests."""
    return daemon.backup_path / str(last(daemon, host, number)["blob_path"])


def last(daemon: Daemon, host: MailHost, number: int) -> dict[str, object]:
    """Return the last state of a message of the first account."""
    address = host.addresses[0]
    item = host.messages(address)[number].name.partition(":2,")[0]
    found: dict[str, object] = daemon.last(address, item)
    return found


def test_a_daemon_that_records_meanwhile_has_no_findings(world):
    """Checks of a healthy path end successful again and again while mail comes in and goes."""
    daemon, host = world
    ended = threading.Event()

    def deliver() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            host.deliver(host.addresses[1], mailtree.generated_message(5000 + number, size=400))
            time.sleep(0.01)

    delivering = threading.Thread(target=deliver)
    delivering.start()
    try:
        for _ in range(3):
            clean, answer = checked(daemon)
            assert clean, answer
            assert "no findings" in answer["verdict"]
    finally:
        ended.set()
        delivering.join()
    assert findings(daemon) == {}


def test_damage_is_found_told_and_mended(world):
    """A check names what was damaged, the status warns, a repair reads contents again and moves the rest."""
    daemon, host = world
    eventually("recorded", lambda: daemon.status()["recorder"]["lag_entries"] == 0, seconds=30)
    corrupt = blob_of(daemon, host, 0)
    whole = corrupt.read_bytes()
    corrupt.chmod(0o600)
    corrupt.write_bytes(whole[:40] + bytes([whole[40] ^ 0xFF]) + whole[41:])
    blob_of(daemon, host, 1).unlink()
    history = next((daemon.backup_path / "accounts").glob("*/account_info"))
    history.write_bytes(history.read_bytes()[:-2])
    orphan = daemon.backup_path / "items" / "aa" / ("A" * 40 + "aaa=")
    orphan.parent.mkdir(mode=0o700, exist_ok=True)
    orphan.write_bytes(b"rubbish")
    orphan.chmod(0o600)
    make_old(daemon.backup_path / "items")

    status, answer = typed(daemon)
    expected = {"blob.corrupt": 2, "blob.missing": 1, "history.torn": 1}
    assert status == 1
    assert findings(daemon) == expected, answer
    problem = next(one for one in daemon.status()["problems"] if one["name"] == "coherency")
    assert "2 blob.corrupt" in problem["message"]
    printed = daemon.console("backup", "getCoherencyFindings").stdout.decode()
    assert "reads the content from the AppServer" in printed

    clean, answer = checked(daemon, fixBackup=True)
    assert clean, answer
    assert "4 mended, 0 lost for good, 0 left" in answer["verdict"]
    assert corrupt.read_bytes() == whole
    assert len(list((daemon.backup_path / "damaged").rglob("*="))) == 2
    assert findings(daemon) == {}
    assert checked(daemon, checkZimbra=True)[0]
    assert not [one for one in daemon.status()["problems"] if one["name"] == "coherency"]


def test_what_the_appserver_holds_otherwise_is_told(world):
    """With the watch deaf to it, a message that only the AppServer has is told as unknown."""
    daemon, host = world
    address = host.addresses[0]
    eventually("recorded", lambda: daemon.status()["recorder"]["lag_entries"] == 0, seconds=30)
    assert daemon.console("config", "set", "global", "ZxBackup_RealTimeScanner", "FALSE").returncode == 0
    eventually("off", lambda: not daemon.status()["realtime"]["active"])
    host.deliver(address, mailtree.generated_message(7777, size=400))
    clean, answer = checked(daemon, checkZimbra=True, accountIds=[address])
    assert not clean
    assert "1 appserver.unknown" in answer["verdict"]
    daemon.console("config", "set", "global", "ZxBackup_RealTimeScanner", "TRUE")
    eventually("scanned", lambda: not daemon.status()["gaps"], seconds=30)
    assert checked(daemon, checkZimbra=True, accountIds=[address])[0]


def test_damage_that_recording_meets_has_the_account_checked(world):
    """A change of an item whose history is damaged has its account checked once, by name."""
    daemon, host = world
    address = host.addresses[0]
    path = host.messages(address)[3]
    item = path.name.partition(":2,")[0]
    history = next(daemon.backup_path.glob(f"accounts/*/items/*/{item}"))
    whole = history.read_bytes()
    history.write_bytes(b"\x07" * 80 + whole[80:])
    path.rename(path.with_name(f"{item}:2,FS"))

    def checks() -> list[dict[str, object]]:
        kept = daemon.ask("GET", "/v1/operations")["operations"]
        return [one for one in kept if one["started_by"] == "damage met" and one["ended"]]

    eventually("checked", checks, seconds=30)
    assert findings(daemon) == {"history.corrupt": 1}
    assert checked(daemon, fixBackup=True)[0]
    eventually("recorded", lambda: not daemon.status()["waiting_photographs"], seconds=30)
    assert daemon.last(address, item)["metadata"]["flags"] == ["flagged", "seen"]
    assert len(checks()) == 1


def test_single_accounts_and_bounded_runs(world):
    """An account is checked with its contents; runs with a share go on behind each other to a whole pass."""
    daemon, host = world
    assert checked(daemon, accountIds=[host.addresses[0]])[0]
    before = known(daemon)["last_whole"]
    for _ in range(4):
        clean, answer = checked(daemon, sample="34%")
        assert clean
        assert "of the pass is done" in answer["verdict"]
    assert known(daemon)["last_whole"] not in (None, before)
    done = daemon.console("backup", "doCoherencyCheck", str(daemon.backup_path), "sample", "0%", check=False)
    assert done.returncode == 64


def test_a_console_checks_without_a_daemon(world, tmp_path):
    """Another path is checked although a daemon runs, ours when it does not; nothing is written there."""
    daemon, _ = world
    daemon.stop()
    try:
        before = tree_state(daemon.backup_path)
        status, answer = typed(daemon)
        assert (status, answer["reply"], answer["counts"]) == (0, "coherency", [])
        assert tree_state(daemon.backup_path) == before
        content = b"\x01nobody wants this"
        orphan = daemon.backup_path / "items" / digest_of(content)[-3:-1] / digest_of(content)
        orphan.parent.mkdir(mode=0o700, exist_ok=True)
        orphan.write_bytes(content)
        orphan.chmod(0o600)
        os.utime(orphan, (1, 1))
        done = daemon.console("backup", "doCoherencyCheck", str(daemon.backup_path), check=False)
        assert done.returncode == 1
        assert "blob.orphan" in done.stdout.decode()
        status, answer = typed(daemon, "fixBackup", "true")
        assert status == 0, answer
        assert not orphan.exists()
        done = daemon.console("backup", "doCoherencyCheck", str(tmp_path / "none"), check=False)
        assert done.returncode == 78
    finally:
        daemon.start()
    assert checked(daemon)[0]
