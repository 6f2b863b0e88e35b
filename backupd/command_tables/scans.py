"""Module `backup`, first part: scans and other work that is queued, and the queue itself."""

from __future__ import annotations

from backupd.command import Command, CommandKind
from backupd.command_tables.shared import (
    ACCOUNT,
    DEEP,
    FORCE,
    NO_EFFECT,
    NOTIFICATIONS,
    OPERATION,
    REMOTE,
    VERBOSE,
    start,
)
from backupd.parameters import Parameter, Type

_SERVICE = Parameter("service_name", Type.TEXT, "the service, as getServices names it")

ROWS = (
    Command(
        module="backup",
        name="doSmartScan",
        positional=(start("start the scan"),),
        optional=(
            DEEP,
            FORCE,
            NOTIFICATIONS,
            Parameter("read_error_threshold", Type.INTEGER, "give up after so many unreadable items"),
            REMOTE,
            Parameter(
                "create_fake_blob",
                Type.BOOLEAN,
                NO_EFFECT + "an item whose content is gone is recorded as lacking it",
                default=False,
            ),
        ),
        meaning="compare every account changed since the last scan with its history and record what differs",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doAccountScan",
        positional=(ACCOUNT,),
        optional=(DEEP, FORCE, NOTIFICATIONS, REMOTE),
        meaning="scan one account; closes its gaps",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doPurge",
        optional=(
            Parameter(
                "purge_days", Type.INTEGER, "these days instead of every retention in force, 1 or more"
            ),
            Parameter("backup_path", Type.PATH, "another server's Backup Path instead of the daemon's own"),
            Parameter("dry_run", Type.BOOLEAN, "say what would go and why the rest stays", default=False),
            Parameter(
                "force",
                Type.BOOLEAN,
                "go on though an unusual share would go, or the clock is in doubt",
                default=False,
            ),
            Parameter("verbose", Type.BOOLEAN, "log account by account what goes and stays", default=False),
        ),
        meaning="remove what was deleted longer ago than retention, and contents that nothing refers to",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doBackupServerCustomizations",
        positional=(start("start the backup"),),
        optional=(REMOTE,),
        meaning="archive the server's own files that customizations.paths in backupd.toml names",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doBackupCluster",
        positional=(start("start the backup"),),
        optional=(REMOTE,),
        meaning="record domains, COS and mailing lists, and dump the whole configuration anew",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doBackupLDAP",
        positional=(start("start the backup"),),
        optional=(REMOTE,),
        meaning="dump the AppServer's directory now (accounts, domains, COS, lists), with the configuration",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="getAllOperations",
        optional=(VERBOSE,),
        meaning="list queued and running operations",
        kind=CommandKind.QUERY,
        replies=("operations",),
    ),
    Command(
        module="backup",
        name="monitor",
        positional=(OPERATION,),
        optional=(
            Parameter("operation_host", Type.TEXT, NO_EFFECT + "operations are those of the daemon asked"),
        ),
        meaning="show how far an operation is, and how it ended",
        kind=CommandKind.QUERY,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doStopOperation",
        positional=(OPERATION,),
        meaning="stop a running operation at a safe place, or take a queued one out of the queue",
        kind=CommandKind.SETTING,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doStopAllOperations",
        meaning="stop the running operation and empty the queue",
        kind=CommandKind.SETTING,
        replies=("operations",),
    ),
    Command(
        module="backup",
        name="getServices",
        meaning="list the parts of the daemon that can be started and stopped",
        kind=CommandKind.QUERY,
        replies=("services",),
    ),
    Command(
        module="backup",
        name="doStartService",
        positional=(_SERVICE,),
        meaning="start a part of the daemon",
        kind=CommandKind.SETTING,
        replies=("services",),
    ),
    Command(
        module="backup",
        name="doStopService",
        positional=(_SERVICE,),
        meaning="stop a part of the daemon until it is started again, or the daemon is",
        kind=CommandKind.SETTING,
        replies=("services",),
    ),
    Command(
        module="backup",
        name="doRestartService",
        positional=(_SERVICE,),
        meaning="stop a part of the daemon and start it again",
        kind=CommandKind.SETTING,
        replies=("services",),
    ),
)
"""The rows."""
