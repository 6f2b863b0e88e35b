"""Bucket configurations: what each type needs, values of the attribute, and secrets that stay hidden."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.buckets import (
    MASK,
    WITH_URL,
    Bucket,
    SignatureVersion,
    StoreType,
    bucket_with,
    changed,
    encode,
    made,
    masked,
    moved_fields,
    parse,
    secret_of,
    store_type_named,
    with_secrets_of,
)
from backupd.errors import ConfigError, UsageError

UUID = "58fa4ca2-31dd-4209-aa23-48b33b116090"
OTHER = "5d32b50d-79fc-4591-86da-35bedca95de7"
SECRET = "wJalrXUtnFEMI/K7MDENG"
S3 = {
    "bucket_name": "hsm",
    "access_key": "AKIA1",
    "secret": SECRET,
    "label": "first",
    "region": "EU_WEST_1",
}
CUSTOM = S3 | {"url": "s3.example.com:9000"}
LINE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


@given(
    st.sampled_from(StoreType),
    st.fixed_dictionaries(
        {"access_key": LINE, "secret": LINE.filter(lambda text: text != MASK), "label": LINE},
        optional={"notes": LINE, "path_style": st.booleans(), "signature_version": st.just("v2")},
    ),
)
def test_what_is_encoded_is_parsed_back(store_type: StoreType, fields: dict[str, Any]) -> None:
    """Through JSON and back a configuration of each type is the same."""
    bucket = made(UUID, store_type, CUSTOM | fields)
    value = msgspec.json.decode(msgspec.json.encode(encode([bucket])))
    assert parse(value) == (bucket,)
    assert encode(parse(value)) == value


def test_what_types_differ_in() -> None:
    """S3's address follows from its region, others have a URL; the bucket stands in the host or the path."""
    s3 = made(UUID, StoreType.S3, S3)
    assert (s3.region, s3.signing_region, s3.endpoint, s3.path_style) == ("EU_WEST_1", "eu-west-1", "", False)
    alibaba = made(UUID, StoreType.ALIBABA, S3 | {"region": None})
    assert (alibaba.endpoint, alibaba.path_style) == ("https://oss-cn-hangzhou.aliyuncs.com", False)
    minio = made(UUID, StoreType.MINIO, CUSTOM | {"protocol": "HTTP", "region": ""})
    assert (minio.endpoint, minio.protocol) == ("http://s3.example.com:9000", "HTTP")
    assert (minio.path_style, minio.signing_region) == (True, "us-east-1")
    assert minio.signature_version is SignatureVersion.V4


@pytest.mark.parametrize("word", ["scality", "SCALITY-S3", "custom_s3", "minio", "Emc"])
def test_types_in_any_spelling(word: str) -> None:
    """A type is found whatever its case and hyphens; the shorter name of one is known too."""
    assert store_type_named(word) in StoreType


@pytest.mark.parametrize(
    ("store_type", "fields", "said"),
    [
        *[(one, S3, "needs url") for one in WITH_URL],
        (StoreType.S3, S3 | {"region": ""}, "needs region"),
        (StoreType.S3, S3 | {"label": None}, "needs label"),
        (StoreType.S3, S3 | {"bucket_name": "A_b"}, "no name of a bucket"),
        (StoreType.CEPH, CUSTOM | {"bucket_name": "a/b"}, "no name of a bucket"),
        (StoreType.S3, S3 | {"secret": ""}, "needs secret or secret_file"),
        (StoreType.S3, S3 | {"secret_file": "/x"}, "both"),
        (StoreType.S3, S3 | {"secret": MASK}, "stands for a secret"),
        (StoreType.S3, S3 | {"secret": "", "secret_file": "x"}, "absolute"),
        (StoreType.S3, S3 | {"ca_file": "x"}, "absolute"),
        (StoreType.S3, S3 | {"prefix": "a//b"}, "no prefix"),
        (StoreType.S3, S3 | {"region": "a b"}, "no region"),
        (StoreType.S3, S3 | {"notes": "a\nb"}, "one line"),
        (StoreType.S3, S3 | {"path_style": "x"}, "path_style"),
        (StoreType.MINIO, CUSTOM | {"url": "ftp://x"}, "no url"),
        (StoreType.MINIO, CUSTOM | {"url": "http://x:port"}, "no url"),
        (StoreType.MINIO, CUSTOM | {"url": "http://a:b@x"}, "no credentials"),
        (StoreType.MINIO, CUSTOM | {"protocol": "gopher"}, "no protocol"),
        (StoreType.MINIO, CUSTOM | {"signature_version": "V3"}, "signature_version"),
    ],
)
def test_what_does_not_fit_is_refused(store_type: StoreType, fields: dict[str, Any], said: str) -> None:
    """Each refusal names the field or what is valid, and never the secret."""
    with pytest.raises(UsageError) as told:
        made(UUID, store_type, fields)
    assert said in str(told.value)
    assert SECRET not in str(told.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "JSON array"),
        (["x"], "JSON object"),
        ([{"uuid": UUID}], "no object store"),
        ([{"storeType": "S3"}], "needs bucket_name"),
        ([{"storeType": "S3", "bucketNam": "x"}], "did you mean bucketName"),
        ([{}] * 201, "too many"),
    ],
)
def test_values_that_do_not_fit_are_refused(value: object, said: str) -> None:
    """What is no list of configurations says where it goes wrong."""
    with pytest.raises(UsageError) as told:
        parse(value)
    assert said in str(told.value)


