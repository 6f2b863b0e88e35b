"""Buckets: how an object store is reached; the entries of the attribute `s3BucketConfigurations`.

Words: a *bucket configuration* names a store, a bucket there, the credentials and how to speak to it; it has
a UUID by which volumes refer to it. Its *type* is that of the store's maker, and decides what must be given
and what is taken where nothing is. `prefix` stands before every key, so that one bucket of a store may serve
several configurations.

Everything but `secret_of` is pure. A secret is kept in the attribute's value, which lies in the ledger (mode
0600), or stays in a file of its own that the value names; in memory it is a `Secret`. What leaves the daemon
goes through `masked`; a masked secret is never taken for one, but stands for one that is not known. Fails
with `UsageError`s that name the field and what is valid, and never hold a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from backupd.bucket_fields import (
    SignatureVersion,
    StoreType,
    check_names,
    configuration_id,
    field_text,
    signature_version,
    store_url,
)
from backupd.errors import ConfigError, UsageError
from backupd.parameters import did_you_mean, shortened, squashed
from backupd.secret import Secret, read_secret

__all__ = ["Bucket", "SignatureVersion", "StoreType"]

ATTRIBUTE = "s3BucketConfigurations"
BUCKETS_MAX = 200
MASK = "(secret)"
"""What stands in place of a secret wherever one is shown."""


_SPELLINGS = {"scality": StoreType.SCALITY}
_URLS = {
    StoreType.YANDEX: "https://storage.yandexcloud.net",
    StoreType.ALIBABA: "https://oss-{region}.aliyuncs.com",
}
"""Where a store is that has one address for everybody; S3's own follows from the region."""
_REGIONS = {StoreType.YANDEX: "ru-central1", StoreType.ALIBABA: "cn-hangzhou"}
HOST_STYLE = frozenset({StoreType.S3, StoreType.ALIBABA})
"""Stores that want the bucket's name in the host; the others take it in the path."""
WITH_URL = tuple(one for one in StoreType if one not in {StoreType.S3, *_URLS})
"""Types that can't be reached without a `url`."""


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """One bucket configuration. Of `secret` and `secret_file` one is there, or none where it got lost."""

    uuid: str
    store_type: StoreType
    bucket_name: str
    access_key: str
    secret: Secret | None = None
    secret_file: str = ""
    label: str
    region: str = ""
    url: str = ""
    prefix: str = ""
    notes: str = ""
    signature_version: SignatureVersion = SignatureVersion.V4
    path_style: bool = True
    ca_file: str = ""

    @property
    def protocol(self) -> str:
        """`HTTPS`, or `HTTP` where the URL says so."""
        return "HTTP" if self.url.startswith("http://") else "HTTPS"

    @property
    def signing_region(self) -> str:
        """The region as requests are signed with it: `EU_WEST_1` is the same as `eu-west-1`."""
        region = self.region or _REGIONS.get(self.store_type, "us-east-1")
        return region.lower().replace("_", "-") if self.store_type is StoreType.S3 else region

    @property
    def endpoint(self) -> str:
        """The store's URL; empty for S3 itself, whose region tells it."""
        return self.url or _URLS.get(self.store_type, "").format(region=self.signing_region)


FIELDS = {
    "uuid": "uuid",
    "store_type": "storeType",
    "bucket_name": "bucketName",
    "access_key": "accessKey",
    "secret": "secret",
    "secret_file": "secretFile",
    "label": "label",
    "region": "region",
    "url": "url",
    "prefix": "prefix",
    "notes": "notes",
    "signature_version": "signatureVersion",
    "path_style": "pathStyle",
    "ca_file": "caFile",
}
"""Names of the fields in commands, and in the attribute's value."""


def store_type_named(word: str) -> StoreType:
    """Return the store type of this name, in any spelling. Raises `UsageError` that names the nearest."""
    form = squashed(word)
    for one in StoreType:
        if squashed(one.value) == form:
            return one
    if form in _SPELLINGS:
        return _SPELLINGS[form]
    raise UsageError(
        f"no object store is called {shortened(word)}",
        hint=did_you_mean(word, [one.value for one in StoreType], what="type"),
    )


