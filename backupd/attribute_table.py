"""The table of attributes: name, levels, type, default, range, meaning and what an attribute does here.

The names are the vendor's, so that an admin's commands and scripts work as they are. An attribute of the
vendor's that this daemon has no use for is kept, checked and printed like the others; its `no_effect` says
why nothing follows from it. Rules are in `backupd.attributes`.
"""

from __future__ import annotations

from backupd.attribute import Attribute, Level, Type

_ALL_LEVELS = (Level.GLOBAL, Level.SERVER, Level.COS, Level.ACCOUNT)
_ALWAYS = "always so here"
_NOT_HERE = "nothing of this kind exists here"
_OWN_BOUNDS = "this daemon bounds its own batches and waits"
_ONE_THRESHOLD = "ZxBackup_SpaceThreshold holds for metadata too, wherever blobs rest"


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
        no_effect=_ONE_THRESHOLD,
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
    ),
    Attribute(
        name="backupCoherencyCheckMinutes",
        type=Type.INTEGER,
        default=120,
        maximum=10_080,
        unit="minutes",
        meaning="Time for a scheduled coherency check; the next one goes on behind it. 0 is unbounded.",
    ),
    Attribute(
        name="backupCoherencyCheckShare",
        type=Type.INTEGER,
        default=100,
        minimum=1,
        maximum=100,
        unit="percent",
        meaning="Which share of the Backup Path a scheduled coherency check looks at, at most.",
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
        meaning="Keep metadata and history only; the AppServer holds the contents, where its storage can.",
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
        default=True,
        meaning="Let SmartScan archive the metadata of changed accounts on the external volume.",
    ),
    Attribute(
        name="backupArchivingStore",
        type=Type.OBJECT,
        default={},
        levels=(Level.SERVER,),
        meaning="The external volume in use, as `backup setBackupVolume` and its like set it; {} is none.",
    ),
    Attribute(
        name="backupVolumeEncryption",
        type=Type.BOOLEAN,
        default=False,
        levels=(Level.SERVER,),
        meaning="Encrypt what rests on an external volume that is set from now on; one in use stays.",
    ),
    Attribute(
        name="backupVolumeRetentionDays",
        type=Type.INTEGER,
        default=0,
        maximum=36_500,
        unit="days",
        levels=(Level.SERVER,),
        meaning="Lock each object on the external volume for so long, where the bucket has object lock; "
        "0 is not at all.",
    ),
    Attribute(
        name="backupVolumeRetentionMode",
        type=Type.CHOICE,
        default="governance",
        choices=("governance", "compliance"),
        levels=(Level.SERVER,),
        meaning="How objects are locked: compliance can be lifted by nobody.",
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
        name="backupBlobCacheSize",
        type=Type.INTEGER,
        default=10_240,
        maximum=1 << 30,
        unit="MB",
        meaning="With an external volume: how much room blobs take in the Backup Path once they are outside.",
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
        meaning="The buckets that volumes may lie in, as `core doCreateBucket` and its like keep them.",
    ),
)
"""The table."""
