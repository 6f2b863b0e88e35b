"""Module `backup`: where contents and copies of metadata rest, and how they come back from there."""

from __future__ import annotations

from backupd.buckets import StoreType
from backupd.command import Command, CommandKind
from backupd.command_tables.shared import NOTIFICATIONS, start
from backupd.parameters import Parameter, Type

_BUCKET = Parameter(
    "bucket_configuration_id", Type.UUID, "the bucket configuration, as core listBuckets shows it"
)
_PREFIX = Parameter("volume_prefix", Type.TEXT, "stands before this server's id in the names of all objects")
_THREADS = Parameter("threads", Type.INTEGER, "contents at a time", default=10, lowest=1, highest=64)
_PATH = Parameter("path", Type.PATH, "a mounted directory that this server has for itself")
_TIERS = (
    Parameter("use_infrequent_access", Type.BOOLEAN, "store larger objects for infrequent access"),
    Parameter(
        "infrequent_access_threshold", Type.TEXT, 'how large they must be, such as "64 KB" (the default)'
    ),
    Parameter("use_intelligent_tiering", Type.BOOLEAN, "let the store choose the class of each object"),
)
_SERVER = Parameter("server_id", Type.TEXT, "whose backup, where several servers have theirs there")


def _types(store: StoreType) -> tuple[Parameter, ...]:
    return (_PREFIX, *(_TIERS if store is StoreType.S3 else ()))


def _spelled(verb: str, store: StoreType) -> tuple[str, ...]:
    return (f"{verb} Scality",) if store is StoreType.SCALITY else ()


_SET = "keep contents and copies of metadata"
_MOVE = "copy what is kept to another place, verify it, then keep it there; the source stays as it is"
_FETCH = "rebuild a Backup Path from the metadata on an external volume; contents stay there"

ROWS = (
    Command(
        module="backup",
        name="setBackupVolume Default",
        positional=(start("use the Backup Path itself"),),
        meaning="keep everything on the Backup Path from now on; nothing is copied",
        kind=CommandKind.SETTING,
        replies=("done",),
    ),
    Command(
        module="backup",
        name="setBackupVolume Local",
        positional=(_PATH,),
        meaning=f"{_SET} on a mounted directory from now on; nothing is copied",
        kind=CommandKind.SETTING,
        replies=("done",),
    ),
    *(
        Command(
            module="backup",
            name=f"setBackupVolume {store.value}",
            spellings=_spelled("setBackupVolume", store),
            positional=(_BUCKET,),
            optional=_types(store),
            meaning=f"{_SET} in a bucket from now on; nothing is copied",
            kind=CommandKind.SETTING,
            replies=("done",),
        )
        for store in StoreType
    ),
    Command(
        module="backup",
        name="updateBackupVolume S3",
        optional=_TIERS,
        meaning="change how the store keeps new objects of the volume in use",
        kind=CommandKind.SETTING,
        replies=("done",),
    ),
    Command(
        module="backup",
        name="migrateBackupVolume Default",
        positional=(start("start the migration"),),
        optional=(_THREADS, NOTIFICATIONS),
        meaning=f"{_MOVE}: on the Backup Path",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="migrateBackupVolume Local",
        positional=(_PATH,),
        optional=(_THREADS, NOTIFICATIONS),
        meaning=f"{_MOVE}: on a mounted directory",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    *(
        Command(
            module="backup",
            name=f"migrateBackupVolume {store.value}",
            spellings=_spelled("migrateBackupVolume", store),
            positional=(_BUCKET,),
            optional=(*_types(store), _THREADS, NOTIFICATIONS),
            meaning=f"{_MOVE}: in a bucket",
            kind=CommandKind.OPERATION,
            replies=("operation",),
        )
        for store in StoreType
    ),
    Command(
        module="backup",
        name="retrieveMetadataFromArchive Local",
        positional=(
            Parameter("source", Type.PATH, "the mounted directory that was the volume"),
            Parameter("destination", Type.PATH, "the directory to build the Backup Path in"),
        ),
        optional=(_THREADS, NOTIFICATIONS),
        meaning=_FETCH,
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="retrieveMetadataFromArchive S3",
        positional=(Parameter("destination", Type.PATH, "the directory to build the Backup Path in"),),
        optional=(
            Parameter("bucket_configuration_id", Type.UUID, "the bucket; left out: the one in use"),
            Parameter("bucket_name", Type.TEXT, "the bucket, where it is not configured here"),
            Parameter("access_key", Type.TEXT, "whose key"),
            Parameter("secret", Type.TEXT, "the key's secret; kept in memory only"),
            Parameter("secret_file", Type.PATH, "a file of the daemon's machine with the secret"),
            Parameter("region", Type.TEXT, "where the bucket is"),
            Parameter("url", Type.TEXT, "the store's URL, if it is not S3 itself"),
            Parameter("prefix", Type.TEXT, "the prefix of the bucket configuration"),
            _PREFIX,
            _SERVER,
            _THREADS,
            NOTIFICATIONS,
        ),
        meaning=_FETCH,
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
    Command(
        module="backup",
        name="doListLostContents",
        positional=(start("start the list"),),
        optional=(NOTIFICATIONS,),
        meaning="list the items whose content rests neither on the Backup Path nor on the volume in use",
        kind=CommandKind.OPERATION,
        replies=("operation",),
    ),
)
"""The rows."""
