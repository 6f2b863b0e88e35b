"""A command: one row of the table of everything an admin can ask for.

A command has a module and a name of one or several words, mandatory positional parameters, trailing ones
(positional too, but they may be left out), optional named ones, one line of meaning, and a kind: a `query`
reads, an `operation` is queued and gets a UUID, a `setting` acts at once. Whoever may read may ask queries;
operations and settings are for those who may change. `replies` names the answers it may give
(`backupd.control`). Rows that are not `available` are commands of the specification that are not built yet:
they are recognised, and answer so.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from backupd.parameters import Parameter


class CommandKind(StrEnum):
    """What a command does to the daemon, and thereby who may give it."""

    QUERY = "query"
    OPERATION = "operation"
    SETTING = "setting"


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. `spellings` are further names; `available` is false for what is still coming."""

    module: str
    name: str
    positional: tuple[Parameter, ...] = ()
    trailing: tuple[Parameter, ...] = ()
    optional: tuple[Parameter, ...] = ()
    meaning: str
    kind: CommandKind
    replies: tuple[str, ...] = ()
    spellings: tuple[str, ...] = ()
    available: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of this command, its own first."""
        return (self.name, *self.spellings)

    @property
    def title(self) -> str:
        """Module and name, as one types them."""
        return f"{self.module} {self.name}"

    @property
    def in_order(self) -> tuple[Parameter, ...]:
        """The parameters whose values may stand without a name, in the order of their values."""
        return self.positional + self.trailing

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters, positional ones first."""
        return self.positional + self.trailing + self.optional

    @property
    def usage(self) -> str:
        """The command with its parameters on one line; names in capitals stand for values."""
        words = [self.title]
        words += [
            parameter.choices[0] if len(parameter.choices) == 1 else parameter.name.upper()
            for parameter in self.positional
        ]
        words += [f"[{parameter.name.upper()}]" for parameter in self.trailing]
        words += [f"[{parameter.name} {parameter.type.upper()}]" for parameter in self.optional]
        return " ".join(words)
