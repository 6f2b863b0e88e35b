"""Volume choice: which volume blobs and archives go to, as the attribute `backupArchivingStore` says it.

A choice is one of three: `DefaultChoice` (the Backup Path itself; the empty object), `LocalChoice` (another
mounted path) and `BucketChoice` (an object store, by the id of its bucket configuration). `encrypted` says
whether what rests there is encrypted by this daemon; it is settled when a volume is first used and stays,
for contents of both kinds on one volume could not be told from tampered ones. Pure: `parse` reads the
attribute's value, `encode` writes it, and what `encode` wrote `parse` reads back unchanged.

Fails with a `UsageError` that names the field and what is valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, assert_never
from uuid import UUID

import msgspec

from backupd.buckets import Bucket, StoreType, store_type_named
from backupd.errors import UsageError
from backupd.parameters import did_you_mean, shortened, squashed

ATTRIBUTE = "backupArchivingStore"
DEFAULT = "Default"
LOCAL = "Local"
INFREQUENT_ACCESS_THRESHOLD_BYTES = 64 * 1024
"""What the vendor takes where no threshold is given: smaller objects cost more there than they save."""
VOLUME_PREFIX_CHARACTERS_MAX = 200
PATH_CHARACTERS_MAX = 4096
SIZE_BYTES_MAX = 2**53
_LEVEL = r"[A-Za-z0-9_@=,+~-][A-Za-z0-9._@=,+~-]{0,99}"
_PREFIX = re.compile(rf"(?:{_LEVEL}/)*{_LEVEL}\Z")
_SIZE = re.compile(r"([0-9]{1,16})\s*(b|[kmg]i?b?)?\Z", re.IGNORECASE)
_VOLUME_ID = re.compile(r"[0-9a-f]{1,64}\Z")
_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_KEYS = (
    "storeType",
    "volumeRootPath",
    "volumeId",
    "bucketConfigurationId",
    "volumePrefix",
    "useInfrequentAccess",
    "infrequentAccessThreshold",
    "useIntelligentTiering",
    "encrypted",
)


class DefaultChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Everything stays on the Backup Path."""


class LocalChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A mounted path: NFS, FUSE, another disk. `path` is absolute and normal.

    `volume_id` is the one of the marker that was made there; empty takes any marker of this server.
    """

    path: str
    volume_id: str = ""
    encrypted: bool = False


class BucketChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket. `volume_prefix` stands before this server's id in every key, after the bucket's own prefix.

    Objects of at least `infrequent_access_threshold_bytes` are stored for infrequent access where that is
    on; intelligent tiering leaves the choice to the store. One of the two at most, and only on S3.
    """

    store_type: StoreType
    bucket_id: str
    volume_prefix: str = ""
    use_infrequent_access: bool = False
    infrequent_access_threshold_bytes: int = INFREQUENT_ACCESS_THRESHOLD_BYTES
    use_intelligent_tiering: bool = False
    encrypted: bool = False


VolumeChoice = DefaultChoice | LocalChoice | BucketChoice


def parse(value: object) -> VolumeChoice:
    """Return the choice that a value of `backupArchivingStore` means. Raises `UsageError`."""
    if not isinstance(value, Mapping):
        raise UsageError("a volume is described by a JSON object", hint='valid: {} or {"storeType": …}')
    unknown = [str(key) for key in value if key not in _KEYS]
    if unknown:
        raise UsageError(
            f"a volume has no {shortened(unknown[0])}", hint=did_you_mean(unknown[0], _KEYS, what="key")
        )
    word = value.get("storeType", DEFAULT)
    if not isinstance(word, str):
        raise UsageError("storeType is no text", hint=f"valid: {', '.join(volume_types())}")
    if squashed(word) == squashed(DEFAULT):
        _only(value, DEFAULT, ())
        return DefaultChoice()
    if squashed(word) == squashed(LOCAL):
        _only(value, LOCAL, ("volumeRootPath", "volumeId", "encrypted"))
        return local_choice(
            _text(value, "volumeRootPath"),
            volume_id=_text(value, "volumeId"),
            encrypted=_truth(value, "encrypted"),
        )
    _only(value, word, tuple(key for key in _KEYS if key not in ("volumeRootPath", "volumeId")))
    return bucket_choice(
        word,
        _text(value, "bucketConfigurationId"),
        volume_prefix=_text(value, "volumePrefix"),
        use_infrequent_access=_truth(value, "useInfrequentAccess"),
        infrequent_access_threshold=value.get("infrequentAccessThreshold"),
        use_intelligent_tiering=_truth(value, "useIntelligentTiering"),
        encrypted=_truth(value, "encrypted"),
    )


def encode(choice: VolumeChoice) -> dict[str, Any]:
    """Return the value of `backupArchivingStore` for a choice; empty for the default one."""
    match choice:
        case DefaultChoice():
            return {}
        case LocalChoice():
            found: dict[str, Any] = {"storeType": LOCAL, "volumeRootPath": choice.path}
            if choice.volume_id:
                found["volumeId"] = choice.volume_id
        case BucketChoice():
            found = {"storeType": choice.store_type.value, "bucketConfigurationId": choice.bucket_id}
            if choice.volume_prefix:
                found["volumePrefix"] = choice.volume_prefix
            if choice.use_infrequent_access:
                found["useInfrequentAccess"] = True
            threshold = choice.infrequent_access_threshold_bytes
            if choice.use_infrequent_access or threshold != INFREQUENT_ACCESS_THRESHOLD_BYTES:
                found["infrequentAccessThreshold"] = threshold
            if choice.use_intelligent_tiering:
                found["useIntelligentTiering"] = True
        case _:
            assert_never(choice)
    return found | ({"encrypted": True} if choice.encrypted else {})


