"""Help: every word of it comes from the table of commands.

The overview stays readable whatever the table grows to: commands of several words that are all combinations
of a few (`get|set global|server`) are one line.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import product

from backupd.cli.text import value_text
from backupd.commands import COMMANDS, MODULES, SHORTCUTS, Command, CommandKind
from backupd.parameters import Parameter, Type

OPTIONS = (
    ("--json", "print the answer as one line of JSON (docs/commands.md names the fields)"),
    (
        "--progress",
        "show the operation's progress until it has ended; Ctrl-C ends the output, not the operation",
    ),
    (
        "--sync",
        "wait until it has ended; exit status 0 successful, 1 failed, 2 stopped, 3 removed, 4 interrupted",
    ),
    ("--socket PATH", "the control socket to ask; else BACKUPD_SOCKET, the user's own daemon, the service"),
    ("--config FILE", "doctor only: the configuration of the daemon that is meant"),
    ("--host NAME", "refuse to talk to a daemon that backs up another server"),
    ("--help", "explain a module or a command"),
    ("--version", "print the version"),
)
COMPLETION_SHELLS = ("bash", "zsh", "fish")
"""Shells that `backupctl completion` has a script for."""
FORMS = (
    "Parameters in capitals are given without their names, those in brackets as `name value`, `name=value`,\n"
    "`--name value` or `--name=value`. Case does not matter, nor whether it is `-`, `_` or a blank.\n"
    'Dates are "dd/MM/yyyy HH:mm:ss", ISO 8601, or a word that the command names. Commas separate lists.'
)
EXIT_STATUSES = (
    "Exit status: 0 done, 64 wrong words, 66 no such account, item or operation, 69 no daemon or not\n"
    "available yet, 74 damaged content or nowhere to write, 77 not permitted, 130 ended by Ctrl-C; after\n"
    "--sync and --progress that of the operation, of doctor 0 ok, 1 warning, 2 critical, 3 unknown."
)


_TOLD = {Type.BOOLEAN, Type.INTEGER, Type.DATE, Type.CHOICE, Type.LIST}
"""Types whose values a meaning does not tell."""


_KINDS = {
    CommandKind.QUERY: "to look",
    CommandKind.OPERATION: "to work: each is queued as an operation",
    CommandKind.SETTING: "to act at once",
}
_NOTES = {
    CommandKind.QUERY: "It reads and changes nothing.",
    CommandKind.OPERATION: "It queues an operation and prints its UUID: --progress shows it until it has "
    "ended, --sync only waits.",
    CommandKind.SETTING: "It acts at once. Root and the service's user may do so.",
}
_PLACES = {"config": (1, "LEVEL"), "scheduler": (0, "JOB"), "core": (1, "STORE")}
"""Which word of a module's commands has many forms, and what stands for it in the overview."""
_FORMS_SHOWN_MAX = 3
_GROUPED_MIN = 8
"""A module with fewer commands needs no headings."""
_MEANING_CHARACTERS_MIN = 24
COMPLETION_HELP = (
    "completion: print the script that makes a shell complete the words of backupctl\n\n"
    "usage: backupctl completion bash|zsh|fish\n\n"
    '  bash    eval "$(backupctl completion bash)"      in ~/.bashrc\n'
    '  zsh     eval "$(backupctl completion zsh)"       in ~/.zshrc, after compinit\n'
    "  fish    backupctl completion fish | source       in ~/.config/fish/config.fish\n"
)


def help_text(topic: tuple[str, ...], *, width: int = 100) -> str:
    """Return the help for nothing in particular, a module, or a module and a command or its first word."""
    if not topic or topic == ("help",):
        return _overview(width)
    if topic == ("completion",):
        return COMPLETION_HELP
    rows = [command for command in COMMANDS if command.module == topic[0]]
    if len(topic) > 1:
        exact = [command for command in rows if command.name == topic[1]]
        if exact:
            return _command(exact[0], width)
        rows = [command for command in rows if command.name.split()[0] == topic[1]]
    return _rows(rows, width) + f"\nbackupctl help {topic[0]} COMMAND explains one of them.\n"


