"""Parameters: what a command takes, and how a value given as a word or as JSON becomes the value it means.

A `Parameter` is data; `checked` is the one place where values are judged, for the console (words from an
admin) and for the daemon (JSON from anyone). It accepts what it has produced before, so that checking twice
changes nothing. Names are compared squashed: case, `-` and `_` make no difference. Every refusal is a
`UsageError` of one line that names what is valid.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from uuid import UUID

import msgspec

from backupd.errors import UsageError

VALUE_CHARACTERS_MAX = 4096
LIST_ENTRIES_MAX = 10_000
SHOWN_CHARACTERS_MAX = 80
INTEGER_MAX = 2**63 - 1

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}\Z")
_E_MAIL = re.compile(r"[^@\s,;<>\"]{1,64}@[^@\s,;<>\"]{1,255}\Z")

Value = str | int | bool | list[str] | None


class Type(StrEnum):
    """What a value is. A date travels as RFC 3339 in UTC or as one of its parameter's keywords."""

    TEXT = "text"
    BOOLEAN = "boolean"
    INTEGER = "integer"
    DATE = "date"
    PATH = "path"
    ACCOUNT = "account"
    UUID = "uuid"
    CHOICE = "choice"
    LIST = "list"
    ADDRESSES = "addresses"


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a command.

    `spellings` are further names of it, `keywords` words that a date may be instead of a moment, `choices`
    what a choice or the entries of a list may be. `unless` names a parameter in whose place this one stands:
    a mandatory one need not be given where that one is. `lowest` and `highest` are the range of an integer.
    """

    name: str
    type: Type
    meaning: str
    default: Value = None
    choices: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    spellings: tuple[str, ...] = ()
    unless: str = ""
    lowest: int = 0
    highest: int = INTEGER_MAX

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of this parameter, its own first."""
        return (self.name, *self.spellings)

    @property
    def expects(self) -> str:
        """What may be given, in words."""
        if self.type is Type.CHOICE:
            return ", ".join(self.choices)
        if self.choices:
            return f"one or more of {', '.join(self.choices)}, separated by commas"
        return ", ".join((_EXPECTED[self.type], *self._range, *self.keywords))

    @property
    def is_ranged(self) -> bool:
        """Whether it is an integer of which not every one from 0 on may be given."""
        return self.type is Type.INTEGER and (self.lowest, self.highest) != (0, INTEGER_MAX)

    @property
    def _range(self) -> tuple[str, ...]:
        if self.type is not Type.INTEGER or self.lowest == -INTEGER_MAX:
            return ()
        return (f"{self.lowest:,} " + ("or more" if self.highest == INTEGER_MAX else f"to {self.highest:,}"),)


_EXPECTED = {
    Type.TEXT: "a text",
    Type.BOOLEAN: "true or false",
    Type.INTEGER: "a whole number",
    Type.DATE: '"dd/MM/yyyy HH:mm:ss", an ISO 8601 date',
    Type.PATH: "a path",
    Type.ACCOUNT: "an account's address or id",
    Type.UUID: "a UUID",
    Type.LIST: "values separated by commas",
    Type.ADDRESSES: "e-mail addresses separated by commas",
}


def squashed(word: str) -> str:
    """Return the form in which names are compared: without case, `-`, `_` and blanks."""
    return word.casefold().replace("-", "").replace("_", "").replace(" ", "")


