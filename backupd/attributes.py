"""Attributes: the one table of named settings, their values as text, and how they are inherited.

A setting may be stored at several levels; the most specific one holds: default, then global, server, COS
and account. `resolve` is that rule, and pure. `Settings` keeps what is stored in memory and writes changes
through to its `AttributeStorage`, so that asking costs nothing and a change counts at once. Names are found
without regard to case; an unknown name, a level that an attribute does not have and a value that does not
fit are `UsageError`s that name what is valid. docs/attributes.md is this table for readers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import msgspec
from cronsim import CronSim, CronSimError

from backupd import buckets, volume_choice
from backupd.attribute import Attribute, Level, Type, Value
from backupd.attribute_table import TABLE
from backupd.clock import moment
from backupd.decoding import converted
from backupd.errors import UsageError
from backupd.parameters import FALSE_WORDS, TRUE_WORDS, did_you_mean, squashed, truth_of

TEXT_CHARACTERS_MAX = 4_096
JSON_CHARACTERS_MAX = 65_536
CRON_FIELDS = 5

_BY_NAME = {squashed(attribute.name): attribute for attribute in TABLE}
_SPECIFIC_FIRST = (Level.ACCOUNT, Level.COS, Level.DOMAIN, Level.SERVER, Level.GLOBAL)


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The value of a scheduler attribute: `{"cron-enabled": true, "cron-pattern": "0 4 * * *"}`."""

    cron_enabled: bool = True
    cron_pattern: str = ""


class Scopes(msgspec.Struct, frozen=True, kw_only=True):
    """Of whom a value is asked: ids of the server, domain, COS and account; empty where none is meant."""

    server: str = ""
    domain: str = ""
    cos: str = ""
    account: str = ""

    def at(self, level: Level) -> str | None:
        """Return the id at a level (global has the empty one), None where none is meant."""
        match level:
            case Level.GLOBAL:
                return ""
            case Level.SERVER:
                return self.server or None
            case Level.DOMAIN:
                return self.domain or None
            case Level.COS:
                return self.cos or None
            case Level.ACCOUNT:
                return self.account or None

    @property
    def level(self) -> Level:
        """The most specific level meant."""
        return next(level for level in _SPECIFIC_FIRST if self.at(level) is not None)


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A value in force. `level` is where it was set, None where it is the default."""

    attribute: Attribute
    value: Value
    is_inherited: bool
    level: Level | None


class Stored(Protocol):
    """One stored setting; `scope` is the id of the server, COS or account, empty at the global level."""

    @property
    def level(self) -> str:
        """The level's name."""
        ...

    @property
    def scope(self) -> str:
        """Whose setting it is."""
        ...

    @property
    def name(self) -> str:
        """The attribute."""
        ...

    @property
    def value(self) -> Any:
        """The value, as JSON has it."""
        ...


class AttributeStorage(Protocol):
    """Where settings are kept (the ledger); each method is durable on return and blocks."""

    def attributes(self) -> Iterable[Stored]:
        """Return every stored setting."""
        ...

    def set_attribute(self, level: str, scope: str, name: str, value: Any) -> None:
        """Store a setting in place of an older one."""
        ...

    def unset_attribute(self, level: str, scope: str, name: str) -> object:
        """Remove a setting; nothing happens where there is none."""
        ...


Place = tuple[Level, str, str]
"""Level, scope and the attribute's own name: where a setting is stored."""


def attribute_named(word: str) -> Attribute:
    """Return the attribute of this name. Raises `UsageError` that names the nearest."""
    found = _BY_NAME.get(squashed(word))
    if found is None:
        names = [attribute.name for attribute in TABLE]
        raise UsageError(
            f"no attribute is called {word[:80]!r}", hint=did_you_mean(word, names, what="attribute")
        )
    return found


def resolve(attribute: Attribute, scopes: Scopes, stored: Mapping[Place, Value]) -> Resolved:
    """Return the value in force for `scopes`: the most specific stored one, else the default.

    Inherited is what was not set at the most specific level meant.
    """
    for level in _SPECIFIC_FIRST:
        scope = scopes.at(level)
        place = (level, scope or "", attribute.name)
        if scope is not None and level in attribute.levels and place in stored:
            inherited = level is not scopes.level
            return Resolved(attribute=attribute, value=stored[place], is_inherited=inherited, level=level)
    return Resolved(attribute=attribute, value=attribute.default, is_inherited=True, level=None)