def local_choice(path: str, *, volume_id: str = "", encrypted: bool = False) -> LocalChoice:
    """Return the choice of a mounted path. Raises `UsageError`."""
    normal = PurePosixPath(path)
    if not path.startswith("/") or ".." in normal.parts or "\0" in path or len(path) > PATH_CHARACTERS_MAX:
        raise UsageError(
            f"{shortened(path)} is no path for a volume", hint="give the absolute path of a mounted directory"
        )
    if normal == PurePosixPath("/") or str(normal) == "//":
        raise UsageError("the root of the file system is no place for a volume", hint="give a path below it")
    if volume_id and _VOLUME_ID.match(volume_id) is None:
        raise UsageError(
            f"{shortened(volume_id)} is no id of a volume", hint="the marker at its root tells it"
        )
    return LocalChoice(path=str(normal), volume_id=volume_id, encrypted=encrypted)


def bucket_choice(
    store_type: str,
    bucket_id: str,
    *,
    volume_prefix: str = "",
    use_infrequent_access: bool = False,
    infrequent_access_threshold: object = None,
    use_intelligent_tiering: bool = False,
    encrypted: bool = False,
) -> BucketChoice:
    """Return the choice of a bucket; a threshold is bytes, or such as `64 KB`. Raises `UsageError`."""
    kind = store_type_named(store_type)
    prefix = volume_prefix.strip("/")
    if len(prefix) > VOLUME_PREFIX_CHARACTERS_MAX or (prefix and _PREFIX.match(prefix) is None):
        raise UsageError(
            f"{shortened(volume_prefix)} is no volume_prefix",
            hint="levels of letters, digits and ._@=,+~- joined by '/', none starting with a dot",
        )
    if kind is not StoreType.S3 and (use_infrequent_access or use_intelligent_tiering):
        raise UsageError(
            f"{kind.value} has no infrequent access and no intelligent tiering", hint="both are S3's alone"
        )
    if use_infrequent_access and use_intelligent_tiering:
        raise UsageError(
            "use_infrequent_access and use_intelligent_tiering exclude each other",
            hint="an object has one storage class: turn one of them off",
        )
    return BucketChoice(
        store_type=kind,
        bucket_id=_uuid(bucket_id),
        volume_prefix=prefix,
        use_infrequent_access=use_infrequent_access,
        infrequent_access_threshold_bytes=(
            INFREQUENT_ACCESS_THRESHOLD_BYTES
            if infrequent_access_threshold is None
            else size_bytes(infrequent_access_threshold)
        ),
        use_intelligent_tiering=use_intelligent_tiering,
        encrypted=encrypted,
    )


def size_bytes(given: object) -> int:
    """Return the bytes that `65536`, `"65536"`, `"64 KB"` or `"1 MiB"` mean (units of 1024)."""
    found = _SIZE.match(str(given).strip()) if isinstance(given, str | int) else None
    if found is None or isinstance(given, bool):
        raise UsageError(f"{shortened(given)} is no size", hint='valid: bytes, or such as "64 KB" or "1 MB"')
    size = int(found[1]) * _UNITS[(found[2] or "")[:1].lower()]
    if size > SIZE_BYTES_MAX:
        raise UsageError(f"{shortened(given)} is too large a size", hint=f"at most {SIZE_BYTES_MAX} bytes")
    return size


def bucket_of(choice: BucketChoice, buckets: Iterable[Bucket]) -> Bucket:
    """Return the configuration that a choice refers to. Raises `UsageError` where none fits."""
    known = list(buckets)
    found = next((one for one in known if one.uuid == choice.bucket_id), None)
    if found is None:
        ids = ", ".join(one.uuid for one in known) or "none; core doCreateBucket makes one"
        raise UsageError(f"no bucket configuration {choice.bucket_id}", hint=f"valid: {ids}")
    if found.store_type is not choice.store_type:
        raise UsageError(
            f"the bucket configuration {found.uuid} is of type {found.store_type.value}, "
            f"not {choice.store_type.value}",
            hint=f"say {found.store_type.value} instead",
        )
    return found


def destination(choice: BucketChoice, bucket: Bucket, server_id: str) -> str:
    """Return what stands before every key of this server's backup."""
    return "/".join(part for part in (bucket.prefix, choice.volume_prefix, server_id) if part)


def volume_types() -> tuple[str, ...]:
    """Return every word that names a type of volume."""
    return (DEFAULT, LOCAL, *(one.value for one in StoreType))


def described(choice: VolumeChoice) -> str:
    """Return a choice in a few words, for messages."""
    match choice:
        case DefaultChoice():
            return "the Backup Path itself"
        case LocalChoice():
            return f"the mounted path {choice.path}"
        case BucketChoice():
            below = f" below {choice.volume_prefix}" if choice.volume_prefix else ""
            return f"the {choice.store_type.value} bucket {choice.bucket_id}{below}"
        case _:
            assert_never(choice)


def _only(value: Mapping[str, Any], kind: str, valid: tuple[str, ...]) -> None:
    for key in value:
        if key not in ("storeType", *valid):
            raise UsageError(
                f"a {kind} volume has no {key}", hint=f"valid: {', '.join(('storeType', *valid))}"
            )


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key, "")
    if not isinstance(found, str):
        raise UsageError(f"{key} is no text")
    return found


def _truth(value: Mapping[str, Any], key: str) -> bool:
    found = value.get(key, False)
    if not isinstance(found, bool):
        raise UsageError(f"{key} is neither true nor false")
    return found


def _uuid(given: str) -> str:
    try:
        return str(UUID(given))
    except ValueError:
        raise UsageError(
            f"{shortened(given)} is no id of a bucket configuration", hint="core listBuckets all lists them"
        ) from None
