"""Settings of a bucket: what can't be right is refused, and what an object is to carry follows from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backupd.errors import UsageError
from backupd.secret import Secret
from backupd.volumes.s3_settings import Retention, S3Settings
from backupd.volumes.s3_uploading import body_parameters, object_parameters

KNOWN = {"bucket": "backups", "access_key": "key", "secret": Secret("hidden")}
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def settings(**facts) -> S3Settings:
    return S3Settings(**(KNOWN | facts))


@pytest.mark.parametrize(
    "facts",
    [
        {"bucket": "ab"},
        {"bucket": "a/b/c"},
        {"endpoint": "store.example.org"},
        {"endpoint": "ftp://store.example.org"},
        {"prefix": "/a"},
        {"prefix": "a/../b"},
        {"use_infrequent_access": True, "use_intelligent_tiering": True},
        {"retention": Retention(days=0)},
        {"requests_max": 0},
    ],
)
def test_impossible_settings(facts):
    """What can't be right is refused when it is made, not at the first upload."""
    with pytest.raises(UsageError):
        settings(**facts)


def test_place_without_secret():
    """Where a bucket is can be shown; the secret can't."""
    made = settings(endpoint="https://store.example.org/", prefix="srv1")
    assert made.place == "https://store.example.org/backups/srv1"
    assert settings().place == "s3.us-east-1.amazonaws.com/backups"
    assert "hidden" not in repr(made)


@pytest.mark.parametrize(
    ("facts", "size", "expected"),
    [
        ({}, 1 << 20, ""),
        ({"use_infrequent_access": True}, 65_535, ""),
        ({"use_infrequent_access": True}, 65_536, "STANDARD_IA"),
        ({"use_infrequent_access": True, "infrequent_access_threshold": 10}, 10, "STANDARD_IA"),
        ({"use_intelligent_tiering": True}, 1, "INTELLIGENT_TIERING"),
    ],
)
def test_storage_class(facts, size, expected):
    """Content at or above the threshold goes to infrequent access; tiering takes all."""
    assert settings(**facts).storage_class(size) == expected


def test_retention_of_an_object():
    """An object carries its mode and the moment its retention ends; without retention neither."""
    kept = settings(retention=Retention(days=30, mode="COMPLIANCE"))
    parameters = object_parameters(kept, 5, "abc", NOW)
    assert parameters["ObjectLockMode"] == "COMPLIANCE"
    assert parameters["ObjectLockRetainUntilDate"] == NOW + timedelta(days=30)
    assert object_parameters(settings(), 5, "abc", NOW) == {"Metadata": {"sha256": "abc"}}


def test_checksums_of_a_body():
    """A body carries the checksums of RFC 1864 and SHA-256, the latter only where wished."""
    sent = body_parameters(settings(), b"hello")
    assert sent["ContentMD5"] == "XUFAKrxLKna5cZ2REBfFkg=="
    assert sent["ChecksumSHA256"] == "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="
    assert "ChecksumSHA256" not in body_parameters(settings(checksum_headers=False), b"hello")


def test_deadline_grows_with_size():
    """A request may take as long as its bytes need at the slowest speed, and no longer."""
    made = settings(request_seconds=10.0, bytes_per_second_min=1_000)
    assert made.seconds_for(0) == 10.0
    assert made.seconds_for(5_000) == 15.0