def checked(attribute: Attribute, given: object) -> Value:
    """Return the value that a text or a JSON value means for an attribute. Raises `UsageError`.

    What it has returned it accepts again and returns unchanged.
    """
    match attribute.type:
        case Type.BOOLEAN:
            return _boolean(attribute, given)
        case Type.INTEGER:
            return _integer(attribute, given)
        case Type.TEXT | Type.PATH:
            return _text(attribute, given)
        case Type.CHOICE:
            return _choice(attribute, given)
        case Type.SCHEDULE:
            return _schedule(attribute, given)
        case Type.OBJECT | Type.LIST:
            return _json(attribute, given, dict if attribute.type is Type.OBJECT else list)


def shown(value: Value) -> str:
    """Return a value as a console prints it and `checked` reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else msgspec.json.encode(value).decode()


class Settings:
    """What is stored, in memory, written through. Reading is free; `set` and `unset` block.

    `given` holds values known from elsewhere (the configuration file), over which stored ones win; they are
    shown as set at their place. `elsewhere` keeps attributes that can't lie in the storage itself (the Backup
    Path): it is called with the new value, or None to forget it, in place of the storage. A stored value
    that no longer fits its attribute (another version wrote it) is left out and named in `refused`; it stays
    in the storage.
    """

    def __init__(
        self,
        storage: AttributeStorage,
        *,
        given: Mapping[Place, Value] | None = None,
        elsewhere: Mapping[str, Callable[[Value | None], None]] | None = None,
    ) -> None:
        self._storage = storage
        self._given = dict(given or {})
        self._elsewhere = dict(elsewhere or {})
        self._stored: dict[Place, Value] = dict(self._given)
        self._listeners: list[Callable[[Attribute], None]] = []
        self._guards: dict[str, Callable[[Value], None]] = {}
        self.refused: list[str] = []
        for row in storage.attributes():
            self._take(row)

    def get(self, name: str, scopes: Scopes = Scopes()) -> Resolved:  # noqa: B008 - frozen, made once
        """Return an attribute's value in force. Raises `UsageError` for an unknown name."""
        return resolve(attribute_named(name), scopes, self._stored)

    def dump(self, scopes: Scopes, *, show_inherited: bool = True) -> list[Resolved]:
        """Return every attribute that has the level meant, in the table's order; for a domain all of them."""
        level = scopes.level
        found = [
            resolve(row, scopes, self._stored)
            for row in TABLE
            if level in row.levels or level is Level.DOMAIN
        ]
        return [row for row in found if show_inherited or not row.is_inherited]

    def stored(self, name: str) -> dict[tuple[Level, str], Value]:
        """Return what is set of an attribute, by level and scope. Raises `UsageError` for an unknown name."""
        own = attribute_named(name).name
        return {
            (level, scope): value for (level, scope, other), value in self._stored.items() if other == own
        }

    def set(self, name: str, scopes: Scopes, given: object) -> Resolved:
        """Check and store a value at the most specific level meant; return it. Raises `UsageError`."""
        attribute = attribute_named(name)
        place = _place(attribute, scopes)
        value = checked(attribute, given)
        if attribute.name in self._guards:
            self._guards[attribute.name](value)
        keep = self._elsewhere.get(attribute.name)
        if keep is None:
            self._storage.set_attribute(place[0].value, place[1], place[2], value)
        else:
            keep(value)
        self._stored = {**self._stored, place: value}
        self._tell(attribute)
        return resolve(attribute, scopes, self._stored)

    def unset(self, name: str, scopes: Scopes) -> Resolved:
        """Let an attribute inherit again at the most specific level meant; return what holds now."""
        attribute = attribute_named(name)
        place = _place(attribute, scopes)
        keep = self._elsewhere.get(attribute.name)
        if keep is None:
            self._storage.unset_attribute(place[0].value, place[1], place[2])
        else:
            keep(None)
        rest = {other: value for other, value in self._stored.items() if other != place}
        self._stored = rest | {other: value for other, value in self._given.items() if other == place}
        self._tell(attribute)
        return resolve(attribute, scopes, self._stored)

    def guard(self, name: str, check: Callable[[Value], None]) -> None:
        """Let `check` refuse values of an attribute by raising; it is called before anything is stored."""
        self._guards[attribute_named(name).name] = check

    def on_change(self, listener: Callable[[Attribute], None]) -> None:
        """Call `listener` after every change, in the thread that made it."""
        self._listeners.append(listener)

    def _tell(self, attribute: Attribute) -> None:
        for listener in self._listeners:
            listener(attribute)

    def _take(self, row: Stored) -> None:
        try:
            attribute = attribute_named(row.name)
            self._stored[Level(row.level), row.scope, attribute.name] = checked(attribute, row.value)
        except (UsageError, ValueError) as error:
            self.refused.append(f"{row.level} {row.scope} {row.name}: {error}")


