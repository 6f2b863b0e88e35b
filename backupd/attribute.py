"""An attribute: one row of the table of settings, its levels and types."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

Value = bool | int | str | dict[str, Any] | list[Any]


INTEGER_MAX = 2**53


class Level(StrEnum):
    """Where a setting may be stored, from general to specific; no attribute is set for a domain so far."""

    GLOBAL = "global"
    SERVER = "server"
    DOMAIN = "domain"
    COS = "cos"
    ACCOUNT = "account"


class Type(StrEnum):
    """What a value is. A schedule is an object with `cron-enabled` and `cron-pattern`."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    TEXT = "text"
    PATH = "path"
    SCHEDULE = "schedule"
    OBJECT = "object"
    LIST = "list"
    CHOICE = "choice"


class Attribute(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. `no_effect` is empty where the attribute does what it means."""

    name: str
    type: Type
    default: Value
    meaning: str
    levels: tuple[Level, ...] = (Level.GLOBAL, Level.SERVER)
    minimum: int = 0
    maximum: int = INTEGER_MAX
    unit: str = ""
    choices: tuple[str, ...] = ()
    no_effect: str = ""

    @property
    def module(self) -> str:
        """The vendor's module that an attribute belongs to."""
        return "ZxCore" if self.name in {"ZxCore_LogLevel", "s3BucketConfigurations"} else "ZxBackup"

    @property
    def range(self) -> str:
        """What may be given, in words."""
        if self.type is Type.CHOICE:
            return ", ".join(self.choices)
        if self.type is not Type.INTEGER:
            return _RANGES[self.type]
        unit = f" {self.unit}" if self.unit else ""
        if self.maximum == INTEGER_MAX:
            return f"a whole number{unit and ' of' + unit}, {self.minimum} or more"
        return f"{self.minimum} to {self.maximum}{unit}"


_RANGES = {
    Type.BOOLEAN: "true or false",
    Type.TEXT: "a text",
    Type.PATH: "an absolute path",
    Type.SCHEDULE: '{"cron-enabled": true, "cron-pattern": "MINUTE HOUR DAY MONTH WEEKDAY"}',
    Type.OBJECT: "a JSON object",
    Type.LIST: "a JSON array",
}
