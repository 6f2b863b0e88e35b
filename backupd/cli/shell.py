"""The interactive shell: `backupctl` without words on a terminal; line editing, history and completion.

A line is what stands after `backupctl` elsewhere, split as a POSIX shell splits words. Options given at the
start hold for every line. An error shows its one line and the shell goes on; Ctrl-C clears the line, or ends
the following of an operation but never the operation; `exit`, `quit` and Ctrl-D end it. The history is the
user's alone (0600), without the lines that may hold a secret; where it can't be kept there is none, which is
told once.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from backupd.cli.ask import Daemon, socket_path
from backupd.cli.candidates import Known, Pair, candidates
from backupd.cli.known import DAEMON_SECONDS, Knowledge, files_beginning
from backupd.cli.page import warn
from backupd.cli.text import visible
from backupd.grammar import split_options
from backupd.parameters import squashed

PROMPT = "backupctl> "
WELCOME = "backupctl: Tab completes, help explains, Ctrl-D ends.\n"
LEAVING_WORDS = frozenset({"exit", "quit"})
PROGRAM_WORDS = frozenset({"backupctl", "carbonio"})
"""What a line copied from a page may begin with."""
SHELL_PAIRS: tuple[Pair, ...] = (("exit", "leave the shell"), ("quit", "leave the shell"))
_CURSOR = "\0"
_SECRET_LINES = ("docreatebucket", "doupdatebucket", "s3bucketconfigurations", "secret")
"""Lines with one of these words may hold a secret, and are not kept in the history."""

Doing = Callable[[Sequence[str], Mapping[str, str]], int]


class Shell:
    """Reads lines from the terminal and has each of them done by `do_line`."""

    def __init__(self, do_line: Doing, *, options: Sequence[str], environ: Mapping[str, str]) -> None:
        self._do_line = do_line
        self._options = [word for word in options if word != "--"]
        self._environ = environ
        given, _, _ = split_options(options)
        daemon = Daemon(socket_path(given.socket, environ), server=given.host, seconds=DAEMON_SECONDS)
        self._known = Knowledge(daemon, files_beginning)

    def run(self) -> int:
        """Read and do lines until the end, and return the exit status."""
        session: PromptSession[str] = PromptSession(
            PROMPT,
            history=kept_history(self._environ),
            completer=WordCompleter(self._known),
            complete_in_thread=True,
            complete_while_typing=False,
        )
        sys.stdout.write(WELCOME)
        sys.stdout.flush()
        while True:
            try:
                line = session.prompt()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return 0
            if not self.do(line):
                return 0

    def do(self, line: str) -> bool:
        """Do a line; return whether there may be another one."""
        try:
            words = words_of(line)
        except ValueError as error:
            warn(f"{str(error).lower()}: quotes must be closed")
            return True
        if words and squashed(words[0]) in LEAVING_WORDS:
            return False
        if not words:
            return True
        try:
            self._do_line([*self._options, *words], self._environ)
        except KeyboardInterrupt:
            sys.stdout.write("\n")
        sys.stdout.flush()
        return True


def words_of(line: str) -> list[str]:
    """Return the words of a line. Raises `ValueError` where a quote is open."""
    words = shlex.split(line)
    if words and words[0] in PROGRAM_WORDS:
        words = words[1:]
    if words and words[0] == "?":
        words = ["help", *words[1:]]
    return words


def split_typed(text: str) -> tuple[list[str], str]:
    """Return the words before the one that is being typed, and that one as far as it is there."""
    for closing in ("", '"', "'"):
        try:
            words = words_of(text + _CURSOR + closing)
        except ValueError:
            continue
        # The program's name that is still being typed is a word like others.
        return (words[:-1], words[-1].removesuffix(_CURSOR)) if words else ([], "")
    return [], ""


class WordCompleter(Completer):
    """Offers the candidates of the word before the cursor."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what the word before the cursor may become, with its meaning beside it."""
        del complete_event
        text = document.text_before_cursor
        before, word = split_typed(text)
        if not text.endswith(word):
            return  # an escaped or quoted word can't be replaced by a plain one
        pairs = candidates(before, word, self._known)
        if not before and word:
            pairs += [pair for pair in SHELL_PAIRS if pair[0].startswith(word.casefold())]
        for one, meaning in pairs:
            quoted = one if text.endswith(('"' + word, "'" + word)) else shlex.quote(one)
            yield Completion(quoted, start_position=-len(word), display=one, display_meta=visible(meaning))


class PrivateHistory(FileHistory):
    """A history file of the user's own; a disk that fails costs the history, never the shell."""

    def load_history_strings(self) -> Iterable[str]:
        """Return the lines of before, the newest first."""
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        """Keep a line, unless it may hold a secret."""
        if any(word in squashed(string) for word in _SECRET_LINES):
            return
        try:
            super().store_string(string)
        except OSError as error:
            warn(f"this line is not kept in the history: {error.strerror}")


def history_path(environ: Mapping[str, str]) -> Path:
    """Return where the history is, by the XDG Base Directory Specification."""
    state = environ.get("XDG_STATE_HOME", "")
    home = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"  # noqa: PTH117 - a text yet
    return home / "backupd" / "history"


def kept_history(environ: Mapping[str, str]) -> History:
    """Return the history in its file, or one that lasts as long as the shell where it can't be kept."""
    try:
        path = history_path(environ)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError) as error:
        warn(f"no history is kept: {getattr(error, 'strerror', None) or error}")
        return InMemoryHistory()
    return PrivateHistory(str(path))
