"""The fields of a bucket configuration: what each may hold; errors name the field and what is valid.

Part of `backupd.buckets`, which puts them together. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from urllib.parse import urlsplit
from uuid import UUID

from backupd.errors import UsageError
from backupd.parameters import shortened

FIELD_CHARACTERS_MAX = 1024
_PREFIX_LEVEL = r"[A-Za-z0-9_@=,+~-][A-Za-z0-9._@=,+~-]{0,99}"
_PREFIX = re.compile(rf"(?:{_PREFIX_LEVEL}/)*{_PREFIX_LEVEL}\Z")
_S3_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_ANY_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,254}\Z")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")


class StoreType(StrEnum):
    """Who made the object store."""

    S3 = "S3"
    CUSTOM_S3 = "CustomS3"
    SCALITY = "ScalityS3"
    EMC = "EMC"
    CLOUDIAN = "Cloudian"
    CEPH = "Ceph"
    YANDEX = "Yandex"
    ALIBABA = "Alibaba"
    MINIO = "MinIO"


class SignatureVersion(StrEnum):
    """How requests are signed; V2 only for stores that know nothing newer."""

    V2 = "V2"
    V4 = "V4"


def field_text(name: str, value: object) -> str:
    """Return a field as a text, empty where it is not given."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > FIELD_CHARACTERS_MAX or not value.isprintable():
        raise UsageError(f"{name} is no text of one line", hint=f"at most {FIELD_CHARACTERS_MAX} characters")
    return value.strip()


def check_names(store_type: StoreType, texts: Mapping[str, str]) -> None:
    """Raise `UsageError` for names, prefixes, regions and paths that can't be."""
    pattern = _S3_BUCKET if store_type is StoreType.S3 else _ANY_BUCKET
    if pattern.match(texts["bucket_name"]) is None:
        raise UsageError(
            f"{shortened(texts['bucket_name'])} is no name of a bucket",
            hint="3 to 63 lower-case letters, digits, dots and hyphens"
            if pattern is _S3_BUCKET
            else "letters, digits and ._:- only",
        )
    prefix = texts.get("prefix", "").strip("/")
    if prefix and _PREFIX.match(prefix) is None:
        raise UsageError(
            f"{shortened(texts['prefix'])} is no prefix",
            hint="levels of letters, digits and ._@=,+~- joined by '/', none starting with a dot",
        )
    region = texts.get("region", "")
    if region and _REGION.match(region) is None:
        raise UsageError(f"{shortened(region)} is no region", hint="such as eu-west-1")
    for name in ("secret_file", "ca_file"):
        if texts.get(name) and not texts[name].startswith("/"):
            raise UsageError(f"{name} is no absolute path", hint="it is read on the daemon's machine")


def store_url(url: str, protocol: str) -> str:
    """Return a URL with its scheme and without a slash at its end. Raises `UsageError`."""
    scheme = protocol.casefold() or "https"
    if scheme not in ("http", "https"):
        raise UsageError(f"{shortened(protocol)} is no protocol", hint="valid: HTTPS, HTTP")
    if not url:
        return ""
    whole = url if "://" in url else f"{scheme}://{url}"
    try:
        parts = urlsplit(whole)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.username or parts.password:
        raise UsageError("a url holds no credentials", hint="give access_key and secret")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(
            f"{shortened(url)} is no url of a store", hint="such as https://minio.example.com:9000"
        )
    return whole.rstrip("/")


def signature_version(given: str) -> SignatureVersion:
    """Return the version that a word names, V4 for none."""
    for one in SignatureVersion:
        if not given or given.casefold() == one.value.casefold():
            return one if given else SignatureVersion.V4
    raise UsageError(f"{shortened(given)} is no signature_version", hint="valid: V2, V4")


def configuration_id(given: str) -> str:
    """Return the id in its usual form."""
    try:
        return str(UUID(given))
    except ValueError:
        raise UsageError(f"{shortened(given)} is no id of a bucket configuration", hint="a UUID") from None
