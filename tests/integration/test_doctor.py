"""The doctor with real brokers and whole daemons: what it finds, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from backupd.views import Outcome
from daemon import broker_probe
from daemon.arrivals import Arrivals
from daemon.broker_probe import BrokerProbe, judge_probe
from daemon.connection import Connection
from tests.world import mailtree
from tests.world.brokers import PASSWORD, USERNAME, Mosquitto, make_certificates
from tests.world.daemons import Daemon
from tests.world.patience import eventually

needs_mosquitto = pytest.mark.server("mosquitto")
EXIT_STATUS = {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}
EVENT_BYTES_MAX = 1 << 20


class World(NamedTuple):
    """A daemon with a broker that keeps everything, and its mail."""

    daemon: Daemon
    broker: Mosquitto
    tree: mailtree.MailTree


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("doctor")
    tree = mailtree.build(place / "vmail", accounts=2, messages=20, size=300)
    with ExitStack() as stack:
        broker = Mosquitto(place / "mq")
        broker.password_file.chmod(0o600)
        broker.start()
        stack.callback(broker.stop)
        daemon = stack.enter_context(
            Daemon(
                place / "b",
                tree.root,
                broker=f"mqtt://127.0.0.1:{broker.port}",
                broker_lines=f'username = "{USERNAME}"\npassword_file = "{broker.password_file}"',
            )
        )
        daemon.wait_until_scanned()
        yield World(daemon, broker, tree)


def examined(daemon: Daemon) -> dict[str, Any]:
    """Return the doctor's checks by name."""
    return by_name(daemon.command("backup/doctor"))


def by_name(reply: Any) -> dict[str, Any]:
    """Return checks by name: of several with one name the first."""
    assert reply["reply"] == "doctor", reply
    checks: dict[str, Any] = {}
    for check in reply["checks"]:
        checks.setdefault(check["name"], check)
    return checks


def kept_by(broker: Mosquitto) -> bytes:
    """Return what a broker keeps now: its sessions and messages, as it saves them."""
    broker.save()
    return (broker.directory / "mosquitto.db").read_bytes()


