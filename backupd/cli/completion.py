"""Completion in other shells: `backupctl completion SHELL` prints a script that asks us at every Tab.

It calls `backupctl complete-words -- WORD…` with the words of the line up to the cursor, the last of them
being typed, and gets one candidate a line, a tab and its meaning. Where a path is wanted it gets nothing and
the exit status `FILES_WANTED`: each shell completes files better than anybody else. Nothing that goes wrong
is told: a prompt is no place for errors.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from backupd.cli.ask import Daemon, socket_path
from backupd.cli.candidates import Pair, candidates
from backupd.cli.help import COMPLETION_SHELLS
from backupd.cli.known import DAEMON_SECONDS, Knowledge
from backupd.cli.text import visible
from backupd.errors import UsageError
from backupd.grammar import split_options
from backupd.parameters import did_you_mean, shortened, squashed

FILES_WANTED = 3
"""Exit status of `complete-words` that asks the shell to complete a path."""
_SCRIPTS = Path(__file__).parent / "completions"


def script(words: Sequence[str]) -> str:
    """Return the script for the shell that the words name. Raises `UsageError`."""
    if not words:
        raise UsageError("completion needs a shell", hint=f"valid: {', '.join(COMPLETION_SHELLS)}")
    for shell in COMPLETION_SHELLS:
        if squashed(words[0]) == shell and len(words) == 1:
            return (_SCRIPTS / f"backupctl.{shell}").read_text("utf-8")
    wrong = words[0] if len(words) == 1 else words[1]
    raise UsageError(
        f"completion takes no {shortened(wrong)}",
        hint=did_you_mean(wrong, COMPLETION_SHELLS, what="shell"),
    )


def complete_words(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print what the last of the words may become, and return the exit status."""
    words = arguments[1:] if arguments[:1] == ["--"] else arguments
    before, word = list(words[:-1]), (words[-1] if words else "")
    wanted: list[str] = []

    def files(start: str) -> Sequence[Pair]:
        wanted.append(start)
        return ()

    found = candidates(before, word, Knowledge(_daemon(before, environ), files))
    if wanted and not found:
        return FILES_WANTED
    for one, meaning in found:
        sys.stdout.write(f"{visible(one)}\t{visible(meaning)}\n")
    return 0


def _daemon(before: Sequence[str], environ: Mapping[str, str]) -> Daemon:
    """Return the daemon that the line means, as far as it says."""
    try:
        options, _, _ = split_options(before)
    except UsageError:
        return Daemon(socket_path(None, environ), seconds=DAEMON_SECONDS)
    path = socket_path(options.socket, environ)
    return Daemon(path, server=options.host, seconds=DAEMON_SECONDS)
