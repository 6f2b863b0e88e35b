"""Module `backup`, second part: looking at the whole, and into what the backup holds."""

from __future__ import annotations

from backupd.command import Command, CommandKind
from backupd.command_tables.shared import ACCOUNT, BACKUP_PATH, LAST, NO_EFFECT
from backupd.parameters import Parameter, Type

_ITEM_TYPES = ("message", "contact", "contact-group", "folder", "appointment", "task", "document", "all")
_LISTS = ("accountList", "accountIdList", "accountAndIdList", "accountMap")
_DOMAINS = Parameter("domains", Type.LIST, "only accounts of these domains; left out: of all")

ROWS = (
    Command(
        module="backup",
        name="status",
        meaning="tell whether everything is well, and what to do where it is not",
        kind=CommandKind.QUERY,
        replies=("status",),
    ),
    Command(
        module="backup",
        name="doctor",
        meaning="check the whole set-up end to end, with the cure beside what fails; exits 0, 1, 2 or 3",
        kind=CommandKind.QUERY,
        replies=("doctor",),
    ),
    Command(
        module="backup",
        name="getItem",
        positional=(ACCOUNT, Parameter("item", Type.TEXT, "id of the item", spellings=("item_id",))),
        optional=(
            BACKUP_PATH,
            Parameter("dump_blob", Type.BOOLEAN, "write the content, unchanged and alone", default=False),
            Parameter(
                "date",
                Type.DATE,
                "the state at that moment",
                default="last",
                keywords=("last", "first", "all"),
            ),
            Parameter(
                "blobs_archive",
                Type.TEXT,
                NO_EFFECT
                + "contents of another backup_path are not written out; doExternalRestore reads them",
            ),
        ),
        meaning="print the states of an item, or write its content",
        kind=CommandKind.QUERY,
        replies=("item", "blob"),
    ),
    Command(
        module="backup",
        name="doItemSearch",
        positional=(ACCOUNT,),
        optional=(
            Parameter("id", Type.TEXT, "only the item with this id", spellings=("item_id",)),
            Parameter("search_string", Type.TEXT, "only items whose subject, sender or name contain it"),
            Parameter("type", Type.CHOICE, "only items of this kind", default="message", choices=_ITEM_TYPES),
            Parameter("folder", Type.TEXT, "only items in this folder"),
            Parameter("recursive", Type.BOOLEAN, "also in the folders below it", default=False),
            Parameter("sender", Type.TEXT, "only messages whose sender's name or address contains it"),
            Parameter("recipient", Type.TEXT, "only messages with such a recipient (To, Cc, Bcc)"),
            Parameter("subject", Type.TEXT, "only items whose subject or name contains it"),
            Parameter(
                "ignore_case",
                Type.BOOLEAN,
                "compare texts without regard to case and to how accents are encoded",
                default=False,
            ),
            Parameter("date", Type.DATE, "as everything was at that moment", default="last", keywords=LAST),
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
            BACKUP_PATH,
            Parameter("limit", Type.INTEGER, "list at most so many items", default=1000, lowest=1),
        ),
        meaning="find items of an account, deleted ones first of all",
        kind=CommandKind.QUERY,
        replies=("search",),
    ),
    Command(
        module="backup",
        name="history",
        spellings=("getHistory",),
        positional=(ACCOUNT, Parameter("item", Type.TEXT, "id of the item", spellings=("item_id",))),
        optional=(BACKUP_PATH,),
        meaning="tell an item's life in words: what changed, when, and by which client where that is known",
        kind=CommandKind.QUERY,
        replies=("history",),
    ),
    Command(
        module="backup",
        name="diff",
        spellings=("getDiff",),
        positional=(
            ACCOUNT,
            Parameter("start_date", Type.DATE, "the earlier moment", spellings=("time1",)),
        ),
        trailing=(
            Parameter(
                "end_date",
                Type.DATE,
                "the later moment",
                default="last",
                keywords=LAST,
                spellings=("time2",),
            ),
        ),
        optional=(
            BACKUP_PATH,
            Parameter(
                "limit", Type.INTEGER, "list at most so many items; all are counted", default=100, lowest=1
            ),
        ),
        meaning="compare an account at two moments: what appeared, vanished, moved or changed between them",
        kind=CommandKind.QUERY,
        replies=("diff",),
    ),
    Command(
        module="backup",
        name="getFolders",
        positional=(ACCOUNT,),
        trailing=(Parameter("date", Type.DATE, "those of that moment", default="last", keywords=LAST),),
        optional=(BACKUP_PATH,),
        meaning="list an account's folders with what was in them at a moment",
        kind=CommandKind.QUERY,
        replies=("folders",),
    ),
    Command(
        module="backup",
        name="getBackupInfo",
        optional=(BACKUP_PATH,),
        meaning="tell whose backup it is, since when, and what it holds",
        kind=CommandKind.QUERY,
        replies=("backup-info",),
    ),
    Command(
        module="backup",
        name="getAccountInfo",
        positional=(ACCOUNT,),
        optional=(
            BACKUP_PATH,
            Parameter(
                "date",
                Type.DATE,
                "the account's attributes at that moment",
                default="most_recent",
                keywords=("most_recent", "least_recent", "all", "last", "first"),
            ),
            Parameter("backupstats", Type.BOOLEAN, "also print what scans and counts tell", default=False),
        ),
        meaning="print an account's own attributes as they are or were",
        kind=CommandKind.QUERY,
        replies=("account",),
    ),
    Command(
        module="backup",
        name="getAvailableAccounts",
        optional=(
            Parameter("date", Type.DATE, "those of that moment", default="last", keywords=LAST),
            BACKUP_PATH,
            _DOMAINS,
            Parameter("hide_deleted", Type.BOOLEAN, "leave out deleted accounts", default=False),
            Parameter("hide_system_accounts", Type.BOOLEAN, "leave out system accounts", default=True),
            Parameter(
                "hide_existing_accounts",
                Type.BOOLEAN,
                "leave out accounts that the AppServer has now",
                default=False,
            ),
            Parameter("output_file", Type.PATH, "also write the list to this file, as the user who asks"),
            Parameter(
                "output_headers",
                Type.LIST,
                f"what output_file holds: {', '.join(_LISTS)}",
                default=["accountList"],
                choices=_LISTS,
            ),
        ),
        meaning="list the accounts that the backup holds",
        kind=CommandKind.QUERY,
        replies=("accounts",),
    ),
    Command(
        module="backup",
        name="getAvailableDomains",
        trailing=(
            Parameter("date", Type.DATE, "those of that moment", default="last", keywords=LAST),
            BACKUP_PATH,
        ),
        meaning="list the domains that the backup holds",
        kind=CommandKind.QUERY,
        replies=("domains",),
    ),
    Command(
        module="backup",
        name="getMap",
        trailing=(Parameter("file_path", Type.PATH, "the map file to read; left out: the daemon's own"),),
        meaning="print what a map file says: whose backup a path is",
        kind=CommandKind.QUERY,
        replies=("map",),
    ),
    Command(
        module="backup",
        name="getServerConfig",
        positional=(
            Parameter(
                "type",
                Type.CHOICE,
                "the configuration, or the server's own files",
                choices=("standard", "customizations"),
            ),
        ),
        optional=(
            Parameter(
                "date",
                Type.DATE,
                "the newest archive of that moment; `all` lists the archives",
                default="last",
                keywords=("last", "all"),
            ),
            BACKUP_PATH,
            Parameter("file", Type.PATH, "read this archive instead"),
            Parameter("query", Type.TEXT, "only what stands under type/id/key; / is everything"),
            Parameter("verbose", Type.BOOLEAN, "print long values whole", default=False),
            Parameter("colors", Type.BOOLEAN, "accepted: a terminal has colours anyway", default=False),
        ),
        meaning="print what the archives of the server's configuration hold",
        kind=CommandKind.QUERY,
        replies=("server-config",),
    ),
)
"""The rows."""
