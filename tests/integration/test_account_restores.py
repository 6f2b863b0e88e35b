"""Restoring accounts with a whole daemon, by the console: an emptied folder, and all that can go wrong."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backupd.items import ItemKey, Kind, digest_of
from backupd.store.layout import blob_name
from tests.integration.test_daemon_broker import SERVER_ID, Events
from tests.world import mailtree
from tests.world.brokers import USERNAME, Mosquitto
from tests.world.daemons import Daemon
from tests.world.faults import Fault, Faults
from tests.world.mailhost import MailHost
from tests.world.patience import eventually

pytestmark = pytest.mark.server("mosquitto")

CONSOLE = Path(sys.executable).with_name("backupctl")
MESSAGES = 260
"""Per account: more than one chunk, so that progress is seen on the way."""
WRITTEN = "deliveries.contents_synced"
"""Passed once for each chunk."""


class World(NamedTuple):
    """A mail host whose daemon is told by events alone, with faults at its durable steps."""

    daemon: Daemon
    host: MailHost
    events: Events
    faults: Faults
    scanned: datetime


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a daemon after its first scan, of a moment that is more than a second past."""
    place = tmp_path_factory.mktemp("accounts")
    tree = mailtree.build(place / "vmail", accounts=3, messages=MESSAGES, size=300)
    faults = Faults(place / "faults")
    with contextlib.ExitStack() as stack:
        broker = Mosquitto(place / "mq")
        broker.start()
        stack.callback(broker.stop)
        daemon = Daemon(
            place / "b",
            tree.root,
            broker=f"mqtt://127.0.0.1:{broker.port}",
            broker_lines=f'username = "{USERNAME}"\npassword_file = "{broker.password_file}"',
            watch=False,
            server_id=SERVER_ID,
            environment=faults.environment,
        )
        stack.enter_context(daemon)
        daemon.wait_until_scanned()
        scanned = datetime.now(UTC)
        events = Events(broker)
        stack.callback(events.close)
        time.sleep(1.1)
        yield World(daemon, MailHost(tree), events, faults, scanned)


def in_tree(host: MailHost, address: str) -> Counter[tuple[str, str, str]]:
    """Return an account's messages on the disk: folder, flags and digest."""
    return Counter(
        (path.parent.parent.name, path.name.partition(":2,")[2], digest_of(path.read_bytes()))
        for path in host.tree.account(address).glob("Maildir/**/*")
        if path.parent.name in {"cur", "new"} and path.is_file()
    )


def restore(world: World, source: str, destination: str, date: datetime | str = "last") -> Any:
    """Give the command on the console as an admin does, and wait for its end."""
    when = date if isinstance(date, str) else date.isoformat()
    words = ("backup", "doRestoreOnNewAccount", source, destination, when, "--progress")
    return world.daemon.console(*words, check=False)


def told(done: Any) -> str:
    return done.stdout.decode() + done.stderr.decode()


def test_an_emptied_folder_is_back_as_of_a_second_before(world: World) -> None:
    """The restore scans first, says so, and brings everything back; the last state is warned of."""
    daemon, host = world.daemon, world.host
    address = host.addresses[0]
    before = in_tree(host, address)
    account = daemon.command("backup/doItemSearch", account=address, search_filter="all", limit=1)["account"]
    emptied = datetime.now(UTC)
    for folder in mailtree.FOLDERS:
        for path in host.messages(address, folder):
            path.unlink()
    # While the storage is away the daemon's own scan can't heal the gap, and tries again only later.
    away = host.tree.root.with_name("away")
    host.tree.root.rename(away)
    try:
        key = ItemKey(account, Kind.FOLDER, "the-folder")
        world.events.publish(key, "mailbox.folder.emptied", folder="INBOX")
        eventually("the daemon's own scan has failed", lambda: "gap_not_healed" in daemon.log_text())
    finally:
        away.rename(host.tree.root)
    assert daemon.status()["gaps"]
    done = restore(world, address, "second@example.test", emptied - timedelta(seconds=1))
    assert done.returncode == 0, told(done)
    assert "so the account was scanned first" in told(done)
    assert f"{MESSAGES} deleted" in told(done)
    assert in_tree(host, "second@example.test") == before
    assert daemon.status()["gaps"] == []
    last = restore(world, address, "empty@example.test")
    assert "the account was nearly empty at that moment (0 items)" in told(last)


