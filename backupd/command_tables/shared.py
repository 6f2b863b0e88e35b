"""Parameters that several commands take, so that each has one name, one meaning and one default."""

from __future__ import annotations

from backupd.parameters import Parameter, Type

NO_EFFECT = "accepted for compatibility, without effect here: "
LAST = ("last",)

ACCOUNT = Parameter("account", Type.ACCOUNT, "address or id of the account")
SERVER = Parameter("server", Type.TEXT, "name or id of this server", spellings=("target_server",))
ATTRIBUTE = Parameter("attribute", Type.TEXT, "name of the attribute")
OPERATION = Parameter("operation_uuid", Type.UUID, "the operation, as printed when it was queued")
BACKUP_PATH = Parameter("backup_path", Type.PATH, "another Backup Path to read instead of the daemon's own")
ARCHIVE = Parameter(
    "blobs_archive",
    Type.TEXT,
    "where the contents of that backup rest: a bucket configuration's id, or the path of a mounted volume",
)
DEEP = Parameter("deep", Type.BOOLEAN, "read every item again instead of only what changed", default=False)
FORCE = Parameter(
    "force", Type.BOOLEAN, "believe a listing that suddenly lost most of an account", default=False
)
NOTIFICATIONS = Parameter(
    "notifications",
    Type.ADDRESSES,
    "e-mail addresses to tell about start and end, besides those of the configuration",
)
REMOTE = Parameter(
    "remote_metadata_upload",
    Type.BOOLEAN,
    "also archive metadata on the external volume, where there is one",
    default=False,
)
VERBOSE = Parameter("verbose", Type.BOOLEAN, "also list operations that have ended", default=False)


def start(meaning: str) -> Parameter:
    """Return the positional word `start` that the specification's commands for work take."""
    return Parameter("action", Type.CHOICE, meaning, choices=("start",))
