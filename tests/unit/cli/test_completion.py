"""Completion in shells: the real ones, with the script loaded, against a real control socket."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backupd.cli import known
from backupd.cli.ask import Daemon
from backupd.cli.completion import FILES_WANTED, complete_words
from backupd.cli.known import Knowledge, files_beginning
from backupd.commands import COMMANDS
from backupd.parameters import Parameter, Type
from tests.world.service import ENDLESS, EVIL_ACCOUNT

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "backupd" / "cli" / "completions"
ACCOUNT = Parameter("account", Type.ACCOUNT, "whose")
NOWHERE = {"BACKUPD_SOCKET": "/nowhere/control.sock"}


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(shell), reason=f"{shell} is missing: install {shell}")


@pytest.fixture(scope="module")
def environ(service_path: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which `backupctl` is ours and asks the fake daemon."""
    place = tmp_path_factory.mktemp("bin")
    program = place / "backupctl"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m backupd.cli.main "$@"\n')
    program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{place}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(place),
        "BACKUPD_SOCKET": service_path,
    }


def out_of(command: list[str], environ: dict[str, str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, env=environ, timeout=30, check=False)
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


def in_bash(pieces: list[str], line: str, environ: dict[str, str]) -> list[str]:
    """Return COMPREPLY as bash would get it; the pieces are the line as bash cuts it."""
    words = " ".join(shlex.quote(piece) for piece in pieces)
    script = f"""
        source {shlex.quote(str(SCRIPTS / "backupctl.bash"))}
        compopt() {{ echo "compopt $*"; }}
        COMP_WORDBREAKS=$' \\t\\n"\\'@><=;|&(:'
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}
        COMP_WORDS=({words}) COMP_CWORD={len(pieces) - 1}
        _backupctl
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return [one for one in out_of(["bash", "--norc", "-c", script], environ) if one]


@needs("bash")
@pytest.mark.parametrize(
    ("pieces", "line", "words"),
    [
        (["sta"], "sta", ["status"]),
        (["backup", "doSmartScan", "start", "--de"], "backup doSmartScan start --de", ["--deep"]),
        (
            ["backup", "doSmartScan", "start", "--deep", "=", "t"],
            "backup doSmartScan start --deep=t",
            ["true"],
        ),
        (
            ["backup", "doSmartScan", "start", "deep", "="],
            "backup doSmartScan start deep=",
            ["true", "false"],
        ),
        (["backup", "getItem", "al"], "backup getItem al", ["alice@example.com"]),
        (["backup", "getItem", "alice", "@", "ex"], "backup getItem alice@ex", ["example.com"]),
        (["--socket", ""], "--socket ", ["compopt -o default"]),
        (["backup", "getMap", "/et"], "backup getMap /et", ["compopt -o default"]),
        (["backup", "nothing", ""], "backup nothing ", []),
    ],
)
def test_bash_completes(pieces: list[str], line: str, words: list[str], environ: dict[str, str]):
    """With the script bash gets the words, also where it cuts the line at `=` and `@`, or its files."""
    assert in_bash(["backupctl", *pieces], f"backupctl {line}", environ) == words


@needs("fish")
def test_fish_completes(environ: dict[str, str]):
    """Fish gets words with their meanings."""
    script = f"source {SCRIPTS / 'backupctl.fish'}; complete -C 'backupctl backup getItem al'"
    assert out_of(["fish", "-N", "-c", script], environ) == ["alice@example.com\tactive"]


@needs("zsh")
def test_zsh_completes(environ: dict[str, str]):
    """Zsh hands words with their meanings to its own menu."""
    script = f"""
        compdef() {{ }}; source {SCRIPTS / "backupctl.zsh"}
        _describe() {{ print -l -- "${{(@P)2}}" }}
        words=(backupctl backup getItem al) CURRENT=4 PREFIX=al
        _backupctl
    """
    assert out_of(["zsh", "-f", "-c", script], environ) == ["alice@example.com:active"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_the_script_that_is_installed(shell: str, environ: dict[str, str]):
    """`completion SHELL` is the file of that shell, and the shell finds no fault in its grammar."""
    assert out_of(["backupctl", "completion", shell], environ) == (
        (SCRIPTS / f"backupctl.{shell}").read_text().splitlines()
    )
    if shutil.which(shell):
        subprocess.run([shell, "-n", SCRIPTS / f"backupctl.{shell}"], check=True, timeout=20)


def test_values_come_from_the_daemon(service_path: str, capsys: pytest.CaptureFixture[str]):
    """Accounts, operations and services are asked for; a name that a shell would act on is left out."""
    environ = {"BACKUPD_SOCKET": service_path}
    assert complete_words(["--", "backup", "getItem", ""], environ) == 0
    accounts = capsys.readouterr().out
    assert accounts == "alice@example.com\tactive\nbob@example.com\tdeleted\n"
    assert EVIL_ACCOUNT not in accounts
    complete_words(["--", "backup", "monitor", ""], environ)
    assert f"{ENDLESS}\tSmartScan running\n" in capsys.readouterr().out
    complete_words(["--", "backup", "doStopService", "m"], environ)
    assert capsys.readouterr().out == "module\tthe whole backup\n"
    complete_words(["--", "--socket", "/nowhere", "backup", "getItem", ""], environ)
    assert capsys.readouterr().out == ""


def test_without_a_daemon_words_are_completed_all_the_same(capsys: pytest.CaptureFixture[str]):
    """Nobody on the socket costs the values that only the daemon knows, and no error is told."""
    assert complete_words(["--", "backup", "getItem", "al"], NOWHERE) == 0
    assert complete_words(["--", "backup", "dosm"], NOWHERE) == 0
    assert complete_words([], NOWHERE) == 0
    told = capsys.readouterr()
    assert told.out.startswith("doSmartScan\t")
    assert told.err == ""


def test_a_silent_daemon_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A daemon that says nothing costs a bounded time, once."""
    import socket  # noqa: PLC0415 - only this test listens itself

    monkeypatch.setattr(known, "FRESH_SECONDS", 60.0)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        knowledge = Knowledge(Daemon(str(tmp_path / "s"), seconds=0.2), files_beginning)
        begun = time.monotonic()
        assert [*knowledge(ACCOUNT, ""), *knowledge(ACCOUNT, "a")] == []
        assert time.monotonic() - begun < 10.0


def test_files_are_left_to_the_shell(capsys: pytest.CaptureFixture[str]):
    """Where a path is due the exit status says so, and nothing is printed."""
    assert complete_words(["--", "backup", "getMap", "/et"], NOWHERE) == FILES_WANTED
    assert complete_words(["--", "--socket", ""], NOWHERE) == FILES_WANTED
    assert capsys.readouterr().out == ""


def test_files_of_a_folder_are_listed(tmp_path: Path):
    """The interactive shell lists paths itself: folders end with a slash, hidden ones are for who asks."""
    (tmp_path / "aa").mkdir()
    (tmp_path / "ab").touch()
    (tmp_path / ".hidden").touch()
    assert [one for one, _ in files_beginning(f"{tmp_path}/")] == [f"{tmp_path}/aa/", f"{tmp_path}/ab"]
    assert [one for one, _ in files_beginning(f"{tmp_path}/.h")] == [f"{tmp_path}/.hidden"]
    assert files_beginning("/nowhere/at/all") == []


def test_what_is_asked_for_are_commands_there_are():
    """Each question that the completion asks is a row of the table that is available and changes nothing."""
    titles = {command.title: command for command in COMMANDS}
    for _, title, _, _ in known._QUESTIONS:
        assert titles[title].available
        assert titles[title].kind == "query"
