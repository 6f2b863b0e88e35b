"""The console as an admin meets it: its shell, completion and behaviour against a whole daemon."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.terminal import PROMPT, Terminal

ROOT = Path(__file__).parents[2]
BASH_SCRIPT = ROOT / "backupd" / "cli" / "completions" / "backupctl.bash"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, str]]:
    """Return a daemon after its first scan, and the address of its one account."""
    place = tmp_path_factory.mktemp("console")
    tree = mailtree.build(place / "vmail", accounts=1, messages=6, contacts=1, size=200)
    with Daemon(place / "b", tree.root) as daemon:
        daemon.wait_until_scanned()
        yield daemon, tree.addresses[0]


def test_a_newcomer_finds_the_way(world: tuple[Daemon, str], tmp_path: Path):
    """In the shell alone: help, a scan that is followed, what the account holds, how all stands, the end."""
    daemon, address = world
    environ = {"BACKUPD_SOCKET": str(daemon.socket), "XDG_STATE_HOME": str(tmp_path)}
    with Terminal([], environ) as terminal:
        terminal.wait_for(PROMPT)
        terminal.answers("help backup doAccountScan", "usage: backupctl backup doAccountScan ACCOUNT")
        terminal.answers(f"backup doAccountScan {address} --progress", "successful")
        terminal.answers(f"backup doItemSearch {address} search_filter all", "message")
        terminal.answers("status", "recoverable until")
        terminal.type("exit\r")
        assert terminal.ended() == 0


def test_bash_completes_what_the_daemon_knows(world: tuple[Daemon, str], tmp_path: Path):
    """With the script loaded, Tab after `monitor` gives bash the UUIDs of real operations."""
    daemon, address = world
    scan = json.loads(daemon.console("backup", "doAccountScan", address, "--sync", "--json").stdout)
    program = tmp_path / "backupctl"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m backupd.cli.main "$@"\n')
    program.chmod(0o755)
    line = "backupctl backup monitor "
    script = f"""
        source {shlex.quote(str(BASH_SCRIPT))}
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}
        COMP_WORDS=(backupctl backup monitor "") COMP_CWORD=3
        _backupctl
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environ = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BACKUPD_SOCKET": str(daemon.socket),
    }
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, env=environ, timeout=30, check=True
    )
    assert scan["operation"]["uuid"] in done.stdout.decode().splitlines()


def test_an_operation_that_ended_is_followed_to_its_exit_status(world: tuple[Daemon, str]):
    """`monitor --progress` and `--sync` of what has ended already say how, and end as it did."""
    daemon, address = world
    scan = json.loads(daemon.console("backup", "doAccountScan", address, "--json").stdout)["operation"]
    for option in ("--progress", "--sync"):
        done = daemon.console("backup", "monitor", scan["uuid"], option)
        assert "successful" in done.stdout.decode().splitlines()[-1]
