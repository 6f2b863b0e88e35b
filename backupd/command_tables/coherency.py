"""Module `backup`, the coherency check: whether what the Backup Path holds is whole."""

from __future__ import annotations

from backupd.command import Command, CommandKind
from backupd.command_tables.shared import NO_EFFECT, NOTIFICATIONS
from backupd.parameters import Parameter, Type

ROWS = (
    Command(
        module="backup",
        name="doCoherencyCheck",
        positional=(Parameter("backup_path", Type.PATH, "the Backup Path to check"),),
        optional=(
            Parameter(
                "accountIds",
                Type.LIST,
                "only these accounts, by id or address, with all contents they need",
                spellings=("accounts",),
            ),
            Parameter(
                "checkZimbra",
                Type.BOOLEAN,
                "also compare what is live in the backup with what the AppServer holds",
                default=False,
            ),
            Parameter(
                "fixBackup",
                Type.BOOLEAN,
                "mend what can be mended: damaged files are moved into damaged/, nothing is deleted",
                default=False,
            ),
            NOTIFICATIONS,
            Parameter(
                "fixDoubleGzip",
                Type.CHOICE,
                NO_EFFECT + "contents are never compressed twice",
                choices=("skip", "check", "fix"),
            ),
            Parameter(
                "sample", Type.TEXT, "only such a share of the whole, as 5%, behind the last run's end"
            ),
            Parameter("max_minutes", Type.INTEGER, "go on for so long, behind the last run's end"),
        ),
        meaning="read every history and every content and say what is damaged, missing or out of place",
        kind=CommandKind.OPERATION,
        replies=("operation", "coherency"),
    ),
    Command(
        module="backup",
        name="getCoherencyFindings",
        meaning="list what coherency checks found and nothing has mended since, with the cure",
        kind=CommandKind.QUERY,
        replies=("coherency",),
    ),
)
"""The rows."""
