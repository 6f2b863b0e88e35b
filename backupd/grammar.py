"""The grammar: from the words an admin types, or the names a request carries, to a command and its values.

A command line is `<module> <command> <positional values> [name value]…` with options anywhere. A parameter
is `name value`, `name=value`, `--name value` or `--name=value`; `--flag` alone is true; names may be
written apart (`dump blob true`), in any case, with `-` or `_`. Positional parameters may be given by name
as well; the last of them may be left out where the command says so. A date may be two words
(`12/11/2026 10:00:00`). After `--` nothing is an option. Everything here is pure, and a word that does not
fit raises `UsageError` of one line that names what is valid, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from backupd.command_values import Words, no_such_parameter, parameter_named
from backupd.commands import COMMANDS, MODULE_SPELLINGS, MODULES, SHORTCUTS, Command
from backupd.errors import BackupdError, UsageError
from backupd.parameters import (
    Value,
    checked,
    did_you_mean,
    nearest,
    shortened,
    squashed,
    truth_of,
)


class NotAvailableYet(BackupdError):
    """A command of the specification that this version does not have."""

    exit_status = 69


NAME_WORDS_MAX = max(len(name.split()) for command in COMMANDS for name in command.names)
OWN_WORDS = ("help", "completion")
"""What the console answers itself; the daemon has no part in it."""


def module_named(word: str) -> str:
    """Return the module of this name. Raises `UsageError` that names the nearest module or command."""
    for module in MODULES:
        if squashed(word) == squashed(module):
            return module
    valid = (*MODULES, *SHORTCUTS, *OWN_WORDS)
    titles = {command.name: command.title for command in COMMANDS if command.available}
    title = nearest(word, valid) or titles.get(nearest(word, titles), "")
    listed = f"valid: {', '.join(valid)}"
    hint = f"did you mean {title}? {listed}" if title else listed
    raise UsageError(f"no module is called {shortened(word)}", hint=hint)


def command_at(module: str, words: Sequence[str]) -> tuple[Command, int]:
    """Return the command that begins these words and how many of them are its name.

    Raises `UsageError` that names the nearest command of the module.
    """
    rows = [command for command in COMMANDS if command.module == module]
    for length in range(min(NAME_WORDS_MAX, len(words)), 0, -1):
        form = [squashed(word) for word in words[:length]]
        for command in rows:
            if any(form == [squashed(part) for part in name.split()] for name in command.names):
                return command, length
    raise _no_such_command(module, words)


def _no_such_command(module: str, words: Sequence[str]) -> UsageError:
    """Return the error for words that are no command: it lists what may stand where they went wrong."""
    valid = [row.name for row in COMMANDS if row.module == module and row.available]
    inner = [spelling[1] for spelling in MODULE_SPELLINGS if spelling[0] == module]
    first = list(dict.fromkeys([*(name.split()[0] for name in valid), *inner]))
    if not words:
        return UsageError(f"{module} needs a command", hint=f"valid: {', '.join(first)}")
    within = [name for name in valid if squashed(name.split()[0]) == squashed(words[0])]
    if len(words) == 1 and within:
        return UsageError(f"{module} {words[0]} needs more words", hint=f"valid: {', '.join(within)}")
    named = " ".join(words[: len(within[0].split())] if within else words[:1])
    return UsageError(
        f"{module} has no command {shortened(named)}",
        hint=did_you_mean(named, within or first, what="command"),
    )


def complete(command: Command, given: Mapping[str, object]) -> dict[str, Value]:
    """Return the checked value of every parameter of a command, defaults included.

    `given` maps names, in any spelling, to words or JSON values; None means not given. Raises `UsageError`
    for an unknown name, a value that does not fit or a missing positional, and `NotAvailableYet`.
    """
    if not command.available:
        raise NotAvailableYet(f"{command.title} is not available yet", hint="a later version brings it")
    values: dict[str, Value] = {}
    for name, value in given.items():
        parameter = parameter_named(command, name)
        if parameter is None:
            raise no_such_parameter(command, name)
        if parameter.name in values:
            raise UsageError(f"{parameter.name} is given twice")
        if value is not None:
            values[parameter.name] = checked(parameter, value)
    for parameter in command.positional:
        if parameter.name not in values and not (parameter.unless and values.get(parameter.unless)):
            wanted = parameter.choices[0] if len(parameter.choices) == 1 else parameter.name.upper()
            raise UsageError(f"{command.title} needs {wanted}", hint=f"usage: {command.usage}")
    for parameter in command.parameters:
        values.setdefault(parameter.name, parameter.default)
    return values


class Options(msgspec.Struct, kw_only=True):
    """What holds for every command, `config` for doctor alone. What has a value is None where not given."""

    json: bool = False
    progress: bool = False
    sync: bool = False
    help: bool = False
    version: bool = False
    socket: str | None = None
    host: str | None = None
    config: str | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A command line understood. `command` is None where help or the version is asked for.

    `topic` is what help is asked about: nothing, a module, or a module and the words of a command.
    """

    command: Command | None
    parameters: dict[str, Value] = {}
    options: Options
    topic: tuple[str, ...] = ()


