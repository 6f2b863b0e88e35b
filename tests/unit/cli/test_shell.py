"""The interactive shell: on a terminal of its own, against a real control socket; its parts as values."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory

from backupd.cli.candidates import nothing_known
from backupd.cli.shell import Shell, WordCompleter, history_path, kept_history, split_typed, words_of
from tests.world.service import ENDLESS

ROOT = Path(__file__).parents[3]
WAIT_SECONDS_MAX = 20.0
PROMPT = "\nbackupctl>"
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]")


class Terminal:
    """A `backupctl` on a terminal of its own."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str]) -> None:
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            # The terminal is its controlling one, so that Ctrl-C is a signal.
            ["setsid", "--ctty", sys.executable, "-m", "backupd.cli.main", *words],
            stdin=side,
            stdout=side,
            stderr=side,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "PROMPT_TOOLKIT_NO_CPR": "1", **environ},
        )
        os.close(side)
        self.seen = b""
        self._read_to = 0

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def wait_for(self, *texts: str) -> None:
        """Wait until the terminal shows these texts, one after the other and after what was waited for."""
        end = time.monotonic() + WAIT_SECONDS_MAX
        for text in texts:
            while (found := ESCAPES.sub(b"", self.seen).find(text.encode(), self._read_to)) < 0:
                assert time.monotonic() < end, (text, self.seen)
                if select.select([self._main], [], [], 0.1)[0]:
                    with suppress(OSError):
                        self.seen += os.read(self._main, 65536)
            self._read_to = found + len(text)

    def answers(self, line: str, *texts: str) -> None:
        """Give a line and wait for its answer, and for the prompt below it."""
        self.type(line + "\r")
        self.wait_for(*texts, PROMPT)

    def ended(self) -> int:
        return self.process.wait(timeout=WAIT_SECONDS_MAX)

    def ended_by(self, key: str) -> int:
        """Press a key until the shell has ended: a prompt may be there a moment before keys are read."""
        for _ in range(40):
            self.type(key)
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=WAIT_SECONDS_MAX / 40)
        return self.ended()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._main)


@pytest.fixture
def environ(service_path: str, tmp_path: Path) -> dict[str, str]:
    return {"BACKUPD_SOCKET": service_path, "XDG_STATE_HOME": str(tmp_path)}


@pytest.fixture
def terminal(environ: dict[str, str]) -> Iterator[Terminal]:
    terminal = Terminal([], environ)
    terminal.wait_for(PROMPT)
    yield terminal
    terminal.close()


def test_a_visit_from_help_to_exit(terminal: Terminal, tmp_path: Path):
    """Lines are answered, mistakes are one line and the shell goes on, Tab completes, the history is kept."""
    terminal.answers("?", "usage: backupctl MODULE COMMAND")
    terminal.answers("backup doSmartScn start", "did you mean doSmartScan?")
    terminal.answers("config get global 'ZxBackup", "quotes must be closed")
    terminal.type("backup getItem al\t")
    terminal.wait_for("ice@example.com")
    terminal.answers(" 7", "message 7 of alice@example.com")
    terminal.type("status\x03")
    terminal.wait_for(PROMPT)
    terminal.answers("carbonio config get global ZxBackup_DestPath", "/opt/zextras/backup/zextras/")
    terminal.type("exit\r")
    assert terminal.ended() == 0
    history = tmp_path / "backupd" / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "+backup getItem alice@example.com 7\n" in history.read_text()


def test_ctrl_c_leaves_an_operation_and_ctrl_d_the_shell(terminal: Terminal):
    """Ctrl-C ends the following, says that the operation goes on, and there is a prompt again."""
    terminal.type(f"backup monitor {ENDLESS} --progress\r")
    terminal.wait_for("5 of 10 items")
    terminal.type("\x03")
    terminal.wait_for("the operation goes on", PROMPT)
    assert terminal.ended_by("\x04") == 0


