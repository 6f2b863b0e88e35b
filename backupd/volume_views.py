"""Views of external volumes and of buckets, as replies carry them."""

from __future__ import annotations

from datetime import datetime

import msgspec


class MetadataView(msgspec.Struct, frozen=True, kw_only=True):
    """Copies of metadata on the external volume: up to which journal entry, when, and what stands in the way.

    `last_sent` is when a round last succeeded, `last_pass` when archives of all accounts were last complete;
    both since the daemon's start. `waiting_since` is when the round under way began.
    """

    sent_through: int | None = None
    last_sent: datetime | None = None
    last_pass: datetime | None = None
    error: str = ""
    hint: str = ""
    failing_since: datetime | None = None
    waiting_since: datetime | None = None


class VolumeView(msgspec.Struct, frozen=True, kw_only=True):
    """The external volume: what waits to go there, what of it is cached, how sending goes.

    Bytes are those of files. `damaged_objects` of the waiting ones can't be sent, for they are damaged in the
    Backup Path, or what has their name outside is. Counts are since the daemon's start, rates of the last
    minutes. `error` is why sending does not go on at the moment; everything waiting stays in the Backup Path
    meanwhile.
    """

    title: str
    reachable: bool = True
    waiting_objects: int = 0
    waiting_bytes: int = 0
    oldest: datetime | None = None
    damaged_objects: int = 0
    damage: str = ""
    cached_objects: int = 0
    cached_bytes: int = 0
    cache_bytes_max: int = 0
    sent_objects: int = 0
    sent_bytes: int = 0
    objects_per_second: float = 0.0
    bytes_per_second: float = 0.0
    remaining_seconds: float | None = None
    requests: dict[str, int] = {}
    failures: int = 0
    error: str = ""
    hint: str = ""
    permanent: bool = False
    failing_since: datetime | None = None
    next_try: datetime | None = None
    rebuilding: str = ""
    metadata: MetadataView | None = None


class BucketUseView(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses a bucket; `volume` is empty where a server has one alone."""

    server: str
    volume: str = ""


class BucketView(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={
        "bucket_name": "bucketName",
        "store_type": "storeType",
        "access_key": "accessKey",
        "destination_path": "destinationPath",
        "powerstore_usage": "usage in powerstore volumes",
        "backup_usage": "usage in external backup",
        "secret_file": "secretFile",
        "signature_version": "signatureVersion",
        "path_style": "pathStyle",
        "ca_file": "caFile",
    },
):
    """A bucket configuration. `secret` is empty unless it was asked for by one who may change.

    `destination_path` is below which keys this server's backup lies, empty where it is elsewhere.
    """

    bucket_name: str
    protocol: str
    store_type: str
    access_key: str
    secret: str = ""
    secret_file: str = ""
    region: str = ""
    url: str = ""
    prefix: str = ""
    label: str = ""
    notes: str = ""
    signature_version: str = "V4"
    path_style: bool = True
    ca_file: str = ""
    destination_path: str = ""
    uuid: str
    powerstore_usage: tuple[BucketUseView, ...] = ()
    backup_usage: tuple[BucketUseView, ...] = ()
