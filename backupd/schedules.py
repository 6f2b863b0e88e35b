"""Schedules: the jobs that run by themselves, each with the attribute that says when and what it queues."""

from __future__ import annotations

import msgspec


class ScheduledJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job. `operation` is the command it queues; one without does its work itself.

    A `quiet` one runs so often that a missed run is no news: the next one does what it would have done.
    """

    name: str
    attribute: str
    meaning: str
    operation: str = ""
    quiet: bool = False


METADATA_UPLOAD = "remoteMetadataUpload"
JOBS = (
    ScheduledJob(
        name="SmartScan",
        attribute="backupSmartScanScheduler",
        meaning="the SmartScan of all accounts",
        operation="doSmartScan",
    ),
    ScheduledJob(
        name="purge",
        attribute="backupPurgeScheduler",
        meaning="the purge of what retention no longer covers",
        operation="doPurge",
    ),
    ScheduledJob(
        name="coherencyCheck",
        attribute="backupCoherencyCheckScheduler",
        meaning="the coherency check of the Backup Path",
        operation="doCoherencyCheck",
    ),
    ScheduledJob(
        name="configurationDump",
        attribute="backupConfigurationDumpScheduler",
        meaning="the daily dump of the configuration, where no SmartScan made it",
        operation="doBackupCluster",
    ),
    ScheduledJob(
        name="restoreDrill",
        attribute="backupRestoreDrillScheduler",
        meaning="the restore drill, which proves that the backup can be restored",
        operation="doRestoreDrill",
    ),
    ScheduledJob(
        name=METADATA_UPLOAD,
        attribute="backupRemoteMetadataUploadScheduler",
        meaning="the upload of metadata to the external volume",
        quiet=True,
    ),
)
"""Every job there is, in the order in which they are shown."""