def made(uuid: str, store_type: StoreType, given: Mapping[str, object], *, masks: bool = False) -> Bucket:
    """Return the bucket configuration that values by field name describe; None and "" are not given.

    With `masks` a masked secret is taken for one that is not known. Raises `UsageError`.
    """
    texts = {name: field_text(name, value) for name, value in given.items() if name != "path_style"}
    protocol = texts.pop("protocol", "")
    for name in ("bucket_name", "access_key", "label", *(("url",) if store_type in WITH_URL else ())):
        if not texts.get(name):
            raise UsageError(f"a {store_type.value} bucket needs {name}")
    if store_type is StoreType.S3 and not texts.get("region"):
        raise UsageError("an S3 bucket needs region", hint="such as eu-west-1, or EU_WEST_1")
    secret = texts.pop("secret", "")
    if not (masks and secret == MASK):
        _check_secret(secret, texts.get("secret_file", ""))
    url = store_url(texts.pop("url", ""), protocol)
    path_style = given.get("path_style")
    if path_style not in (None, True, False):
        raise UsageError("path_style is neither true nor false")
    check_names(store_type, texts)
    return Bucket(
        uuid=configuration_id(uuid),
        store_type=store_type,
        bucket_name=texts["bucket_name"],
        access_key=texts["access_key"],
        secret=Secret(secret) if secret not in ("", MASK) else None,
        secret_file=texts.get("secret_file", ""),
        label=texts["label"],
        region=texts.get("region", ""),
        url=url,
        prefix=texts.get("prefix", "").strip("/"),
        notes=texts.get("notes", ""),
        signature_version=signature_version(texts.get("signature_version", "")),
        path_style=store_type not in HOST_STYLE if path_style is None else bool(path_style),
        ca_file=texts.get("ca_file", ""),
    )


def changed(bucket: Bucket, given: Mapping[str, object]) -> Bucket:
    """Return a configuration with some fields changed: None is as it was, "" nothing. Raises `UsageError`."""
    before: dict[str, object] = {
        name: getattr(bucket, name) for name in FIELDS if name not in ("uuid", "store_type")
    }
    before["secret"] = _kept_secret(bucket)
    wanted = {name: value for name, value in given.items() if value is not None}
    if wanted.get("secret"):
        before["secret_file"] = ""
    elif wanted.get("secret_file"):
        before["secret"] = ""
    if "protocol" in wanted and "url" not in wanted:
        wanted["url"] = bucket.url.partition("://")[2]
    return made(bucket.uuid, bucket.store_type, before | wanted, masks=before["secret"] == MASK)


def moved_fields(before: Bucket, after: Bucket) -> list[str]:
    """Return the fields by whose change the contents would not be found any more."""
    return [name for name in ("bucket_name", "prefix") if getattr(before, name) != getattr(after, name)]


def parse(value: object) -> tuple[Bucket, ...]:
    """Return the configurations that a value of `s3BucketConfigurations` holds. Raises `UsageError`."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise UsageError("bucket configurations are a JSON array")
    if len(value) > BUCKETS_MAX:
        raise UsageError(f"{len(value)} bucket configurations are too many", hint=f"at most {BUCKETS_MAX}")
    buckets = tuple(_entry(entry) for entry in value)
    check_unlike(buckets)
    return buckets


def encode(buckets: Iterable[Bucket]) -> list[dict[str, Any]]:
    """Return the value of `s3BucketConfigurations`, secrets in clear: for the ledger alone."""
    entries = []
    for bucket in buckets:
        entry: dict[str, Any] = {}
        for name, key in FIELDS.items():
            found = getattr(bucket, name)
            if found not in ("", None):
                entry[key] = found.revealed if isinstance(found, Secret) else found
        if not bucket.secret_file:
            entry["secret"] = _kept_secret(bucket)
        entry["storeType"] = bucket.store_type.value
        entry["signatureVersion"] = bucket.signature_version.value
        entry["protocol"] = bucket.protocol
        entries.append(entry)
    return entries


def masked(value: object) -> object:
    """Return a value of `s3BucketConfigurations` as it may be shown: without its secrets.

    Takes any value, for what is shown may be anything.
    """
    if isinstance(value, list | tuple):
        return [masked(one) for one in value]
    if isinstance(value, Mapping):
        return {
            key: MASK if squashed(str(key)) in ("secret", "secretkey") and found else masked(found)
            for key, found in value.items()
        }
    return value


def check_unlike(buckets: Sequence[Bucket]) -> None:
    """Raise `UsageError` where two configurations can't be told apart."""
    by_uuid: set[str] = set()
    by_place: dict[tuple[str, str, str], Bucket] = {}
    for bucket in buckets:
        if bucket.uuid in by_uuid:
            raise UsageError(f"two bucket configurations have the id {bucket.uuid}")
        by_uuid.add(bucket.uuid)
        place = (bucket.endpoint.casefold(), bucket.bucket_name, bucket.prefix)
        same = by_place.setdefault(place, bucket)
        if same is not bucket:
            raise UsageError(
                f"the bucket {bucket.bucket_name} is configured already, as {same.label} ({same.uuid})",
                hint="use that one, change it with core doUpdateBucket, or give another prefix",
            )


