"""Trying out a bucket at a store: what is found reads as checks, and a store that is not there is told."""

from __future__ import annotations

import pytest

from backupd.buckets import Bucket, SignatureVersion, StoreType, made
from backupd.errors import ConfigError
from backupd.views import Outcome
from backupd.volumes.chosen import bucket_settings
from backupd.volumes.s3_probe import Finding, StoreReport
from daemon.bucket_probe import checks_of, probe_bucket

UUID = "58fa4ca2-31dd-4209-aa23-48b33b116090"


def bucket(**fields: object) -> Bucket:
    given = {
        "bucket_name": "mail",
        "access_key": "k",
        "secret": "s",
        "label": "l",
        "url": "http://127.0.0.1:9",
    }
    return made(UUID, StoreType.CUSTOM_S3, given | fields)


def test_a_bucket_becomes_settings() -> None:
    """Every field has its place; S3's own address follows from its region."""
    settings = bucket_settings(
        bucket(prefix="a/b", region="r1", signature_version="v2", ca_file="/etc/ca.pem", path_style=False)
    )
    assert (settings.bucket, settings.endpoint, settings.prefix) == ("mail", "http://127.0.0.1:9", "a/b")
    assert (settings.region, settings.signature_version, settings.path_style) == ("r1", "V2", False)
    assert str(settings.ca_file) == "/etc/ca.pem"
    assert bucket_settings(bucket()).signature_version == SignatureVersion.V4.value
    given = {"bucket_name": "mail", "access_key": "k", "secret": "s", "label": "l", "region": "EU_WEST_1"}
    amazon = bucket_settings(made(UUID, StoreType.S3, given))
    assert (amazon.endpoint, amazon.region) == ("", "eu-west-1")
    with pytest.raises(ConfigError):
        bucket_settings(bucket(secret=None, secret_file="/nowhere/secret"))


def test_findings_become_checks() -> None:
    """What a backup needs is critical, what makes it safer a warning, what can't be told unknown."""
    report = StoreReport(
        place="store/mail",
        findings=(
            Finding(what="reach", able=True),
            Finding(what="put", able=False, told="AccessDenied", hint="allow it"),
            Finding(what="delete", able=False, told="AccessDenied", hint="need not"),
            Finding(what="conditional_put", able=None, told="busy"),
            Finding(what="object_lock", able=False),
        ),
    )
    checks = checks_of(report)
    assert [one.outcome for one in checks] == [
        Outcome.OK,
        Outcome.CRITICAL,
        Outcome.WARNING,
        Outcome.UNKNOWN,
        Outcome.OK,
    ]
    assert "store/mail" in checks[0].found
    assert "AccessDenied" in checks[1].found
    assert checks[1].cure == "allow it"


def test_a_store_that_is_there(moto) -> None:
    """A real request for each question, and all that a backup needs is found."""
    settings = moto.settings(prefix="probe")
    checks = probe_bucket(
        bucket(
            bucket_name=settings.bucket,
            access_key=settings.access_key,
            secret=settings.secret.revealed,
            url=settings.endpoint,
            prefix="probe",
        )
    )
    found = {one.name: one.outcome for one in checks}
    assert {found[name] for name in ("reach", "list", "put", "get")} == {Outcome.OK}


def test_a_store_that_is_not_there() -> None:
    """One check says so, with what helps."""
    (check,) = probe_bucket(bucket())
    assert (check.name, check.outcome) == ("reach", Outcome.CRITICAL)
    assert check.cure