_SWITCHES = {
    "json": "json",
    "progress": "progress",
    "sync": "sync",
    "help": "help",
    "h": "help",
    "version": "version",
}
_VALUED = {"socket": "socket", "host": "host", "hostname": "host", "config": "config"}
_TAKES_CONFIG = "doctor"


def parse(words: Sequence[str]) -> Request:
    """Turn a command line, without the program's name, into a request.

    Raises `UsageError`, or `NotAvailableYet` for a command that is still coming.
    """
    options, rest, literal = split_options(words)
    if options.version:
        return Request(command=None, options=options)
    if rest and squashed(rest[0]) == "help":
        options.help = True
        rest = rest[1:]
    if not rest and not literal:
        options.help = True
    if options.help:
        return Request(command=None, options=options, topic=_topic(rest))
    rest = spelled_out(rest)
    if not rest:
        raise UsageError("no command before --", hint=f"modules: {', '.join(MODULES)}")
    module = module_named(rest[0])
    command, length = command_at(module, rest[1:])
    if not command.available:
        complete(command, {})
    if options.config is not None and command.name != _TAKES_CONFIG:
        raise UsageError(
            f"{command.title} takes no --config", hint="it asks the daemon, which has read its own"
        )
    given = Words(command, rest[1 + length :], literal).read()
    return Request(command=command, parameters=complete(command, given), options=options)


def split_options(words: Sequence[str]) -> tuple[Options, list[str], list[str]]:
    """Take the global options out of the words; what stands after `--` is returned apart."""
    options = Options()
    rest: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "--":
            return options, rest, list(words[position:])
        name, has_value, value = word.lstrip("-").partition("=")
        form = squashed(name) if word.startswith("-") else ""
        if form in _SWITCHES:
            truth = truth_of(value) if has_value else True
            if truth is None:
                raise UsageError(f"{shortened(value)} is no value for --{name}", hint="valid: true or false")
            setattr(options, _SWITCHES[form], truth)
        elif form in _VALUED:
            if not has_value:
                if position == len(words):
                    raise UsageError(f"--{name} needs a value")
                value = words[position]
                position += 1
            setattr(options, _VALUED[form], value)
        else:
            rest.append(word)
    return options, rest, []


def spelled_out(words: list[str]) -> list[str]:
    """Return a command line with its module in full: shortcuts and other names of modules are replaced."""
    for shortcut, full in SHORTCUTS.items():
        if words and squashed(words[0]) == shortcut:
            return [*full, *words[1:]]
    for spelling, module in MODULE_SPELLINGS.items():
        length = len(spelling)
        if [squashed(word) for word in words[:length]] == [squashed(word) for word in spelling]:
            return [module, *words[length:]]
    return words


def _topic(words: list[str]) -> tuple[str, ...]:
    """Return what help is asked about, in the table's spelling; words after a command's name are left out."""
    words = spelled_out(words)
    own = [word for word in OWN_WORDS if words and squashed(words[0]) == word]
    if not words or own:
        return tuple(own)
    module = module_named(words[0])
    if len(words) == 1:
        return (module,)
    within = [
        row.name
        for row in COMMANDS
        if row.module == module and squashed(row.name.split()[0]) == squashed(words[1])
    ]
    several = len(within) > 1 or (within and " " in within[0])
    if len(words) == 2 and several:  # noqa: PLR2004 - a module and the first word of commands of more words
        return (module, within[0].split()[0])
    command, _ = command_at(module, words[1:])
    return (module, command.name)