def test_options_of_the_start_hold(environ: dict[str, str]):
    """`backupctl --socket X --json` asks X and prints JSON for every line; a line may say otherwise."""
    options = ["--json", "--socket", environ["BACKUPD_SOCKET"]]
    terminal = Terminal(options, {**environ, "BACKUPD_SOCKET": "/no"})
    try:
        terminal.wait_for(PROMPT)
        terminal.answers("backup getBackupInfo", '{"reply":"backup-info"')
        terminal.answers("backup nothing", '"exit_status":64')
        terminal.answers("--socket /nowhere --json=false status", "no daemon answers on /nowhere")
        terminal.type("quit\r")
        assert terminal.ended() == 0
    finally:
        terminal.close()


def test_without_a_place_for_it_there_is_no_history(environ: dict[str, str], tmp_path: Path):
    """A history that can't be written is told once, on a dumb terminal too, and the shell works."""
    (tmp_path / "backupd").touch()
    terminal = Terminal([], {**environ, "TERM": "dumb"})
    try:
        terminal.wait_for("no history is kept", PROMPT)
        terminal.answers("backup getBackupInfo", "backup path")
        assert b"\x1b[3" not in terminal.seen
        assert terminal.ended_by("\x04") == 0
        assert terminal.seen.count(b"no history is kept") == 1
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("text", "before", "word"),
    [
        ("", [], ""),
        ("backup", [], "backup"),
        ("backup ", ["backup"], ""),
        ("backupctl backup do", ["backup"], "do"),
        ('backup getItem "a b', ["backup", "getItem"], "a b"),
        ("backup getItem 'a b' it", ["backup", "getItem", "a b"], "it"),
        ("help ba", ["help"], "ba"),
        ("? ba", ["help"], "ba"),
    ],
)
def test_a_line_is_split_where_it_is_typed(text: str, before: list[str], word: str):
    """Words before and the one being typed are those of a shell, with quotes that are still open."""
    assert split_typed(text) == (before, word)


def test_a_word_is_completed_in_place():
    """What is offered replaces the word that is being typed, with its meaning beside it."""
    completer = WordCompleter(nothing_known)
    offered = list(completer.get_completions(Document("backup dosm"), CompleteEvent()))
    assert [(one.text, one.start_position) for one in offered] == [("doSmartScan", -4)]
    assert "compare every account" in offered[0].display_meta_text
    leaving = list(completer.get_completions(Document("ex"), CompleteEvent()))
    assert [one.text for one in leaving] == ["exit"]


def test_words_are_those_of_a_shell():
    """Quotes hold words together, the program's name may stand before, and `?` is help."""
    assert words_of('carbonio backup getItem a "1 2"') == ["backup", "getItem", "a", "1 2"]
    assert words_of("? backup") == ["help", "backup"]


def test_lines_are_done_with_the_options_of_the_start():
    """Each line is done once, with the options before its words; empty ones are not, leaving ones end it."""
    done: list[list[str]] = []

    def do_line(words: Sequence[str], _environ: Mapping[str, str]) -> int:
        done.append(list(words))
        raise KeyboardInterrupt

    shell = Shell(do_line, options=["--json", "--"], environ={})
    assert [shell.do(line) for line in ("status", "", "  ", "'", "QUIT")] == [True, True, True, True, False]
    assert done == [["--json", "status"]]


def test_the_history_is_where_xdg_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """XDG_STATE_HOME counts where it is absolute, else ~/.local/state; unwritable it is in memory only."""
    assert history_path({"XDG_STATE_HOME": "/x"}) == Path("/x/backupd/history")
    assert history_path({"XDG_STATE_HOME": "x"}) == Path.home() / ".local/state/backupd/history"
    (tmp_path / "file").touch()
    assert isinstance(kept_history({"XDG_STATE_HOME": str(tmp_path / "file")}), InMemoryHistory)
    assert capsys.readouterr().err.count("no history is kept") == 1
