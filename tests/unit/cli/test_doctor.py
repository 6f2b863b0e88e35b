"""`backupctl doctor` where no daemon answers, and what every cure of the doctor tells an admin to type."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backupd.cli.ask import Daemon, NotPermitted
from backupd.cli.doctor import ServiceFacts, diagnose, find_configuration, judge_service, judge_user
from backupd.clock import SystemClock
from backupd.commands import COMMANDS
from backupd.control import DoctorReply, decode_reply
from backupd.errors import BackupdError, DaemonUnreachable
from backupd.grammar import parse
from backupd.store.store import Store
from backupd.views import CheckView, Outcome
from tests.world import mailtree
from tests.world.nobody import as_nobody

ROOT = Path(__file__).parents[3]
CONSOLE = [sys.executable, "-m", "backupd.cli.main"]
SERVER = "11111111-2222-4333-8444-555555555555"
OK, WARNING, CRITICAL, UNKNOWN = Outcome.OK, Outcome.WARNING, Outcome.CRITICAL, Outcome.UNKNOWN
DOCTOR = next(command for command in COMMANDS if command.name == "doctor")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a configuration with mail and a Backup Path that a daemon has made; none runs."""
    mailtree.build(tmp_path / "vmail", accounts=2, messages=10, size=200)
    (tmp_path / "state").mkdir(mode=0o700)
    Store.open(tmp_path / "backup", server_id=SERVER, server_name="mail", clock=SystemClock()).close()
    file = tmp_path / "backupd.toml"
    file.write_text(
        f'[server]\nid = "{SERVER}"\nbackup_path = "backup"\nstate_directory = "state"\n'
        f'[appserver]\nroot = "vmail"\n[control]\nsocket = "s"\n'
    )
    return file


def unreachable(path: Path) -> BackupdError:
    """Return how asking a socket fails."""
    with pytest.raises((DaemonUnreachable, NotPermitted)) as caught:
        Daemon(str(path)).command(DOCTOR, {})
    return caught.value


def diagnosed(config: Path) -> dict[str, CheckView]:
    """Return the worst check of each name."""
    reply = diagnose(unreachable(config.with_name("s")), str(config), {})
    found: dict[str, CheckView] = {}
    for check in reply.checks:
        if check.name not in found or found[check.name].outcome is OK:
            found[check.name] = check
    return found


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, **environment}
    return subprocess.run(
        [*CONSOLE, *words], capture_output=True, cwd=ROOT, env=environ, timeout=20, check=False
    )


def test_without_a_daemon_everything_a_console_can_see_is_checked(config: Path):
    """The daemon's absence is critical with the way to start it; the rest is checked, and nothing changed."""
    before = sorted(config.parent.rglob("*"))
    found = diagnosed(config)
    assert found["daemon"].outcome is CRITICAL
    assert "NO BACKUP IS BEING MADE" in found["daemon"].found
    assert "No such file or directory" in found["daemon"].found
    assert found["daemon"].cure.startswith("systemctl start backupd; journalctl -u backupd")
    for name in ("configuration", "secrets", "state directory", "file system", "AppServer", "restores"):
        assert found[name].outcome is OK, found[name]
    assert {"checked as", "Backup Path", "space", "watch", "clock", "time zone"} <= set(found)
    assert sorted(config.parent.rglob("*")) == before


def test_a_configuration_that_can_not_be_used_is_told_with_its_cure(config: Path):
    """A file that is missing or wrong is critical in the words of a start, and nothing is guessed from it."""
    config.write_text('[appserver]\nrot = "vmail"\n')
    found = diagnosed(config)
    assert found["configuration"].outcome is CRITICAL
    assert "unknown key appserver.rot" in found["configuration"].found
    assert "did you mean root" in found["configuration"].cure
    assert "Backup Path" not in found
    config.unlink()
    assert "there is no configuration at" in diagnosed(config)["configuration"].found


@pytest.mark.parametrize(
    ("old", "new", "name", "word"),
    [
        (SERVER, "another", "Backup Path", "backup of another server"),
        ('"backup"', '"vmail"', "Backup Path", "no Backup Path"),
        ('"backup"', '"none"', "Backup Path", "there is no backup in"),
        ('"vmail"', '"nowhere"', "AppServer", "is it mounted"),
        ('"state"', '"nowhere"', "state directory", "install -d -m 0700"),
    ],
)
def test_each_place_that_is_wrong_is_told(config: Path, old: str, new: str, name: str, word: str):
    """Another server's path, no path, no mail and no state directory each have a line of their own."""
    config.write_text(config.read_text().replace(old, new))
    check = diagnosed(config)[name]
    assert check.outcome is not OK
    assert word in f"{check.found} | {check.cure}"


def test_a_daemon_that_holds_the_path_on_another_socket_is_found(config: Path):
    """Where somebody holds the Backup Path the daemon runs: then the socket is wrong, or it still starts."""
    with Store.open(config.parent / "backup", server_id=SERVER, server_name="mail", clock=SystemClock()):
        check = diagnosed(config)["daemon"]
    assert f"a daemon runs as process {os.getpid()}" in check.found
    assert "--socket" in check.cure


