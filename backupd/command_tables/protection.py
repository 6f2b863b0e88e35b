"""Module `backup`, part of keeping: legal holds, and retention that was suspended after a mass deletion."""

from __future__ import annotations

from backupd.command import Command, CommandKind
from backupd.parameters import Parameter, Type

_ACCOUNTS = Parameter("accounts", Type.LIST, "addresses or ids of accounts, deleted ones too, or all")
_ANY = Parameter("accounts", Type.LIST, "only these; left out: all")

ROWS = (
    Command(
        module="backup",
        name="legalHold get",
        trailing=(_ANY,),
        meaning="tell which accounts are under legal hold, since when and by whom",
        kind=CommandKind.QUERY,
        replies=("holds",),
    ),
    Command(
        module="backup",
        name="legalHold set",
        positional=(_ACCOUNTS,),
        meaning="keep everything of accounts for ever, whatever retention says; all: later accounts too",
        kind=CommandKind.SETTING,
        replies=("holds",),
    ),
    Command(
        module="backup",
        name="legalHold unset",
        positional=(_ACCOUNTS,),
        meaning="let retention act on accounts again",
        kind=CommandKind.SETTING,
        replies=("holds",),
    ),
    Command(
        module="backup",
        name="getSuspendedRetention",
        optional=(Parameter("lifted", Type.BOOLEAN, "also those that were lifted", default=False),),
        meaning="list accounts that lost an unusual share of their items, so that nothing of them is purged",
        kind=CommandKind.QUERY,
        replies=("suspensions",),
    ),
    Command(
        module="backup",
        name="doResumeRetention",
        positional=(_ACCOUNTS,),
        meaning="let retention act again on accounts that lost an unusual share of their items",
        kind=CommandKind.SETTING,
        replies=("suspensions",),
    ),
)
"""The rows."""