def entries(pairs: Sequence[tuple[str, str]], width: int, *, indent: int = 2) -> list[str]:
    """Return names with their meanings beside them, folded to a width; below where a name is too long."""
    column = indent + 2 + max((len(name) for name, _ in pairs), default=0)
    column = min(column, max(indent + 2, width - _MEANING_CHARACTERS_MIN), max(width // 2, indent + 2))
    lines = []
    for name, meaning in pairs:
        folded = textwrap.wrap(meaning, max(width - column, _MEANING_CHARACTERS_MIN)) or [""]
        if indent + len(name) + 1 < column:
            lines.append(f"{' ' * indent}{name}".ljust(column) + folded.pop(0))
        else:
            lines.append(" " * indent + name)
        lines += [" " * column + line for line in folded]
    return [line.rstrip() for line in lines]


def _folded(text: str, width: int) -> list[str]:
    return textwrap.wrap(text.replace("\n", " "), width)


def _overview(width: int) -> str:
    lines = [
        "usage: backupctl MODULE COMMAND [VALUE...] [name value...] [options]",
        f"       backupctl {'|'.join(SHORTCUTS)}",
        "       backupctl                on a terminal: a shell with history and completion",
        "       backupctl completion bash|zsh|fish",
        "",
    ]
    for module, meaning in MODULES.items():
        rows = [command for command in COMMANDS if command.module == module and command.available]
        lines += [f"{module}: {meaning}", *_summary(module, rows, width), ""]
    lines += ["options, anywhere on the line:", *entries(OPTIONS, width), ""]
    lines += [*_folded(FORMS, width), "", *_folded(EXIT_STATUSES, width), ""]
    return "\n".join([*lines, "backupctl help MODULE [COMMAND] explains more.", ""])


def _summary(module: str, rows: Sequence[Command], width: int) -> list[str]:
    """Return a module's commands for the overview: combinations as one line, many others in groups."""
    combined = [command for command in rows if " " in command.name]
    single = [command for command in rows if " " not in command.name]
    pairs = combinations(module, combined) if combined else []
    if len(single) < _GROUPED_MIN:
        return entries([*pairs, *((one.name, one.meaning) for one in single)], width)
    lines = entries(pairs, width)
    for kind, heading in _KINDS.items():
        pairs = [(one.name, one.meaning) for one in single if one.kind is kind]
        if pairs:
            lines += [f"  {heading}", *entries(pairs, width, indent=4)]
    return lines


def combinations(module: str, rows: Sequence[Command]) -> list[tuple[str, str]]:
    """Return names and meanings of commands of several words: one pair, where they are all combinations."""
    split = [tuple(command.name.split()) for command in rows]
    forms = [list(dict.fromkeys(words)) for words in zip(*split, strict=False)]
    if set(product(*forms)) != set(split):
        return _by_verb(rows)
    place, word = _PLACES.get(module, (-1, ""))
    shown = [word if number == place else "|".join(form) for number, form in enumerate(forms)]
    told = f"{word}: {', '.join(forms[place])}" if word else ""
    return [(" ".join(shown), told)]


def _by_verb(rows: Sequence[Command]) -> list[tuple[str, str]]:
    """Return names and meanings with one pair for all commands of a first word."""
    verbs: dict[str, list[Command]] = {}
    for command in rows:
        verbs.setdefault(command.name.partition(" ")[0], []).append(command)
    pairs = []
    for verb, same in verbs.items():
        forms = [command.name.partition(" ")[2] for command in same]
        is_short = len(forms) <= _FORMS_SHOWN_MAX
        shown = "|".join(forms) if is_short else "TYPE"
        pairs.append((f"{verb} {shown}", (same[0] if is_short else same[-1]).meaning))
    return pairs


def _rows(rows: list[Command], width: int) -> str:
    lines = entries([(one.title, one.meaning) for one in rows if one.available], width, indent=0)
    coming = [command.name for command in rows if not command.available]
    if coming:
        lines += ["", *_folded(f"not available yet: {', '.join(coming)}", width)]
    return "\n".join(lines) + "\n"


def _command(command: Command, width: int) -> str:
    lines = [*_folded(f"{command.title}: {command.meaning}", width), "", *_usage(command, width)]
    lines += [f"also:  backupctl {command.module} {spelling}" for spelling in command.spellings]
    values = [(one.name, explained(one)) for one in command.positional]
    values += [(one.name, f"{explained(one)}{_leaving_out(one)}") for one in command.trailing]
    if values:
        lines += ["", "values, in this order:", *entries(values, width)]
    if command.optional:
        named = [(one.name, explained(one)) for one in command.optional]
        lines += ["", "parameters, each by its name:", *entries(named, width)]
    if not command.available:
        return "\n".join([*lines, "", "It is not available yet.", ""])
    answers = " or ".join(command.replies)
    note = f"{_NOTES[command.kind]} With --json it answers: {answers}."
    lines += ["", *_folded(f"{note} backupctl help explains the options that every command has.", width), ""]
    return "\n".join(lines)


def _leaving_out(parameter: Parameter) -> str:
    return "" if "left out" in parameter.meaning else "; may be left out"


def _usage(command: Command, width: int) -> list[str]:
    """Return the usage, folded between its parts and never inside one."""
    usage = f"usage: backupctl {command.usage}"
    parts = [part.replace(" ", "\0") if position else part for position, part in enumerate(usage.split("["))]
    folded = textwrap.wrap(
        "[".join(parts).replace("]\0", "] "),
        width,
        subsequent_indent=" " * 7,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in folded]


def explained(parameter: Parameter) -> str:
    """Return what a parameter means, takes, and is by default."""
    default = value_text(parameter.default)
    ends = f" (default {default})" if default else ""
    expects = f"; {parameter.expects}" if parameter.type in _TOLD else ""
    return f"{parameter.meaning}{expects}{ends}"
