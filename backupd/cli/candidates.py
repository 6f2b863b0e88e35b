"""Candidates: what the word that is being typed may become, for the interactive shell and for other shells.

`candidates` decides from the table of commands alone, reads the words as the grammar does, and never raises:
where the words before are wrong already, nothing fits. What only the world knows (accounts, files) comes
from `known`, a function that is asked for the values of a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from backupd.cli.help import COMPLETION_SHELLS, OPTIONS
from backupd.command_values import parameter_named, underway
from backupd.commands import COMMANDS, MODULE_SPELLINGS, MODULES, SHORTCUTS, Command
from backupd.errors import UsageError
from backupd.grammar import command_at, module_named, spelled_out, split_options
from backupd.parameters import Parameter, Type, squashed

Pair = tuple[str, str]
"""A word and its meaning."""
Known = Callable[[Parameter, str], Sequence[Pair]]
"""Gives the values of a parameter that the world knows and that begin as the word does."""

OWN_MEANINGS = {
    "help": "explain a module or a command",
    "completion": "print the script that makes a shell complete these words",
}
_BOOLEANS = (("true", ""), ("false", ""))
_SOCKET = Parameter("socket", Type.PATH, "the control socket to ask")
_SERVER = Parameter("server", Type.TEXT, "name or id of the server")
_OPTION_VALUES = {"socket": _SOCKET, "host": _SERVER, "hostname": _SERVER}


def nothing_known(_parameter: Parameter, _word: str) -> Sequence[Pair]:
    """Know nothing of the world."""
    return ()


def candidates(before: Sequence[str], word: str, known: Known = nothing_known) -> list[Pair]:
    """Return what `word` may become after the words `before` it, which are those of a command line."""
    if "--" in before:
        return []
    of_option = _values_of_option(before, word, known)
    if of_option is not None:
        return of_option
    with suppress(UsageError):
        options, rest, _ = split_options(before)
        helping = bool(rest) and squashed(rest[0]) == "help"
        rest = spelled_out(rest[1:] if helping else rest)
        if not rest:
            return _first_words(word, helping=helping)
        if squashed(rest[0]) == "completion":
            shells = [(shell, "") for shell in COMPLETION_SHELLS]
            return _beginning(word, shells) if len(rest) == 1 and not helping else []
        return _of_module(rest, word, known, helping=helping or options.help)
    return []


def _values_of_option(before: Sequence[str], word: str, known: Known) -> list[Pair] | None:
    """Return the values of the option that stands before the word or in it; None where there is none."""
    name, has_value, value = word.partition("=")
    if has_value and word.startswith("-") and squashed(name) in _OPTION_VALUES:
        return _values(_OPTION_VALUES[squashed(name)], value, {}, known, prefix=f"{name}=")
    last = before[-1] if before else ""
    if last.startswith("-") and squashed(last) in _OPTION_VALUES:
        return list(known(_OPTION_VALUES[squashed(last)], word))
    return None


def _of_module(rest: Sequence[str], word: str, known: Known, *, helping: bool) -> list[Pair]:
    """Return what may follow a module and perhaps a command. Raises `UsageError` for an unknown module."""
    module = module_named(rest[0])
    try:
        command, length = command_at(module, rest[1:])
    except UsageError:
        return _names_of_commands(module, rest[1:], word)
    if helping or not command.available:
        return []
    return _of_command(command, rest[1 + length :], word, known)


def _beginning(word: str, pairs: Iterable[Pair], *, prefix: str = "") -> list[Pair]:
    """Return the pairs whose word begins as `word` does, each once; case, `-` and `_` make no difference."""
    form = squashed(word)
    fitting = {prefix + one: meaning for one, meaning in pairs if squashed(one).startswith(form)}
    return list(fitting.items())


def _options(word: str) -> list[Pair]:
    return _beginning(word, [(name.split()[0], meaning) for name, meaning in OPTIONS])


def _first_words(word: str, *, helping: bool) -> list[Pair]:
    if word.startswith("-"):
        return _options(word)
    shortcuts = {command.name: command.meaning for command in COMMANDS if command.name in SHORTCUTS}
    pairs = [*MODULES.items(), *shortcuts.items(), *OWN_MEANINGS.items()]
    return _beginning(word, [pair for pair in pairs if not (helping and pair[0] == "help")])


def _names_of_commands(module: str, words: Sequence[str], word: str) -> list[Pair]:
    """Return the next words of the module's commands that begin with these words."""
    if word.startswith("-"):
        return _options(word)
    form = [squashed(one) for one in words]
    following: dict[str, list[str]] = {}
    for command in COMMANDS:
        # The older order of words is offered to who begins with it, and makes no long list longer.
        names = command.names if form or word else (command.name,)
        for parts in (name.split() for name in names if command.module == module and command.available):
            if [squashed(part) for part in parts[: len(form)]] == form and len(parts) > len(form):
                last = len(parts) == len(form) + 1
                following.setdefault(parts[len(form)], []).append(
                    command.meaning if last else parts[len(form) + 1]
                )
    if not form:
        for spelling, nested in MODULE_SPELLINGS.items():
            if spelling[0] == module:
                following.setdefault(spelling[1], [MODULES[nested]])
    return _beginning(
        word, [(name, ", ".join(dict.fromkeys(meanings))) for name, meanings in following.items()]
    )


