"""Commands: the one table of everything an admin can ask for, as data.

Grammar, help, documentation, completion and the control routes come from this table; a new command is a new
row. A command has a module and a name of one or several words, mandatory positional parameters, optional
named ones, one line of meaning, and a kind: a `query` reads, an `operation` is queued and gets a UUID, a
`setting` acts at once. Whoever may read may ask queries; operations and settings are for those who may
change. Rows that are not `available` are commands of the specification that are not built yet: they are
recognised, and answer so. Words are turned into requests by `backupd.grammar`, values are judged by
`backupd.parameters`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from backupd.parameters import Parameter, Type

MODULES = {
    "backup": "scan, find and bring back what is in the backup",
    "config": "read and change settings",
    "core": "operations of the whole service",
}


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
    optional: tuple[Parameter, ...] = ()
    meaning: str
    kind: CommandKind
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
    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters, positional ones first."""
        return self.positional + self.optional

    @property
    def usage(self) -> str:
        """The command with its parameters on one line; names in capitals stand for values."""
        words = [self.title]
        words += [
            parameter.choices[0] if len(parameter.choices) == 1 else parameter.name.upper()
            for parameter in self.positional
        ]
        words += [f"[{parameter.name} {parameter.type.upper()}]" for parameter in self.optional]
        return " ".join(words)


def _start(meaning: str) -> Parameter:
    return Parameter("action", Type.CHOICE, meaning, choices=("start",))


_LAST = ("last",)
_NO_EFFECT = "accepted for compatibility, without effect here: "

_ACCOUNT = Parameter("account", Type.ACCOUNT, "address or id of the account")
_SERVER = Parameter("server", Type.TEXT, "name or id of this server", spellings=("target_server",))
_COS = Parameter("cos", Type.TEXT, "name or id of the class of service")
_ATTRIBUTE = Parameter("attribute", Type.TEXT, "name of the attribute")
_VALUE = Parameter("value", Type.TEXT, "the new value")
_OPERATION = Parameter("operation_uuid", Type.UUID, "the operation, as printed when it was queued")
_BACKUP_PATH = Parameter("backup_path", Type.PATH, "another Backup Path to read instead of the daemon's own")
_ARCHIVE = Parameter("blobs_archive", Type.TEXT, _NO_EFFECT + "blobs rest on the volume of the Backup Path")
_DEEP = Parameter("deep", Type.BOOLEAN, "read every item again instead of only what changed", default=False)
_FORCE = Parameter(
    "force", Type.BOOLEAN, "believe a listing that suddenly lost most of an account", default=False
)
_NOTIFICATIONS = Parameter("notifications", Type.LIST, _NO_EFFECT + "addresses to tell about start and end")
_REMOTE = Parameter(
    "remote_metadata_upload",
    Type.BOOLEAN,
    _NO_EFFECT + "metadata is on the volume of the Backup Path already",
    default=False,
)
_VERBOSE = Parameter("verbose", Type.BOOLEAN, "also list operations that have ended", default=False)
_INHERITED = Parameter("show_inherited", Type.BOOLEAN, "also print inherited values", default=True)
_ITEM_TYPES = ("message", "contact", "contact-group", "folder", "appointment", "task", "document", "all")

