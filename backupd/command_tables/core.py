"""Module `core`: operations, notifications and services of the whole daemon."""

from __future__ import annotations

from backupd.command import Command, CommandKind
from backupd.command_tables.shared import VERBOSE
from backupd.parameters import Parameter, Type

_ONE_OR_ALL = Parameter("operation_uuid", Type.UUID, "only of this operation; left out: of all that are kept")

ROWS = (
    Command(
        module="core",
        name="getAllOperations",
        optional=(VERBOSE,),
        meaning="list queued and running operations",
        kind=CommandKind.QUERY,
        replies=("operations",),
    ),
    Command(
        module="core",
        name="getOperationLog",
        trailing=(_ONE_OR_ALL,),
        meaning="print what the daemon logged while it worked on operations",
        kind=CommandKind.QUERY,
        replies=("operation-log",),
    ),
    Command(
        module="core",
        name="getUnfinishedOperationLog",
        meaning="print what the daemon logged so far for operations that have not ended",
        kind=CommandKind.QUERY,
        replies=("operation-log",),
    ),
    Command(
        module="core",
        name="getAllServicesStatus",
        meaning="list the parts of the daemon that can be started and stopped",
        kind=CommandKind.QUERY,
        replies=("services",),
    ),
    Command(
        module="core",
        name="getNotification",
        trailing=(Parameter("id", Type.INTEGER, "the one to print with its text; left out: list them"),),
        optional=(Parameter("limit", Type.INTEGER, "list at most so many", default=50, lowest=1),),
        meaning="list what admins were told, or print one notification",
        kind=CommandKind.QUERY,
        replies=("notifications",),
    ),
)
"""The rows."""