def _of_command(command: Command, words: Sequence[str], word: str, known: Known) -> list[Pair]:
    """Return parameters and values that may follow these words after a command's name."""
    stand = underway(command, words)
    if stand is None:
        return []
    if stand.value_of is not None:
        return _values(stand.value_of, word, stand.given, known)
    dashed = word.startswith("--")
    name, has_value, value = word.partition("=")
    parameter = parameter_named(command, name.removeprefix("--")) if has_value else None
    if parameter is not None:
        return _values(parameter, value, stand.given, known, prefix=f"{name}=")
    if word.startswith("-"):
        names = [(f"--{one.name}", one.meaning) for one in command.parameters if one.name not in stand.given]
        return _beginning(word, names) + _options(word) if dashed or word == "-" else _options(word)
    found: list[Pair] = []
    if words and _is_bare_flag(command, words[-1]):
        found += _beginning(word, _BOOLEANS)
    if stand.waiting is not None:
        found += _values(stand.waiting, word, stand.given, known)
        if stand.waiting in command.positional and (not word or stand.waiting.type is Type.TEXT):
            return found
    taken = (*stand.given, stand.waiting.name if stand.waiting else "")
    by_name = command.parameters if word else command.trailing + command.optional
    if stand.waiting is not None and stand.waiting.type is Type.TEXT:
        by_name = command.in_order  # the name of an optional one would be taken for the waiting value
    return found + _beginning(word, [(one.name, one.meaning) for one in by_name if one.name not in taken])


def _is_bare_flag(command: Command, word: str) -> bool:
    """Tell whether a word is `--name` of a boolean, after which its value may stand or not."""
    parameter = parameter_named(command, word[2:]) if word.startswith("--") else None
    return parameter is not None and parameter.type is Type.BOOLEAN


def _values(
    parameter: Parameter, word: str, given: Mapping[str, object], known: Known, *, prefix: str = ""
) -> list[Pair]:
    """Return the values of a parameter that begin as the word does, each behind `prefix`."""
    if parameter.type is Type.LIST and parameter.choices:
        done, comma, word = word.rpartition(",")
        prefix += done + comma
        left = [one for one in parameter.choices if one not in done.split(",")]
        return _beginning(word, [(one, "") for one in left], prefix=prefix)
    pairs: Iterable[Pair] | None = None
    if parameter.type is Type.BOOLEAN:
        pairs = _BOOLEANS
    elif parameter.choices or parameter.keywords:
        pairs = [(one, parameter.meaning) for one in parameter.choices + parameter.keywords]
    elif parameter.name == "attribute":
        pairs = _attributes()
    elif parameter.name == "value":
        pairs = _values_of_attribute(str(given.get("attribute", "")))
    if pairs is None:
        return [(prefix + value, meaning) for value, meaning in known(parameter, word)]
    return _beginning(word, pairs, prefix=prefix)


def _attributes() -> list[Pair]:
    from backupd.attribute_table import TABLE  # noqa: PLC0415 - only who names an attribute waits for them

    return [(one.name, one.meaning) for one in TABLE]


def _values_of_attribute(name: str) -> list[Pair]:
    from backupd.attribute import Type as Kind  # noqa: PLC0415 - see above
    from backupd.attribute_table import TABLE  # noqa: PLC0415 - see above

    for one in TABLE:
        if squashed(one.name) == squashed(name):
            words = ("true", "false") if one.type is Kind.BOOLEAN else one.choices
            return [(word, f"default {_shown(one.default)}") for word in words]
    return []


def _shown(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)