_BACKUP = (
    Command(
        module="backup",
        name="status",
        meaning="tell whether everything is well, and what to do where it is not",
        kind=CommandKind.QUERY,
    ),
    Command(
        module="backup",
        name="doSmartScan",
        positional=(_start("start the scan"),),
        optional=(
            _DEEP,
            _FORCE,
            _NOTIFICATIONS,
            Parameter("read_error_threshold", Type.INTEGER, "give up after so many unreadable items"),
            _REMOTE,
            Parameter(
                "create_fake_blob",
                Type.BOOLEAN,
                _NO_EFFECT + "an item whose content is gone is recorded as lacking it",
                default=False,
            ),
        ),
        meaning="compare every account changed since the last scan with its history and record what differs",
        kind=CommandKind.OPERATION,
    ),
    Command(
        module="backup",
        name="doAccountScan",
        positional=(_ACCOUNT,),
        optional=(_DEEP, _FORCE, _NOTIFICATIONS, _REMOTE),
        meaning="scan one account; closes its gaps",
        kind=CommandKind.OPERATION,
    ),
    Command(
        module="backup",
        name="getItem",
        positional=(_ACCOUNT, Parameter("item", Type.TEXT, "id of the item", spellings=("item_id",))),
        optional=(
            _BACKUP_PATH,
            Parameter("dump_blob", Type.BOOLEAN, "write the content, unchanged and alone", default=False),
            Parameter(
                "date",
                Type.DATE,
                "the state at that moment",
                default="last",
                keywords=("last", "first", "all"),
            ),
            _ARCHIVE,
        ),
        meaning="print the states of an item, or write its content",
        kind=CommandKind.QUERY,
    ),
    Command(
        module="backup",
        name="doItemSearch",
        positional=(_ACCOUNT,),
        optional=(
            Parameter("id", Type.TEXT, "only the item with this id", spellings=("item_id",)),
            Parameter("search_string", Type.TEXT, "only items whose subject, sender or name contain it"),
            Parameter("type", Type.CHOICE, "only items of this kind", default="message", choices=_ITEM_TYPES),
            Parameter("before", Type.DATE, "only items that were there before this moment"),
            Parameter("after", Type.DATE, "only items that were there after this moment"),
            Parameter("raw_metadata", Type.BOOLEAN, "print the whole metadata of each item", default=False),
            Parameter(
                "search_filter",
                Type.CHOICE,
                "deleted items, those that are not, or all",
                default="deleted",
                choices=("deleted", "not_deleted", "all"),
            ),
            _BACKUP_PATH,
            Parameter("limit", Type.INTEGER, "list at most so many items", default=1000),
        ),
        meaning="find items of an account, deleted ones first of all",
        kind=CommandKind.QUERY,
    ),
    Command(
        module="backup",
        name="doItemRestore",
        positional=(_ACCOUNT, Parameter("item_id", Type.TEXT, "id of the item", spellings=("item",))),
        optional=(
            Parameter("date", Type.DATE, "as it was at that moment", default="last", keywords=_LAST),
            Parameter("restore_folder", Type.TEXT, "put it into this folder instead of the one it was in"),
        ),
        meaning="put an item back into the account as it was",
        kind=CommandKind.OPERATION,
    ),
    Command(
        module="backup",
        name="getBackupInfo",
        optional=(_BACKUP_PATH,),
        meaning="tell whose backup it is, since when, and what it holds",
        kind=CommandKind.QUERY,
    ),
    Command(
        module="backup",
        name="getAllOperations",
        optional=(_VERBOSE,),
        meaning="list queued and running operations",
        kind=CommandKind.QUERY,
    ),
    Command(
        module="backup",
        name="monitor",
        positional=(_OPERATION,),
        optional=(
            Parameter("operation_host", Type.TEXT, _NO_EFFECT + "operations are those of the daemon asked"),
        ),
        meaning="show how far an operation is, and how it ended",
        kind=CommandKind.QUERY,
    ),
    Command(
        module="backup",
        name="doStopOperation",
        positional=(_OPERATION,),
        meaning="stop a running operation at a safe place, or take a queued one out of the queue",
        kind=CommandKind.SETTING,
    ),
    Command(
        module="backup",
        name="doStopAllOperations",
        meaning="stop the running operation and empty the queue",
        kind=CommandKind.SETTING,
    ),
)

_CORE = (
    Command(
        module="core",
        name="getAllOperations",
        optional=(_VERBOSE,),
        meaning="list queued and running operations",
        kind=CommandKind.QUERY,
    ),
)

_LEVELS: dict[str, tuple[Parameter, ...]] = {
    "global": (),
    "server": (_SERVER,),
    "cos": (_COS,),
    "account": (_ACCOUNT,),
}
_LEVEL_WORDS = {
    "global": "for all servers",
    "server": "for this server",
    "cos": "for a class of service",
    "account": "for an account",
}


def _config_rows() -> tuple[Command, ...]:
    """Return `config get|set|unset|dump <level>` and `config info`; the older word order is a spelling."""
    rows = []
    verbs: tuple[tuple[str, tuple[Parameter, ...], tuple[Parameter, ...], str, CommandKind], ...] = (
        ("get", (_ATTRIBUTE,), (), "print an attribute", CommandKind.QUERY),
        ("set", (_ATTRIBUTE, _VALUE), (), "set an attribute", CommandKind.SETTING),
        ("unset", (_ATTRIBUTE,), (), "let an attribute inherit its value again", CommandKind.SETTING),
        ("dump", (), (_INHERITED,), "print all attributes with their values", CommandKind.QUERY),
    )
    for verb, positional, optional, meaning, kind in verbs:
        for level, subject in _LEVELS.items():
            row = Command(
                module="config",
                name=f"{verb} {level}",
                spellings=(f"{level} {verb}",),
                positional=subject + positional,
                optional=optional,
                meaning=f"{meaning}, {_LEVEL_WORDS[level]}",
                kind=kind,
            )
            rows.append(row)
    info = Command(
        module="config",
        name="info",
        positional=(_ATTRIBUTE,),
        meaning="tell what an attribute means, its type, range, default and levels",
        kind=CommandKind.QUERY,
    )
    return (*rows, info)


_COMING_NAMES = {
    "backup": (
        "check-ldap-dump, doBackupCluster, doBackupLDAP, doBackupServerCustomizations, doCheckShares, "
        "doCoherencyCheck, doExport, doExternalRestore, doFixShares, doPurge, doRestartService, "
        "doStartService, doStopService, doRestoreBlobs, doRestoreOnNewAccount, doRawRestore, doUndelete, "
        "getAccountInfo, getAvailableAccounts, getAvailableDomains, getMap, getServerConfig, getServices, "
        "legalHold, migrateBackupVolume, setBackupVolume, updateBackupVolume, retrieveMetadataFromArchive, "
        "scheduler"
    ),
    "core": (
        "listBuckets, doCreateBucket, doUpdateBucket, doDeleteBucket, testS3Connection, getOperationLog, "
        "getUnfinishedOperationLog, getAllServicesStatus, getNotification"
    ),
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

COMMANDS: tuple[Command, ...] = (*_BACKUP, *_config_rows(), *_CORE, *_COMING)
"""The table."""
