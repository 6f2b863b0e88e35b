"""Buckets: how an object store is reached; the entries of the attribute `s3BucketConfigurations`.

Words: a *bucket configuration* names a store, a bucket there, the credentials and how to speak to it; it has
a UUID by which volumes refer to it. `prefix` stands before every key that is used through it, so that one
bucket of a store may serve several configurations. Its *type* is that of the store's maker: it decides what
must be given, and what is taken where nothing is.

Everything here is pure. Secrets are plain texts in the attribute's value, which lies in the ledger (mode
0600); `Bucket` keeps them as `Secret`, and whatever is shown goes through `masked`.
"""

from __future__ import annotations

from enum import StrEnum

from backupd.errors import UsageError
from backupd.parameters import did_you_mean, shortened, squashed


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


_SPELLINGS = {"scality": StoreType.SCALITY}


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
