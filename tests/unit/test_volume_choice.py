"""Volume choice: the attribute's value and what it means, both ways."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.buckets import Bucket, StoreType, made
from backupd.errors import UsageError
from backupd.volume_choice import (
    BucketChoice,
    DefaultChoice,
    LocalChoice,
    VolumeChoice,
    bucket_choice,
    bucket_of,
    described,
    destination,
    encode,
    local_choice,
    parse,
    size_bytes,
)

BUCKET = "58fa4ca2-31dd-4209-aa23-48b33b116090"
S3 = {"storeType": "S3", "bucketConfigurationId": BUCKET}
LEVELS = st.from_regex(r"[a-z0-9_@=,+~-][a-z0-9._@=,+~-]{0,9}", fullmatch=True)
CHOICES = st.one_of(
    st.just(DefaultChoice()),
    st.builds(
        LocalChoice,
        path=st.lists(LEVELS, min_size=1, max_size=3).map(lambda levels: "/" + "/".join(levels)),
        volume_id=st.from_regex(r"[0-9a-f]{0,32}", fullmatch=True),
        encrypted=st.booleans(),
    ),
    st.builds(
        BucketChoice,
        store_type=st.sampled_from(StoreType),
        bucket_id=st.uuids().map(str),
        volume_prefix=st.lists(LEVELS, max_size=3).map("/".join),
        infrequent_access_threshold_bytes=st.integers(0, 2**40),
        encrypted=st.booleans(),
    ),
    st.builds(
        BucketChoice,
        store_type=st.just(StoreType.S3),
        bucket_id=st.uuids().map(str),
        use_infrequent_access=st.booleans(),
        infrequent_access_threshold_bytes=st.integers(0, 2**40),
    ),
)


def known(store_type: StoreType) -> Bucket:
    given = {"bucket_name": "one", "access_key": "a", "secret": "s", "label": "l", "region": "r", "url": "u"}
    return made(BUCKET, store_type, given)


@given(CHOICES)
def test_what_is_encoded_is_parsed_back(choice: VolumeChoice) -> None:
    """Through JSON and back every choice is the same, and it can be described."""
    assert parse(msgspec.json.decode(msgspec.json.encode(encode(choice)))) == choice
    assert described(choice)


def test_the_vendors_values() -> None:
    """Nothing is the Backup Path; types are found in any spelling; the default threshold is 64 KB."""
    assert parse({}) == parse({"storeType": "default"}) == DefaultChoice()
    assert parse({"storeType": "local", "volumeRootPath": "/mnt/x/"}) == LocalChoice(path="/mnt/x")
    found = parse(S3 | {"useInfrequentAccess": True})
    assert isinstance(found, BucketChoice)
    assert found.infrequent_access_threshold_bytes == 65536
    assert parse(S3 | {"storeType": "Scality"}) == bucket_choice("scality-s3", BUCKET.upper())
    assert encode(DefaultChoice()) == {}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "JSON object"),
        ({"storeType": 1}, "storeType"),
        ({"storeType": "Locall"}, "no object store"),
        ({"storetype": "S3"}, "did you mean storeType"),
        ({"storeType": "Default", "volumeRootPath": "/x"}, "no volumeRootPath"),
        ({"storeType": "Local"}, "absolute path"),
        ({"storeType": "Local", "volumeRootPath": "mnt"}, "absolute path"),
        ({"storeType": "Local", "volumeRootPath": "/mnt/../etc"}, "absolute path"),
        ({"storeType": "Local", "volumeRootPath": "/"}, "root of the file system"),
        ({"storeType": "Local", "volumeRootPath": "/m", "volumePrefix": "a"}, "no volumePrefix"),
        ({"storeType": "Local", "volumeRootPath": "/m", "volumeId": "/"}, "no id of a volume"),
        ({"storeType": "S3"}, "listBuckets"),
        (S3 | {"volumeRootPath": "/m"}, "no volumeRootPath"),
        (S3 | {"volumePrefix": "a//b"}, "volume_prefix"),
        (S3 | {"volumePrefix": "../b"}, "volume_prefix"),
        (S3 | {"useInfrequentAccess": "yes"}, "neither true nor false"),
        (S3 | {"useInfrequentAccess": True, "useIntelligentTiering": True}, "exclude"),
        (S3 | {"storeType": "MinIO", "useInfrequentAccess": True}, "S3's alone"),
        (S3 | {"infrequentAccessThreshold": "some"}, "no size"),
    ],
)
def test_what_does_not_fit_is_refused(value: object, said: str) -> None:
    """Each refusal names what is wrong or what is valid."""
    with pytest.raises(UsageError) as told:
        parse(value)
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("given", "size"),
    [(5, 5), ("65536", 65536), ("64 KB", 65536), ("64kb", 65536), ("1MiB", 2**20), ("2 g", 2**31)],
)
def test_sizes(given: object, size: int) -> None:
    """Bytes, or a number with a unit of 1024."""
    assert size_bytes(given) == size


@pytest.mark.parametrize("given", ["", "-1", "KB", "1.5 MB", "1 TB", True, None, "99999999999999 GB"])
def test_no_sizes(given: object) -> None:
    """Anything else is refused."""
    with pytest.raises(UsageError):
        size_bytes(given)


def test_the_bucket_of_a_choice() -> None:
    """The configuration must exist and be of the type that is said."""
    choice = bucket_choice("S3", BUCKET)
    assert bucket_of(choice, [known(StoreType.S3)]).uuid == BUCKET
    with pytest.raises(UsageError, match="MinIO"):
        bucket_of(choice, [known(StoreType.MINIO)])
    with pytest.raises(UsageError, match="doCreateBucket"):
        bucket_of(choice, [])


def test_the_destination_in_a_bucket() -> None:
    """The bucket's prefix, the volume's, then the server: two servers never meet."""
    plain, below = bucket_choice("S3", BUCKET), bucket_choice("S3", BUCKET, volume_prefix="/new/")
    bucket = known(StoreType.S3)
    assert destination(plain, bucket, "srv1") == "srv1"
    assert destination(below, msgspec.structs.replace(bucket, prefix="mail"), "srv1") == "mail/new/srv1"


def test_a_mounted_path() -> None:
    """The path is kept normal."""
    assert local_choice("/mnt//backup/", encrypted=True) == LocalChoice(path="/mnt/backup", encrypted=True)
