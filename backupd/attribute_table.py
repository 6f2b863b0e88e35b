"""The table of attributes: name, levels, type, default, range, meaning and what an attribute does here.

The names are the vendor's, so that an admin's commands and scripts work as they are. An attribute of the
vendor's that this daemon has no use for is kept, checked and printed like the others; its `no_effect` says
why nothing follows from it. Rules are in `backupd.attributes`.
"""

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
_ALL_LEVELS = (Level.GLOBAL, Level.SERVER, Level.COS, Level.ACCOUNT)
_ALWAYS = "always so here"
_NOT_HERE = "nothing of this kind exists here"
_OWN_BOUNDS = "this daemon bounds its own batches and waits"
_VOLUMES = "this version keeps everything on the Backup Path"


def _retention(name: str, meaning: str) -> Attribute:
    return Attribute(name=name, type=Type.INTEGER, default=30, maximum=36_500, unit="days", meaning=meaning)


TABLE: tuple[Attribute, ...] = (
    Attribute(
        name="ZxBackup_DestPath",
        type=Type.PATH,
        default="/opt/zextras/backup/zextras/",
        levels=(Level.SERVER,),
        meaning="The Backup Path. A new one counts at once, with a scan of everything; "
        "until it is set, backup_path in backupd.toml holds.",
    ),
    Attribute(
        name="ZxBackup_RealTimeScanner",
        type=Type.BOOLEAN,
        default=True,
        meaning="Record changes live. Turning it on again starts a SmartScan.",
    ),
    Attribute(
        name="ZxBackup_ModuleEnabledAtStartup",
        type=Type.BOOLEAN,
        default=True,
        meaning="Start the backup's services with the daemon; where false, doStartService module does it.",
    ),
    Attribute(
        name="ZxBackup_DoSmartScanOnStartup",
        type=Type.BOOLEAN,
        default=False,
        meaning="Run a SmartScan at every start. The first start runs one in any case.",
    ),
    Attribute(
        name="ZxBackup_SpaceThreshold",
        type=Type.INTEGER,
        default=1024,
        unit="MB",
        meaning="Free space to keep on the Backup Path; below it nothing new is taken.",
    ),
    Attribute(
        name="backupLocalMetadataThreshold",
        type=Type.INTEGER,
        default=1024,
        unit="MB",
        meaning="Free space to keep for metadata where blobs rest elsewhere.",
        no_effect=_VOLUMES,
    ),
    Attribute(
        name="backupSmartScanScheduler",
        type=Type.SCHEDULE,
        default={"cron-enabled": True, "cron-pattern": "0 4 * * *"},
        meaning="When SmartScan runs, in local time. A missed run is not made up for.",
    ),
    Attribute(
        name="backupPurgeScheduler",
        type=Type.SCHEDULE,
        default={"cron-enabled": True, "cron-pattern": "0 4 * * 6"},
        meaning="When the purge runs, in local time; a SmartScan that is due at the same minute comes first.",
    ),
    Attribute(
        name="backupCoherencyCheckScheduler",
        type=Type.SCHEDULE,
        default={"cron-enabled": False, "cron-pattern": "0 5 1 * *"},
        meaning="When the coherency check runs, in local time.",
        no_effect="kept for the coherency check, which this version does not have yet",
    ),
    Attribute(
        name="backupConfigurationDumpScheduler",
        type=Type.SCHEDULE,
        default={"cron-enabled": True, "cron-pattern": "30 5 * * *"},
        meaning="When the configuration is dumped, in local time, if no SmartScan has done it that day.",
    ),
    Attribute(
        name="backupRestoreDrillScheduler",
        type=Type.SCHEDULE,
        default={"cron-enabled": True, "cron-pattern": "0 6 * * 0"},
        meaning="When the restore drill runs, in local time.",
    ),
    Attribute(
        name="backupRemoteMetadataUploadScheduler",
        type=Type.SCHEDULE,
        default={"cron-enabled": True, "cron-pattern": "* * * * *"},
        meaning="When metadata is uploaded to the external volume, in local time.",
        no_effect=_VOLUMES,
    ),
    _retention(
        "ZxBackup_DataRetentionDays",
        "How long a deleted item stays in the backup; 0 is forever.",
    ),
    _retention(
        "backupAccountsRetentionDays",
        "How long a deleted account stays in the backup, with all that went with it; 0 is forever.",
    ),
    _retention(
        "backupServerArchivesRetentionDays",
        "How long an archive of the server stays; 0 is forever. The newest of each kind always does.",
    ),
    Attribute(
        name="backupPurgeShareMax",
        type=Type.INTEGER,
        default=20,
        minimum=1,
        maximum=100,
        unit="percent",
        meaning="A purge that would take more than this share of the items, accounts or bytes stops and asks "
        "for force true; 100 is never.",
    ),
    Attribute(
        name="backupBlobGraceHours",
        type=Type.INTEGER,
        default=24,
        maximum=8_760,
        unit="hours",
        meaning="How long a content that nothing refers to any more stays before a purge removes it.",
    ),
    Attribute(
        name="backupBloblessMode",
        type=Type.BOOLEAN,
        default=False,
        meaning="Keep metadata only, without contents.",
        no_effect="contents are always kept by this version",
    ),
    Attribute(
        name="backupEnabled",
        type=Type.BOOLEAN,
        default=True,
        levels=(Level.COS, Level.ACCOUNT),
        meaning="Whether an account, or all of a COS, is backed up. What was recorded before stays until "
        "retention has passed; true again starts a scan.",
    ),
    Attribute(
        name="backupSkipDLAndDynamicGroups",
        type=Type.BOOLEAN,
        default=False,
        meaning="Leave mailing lists out of SmartScan: what is recorded of them stays as it is.",
    ),
    Attribute(
        name="backupMassDeletionShare",
        type=Type.INTEGER,
        default=30,
        maximum=100,
        unit="percent",
        levels=_ALL_LEVELS,
        meaning="Share of an account's items from which on losing them in one window suspends retention; "
        "0 is never.",
    ),
    Attribute(
        name="backupMassDeletionWindowHours",
        type=Type.INTEGER,
        default=24,
        minimum=1,
        maximum=720,
        unit="hours",
        levels=_ALL_LEVELS,
        meaning="The window in which losses are added up; slower ones are seen over 7 and 30 of them.",
    ),
    Attribute(
        name="backupMassDeletionMinimum",
        type=Type.INTEGER,
        default=100,
        minimum=1,
        levels=_ALL_LEVELS,
        unit="items",
        meaning="How many items an account must lose at least before retention is suspended.",
    ),
    Attribute(
        name="ldapDumpEnabled",
        type=Type.BOOLEAN,
        default=True,
        meaning="Put a dump of the directory into the daily archive.",
        no_effect="the AppServer's directory is always part of the daily configuration dump",
    ),
    Attribute(
        name="ZxBackup_BackupCustomizations",
        type=Type.BOOLEAN,
        default=True,
        meaning="Let SmartScan archive the files that customizations.paths in backupd.toml names.",
    ),
    Attribute(
        name="ZxBackup_PurgeCustomizations",
        type=Type.BOOLEAN,
        default=True,
        meaning="Let the purge remove old daily archives of configuration and customizations.",
    ),
    Attribute(
        name="backupSaveIndex",
        type=Type.BOOLEAN,
        default=False,
        meaning="Back up the AppServer's search index.",
        no_effect="indexes are rebuilt by the AppServer and needed by no restore",
    ),
    Attribute(
        name="backupOnTheFlyMetadata",
        type=Type.BOOLEAN,
        default=True,
        meaning="Flush metadata to the disk at every save.",
        no_effect=_ALWAYS,
    ),
    Attribute(
        name="scheduledMetadataArchivingEnabled",
        type=Type.BOOLEAN,
        default=False,
        meaning="Archive metadata on the external volume.",
        no_effect=_VOLUMES,
    ),
    Attribute(
        name="backupArchivingStore",
        type=Type.OBJECT,
        default={},
        levels=(Level.SERVER,),
        meaning="The external volume: storeType, volumeRootPath, bucketConfigurationId; {} is none.",
        no_effect=_VOLUMES,
    ),
    Attribute(
        name="backupLatencyHighThreshold",
        type=Type.INTEGER,
        default=0,
        unit="ms",
        meaning="Latency above which scans hold back; 0 is never.",
        no_effect=_OWN_BOUNDS,
    ),
    Attribute(
        name="backupLatencyLowThreshold",
        type=Type.INTEGER,
        default=0,
        unit="ms",
        meaning="Latency below which scans go on.",
        no_effect=_OWN_BOUNDS,
    ),
    Attribute(
        name="ZxBackup_MaxMetadataSize",
        type=Type.INTEGER,
        default=0,
        meaning="Size of a metadata file from which on it is cut; 0 is never.",
        no_effect="histories are never cut",
    ),
    Attribute(
        name="ZxBackup_MaxWaitingTime",
        type=Type.INTEGER,
        default=5_000,
        unit="ms",
        meaning="How long a queued change waits at most.",
        no_effect=_OWN_BOUNDS,
    ),
    Attribute(
        name="ZxBackup_MaxOperationPerAccount",
        type=Type.INTEGER,
        default=10,
        minimum=1,
        meaning="Changes of an account that are taken at a time.",
        no_effect=_OWN_BOUNDS,
    ),
    Attribute(
        name="backupCompressionLevel",
        type=Type.INTEGER,
        default=3,
        minimum=1,
        maximum=22,
        meaning="How hard new contents are compressed, where that pays: levels of zstd.",
    ),
    Attribute(
        name="backupNumberThreadsForItems",
        type=Type.INTEGER,
        default=4,
        minimum=1,
        maximum=1_024,
        meaning="Items that a scan reads at a time.",
        no_effect="scan.workers in backupd.toml says how many processes read",
    ),
    Attribute(
        name="backupNumberThreadsForAccounts",
        type=Type.INTEGER,
        default=8,
        minimum=1,
        maximum=1_024,
        meaning="Accounts that a scan reads at a time.",
        no_effect="scan.workers in backupd.toml says how many processes read",
    ),
    Attribute(
        name="backupChatEnabled",
        type=Type.BOOLEAN,
        default=False,
        meaning="Back up chats.",
        no_effect=_NOT_HERE,
    ),
    Attribute(
        name="ZxCore_LogLevel",
        type=Type.INTEGER,
        default=1,
        maximum=1,
        meaning="0 logs everything, 1 what log.level in backupd.toml says.",
    ),
    Attribute(
        name="backupNotificationLevel",
        type=Type.CHOICE,
        default="information",
        choices=("information", "warning", "error", "critical"),
        meaning="From which level on admins are told by e-mail and webhook.",
    ),
    Attribute(
        name="s3BucketConfigurations",
        type=Type.LIST,
        default=[],
        levels=(Level.GLOBAL,),
        meaning="The buckets that commands may refer to.",
        no_effect=_VOLUMES,
    ),
)
"""The table."""