def _place(attribute: Attribute, scopes: Scopes) -> Place:
    level = scopes.level
    if level not in attribute.levels:
        valid = ", ".join(attribute.levels)
        raise UsageError(f"{attribute.name} can't be set at the level {level.value}", hint=f"valid: {valid}")
    return level, scopes.at(level) or "", attribute.name


def _refusal(attribute: Attribute, given: object, reason: str = "") -> UsageError:
    text = repr(given) if attribute.name != buckets.ATTRIBUTE else "what was given"
    found = text if len(text) <= 80 else text[:79] + "…"  # noqa: PLR2004 - one line
    because = f": {reason}" if reason else ""
    return UsageError(f"{found} is no value for {attribute.name}{because}", hint=f"valid: {attribute.range}")


def _boolean(attribute: Attribute, given: object) -> bool:
    truth = given if isinstance(given, bool) else truth_of(given.strip()) if isinstance(given, str) else None
    if truth is None:
        raise _refusal(attribute, given, f"write one of {', '.join((*TRUE_WORDS, *FALSE_WORDS))}")
    return truth


def _integer(attribute: Attribute, given: object) -> int:
    number: int | None = None
    if isinstance(given, int) and not isinstance(given, bool):
        number = given
    elif isinstance(given, str) and given.strip().isascii() and given.strip().isdigit() and len(given) < 20:  # noqa: PLR2004 - digits of 2^63
        number = int(given)
    if number is None or not attribute.minimum <= number <= attribute.maximum:
        raise _refusal(attribute, given)
    return number


def _text(attribute: Attribute, given: object) -> str:
    if not isinstance(given, str) or len(given) > TEXT_CHARACTERS_MAX or not given.isprintable():
        raise _refusal(attribute, given)
    if attribute.type is Type.PATH and not given.startswith("/"):
        raise _refusal(attribute, given, "it must begin with /")
    return given


def _choice(attribute: Attribute, given: object) -> str:
    for choice in attribute.choices:
        if isinstance(given, str) and squashed(given) == squashed(choice):
            return choice
    raise _refusal(attribute, given)


def _parsed(attribute: Attribute, given: object) -> object:
    if not isinstance(given, str):
        return given
    if len(given) > JSON_CHARACTERS_MAX:
        raise _refusal(attribute, given, f"longer than {JSON_CHARACTERS_MAX} characters")
    try:
        return msgspec.json.decode(given)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise _refusal(attribute, given, f"no JSON: {error}") from error


def _json(attribute: Attribute, given: object, wanted: type) -> Value:
    value = _parsed(attribute, given)
    if not isinstance(value, wanted):
        raise _refusal(attribute, given)
    canonical = _CANONICAL.get(attribute.name)
    if canonical is None:
        return cast("Value", value)
    try:
        return canonical(value)
    except UsageError as error:
        raise UsageError(f"{attribute.name}: {error.message}", hint=error.hint) from error


_CANONICAL: dict[str, Callable[[object], Value]] = {
    buckets.ATTRIBUTE: lambda value: cast("Value", buckets.encode(buckets.parse(value))),
    volume_choice.ATTRIBUTE: lambda value: volume_choice.encode(volume_choice.parse(value)),
}
"""Attributes whose JSON is a form of its own: what is checked is also written the one way."""


def unrevealing(attribute: Attribute, value: Value) -> Value:
    """Return a value as it may be shown and dumped: without secrets."""
    return cast("Value", buckets.masked(value)) if attribute.name == buckets.ATTRIBUTE else value


def _schedule(attribute: Attribute, given: object) -> Value:
    try:
        schedule = converted(_parsed(attribute, given), Schedule)
    except msgspec.ValidationError as error:
        raise _refusal(attribute, given, str(error)) from error
    if schedule.cron_enabled or schedule.cron_pattern:
        refused = why_no_pattern(schedule.cron_pattern)
        if refused:
            raise _refusal(attribute, given, refused)
    return cast("Value", msgspec.to_builtins(schedule))


def schedule_of(value: Value) -> Schedule:
    """Return a scheduler attribute's value as a `Schedule`."""
    return converted(value, Schedule)


def why_no_pattern(pattern: str) -> str:
    """Return why a text is no cron pattern of five fields, or an empty text where it is one."""
    fields: Sequence[str] = pattern.split()
    if len(fields) != CRON_FIELDS:
        return f"a cron pattern has {CRON_FIELDS} fields (minute hour day month weekday), not {len(fields)}"
    try:
        next(CronSim(pattern, moment(0)))
    except CronSimError as error:
        return f"{error} in the cron pattern"
    except StopIteration:
        return "no day fits the cron pattern"
    return ""
