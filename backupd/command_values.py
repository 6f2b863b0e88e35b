"""The words after a command's name, read from the left into values by parameter name.

Part of `backupd.grammar`, which says what forms there are; also asked what a line that is still being typed
waits for. Pure; a word that does not fit raises `UsageError`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from backupd.command import Command
from backupd.errors import UsageError
from backupd.parameters import Parameter, Type, did_you_mean, shortened, squashed, truth_of

_DAY = re.compile(r"\d{1,4}[/-]\d{1,2}[/-]\d{1,4}\Z")
_TIME = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d{1,6})?)?\Z")
_NAME_PARTS_MAX = 4


def parameter_named(command: Command, word: str) -> Parameter | None:
    """Return the parameter of this name or spelling, or None."""
    form = squashed(word)
    for parameter in command.parameters:
        if any(form == squashed(name) for name in parameter.names):
            return parameter
    return None


def no_such_parameter(command: Command, word: str) -> UsageError:
    """Return the error for a word that is no parameter of a command."""
    valid = [parameter.name for parameter in (command.trailing + command.optional) or command.positional]
    takes_secret = parameter_named(command, "secret") is not None
    said = "such as the word given" if takes_secret else shortened(word)  # it may be the secret, misplaced
    return UsageError(
        f"{command.title} has no parameter {said}",
        hint=did_you_mean(word, valid, what="parameter"),
    )


class Underway(msgspec.Struct, frozen=True, kw_only=True):
    """What the next word of a line that is still being typed may be.

    `value_of` is the parameter whose name stands right before: the word can only be its value. Without one
    it may be the value of `waiting`, the first of those in order that has none, or the name of a parameter
    that is not among `given`, the words by name of parameter.
    """

    given: Mapping[str, object]
    value_of: Parameter | None = None
    waiting: Parameter | None = None


_UNTYPED = "\0untyped"
"""Stands for every word that is not typed yet; no value can be it."""


def underway(command: Command, words: Sequence[str]) -> Underway | None:
    """Return how far the words after a command's name have come; None where they are wrong already."""
    reader = Words(command, [*words, *[_UNTYPED] * (len(command.parameters) + 1)], ())
    return reader.read_until(len(words))


class Words:
    """The words after a command's name, read from the left into values by parameter name."""

    def __init__(self, command: Command, words: Sequence[str], literal: Sequence[str]) -> None:
        self._command = command
        self._words = list(words)
        self._literal = list(literal)
        self._next = 0
        self._given: dict[str, object] = {}
        self._replaced = {one.name for one in command.positional if one.unless and self._names(one.unless)}

    def read(self) -> dict[str, object]:
        """Return the values as they were written. Raises `UsageError`."""
        while self._next < len(self._words):
            if not self._read_named() and not self._read_positional():
                raise no_such_parameter(self._command, self._words[self._next])
        for word in self._literal:
            waiting = self._waiting()
            if waiting is None:
                raise UsageError(
                    f"{shortened(word)} is one value too many", hint=f"usage: {self._command.usage}"
                )
            self._give(waiting, word)
        return self._given

    def read_until(self, end: int) -> Underway | None:
        """Read as far as the word at `end`, and tell what that word may be."""
        try:
            while self._next < end:
                if not self._read_named() and not self._read_positional():
                    return None
        except UsageError:
            return None
        value_of = next((name for name, value in self._given.items() if value == _UNTYPED), None)
        return Underway(
            given=self._given,
            value_of=parameter_named(self._command, value_of) if value_of else None,
            waiting=self._waiting(),
        )

    def _names(self, name: str) -> bool:
        """Tell whether a parameter is given by name anywhere in the line."""
        form = squashed(name)
        return any(squashed(word.partition("=")[0]) == form for word in self._words)

    def _waiting(self) -> Parameter | None:
        taken = self._given.keys() | self._replaced
        return next((one for one in self._command.in_order if one.name not in taken), None)

    def _give(self, parameter: Parameter, value: object) -> None:
        if parameter.name in self._given:
            raise UsageError(f"{parameter.name} is given twice")
        self._given[parameter.name] = value

    def _read_named(self) -> bool:
        """Read a parameter that is given by name, if the next words are one."""
        word = self._words[self._next]
        dashed = word.startswith("--")
        name, has_value, value = word.removeprefix("--").partition("=")
        if has_value:
            parameter = parameter_named(self._command, name)
            if parameter is None:
                if dashed:
                    raise no_such_parameter(self._command, name)
                return False
            self._next += 1
            self._give(parameter, self._with_time(parameter, value))
            return True
        for parts in range(min(_NAME_PARTS_MAX, len(self._words) - self._next), 0, -1):
            joined = "_".join([name, *self._words[self._next + 1 : self._next + parts]])
            parameter = parameter_named(self._command, joined)
            if parameter is not None and (dashed or self._is_name(parameter, parts)):
                self._next += parts
                self._give(parameter, self._value(parameter, dashed=dashed))
                return True
        if dashed:
            raise no_such_parameter(self._command, name)
        return False

    def _is_name(self, parameter: Parameter, parts: int) -> bool:
        """Tell whether words that spell a parameter's name are meant as such, not as a positional's value."""
        waiting = self._waiting()
        if waiting is None:
            return True
        left = len(self._words) - self._next
        if parameter in self._command.positional:
            # As many words as values are missing: then each of them is a value, whatever it looks like.
            taken = self._given.keys() | self._replaced
            missing = sum(one.name not in taken for one in self._command.positional)
            return left > missing and parameter.name not in self._given
        if parameter in self._command.trailing:
            return left > parts
        return left > parts and waiting.type is not Type.TEXT

    def _value(self, parameter: Parameter, *, dashed: bool) -> object:
        """Read the value after a name; a dashed boolean may stand without."""
        following = self._words[self._next] if self._next < len(self._words) else None
        if dashed and parameter.type is Type.BOOLEAN and (following is None or truth_of(following) is None):
            return True
        if following is None:
            raise UsageError(f"{parameter.name} needs a value", hint=f"valid: {parameter.expects}")
        self._next += 1
        return self._with_time(parameter, following)

    def _with_time(self, parameter: Parameter, value: str) -> str:
        """Return a date's value with the following word where it is the other half of it."""
        if parameter.type is not Type.DATE or self._next >= len(self._words):
            return value
        following = self._words[self._next]
        both = f"{value} {following}"
        is_moment = _DAY.match(value) and _TIME.match(following)
        if is_moment or any(squashed(both) == squashed(word) for word in parameter.keywords):
            self._next += 1
            return both
        return value

    def _read_positional(self) -> bool:
        """Read the next word as the value of the first positional that has none."""
        waiting = self._waiting()
        if waiting is None:
            return False
        word = self._words[self._next]
        self._next += 1
        self._give(waiting, self._with_time(waiting, word))
        return True
