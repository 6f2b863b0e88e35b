"""Trying out a bucket: what the store answers, as checks that an admin reads from the top."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from backupd.buckets import Bucket
from backupd.jobs.doctor.verdict import critical, ok, unknown, warning
from backupd.views import CheckView
from backupd.volumes.chosen import bucket_settings

if TYPE_CHECKING:
    from backupd.volumes.s3_probe import Finding, StoreReport

CONNECT_SECONDS_MAX = 5.0
READ_SECONDS_MAX = 10.0
REQUEST_SECONDS_MAX = 15.0
"""A store that hangs is told within a minute; an admin waits for this."""

_QUESTIONS = {
    "reach": "the store is reached",
    "list": "the bucket can be listed",
    "put": "an object can be put",
    "get": "an object can be read back",
    "delete": "an object can be deleted",
    "conditional_put": "the store refuses to overwrite (conditional puts)",
    "versioning": "the bucket keeps old versions",
    "object_lock": "the bucket can lock objects",
}
_NEEDED = ("reach", "list", "put", "get")
_BETTER = ("delete", "conditional_put")


def probe_bucket(bucket: Bucket) -> tuple[CheckView, ...]:
    """Try a bucket out and return what was found; blocks, within bounds. Raises as `bucket_settings`."""
    settings = msgspec.structs.replace(
        bucket_settings(bucket),
        connect_seconds=CONNECT_SECONDS_MAX,
        read_seconds=READ_SECONDS_MAX,
        request_seconds=REQUEST_SECONDS_MAX,
    )
    from backupd.volumes.s3 import S3Volume  # noqa: PLC0415 - 0.2 s and 15 MB, only once a bucket is asked

    volume = S3Volume(settings)
    try:
        return checks_of(volume.check())
    finally:
        volume.close()


def checks_of(report: StoreReport) -> tuple[CheckView, ...]:
    """Return a report as checks: what a backup needs is critical, what it is better with a warning."""
    return tuple(_check(finding, report.place) for finding in report.findings)


def _check(finding: Finding, place: str) -> CheckView:
    name = finding.what.replace("_", " ")
    asked = _QUESTIONS.get(finding.what, name)
    told = f"{asked}: {finding.told}" if finding.told else asked
    if finding.able:
        return ok(name, f"{asked} ({place})" if finding.what == "reach" else asked)
    if finding.what in _NEEDED:
        return critical(name, f"not so: {told}", finding.hint or "see the store's own log")
    if finding.able is None:
        return unknown(name, f"not known whether {told}", finding.hint)
    if finding.what in _BETTER:
        return warning(name, f"not so: {told}", finding.hint)
    return ok(name, f"not so: {told}", finding.hint)