def contents(root: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return every file's bytes and times below a root."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ctime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@needs_mosquitto
def test_a_daemon_that_is_well_says_so_and_keeps_nothing_of_it(world: World):
    """Broker, session, mail, disk and scans are well; nothing stays on the broker, in mail or Backup Path."""
    mail_before = contents(world.tree.root)
    files_before = sorted(world.daemon.backup_path.rglob("*"))
    checks = examined(world.daemon)
    expected = ("daemon", "scanners", "broker", "broker session", "last scan", "gaps", "recorder", "secrets")
    for name in (
        *expected,
        "AppServer",
        "restores",
        "watch",
        "file system",
        "configuration",
        "damaged files",
    ):
        assert checks[name]["outcome"] == "ok", checks[name]
        assert checks[name]["cure"] == ""
    assert "kept 2,100 messages" in checks["broker"]["found"]
    assert contents(world.tree.root) == mail_before
    assert sorted(world.daemon.backup_path.rglob("*")) == files_before
    # The broker needs a moment for the probe's last word.
    eventually("no probe is kept", lambda: b"backupd-probe" not in kept_by(world.broker))
    kept = kept_by(world.broker)
    assert f"backupd-{world.daemon.status()['server_id']}".encode() in kept
    assert broker_probe.PROBE_LEVEL.encode() not in kept
    assert world.daemon.status()["broker"]["connected"]
    assert world.daemon.status()["broker"]["refused"] == 0


@needs_mosquitto
def test_the_console_ends_with_the_status_of_the_outcome(world: World):
    """Lines for people and JSON say the same outcome, and the exit status is that of a monitoring plugin."""
    told = world.daemon.console("doctor", "--json", check=False)
    reply = json.loads(told.stdout)
    assert told.returncode == EXIT_STATUS[reply["outcome"]]
    assert set(reply["checks"][0]) == {"name", "outcome", "found", "cure"}
    for_people = world.daemon.console("backup", "doctor", check=False)
    assert for_people.returncode == told.returncode
    assert for_people.stdout.count(b"\n") >= len(reply["checks"])


@needs_mosquitto
def test_what_is_misset_under_a_running_daemon_is_found(world: World):
    """A changed and a broken configuration, an open secret and path, mail that is gone: each has its line."""
    daemon, written = world.daemon, world.daemon.config.read_text()
    daemon.config.write_text(written.replace('level = "info"', 'level = "debug"'))
    world.broker.password_file.chmod(0o644)
    daemon.backup_path.chmod(0o755)
    away = world.tree.root.with_name("away")
    world.tree.root.rename(away)
    try:
        reply = daemon.command("backup/doctor")
    finally:
        away.rename(world.tree.root)
        daemon.backup_path.chmod(0o700)
        world.broker.password_file.chmod(0o600)
        daemon.config.write_text(written)
    checks = by_name(reply)
    assert (checks["configuration"]["outcome"], checks["configuration"]["cure"]) == (
        "warning",
        "systemctl reload backupd",
    )
    assert "[log] level" in checks["configuration"]["found"]
    assert any("mode 0755" in check["found"] for check in reply["checks"])
    assert checks["secrets"]["cure"] == f"chmod o-rwx {world.broker.password_file}"
    assert checks["AppServer"]["outcome"] == "critical"
    daemon.config.write_text(written.replace("[log]", "[lg]"))
    try:
        broken = examined(daemon)["configuration"]
    finally:
        daemon.config.write_text(written)
    assert broken["outcome"] == "critical"
    assert "next start fails" in broken["found"]


def test_an_embedded_broker_and_a_threshold_that_is_not_met(tmp_path: Path):
    """The embedded broker is well and said to keep nothing; both scanners off and no room are critical."""
    tree = mailtree.build(tmp_path / "vmail", accounts=1, messages=3, size=200)
    with Daemon(tmp_path / "b", tree.root) as daemon:
        daemon.wait_until_scanned()
        eventually("events come in", lambda: daemon.status()["realtime"]["active"])
        checks = examined(daemon)
        assert checks["broker"]["outcome"] == "ok"
        assert "healed by a scan" in checks["broker"]["found"]
        assert checks["broker session"]["outcome"] == "ok"
        daemon.command("config/set/global", attribute="ZxBackup_SpaceThreshold", value=str(1 << 40))
        daemon.command("config/set/global", attribute="ZxBackup_RealTimeScanner", value="FALSE")
        off = {"cron-enabled": False, "cron-pattern": "0 4 * * *"}
        daemon.command("config/set/global", attribute="backupSmartScanScheduler", value=json.dumps(off))
        eventually("both are off", lambda: not daemon.status()["smartscan"]["enabled"])
        eventually("nothing comes in", lambda: not daemon.status()["broker"]["connected"])
        worse = examined(daemon)
        assert worse["space"]["outcome"] == "critical"
        assert "NO BACKUP IS BEING MADE" in worse["scanners"]["found"]
        assert "broker session" not in worse
        assert daemon.console("doctor", check=False).returncode == EXIT_STATUS["critical"]
        daemon.stop()
        gone = daemon.console("doctor", "--config", str(daemon.config), check=False)
        assert gone.returncode == EXIT_STATUS["critical"]
        assert b"the daemon does not run" in gone.stdout


# --- brokers that are set up badly -----------------------------------------------------------------------


def started(directory: Path, lines: str) -> Mosquitto:
    broker = Mosquitto(directory)
    configuration = directory / "mosquitto.conf"
    configuration.write_text(f"{configuration.read_text()}\n{lines}\n")
    broker.start()
    return broker


@needs_mosquitto
@pytest.mark.parametrize(
    ("lines", "outcome", "word"),
    [
        ("", Outcome.OK, "kept 2,100 messages"),
        ("max_queued_messages 1000", Outcome.CRITICAL, "kept 1,000 of 2,100"),
        ("acl_file ACL", Outcome.WARNING, "topic readwrite backupd/v1/!probe/#"),
        ("max_packet_size 100000", Outcome.WARNING, "max_packet_size"),
    ],
)
async def test_each_broker_gets_the_line_that_it_deserves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, outcome: Outcome, word: str
):
    """Mosquitto as we want it, with its own limit of 1,000, an ACL without the probe, with small packets.

    No session of the probe is left on any of them.
    """
    # What comes may take its time on a busy machine; what does not come is given up soon.
    monkeypatch.setattr(broker_probe, "DELIVERY_SECONDS", 20.0 if outcome is Outcome.OK else 1.0)
    monkeypatch.setattr(broker_probe, "PROBE_SECONDS", 60.0)
    (tmp_path / "ACL").write_text(f"user {USERNAME}\ntopic readwrite backupd/v1/own-server/#\n")
    broker = started(tmp_path / "mq", lines.replace("ACL", str(tmp_path / "ACL")))
    try:
        facts = await BrokerProbe(broker.address).run()
        await asyncio.to_thread(
            eventually, "nothing is left", lambda: b"backupd-probe" not in kept_by(broker)
        )
    finally:
        await asyncio.to_thread(broker.stop)
    check = judge_probe(facts, event_bytes_max=EVENT_BYTES_MAX, username=USERNAME)
    assert check.outcome is outcome, check
    assert word in f"{check.found} | {check.cure}"


@needs_mosquitto
async def test_a_wrong_password_and_a_certificate_of_nobody_are_told(tmp_path: Path):
    """Credentials and trust are told apart from a broker that is away."""
    broker = Mosquitto(tmp_path / "mq", certificates=make_certificates(tmp_path / "tls"))
    broker.start()
    try:
        wrong = msgspec.structs.replace(broker.address, password_file=None, secret=f"not {PASSWORD}")
        refused = judge_probe(await BrokerProbe(wrong).run(), event_bytes_max=1, username=USERNAME)
        untrusted = msgspec.structs.replace(broker.tls_address, ca_file=None)
        distrusted = judge_probe(await BrokerProbe(untrusted).run(), event_bytes_max=1, username=USERNAME)
    finally:
        await asyncio.to_thread(broker.stop)
    away = judge_probe(await BrokerProbe(broker.address).run(), event_bytes_max=1, username=USERNAME)
    assert [check.outcome for check in (refused, distrusted, away)] == [Outcome.CRITICAL] * 3
    assert "mosquitto_passwd" in refused.cure
    assert "ca_file" in distrusted.cure
    assert "systemctl status mosquitto" in away.cure


@needs_mosquitto
async def test_a_session_that_is_not_the_probes_is_left_alone(tmp_path: Path):
    """Where a broker gives all clients of a user one session, the daemon's survives the probe."""
    broker = started(tmp_path / "mq", "use_username_as_clientid true")

    def connection() -> Connection:
        return Connection(broker.address, identifier="own", arrivals=Arrivals(), persistent=True)

    try:
        own = connection()
        await own.open()
        await own.subscribe("backupd/v1/own/#")
        await own.close()
        facts = await BrokerProbe(broker.address).run()
        assert facts.foreign_session
        assert judge_probe(facts, event_bytes_max=1, username=USERNAME).outcome is Outcome.CRITICAL
        again = connection()
        await again.open()
        assert again.session_present
        await again.close(forget_session=True)
    finally:
        await asyncio.to_thread(broker.stop)