def bucket_with(buckets: Iterable[Bucket], uuid: str) -> Bucket:
    """Return the configuration of this id. Raises `UsageError` that lists what there is."""
    known = list(buckets)
    for bucket in known:
        if bucket.uuid == uuid.casefold():
            return bucket
    ids = ", ".join(f"{one.uuid} ({one.label})" for one in known) or "none; core doCreateBucket makes one"
    raise UsageError(f"no bucket configuration {shortened(uuid)}", hint=f"valid: {ids}")


def secret_of(bucket: Bucket) -> Secret:
    """Return a bucket's secret, read anew from its file where it has one; blocks. Raises `ConfigError`."""
    if bucket.secret is not None:
        return bucket.secret
    if not bucket.secret_file:
        raise ConfigError(
            f"the secret of the bucket {bucket.label} ({bucket.uuid}) is not known here",
            hint="dumps of the configuration hold none: give it with core doUpdateBucket",
        )
    return read_secret(Path(bucket.secret_file))


def with_secrets_of(buckets: Iterable[Bucket], before: Iterable[Bucket]) -> tuple[Bucket, ...]:
    """Return configurations whose masked secrets are those that are known. Raises `UsageError`."""
    known = {one.uuid: one for one in before}
    found = []
    for bucket in buckets:
        if bucket.secret is None and not bucket.secret_file:
            old = known.get(bucket.uuid)
            if old is None or old.secret is None:
                raise UsageError(
                    f"{MASK} stands for the secret of {bucket.label}, which is not known",
                    hint="give the secret itself, or secretFile",
                )
            found.append(msgspec.structs.replace(bucket, secret=old.secret))
        else:
            found.append(bucket)
    return tuple(found)


def _kept_secret(bucket: Bucket) -> str:
    """Return a secret as the attribute's value has it."""
    if bucket.secret_file:
        return ""
    return bucket.secret.revealed if bucket.secret is not None else MASK


def _entry(entry: object) -> Bucket:
    if not isinstance(entry, Mapping):
        raise UsageError("a bucket configuration is a JSON object")
    names = {squashed(key): name for name, key in FIELDS.items()} | {"protocol": "protocol"}
    given: dict[str, object] = {}
    for key, value in entry.items():
        name = names.get(squashed(str(key)))
        if name is None:
            raise UsageError(
                f"a bucket configuration has no {shortened(key)}",
                hint=did_you_mean(str(key), [*FIELDS.values(), "protocol"], what="key"),
            )
        given[name] = value
    uuid = field_text("uuid", given.pop("uuid", ""))
    store_type = store_type_named(field_text("store_type", given.pop("store_type", "")))
    return made(uuid, store_type, given, masks=True)


def _check_secret(secret: str, secret_file: str) -> None:
    if secret == MASK:
        raise UsageError(
            f"{MASK} stands for a secret and is none",
            hint="give the secret itself, or change other fields with core doUpdateBucket",
        )
    if bool(secret) == bool(secret_file):
        said = "both secret and secret_file are given" if secret else "a bucket needs secret or secret_file"
        raise UsageError(said, hint="secret_file names a file of the daemon's machine that holds it")