def test_progress_is_told_on_the_way(world: World) -> None:
    """`--progress` shows done of total, the rate and an estimate before the end."""
    source, faults = world.host.addresses[1], world.faults
    running = re.compile(rf"[\d,]+ of {MESSAGES} items, \d+ %, [\d,]+/s, about .* left".encode())
    # The last chunk waits for space until there was something to tell.
    faults.arm(Fault(WRITTEN, "ENOSPC", faults.seen()[WRITTEN] + 2))
    words = ("doRestoreOnNewAccount", source, "progress@example.test", "last", "--progress")
    with subprocess.Popen(
        [CONSOLE, "--socket", world.daemon.socket, "backup", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as console:
        assert console.stdout is not None
        lines: list[bytes] = []
        for line in console.stdout:
            lines.append(line)
            if running.search(line):
                faults.disarm()
    assert console.returncode == 0, lines
    assert in_tree(world.host, "progress@example.test") == in_tree(world.host, source)


def test_what_can_not_be_is_refused_with_its_reason(world: World) -> None:
    """A living target, an unknown account, a time before all states, the future: nothing is made."""
    host, source = world.host, world.host.addresses[1]
    accounts = sorted(path.name for path in (host.tree.root / mailtree.DOMAIN).iterdir())
    existing = in_tree(host, host.addresses[2])
    for destination, date, owner, reason in (
        (host.addresses[2], "last", source, "is there already"),
        ("a@example.test", "last", "nobody@example.test", "no account 'nobody@example.test'"),
        ("b@example.test", world.scanned - timedelta(days=400), source, "had no state at that time"),
        ("c@example.test", world.scanned + timedelta(days=400), source, "is in the future"),
    ):
        done = restore(world, owner, destination, date)
        assert done.returncode not in (0, 70), told(done)
        assert reason in told(done)
        assert "Traceback" not in told(done)
    assert sorted(path.name for path in (host.tree.root / mailtree.DOMAIN).iterdir()) == accounts
    assert in_tree(host, host.addresses[2]) == existing


def test_storage_that_can_not_be_written_is_waited_for(world: World) -> None:
    """While each write fails as on a full disk nothing is given up; with space again the rest comes."""
    daemon, host, faults = world.daemon, world.host, world.faults
    source = host.addresses[1]
    faults.arm(Fault(WRITTEN, "ENOSPC", faults.seen()[WRITTEN] + 2))
    reply = daemon.command(
        "backup/doRestoreOnNewAccount", source_account=source, destination_account="full@example.test"
    )
    uuid = reply["operation"]["uuid"]
    eventually("the disk is full", lambda: len(faults.hits()) >= 1)
    eventually("it waits", lambda: daemon.log_text().count("restore_waits") >= 2)
    time.sleep(0.3)
    operation = daemon.ask("GET", f"/v1/operations/{uuid}")["operation"]
    assert (operation["status"], operation["errors"]) == ("running", [])
    faults.disarm()
    ended = daemon.wait_for_operation(uuid)
    assert ended["status"] == "successful", ended
    assert in_tree(host, "full@example.test") == in_tree(host, source)


def test_contents_that_are_lost_or_broken_cost_only_themselves(world: World) -> None:
    """Two items are listed as unrestored, and the others are back: a failed operation."""
    daemon, host = world.daemon, world.host
    source = host.addresses[2]
    lost, broken, *_ = host.messages(source)
    digests = [digest_of(path.read_bytes()) for path in (lost, broken)]
    (daemon.backup_path / blob_name(digests[0])).unlink()
    (daemon.backup_path / blob_name(digests[1])).write_bytes(b"\x28\xb5\x2f\xfdnonsense")
    done = restore(world, source, "lossy@example.test")
    assert done.returncode == 1, told(done)
    assert f"{MESSAGES - 2} restored" in told(done)
    assert "2 unrestored" in told(done)
    missing = in_tree(host, source) - in_tree(host, "lossy@example.test")
    assert sorted(digest for _, _, digest in missing) == sorted(digests)
    for path in (lost, broken):
        assert path.name.partition(":2,")[0] in told(done)
