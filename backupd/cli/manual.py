r"""The manual page backupctl(1), made from the table of commands in the language of man(7).

`python -m backupd.cli.manual > docs/backupctl.1` renews it. Every text goes through `escaped`: a line of ours
never becomes a request of roff, and a hyphen that is typed stays one that can be copied.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Sequence

from backupd import __version__
from backupd.cli.help import COMPLETION_SHELLS, EXIT_STATUSES, FORMS, OPTIONS, combinations, explained
from backupd.commands import COMMANDS, MODULES, SHORTCUTS, Command
from backupd.control import SERVICE_SOCKET, USER_SOCKET

REVISED = "2026-11-24"
"""When the form of this page was last changed; its contents change with the table."""

SOURCE_CHARACTERS_MAX = 66
_PURPOSE = (
    "backupctl speaks with the daemon backupd, which keeps the whole life of every item of a mail host "
    "and brings any of them back as it was at any moment."
)
_SHELL = (
    "Without words on a terminal it is a shell with a history and completion by Tab: each line is what "
    "stands after backupctl elsewhere, options given at the start hold for every line, ? is help, and exit, "
    "quit or Ctrl-D end it. Without words elsewhere it prints its help."
)
_ENVIRONMENT = (
    ("BACKUPD_SOCKET", "the control socket to ask, where --socket is not given"),
    ("XDG_RUNTIME_DIR", f"where the socket of the user's own daemon is: {USER_SOCKET} below it"),
    ("XDG_STATE_HOME", "where the shell's history is: backupd/history below it; else below ~/.local/state"),
    ("NO_COLOR", "if it is set, there are no colours"),
    ("TERM", "dumb stands for a terminal without escapes"),
)
_FILES = (
    (SERVICE_SOCKET, "the control socket of the service"),
    ("~/.local/state/backupd/history", "the shell's history, readable by its owner alone"),
)
_EXAMPLES = (
    ("whether all is well, and what to do where it is not", "backupctl status"),
    ("scan now, and see how far it is", "backupctl backup doSmartScan start --progress"),
    (
        "find what was deleted",
        "backupctl backup doItemSearch user@example.com search_string invoice",
    ),
    (
        "bring it back as it was",
        'backupctl backup doItemRestore user@example.com ITEM date "23/11/2026 20:55:00"',
    ),
    ("check the set-up as a monitoring plugin does", "backupctl doctor"),
    ("complete these words in bash", 'eval "$(backupctl completion bash)"'),
)


def manual() -> str:
    """Return the page: the content of docs/backupctl.1."""
    lines = [
        r".\" Made from the table of commands by python -m backupd.cli.manual.",
        f'.TH BACKUPCTL 1 "{REVISED}" "backupd {__version__}" "System administration"',
        ".nh",
        ".ad l",
        *_section("Name", [r"backupctl \- back up a mail host, look into the backup, bring items back"]),
        *_section("Synopsis", _synopsis()),
        *_section("Description", _paragraphs((_PURPOSE, _SHELL, FORMS.replace("\n", " ")))),
        *_section("Options", _entries(OPTIONS)),
        ".SH COMMANDS",
    ]
    for module, meaning in MODULES.items():
        rows = [one for one in COMMANDS if one.module == module and one.available]
        lines += [f".SS {escaped(module)}: {escaped(meaning)}", *_commands(module, rows)]
    return "\n".join(
        [
            *lines,
            *_section(
                "Exit status", [_folded(EXIT_STATUSES.removeprefix("Exit status: ").replace("\n", " "))]
            ),
            *_section("Environment", _entries(_ENVIRONMENT)),
            *_section("Files", _entries(_FILES)),
            *_section("Examples", _examples()),
            *_section("See also", [".BR curl (1),", ".BR jq (1)"]),
            "",
        ]
    )


def escaped(text: str) -> str:
    """Return a text on one line that roff prints as it is."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    text = text.replace('"', r"\(dq").replace("~", r"\(ti").replace("^", r"\(ha").replace("…", "...")
    return rf"\&{text}" if text.startswith(".") else text


def _folded(text: str) -> str:
    """Return a text on several lines of the source; on the page they flow together."""
    lines = textwrap.wrap(text, SOURCE_CHARACTERS_MAX, break_long_words=False, break_on_hyphens=False)
    return "\n".join(escaped(line) for line in lines)


def _section(title: str, *parts: Iterable[str]) -> list[str]:
    return [f".SH {title.upper()}", *(line for part in parts for line in part)]


def _paragraphs(texts: Sequence[str]) -> list[str]:
    lines = []
    for number, text in enumerate(texts):
        lines += [".PP"] if number else []
        lines.append(_folded(text))
    return lines


def _entries(pairs: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for name, meaning in pairs:
        lines += [".TP", rf"\fB{escaped(name)}\fR", _folded(meaning)]
    return lines


def _synopsis() -> list[str]:
    shells = "|".join(COMPLETION_SHELLS)
    forms = ("MODULE COMMAND [VALUE ...] [name value ...] [options]", "|".join(SHORTCUTS), "")
    lines = []
    for form in (*forms, "help [MODULE [COMMAND]]", f"completion {shells}"):
        lines += [rf"\fBbackupctl\fR {escaped(form)}".rstrip(), ".br"]
    return lines[:-1]


def _commands(module: str, rows: Sequence[Command]) -> list[str]:
    """Return a module's commands; of those that are combinations of words, the usage of each and one text."""
    lines: list[str] = []
    for command in (one for one in rows if " " not in one.name):
        lines += _command(command)
    families: dict[str, list[Command]] = {}
    for command in (one for one in rows if " " in one.name):
        families.setdefault(command.name.split()[0], []).append(command)
    if len(combinations(module, [one for family in families.values() for one in family])) == 1:
        for family in families.values():
            lines += _family(family)
        return lines
    for family in families.values():
        for command in family:
            lines += _command(command)
    return lines


def _family(family: Sequence[Command]) -> list[str]:
    """Return commands that begin with the same word: their usages, then what all of them take."""
    lines = []
    for number, command in enumerate(family):
        lines += [".TQ" if number else ".TP", _usage(command)]
    heads = dict.fromkeys(one.meaning.partition(",")[0] for one in family)
    tails = {one.meaning.partition(": ")[2] for one in family}
    tail = f": {tails.pop()}" if len(tails) == 1 and "" not in tails else ""
    lines += [_folded(" or ".join(heads) + tail)]
    named = {one.name: one for command in family for one in command.parameters}
    return [*lines, *_parameters([(name, explained(one)) for name, one in named.items()])]


def _command(command: Command) -> list[str]:
    pairs = [(one.name, explained(one)) for one in command.parameters]
    return [".TP", _usage(command), _folded(f"{command.meaning} ({command.kind})"), *_parameters(pairs)]


def _usage(command: Command) -> str:
    return rf"\fB{escaped(command.title)}\fR{escaped(command.usage.removeprefix(command.title))}"


def _parameters(pairs: Sequence[tuple[str, str]]) -> list[str]:
    if not pairs:
        return []
    lines = [".RS"]
    for name, meaning in pairs:
        lines += [".TP", rf"\fI{escaped(name)}\fR", _folded(meaning)]
    return [*lines, ".RE"]


def _examples() -> list[str]:
    lines = []
    for meaning, line in _EXAMPLES:
        lines += [".TP", escaped(meaning), escaped(line)]
    return lines


if __name__ == "__main__":
    sys.stdout.write(manual())
