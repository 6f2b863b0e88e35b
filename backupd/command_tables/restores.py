"""Module `backup`, third part: every way back, and looking at the past before choosing one."""

from __future__ import annotations

from backupd.command import Command, CommandKind
from backupd.command_tables.shared import ACCOUNT, ARCHIVE, LAST, NO_EFFECT, NOTIFICATIONS
from backupd.parameters import INTEGER_MAX, Parameter, Type

DRY_RUN = Parameter("dry_run", Type.BOOLEAN, "say what would be restored, and restore nothing", default=False)
_HSM = Parameter(
    "apply_hsm", Type.BOOLEAN, NO_EFFECT + "the AppServer places what it is given", default=False
)
_FIRST = ("first",)
_WINDOW = (
    Parameter("start_date", Type.DATE, "from this moment on", keywords=_FIRST),
    Parameter("end_date", Type.DATE, "until this moment", keywords=LAST),
)

_EXTERNAL_SKIPS = (
    ("skip_aliases", "leave out further addresses of accounts"),
    ("skip_distribution_lists", "make no mailing lists"),
    ("skip_coses", "make no classes of service"),
    ("skip_account_provisioning", "make no accounts: items go into those that are there"),
    ("skip_domain_provisioning", "make no domains, and leave their attributes out"),
    ("provisioning_only", "make domains, lists and accounts, and bring no items in"),
)

