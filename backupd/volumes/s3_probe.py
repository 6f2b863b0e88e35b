"""Trying a store out: what it can do and what the credentials allow, found by doing it, not by its word.

A store that knows nothing of `If-None-Match` may overwrite and call that a success: only two puts of one key
can tell. The two objects of a probe begin with a dot, which no name of a volume does; the one for
conditional puts stays, so that a writer without the permission to delete need not remove it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import msgspec

from backupd.errors import BackupdError, VolumeError
from backupd.volumes import s3_uploading
from backupd.volumes.failures import AccessRefused, BucketMissing, ClockSkewed, VolumeUnreachable
from backupd.volumes.s3_client import S3Client
from backupd.volumes.s3_errors import KeyContended, KeyMissing, KeyTaken

CONDITION_KEY = ".backupd-conditional"
PROBE_KEY = ".backupd-probe-"
_CONTENT = b"backupd tries out here what the store can do; this may be deleted\n"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One question to the store; `able` None: can't be told. `told` says what happened, `hint` what helps."""

    what: str
    able: bool | None
    told: str = ""
    hint: str = ""


class StoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a store can do, question by question, in the order they were asked."""

    place: str
    findings: tuple[Finding, ...]

    def able(self, what: str) -> bool | None:
        """Return the finding of a question; None if it was not asked or could not be told."""
        return next((finding.able for finding in self.findings if finding.what == what), None)

    @property
    def usable(self) -> bool:
        """Tell whether a backup can be kept there: reached, listed, put and read back."""
        return all(self.able(what) for what in ("reach", "list", "put", "get"))

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that say no and have a cure."""
        return tuple(finding for finding in self.findings if finding.able is False and finding.hint)


def honours_conditional_puts(client: S3Client) -> bool:
    """Tell whether a put with `If-None-Match: *` is refused where an object is. Raises `VolumeError`."""
    for _ in range(2):
        try:
            client.call(
                "put_object",
                Key=client.settings.key(CONDITION_KEY),
                IfNoneMatch="*",
                **s3_uploading.body_parameters(client.settings, _CONTENT),
            )
        except (KeyTaken, KeyContended):
            return True
        except VolumeError as error:
            if error.facts.get("status") == 501:  # noqa: PLR2004 - Not Implemented
                return False
            raise
    return False


def probe(client: S3Client) -> StoreReport:
    """Ask everything; blocks, and raises nothing that the store may cause: it is told in the findings."""
    settings = client.settings
    listed, error = _tried("list", lambda: client.call("list_objects_v2", Prefix=settings.key(""), MaxKeys=1))
    if isinstance(error, _HOPELESS):
        unreached = Finding(what="reach", able=False, told=listed.told, hint=listed.hint)
        return StoreReport(place=settings.place, findings=(unreached,))
    key = settings.key(PROBE_KEY + uuid.uuid4().hex)
    body = s3_uploading.body_parameters(settings, _CONTENT)
    asked = (
        _tried("put", lambda: client.call("put_object", Key=key, **body)),
        _tried("get", lambda: _read_back(client, key)),
        _tried("delete", lambda: client.call("delete_object", Key=key), refused=_DELETE),
        _tried("conditional_put", lambda: honours_conditional_puts(client), _CONDITIONAL),
        _tried("versioning", lambda: _versioning(client)),
        _tried("object_lock", lambda: _locks(client), _NO_LOCK if settings.retention is not None else ""),
    )
    reached = Finding(what="reach", able=True)
    return StoreReport(place=settings.place, findings=(reached, listed, *(finding for finding, _ in asked)))


_HOPELESS = (VolumeUnreachable, BucketMissing, ClockSkewed)
_DELETE = "a writer need not be allowed to delete; purge then needs a key of its own that is"
_CONDITIONAL = "a look comes before each put instead: let only this server write below its prefix"
_NO_LOCK = "make a bucket with object lock turned on, or take the retention off"


def _tried(
    what: str, ask: Callable[[], object], hint: str = "", *, refused: str = ""
) -> tuple[Finding, BackupdError | None]:
    try:
        answer = ask()
    except BackupdError as error:
        able = None if isinstance(error, VolumeError) and not error.permanent else False
        helps = refused if refused and isinstance(error, AccessRefused) else error.hint
        return Finding(what=what, able=able, told=error.message, hint=helps), error
    if answer is False:
        return Finding(what=what, able=False, told="the store does not do this", hint=hint), None
    return Finding(what=what, able=True), None


def _read_back(client: S3Client, key: str) -> bool:
    _, content, body = client.get(Key=key)
    if body is not None:
        body.close()
    return content == _CONTENT


def _versioning(client: S3Client) -> bool:
    return bool(client.call("get_bucket_versioning").get("Status") == "Enabled")


def _locks(client: S3Client) -> bool:
    """Tell whether the bucket keeps retentions: some stores accept them and ignore them."""
    try:
        answer = client.call("get_object_lock_configuration")
    except KeyMissing:
        return False
    return bool(answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")
