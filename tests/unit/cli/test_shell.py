"""The interactive shell: on a terminal of its own, against a real control socket; its parts as values."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory

from backupd.cli.candidates import nothing_known
from backupd.cli.shell import Shell, WordCompleter, history_path, kept_history, split_typed, words_of
from tests.world.service import ENDLESS
from tests.world.terminal import PROMPT, Terminal


@pytest.fixture
def environ(service_path: str, tmp_path: Path) -> dict[str, str]:
    return {"BACKUPD_SOCKET": service_path, "XDG_STATE_HOME": str(tmp_path)}


@pytest.fixture
def terminal(environ: dict[str, str]) -> Iterator[Terminal]:
    with Terminal([], environ) as terminal:
        terminal.wait_for(PROMPT)
        yield terminal


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


def test_lines_with_secrets_are_not_kept(environ: dict[str, str], tmp_path: Path):
    """What may hold a secret is nowhere in the history; the line before and the one after are."""
    history = kept_history(environ)
    for line in (
        "status",
        "core doCreateBucket S3 mail AKIA s3cret one eu-west-1",
        "core DO-UPDATE-BUCKET s3 58fa4ca2 secret=s3cret",
        "config set global s3BucketConfigurations '[]'",
        "backup retrieveMetadataFromArchive S3 /mnt secret s3cret",
        "backup doctor",
    ):
        history.append_string(line)
    kept = (tmp_path / "backupd" / "history").read_text()
    assert [line for line in kept.splitlines() if line.startswith("+")] == ["+status", "+backup doctor"]


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
    with Terminal(options, {**environ, "BACKUPD_SOCKET": "/no"}) as terminal:
        terminal.wait_for(PROMPT)
        terminal.answers("backup getBackupInfo", '{"reply":"backup-info"')
        terminal.answers("backup nothing", '"exit_status":64')
        terminal.answers("--socket /nowhere --json=false status", "no daemon answers on /nowhere")
        terminal.type("quit\r")
        assert terminal.ended() == 0


def test_without_a_place_for_it_there_is_no_history(environ: dict[str, str], tmp_path: Path):
    """A history that can't be written is told once, on a dumb terminal too, and the shell works."""
    (tmp_path / "backupd").touch()
    with Terminal([], {**environ, "TERM": "dumb"}) as terminal:
        terminal.wait_for("no history is kept", PROMPT)
        terminal.answers("backup getBackupInfo", "backup path")
        assert b"\x1b[3" not in terminal.seen
        assert terminal.ended_by("\x04") == 0
        assert terminal.seen.count(b"no history is kept") == 1


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