ROWS = (
    Command(
        module="backup",
        name="doItemRestore",
        positional=(ACCOUNT, Parameter("item_id", Type.TEXT, "id of the item", spellings=("item",))),
        optional=(
            Parameter("date", Type.DATE, "as it was at that moment", default="last", keywords=LAST),
            Parameter("restore_folder", Type.TEXT, "put it into this folder instead of the one it was in"),
            DRY_RUN,
        ),
        meaning="put an item back into the account as it was",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doUndelete",
        positional=(ACCOUNT, *_WINDOW),
        optional=(
            Parameter(
                "target_original_folder",
                Type.BOOLEAN,
                "put each item into the folder it was in; false: below a folder of its own",
                default=True,
            ),
            _HSM,
            NOTIFICATIONS,
            DRY_RUN,
        ),
        meaning="bring everything that was deleted in a stretch of time back to where it was",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doRestoreOnNewAccount",
        positional=(
            Parameter("source_account", Type.ACCOUNT, "address or id of the account to read from the backup"),
            Parameter("destination_account", Type.TEXT, "address of the account to make"),
        ),
        trailing=(Parameter("date", Type.DATE, "as it was at that moment", default="last", keywords=LAST),),
        optional=(
            Parameter("undelete", Type.BOOLEAN, "also bring back what had been deleted", default=False),
            Parameter(
                "undelete_start_date",
                Type.DATE,
                "of the deleted items only those that went from this moment on",
                default="first",
                keywords=_FIRST,
                spellings=("undelete_start_time",),
            ),
            Parameter(
                "keep_id",
                Type.BOOLEAN,
                "give the new account the id of the old one, which must be deleted",
                default=False,
            ),
            Parameter("restore_chat_buddies", Type.BOOLEAN, NO_EFFECT + "there are no chats here"),
            Parameter("restore_datasource", Type.BOOLEAN, NO_EFFECT + "they are attributes of the account"),
            _HSM,
            NOTIFICATIONS,
            DRY_RUN,
        ),
        meaning="make a new account as another one was, without touching that one",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doExport",
        positional=(
            Parameter("destination_path", Type.PATH, "an empty directory, or one that this export began"),
        ),
        optional=(
            Parameter("accounts", Type.LIST, "only these accounts, by address or id; left out: all"),
            Parameter("domains", Type.LIST, "only accounts of these domains; left out: of all"),
            Parameter("cos", Type.LIST, "only accounts of these classes of service; left out: of all"),
            Parameter("date", Type.DATE, "as everything was at that moment", default="last", keywords=LAST),
            Parameter(
                "filter_deleted",
                Type.BOOLEAN,
                "leave out what was deleted; false: deleted accounts and items come along",
                default=True,
            ),
            Parameter("threshold", Type.INTEGER, "stop where less than so many MB would stay free"),
            Parameter("read_error_threshold", Type.INTEGER, "stop when more items than that fail"),
            Parameter("skip_items", Type.BOOLEAN, "only accounts and settings, no items", default=False),
            NOTIFICATIONS,
            DRY_RUN,
        ),
        meaning="write accounts as plain files (Maildir, vCard, iCalendar, TOML) that need no backupd",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doRestoreDrill",
        optional=(
            Parameter(
                "accounts", Type.LIST, "draw from these accounts, by address or id; left out: from all"
            ),
            Parameter("items", Type.INTEGER, "so many items", default=20, highest=1000),
            Parameter("account_restores", Type.INTEGER, "so many whole accounts", default=1, highest=100),
            Parameter(
                "seed",
                Type.INTEGER,
                "draw what an earlier drill drew; left out: another one",
                lowest=-INTEGER_MAX,
            ),
            Parameter("keep", Type.BOOLEAN, "keep the scratch server to look at it", default=False),
            Parameter(
                "scratch_path", Type.PATH, "put it below this directory; left out: the state directory"
            ),
            NOTIFICATIONS,
        ),
        meaning="prove the backup: restore items and accounts at random past moments into a scratch server",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doExternalRestore",
        positional=(
            Parameter("source_path", Type.PATH, "another server's Backup Path, or a copy; it is only read"),
        ),
        optional=(
            Parameter("accounts", Type.LIST, "only these accounts, by address or id in that backup"),
            Parameter(
                "input_file",
                Type.PATH,
                "a file with further accounts, one a line; read by the console, as the user who asks",
            ),
            Parameter("domains", Type.LIST, "only these domains and their accounts"),
            Parameter("date", Type.DATE, "as it was at that moment", default="last", keywords=LAST),
            Parameter(
                "filter_deleted", Type.BOOLEAN, "leave out what is deleted in that backup", default=True
            ),
            Parameter(
                "skip_system_accounts",
                Type.BOOLEAN,
                "leave out accounts of that server itself",
                default=True,
            ),
            *(Parameter(name, Type.BOOLEAN, meaning, default=False) for name, meaning in _EXTERNAL_SKIPS),
            NOTIFICATIONS,
            Parameter(
                "concurrent_accounts", Type.INTEGER, "accounts at a time", default=5, lowest=1, highest=64
            ),
            Parameter("max_file_size", Type.INTEGER, "leave out items of more than so many bytes"),
            Parameter(
                "restore_datasource", Type.BOOLEAN, "bring attributes of data sources in", default=True
            ),
            Parameter(
                "force_as_external_restore",
                Type.BOOLEAN,
                "also where the backup is of a server with the id of this one",
                default=False,
            ),
            ARCHIVE,
            DRY_RUN,
        ),
        meaning="bring another server's backup into this server, beside what is there",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doRestoreBlobs",
        positional=(
            Parameter(
                "volume_id",
                Type.TEXT,
                "which part of the mail storage: all, mail, contacts, calendars, files, or one of these with "
                "a folder, such as mail/INBOX",
            ),
        ),
        optional=(
            Parameter(
                "backup_path", Type.PATH, "take the contents from this other Backup Path; left out: our own"
            ),
            Parameter(
                "dry_run",
                Type.BOOLEAN,
                "say what would be put back, and put nothing back",
                default=True,
            ),
            Parameter("threads", Type.INTEGER, "items at a time", default=4, lowest=1, highest=64),
            Parameter(
                "items",
                Type.CHOICE,
                "zimbra: messages, contacts, appointments, tasks; drive: documents",
                default="all",
                choices=("zimbra", "drive", "all"),
            ),
            Parameter("accounts", Type.LIST, "only these accounts, by address or id; left out: all"),
            Parameter("compress", Type.BOOLEAN, NO_EFFECT + "contents are stored as the AppServer has them"),
            ARCHIVE,
        ),
        meaning="put content back that the AppServer lost of items it still has (a dry run unless told else)",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
)
"""The rows."""
