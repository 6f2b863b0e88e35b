"""Module `core`: bucket configurations of object stores. Each type of store has commands of its own."""

from __future__ import annotations

import msgspec

from backupd.buckets import HOST_STYLE, WITH_URL, SignatureVersion, StoreType
from backupd.command import Command, CommandKind
from backupd.parameters import Parameter, Type

_NAME = Parameter("bucket_name", Type.TEXT, "the bucket's name at the store")
_ACCESS = Parameter("access_key", Type.TEXT, "the access key")
_SECRET = Parameter(
    "secret",
    Type.TEXT,
    "the secret of the access key; secret_file in its place keeps it off the command line",
    unless="secret_file",
)
_SECRET_FILE = Parameter(
    "secret_file",
    Type.PATH,
    "a file on the daemon's machine whose first line is the secret, read at each use",
)
_LABEL = Parameter("label", Type.TEXT, "what admins call this bucket")
_URL = Parameter("url", Type.TEXT, "where the store is, such as https://minio.example.com:9000")
_REGION = Parameter("region", Type.TEXT, "the store's region, such as eu-west-1 or EU_WEST_1")
_PREFIX = Parameter("prefix", Type.TEXT, "what stands before every key, so that a bucket can be shared")
_NOTES = Parameter("notes", Type.TEXT, "anything worth knowing")
_SIGNATURE = Parameter(
    "signature_version",
    Type.CHOICE,
    "how requests are signed; V2 for old stores; left out: V4",
    choices=tuple(SignatureVersion),
)
_PROTOCOL = Parameter(
    "protocol",
    Type.CHOICE,
    "of a url that is given without one; left out: HTTPS",
    choices=("HTTPS", "HTTP"),
)
_PATH_STYLE = Parameter(
    "path_style",
    Type.BOOLEAN,
    "whether the bucket's name stands in the path of a URL instead of its host; left out: as the store likes",
)
_CA_FILE = Parameter(
    "ca_file", Type.PATH, "certificates on the daemon's machine by which the store's own is judged"
)
_CONFIGURATION = Parameter(
    "bucket_configuration_id",
    Type.UUID,
    "id of the bucket configuration, as core listBuckets prints it",
    spellings=("s3BucketConfigurationUuid", "uuid"),
)
_ALL = "all"
_SPELLINGS = {StoreType.SCALITY: "Scality"}


def _fields(store: StoreType) -> tuple[tuple[Parameter, ...], tuple[Parameter, ...]]:
    """Return what must be given for a type of store, in its order, and what may be."""
    must: tuple[Parameter, ...] = (_NAME, _ACCESS, _SECRET)
    may: tuple[Parameter, ...] = (_PREFIX, _NOTES)
    if store is StoreType.S3:
        must, may = (*must, _LABEL, _REGION), (_URL, *may)
    elif store in WITH_URL:
        must, may = (*must, _URL, _LABEL), (*may, _REGION, _SIGNATURE)
    else:
        must, may = (*must, _LABEL), (_URL, _PREFIX, _REGION, _NOTES)
    styles = () if store in HOST_STYLE - {StoreType.S3} else (_PATH_STYLE,)
    return must, (*may, _SECRET_FILE, _PROTOCOL, *styles, _CA_FILE)


def _left_out(parameter: Parameter) -> Parameter:
    """Return a parameter of an update: what is left out stays, an empty text takes it away."""
    return msgspec.structs.replace(parameter, unless="")


def _rows(store: StoreType) -> tuple[Command, ...]:
    must, may = _fields(store)
    spelling = _SPELLINGS.get(store)

    def row(verb: str, meaning: str, *positional: Parameter, optional: tuple[Parameter, ...] = ()) -> Command:
        return Command(
            module="core",
            name=f"{verb} {store.value}",
            spellings=(f"{verb} {spelling}",) if spelling else (),
            positional=positional,
            optional=optional,
            meaning=meaning,
            kind=CommandKind.SETTING,
            replies=("buckets",) if verb != "doDeleteBucket" else ("done",),
        )

    changeable = tuple(_left_out(parameter) for parameter in (*must, *may))
    return (
        row("doCreateBucket", f"make a bucket of {store.value} known to the daemon", *must, optional=may),
        row(
            "doUpdateBucket",
            f"change how a bucket of {store.value} is reached; what is left out stays",
            _CONFIGURATION,
            optional=changeable,
        ),
        row(
            "doDeleteBucket",
            f"forget a bucket of {store.value} that nothing uses; what is in it stays",
            _CONFIGURATION,
        ),
    )


ROWS = (
    Command(
        module="core",
        name="listBuckets",
        trailing=(
            Parameter(
                "type", Type.CHOICE, "only of this type of store", default=_ALL, choices=(_ALL, *StoreType)
            ),
        ),
        optional=(
            Parameter(
                "show_secrets",
                Type.BOOLEAN,
                "also print secrets, to those who may change them",
                default=False,
            ),
        ),
        meaning="list the buckets that are known, and what they are used for",
        kind=CommandKind.QUERY,
        replies=("buckets",),
    ),
    *(row for store in StoreType for row in _rows(store)),
    Command(
        module="core",
        name="testS3Connection",
        positional=(_CONFIGURATION,),
        optional=(
            Parameter("storeType", Type.CHOICE, "the type that it must be of", choices=tuple(StoreType)),
        ),
        meaning="try out whether a bucket can be listed, written, read and emptied with its credentials",
        kind=CommandKind.SETTING,
        replies=("doctor",),
    ),
)
"""The rows."""