def shortened(given: object) -> str:
    """Return what was given in quotes, on one line of bounded length."""
    shown = ascii(given) if isinstance(given, str) and not given.isprintable() else repr(given)
    return shown if len(shown) <= SHOWN_CHARACTERS_MAX else shown[:SHOWN_CHARACTERS_MAX] + "…"


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return the valid word that looks most like this one, or an empty text."""
    by_form: dict[str, str] = {}
    for name in valid:
        by_form.setdefault(squashed(name), name)
    close = difflib.get_close_matches(squashed(word[:100]), by_form, n=1, cutoff=0.55)
    return by_form[close[0]] if close else ""


def did_you_mean(word: str, valid: Iterable[str], *, what: str) -> str:
    """Return a hint that names the nearest valid word, if there is one, and lists what is valid."""
    words = list(dict.fromkeys(valid))
    if not words:
        return f"it takes no {what}"
    near = nearest(word, words)
    listed = f"valid: {', '.join(words)}"
    return f"did you mean {near}? {listed}" if near else listed


def truth_of(word: str) -> bool | None:
    """Return what a word means as a boolean, or None if it means none."""
    folded = word.casefold()
    if folded in TRUE_WORDS:
        return True
    return False if folded in FALSE_WORDS else None


def is_e_mail(word: str) -> bool:
    """Tell whether a word has the form of an e-mail address."""
    return _E_MAIL.match(word) is not None and not _CONTROL.search(word)


def checked(parameter: Parameter, given: object) -> Value:
    """Return the value that a word or a JSON value means for a parameter. Raises `UsageError`."""
    match parameter.type:
        case Type.LIST | Type.ADDRESSES:
            return _list(parameter, given)
        case Type.BOOLEAN:
            return _boolean(parameter, given)
        case Type.INTEGER:
            return _integer(parameter, given)
        case _:
            return _OF_TEXT[parameter.type](parameter, _text(parameter, given))


def _text(parameter: Parameter, given: object) -> str:
    """Return a value as text; JSON may bring a number or a boolean where a text is wanted."""
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, int) and abs(given) <= INTEGER_MAX:
        return str(given)
    if not isinstance(given, str):
        raise _refusal(parameter, given)
    if len(given) > VALUE_CHARACTERS_MAX:
        raise UsageError(f"{parameter.name} is longer than {VALUE_CHARACTERS_MAX} characters")
    if _SURROGATE.search(given):
        raise UsageError(f"the value of {parameter.name} is no valid UTF-8")
    return given


def _refusal(parameter: Parameter, given: object) -> UsageError:
    return UsageError(
        f"{shortened(given)} is no value for {parameter.name}", hint=f"valid: {parameter.expects}"
    )


def _boolean(parameter: Parameter, given: object) -> bool:
    if isinstance(given, bool):
        return given
    word = str(given) if isinstance(given, str) or given in (0, 1) else ""
    truth = truth_of(word)
    if truth is None:
        raise _refusal(parameter, given)
    return truth


def _integer(parameter: Parameter, given: object) -> int:
    number: int | None = None
    if isinstance(given, int) and not isinstance(given, bool):
        number = given
    elif isinstance(given, str) and _INTEGER.match(given):
        number = int(given)
    if number is None or not parameter.lowest <= number <= parameter.highest:
        raise _refusal(parameter, given)
    return number


def _date(parameter: Parameter, given: str) -> str:
    for word in parameter.keywords:
        if squashed(given) == squashed(word):
            return word
    from backupd.clock import parse_moment, written  # noqa: PLC0415 - brings asyncio: 45 ms only dates pay

    try:
        return written(parse_moment(given))
    except (UsageError, ValueError, OverflowError) as error:
        raise _refusal(parameter, given) from error


def _choice(parameter: Parameter, given: str) -> str:
    for word in parameter.choices:
        if squashed(given) == squashed(word):
            return word
    raise UsageError(
        f"{shortened(given)} is no value for {parameter.name}",
        hint=did_you_mean(given, parameter.choices, what="value"),
    )


def _uuid(parameter: Parameter, given: str) -> str:
    try:
        return str(UUID(given))
    except ValueError as error:
        raise _refusal(parameter, given) from error


def _name(parameter: Parameter, given: str) -> str:
    if not given.strip() or _CONTROL.search(given):
        raise _refusal(parameter, given)
    return given


def _any(_parameter: Parameter, given: str) -> str:
    return given


_OF_TEXT: dict[Type, Callable[[Parameter, str], str]] = {
    Type.TEXT: _any,
    Type.DATE: _date,
    Type.CHOICE: _choice,
    Type.UUID: _uuid,
    Type.ACCOUNT: _name,
    Type.PATH: _name,
}


def _list(parameter: Parameter, given: object) -> list[str]:
    words: list[str]
    if isinstance(given, str):
        words = [word.strip() for word in given.split(",")]
    elif isinstance(given, list | tuple) and all(isinstance(word, str) for word in given):
        words = [str(word).strip() for word in given]
    else:
        raise _refusal(parameter, given)
    words = [word for word in words if word]
    if not words or len(words) > LIST_ENTRIES_MAX or _SURROGATE.search("".join(words)):
        raise _refusal(parameter, given)
    if parameter.choices:
        words = [_choice(parameter, word) for word in words]
    wrong = [word for word in words if parameter.type is Type.ADDRESSES and not is_e_mail(word)]
    if wrong:
        raise UsageError(f"{shortened(wrong[0])} is no e-mail address", hint=f"valid: {parameter.expects}")
    return words
