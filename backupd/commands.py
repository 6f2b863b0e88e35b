"""Commands: the one table of everything an admin can ask for, as data.

Grammar, help, documentation, completion, the manual page and the control routes come from this table; a new
command is a new row in `backupd.command_tables`. Words are turned into requests by `backupd.grammar`, values
are judged by `backupd.parameters`.
"""

from __future__ import annotations

from backupd.command import Command, CommandKind
from backupd.command_tables import (
    buckets,
    coherency,
    core,
    looking,
    protection,
    restores,
    scans,
    settings,
    volumes,
)

MODULES = {
    "backup": "scan, find and bring back what is in the backup",
    "config": "read and change settings",
    "core": "operations and services of the whole daemon",
    "scheduler": "when jobs run by themselves",
}
MODULE_SPELLINGS = {("backup", "scheduler"): "scheduler"}
"""Words that name a module as well: the specification puts the scheduler below `backup`."""
SHORTCUTS = {"status": ("backup", "status"), "doctor": ("backup", "doctor")}
"""Commands that need no module."""

_COMING_NAMES = {
    "backup": "check-ldap-dump, doCheckShares, doFixShares, doRawRestore",
}

_COMING = tuple(
    Command(
        module=module,
        name=name,
        meaning="a command of the specification that is not available yet",
        kind=CommandKind.SETTING,
        available=False,
    )
    for module, names in _COMING_NAMES.items()
    for name in names.split(", ")
)

COMMANDS: tuple[Command, ...] = (
    *looking.ROWS,
    *scans.ROWS,
    *restores.ROWS,
    *protection.ROWS,
    *coherency.ROWS,
    *settings.ROWS,
    *volumes.ROWS,
    *core.ROWS,
    *buckets.ROWS,
    *_COMING,
)
"""The table."""

__all__ = ["COMMANDS", "MODULES", "MODULE_SPELLINGS", "SHORTCUTS", "Command", "CommandKind"]