@pytest.mark.parametrize(
    ("facts", "outcome", "word"),
    [
        (ServiceFacts(error="no daemon answers on /s"), CRITICAL, "the daemon does not run"),
        (ServiceFacts(error="eve may not use it", permitted=False, hint="be root"), UNKNOWN, "it may run"),
        (ServiceFacts(error="the daemon on /s gave no answer for 120 s"), CRITICAL, "hangs"),
        (ServiceFacts(error="something else than backupd answers on /s"), CRITICAL, "--socket"),
        (ServiceFacts(error="no daemon answers on /s", holder=7), CRITICAL, "process 7"),
        (
            ServiceFacts(
                error="no daemon answers on /s",
                unit={"ActiveState": "failed", "SubState": "failed", "ExecMainStatus": "78"},
            ),
            CRITICAL,
            "systemd says: failed (failed), exit status 78",
        ),
    ],
)
def test_why_nobody_answers(facts: ServiceFacts, outcome: Outcome, word: str):
    """No right to ask is no proof that nothing runs; everything else is critical, each with its own cure."""
    check = judge_service(facts)
    assert check.outcome is outcome
    assert word in f"{check.found} | {check.cure}"
    assert check.cure


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_look_does_not_hear_that_all_is_broken(config: Path):
    """A user who may read neither configuration nor places hears how to look, not a false alarm."""
    assert as_nobody(lambda: diagnosed_as_nobody(config)) == [
        ("daemon", CRITICAL),
        ("configuration", UNKNOWN),
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_socket_that_this_user_may_not_use_is_no_daemon_that_is_away(config: Path):
    """A refused connection to the socket is told as such: nobody says that no backup is being made."""

    def ask() -> CheckView:
        return diagnose(unreachable(config.with_name("s")), str(config), {}).checks[0]

    check = as_nobody(ask)
    assert check.outcome is UNKNOWN
    assert "may not use the control socket" in check.found
    assert "member of the socket's group" in check.cure


def diagnosed_as_nobody(file: Path) -> list[tuple[str, Outcome]]:
    reply = diagnose(DaemonUnreachable("no daemon answers on /s"), str(file), {})
    wanted = ("daemon", "configuration", "Backup Path", "AppServer")
    return [(check.name, check.outcome) for check in reply.checks if check.name in wanted]


def test_it_says_as_whom_it_looked():
    """Root sees more than the service's user, so the line says how to look as that one."""
    assert "sudo -u backupd backupctl doctor" in judge_user("root", "backupd").found
    assert judge_user("backupd", "backupd").found == "backupd"


def test_the_file_is_the_one_named_else_the_users_else_the_services(tmp_path: Path):
    """An explicit file wins; a plain user's own file only where there is one."""
    assert find_configuration("x.toml", {}) == Path.cwd() / "x.toml"
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    assert find_configuration(None, environ) == Path("/etc/backupd/backupd.toml")


def test_the_console_shows_it_and_ends_as_a_monitoring_plugin(config: Path):
    """Exit status 2, a line a check, the cure below, JSON with --json; --config leads to the socket too."""
    done = run("doctor", "--config", str(config))
    assert done.returncode == 2, done
    assert done.stderr == b""
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("Critical: ")
    first = next(place for place, line in enumerate(lines) if line.startswith("CRITICAL"))
    assert "the daemon does not run" in lines[first]
    assert str(config.with_name("s")) in lines[first]
    assert lines[first + 1].strip().startswith("cure: systemctl start backupd")
    as_json = run("doctor", "--config", str(config), "--json")
    assert as_json.returncode == 2
    reply = decode_reply(as_json.stdout)
    assert isinstance(reply, DoctorReply)
    assert json.loads(as_json.stdout)["outcome"] == "critical"


def test_other_commands_take_no_configuration(config: Path):
    """`--config` is for the doctor: elsewhere it is refused, for the daemon has read its own."""
    done = run("status", "--config", str(config))
    assert done.returncode == 64
    assert b"backup status takes no --config" in done.stderr
    assert run("status", "--socket", "/nowhere/s").returncode == 69


def test_every_command_in_a_cure_exists():
    """What a cure tells an admin to type is a command of this console, with parameters that it takes."""
    sources = [*(ROOT / "backupd").rglob("*.py"), *(ROOT / "daemon").rglob("*.py")]
    named = set()
    for source in sources:
        if "doctor" in str(source.relative_to(ROOT)) or source.name.endswith(("_checks.py", "_probe.py")):
            named |= set(re.findall(r"backupctl ([A-Za-z][^\"'`:;({]*)", source.read_text("utf-8")))
    assert len(named) >= 5
    for line in named:
        words = line.replace(" tells", "").replace("NAME", "mail").replace("PATH", "/x").split()
        if words[-2:] == ["backup", "monitor"]:
            words.append("00000000-0000-4000-8000-000000000000")
        parse(words)