def test_configurations_are_told_apart() -> None:
    """The same id, or the same bucket and prefix of the same store, stands once."""
    one = encode([made(UUID, StoreType.S3, S3)])
    with pytest.raises(UsageError, match="have the id"):
        parse(one + one)
    with pytest.raises(UsageError, match="configured already"):
        parse(one + encode([made(OTHER, StoreType.S3, S3 | {"label": "second"})]))
    both = parse(one + encode([made(OTHER, StoreType.S3, S3 | {"prefix": "/mail/"})]))
    assert bucket_with(both, OTHER.upper()).prefix == "mail"
    with pytest.raises(UsageError, match="first"):
        bucket_with(both, "nothing")


def test_some_fields_are_changed() -> None:
    """What is not named stays; secret and secret_file replace each other; what moves contents is told."""
    before = made(UUID, StoreType.MINIO, CUSTOM)
    assert changed(before, {"label": None, "notes": "x"}).notes == "x"
    filed = changed(before, {"secret_file": "/run/secret"})
    assert (filed.secret, filed.secret_file) == (None, "/run/secret")
    again = changed(filed, {"secret": "new"})
    assert again.secret is not None
    assert (again.secret.revealed, again.secret_file) == ("new", "")
    assert changed(before, {"protocol": "HTTP"}).url == "http://s3.example.com:9000"
    assert moved_fields(before, again) == []
    assert moved_fields(before, changed(before, {"prefix": "a", "bucket_name": "b"})) == [
        "bucket_name",
        "prefix",
    ]
    with pytest.raises(UsageError, match="needs label"):
        changed(before, {"label": ""})


def test_secrets_are_masked() -> None:
    """Neither what is shown nor the structs' own text holds a secret; the rest is as it was."""
    bucket = made(UUID, StoreType.S3, S3)
    value = encode([bucket])
    shown = masked(value)
    assert isinstance(shown, list)
    assert shown[0] == value[0] | {"secret": MASK}
    assert SECRET not in repr(bucket)
    assert masked("x") == "x"
    with pytest.raises(TypeError):
        msgspec.json.encode(bucket)


def test_a_masked_value_is_taken_back() -> None:
    """What was shown can be set again: secrets that are known stay, others must be given."""
    before = [made(UUID, StoreType.S3, S3)]
    shown = parse(masked(encode(before)))
    assert with_secrets_of(shown, before) == tuple(before)
    with pytest.raises(UsageError, match="stands for the secret of first"):
        with_secrets_of(shown, [])
    assert parse(encode(shown)) == shown
    with pytest.raises(ConfigError, match="doUpdateBucket"):
        secret_of(shown[0])
    assert changed(shown[0], {"notes": "x"}).secret is None
    assert secret_of(changed(shown[0], {"secret": SECRET})).revealed == SECRET


def test_a_secret_comes_from_its_file(tmp_path) -> None:
    """The file is read each time, so that a new secret needs no command; without it the error says where."""
    path = tmp_path / "secret"
    bucket: Bucket = made(UUID, StoreType.S3, S3 | {"secret": "", "secret_file": str(path)})
    with pytest.raises(ConfigError, match=str(path)):
        secret_of(bucket)
    path.write_text("one\n")
    assert secret_of(bucket).revealed == "one"
    path.write_text("two\n")
    assert secret_of(bucket).revealed == "two"
    assert secret_of(made(UUID, StoreType.S3, S3)).revealed == SECRET
