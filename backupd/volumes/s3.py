"""Volume in a bucket of an object store that speaks S3: Amazon's, Ceph, MinIO, Swift and many more.

A name is the key of one object below the settings' prefix. Where the store honours `If-None-Match: *` a put
can't overwrite, whoever else writes; elsewhere the volume looks before it puts, which holds as long as one
process writes below the prefix. A look is a GET of one byte: unlike HEAD its errors have a body that says
why, and some stores break the connection after a HEAD that failed.

Failure: `failures` and `SpaceExhausted`. After a put whose reply was lost the volume looks: stored is what
rests there with this size and SHA-256, else the error is raised. Nothing is tried again here.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO

import msgspec

from backupd.clock import Clock, SystemClock
from backupd.errors import VolumeError
from backupd.volumes import s3_probe, s3_reading, s3_uploading
from backupd.volumes.base import ByteSource, NameMissing, NameRefused, check_name
from backupd.volumes.counting import Counts, Tally
from backupd.volumes.failures import RetainedObject, VolumeUnreachable
from backupd.volumes.rewinding import Rewindable, rewindable
from backupd.volumes.s3_client import S3Client
from backupd.volumes.s3_errors import KeyContended, KeyMissing, KeyTaken, RangeBeyond
from backupd.volumes.s3_settings import S3Settings

KEY_LOCKS = 64
"""Where the store has no conditional puts, puts of one key wait for each other on one of these."""
NAMES_A_PAGE = 1_000
_SHA256_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Resting(msgspec.Struct, frozen=True, kw_only=True):
    """What the store says of an object; `sha256` is empty for one that was not put by a volume."""

    size: int
    sha256: str
    stored: datetime | None = None
    storage_class: str = ""
    retained_until: datetime | None = None


class S3Volume:
    """A bucket, or what lies in it below a prefix; any thread may call. To be closed."""

    def __init__(self, settings: S3Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self._tally = Tally()
        self._client = S3Client(settings, self._tally)
        self._clock = clock or SystemClock()
        self._conditional = settings.conditional_puts
        self._probing = threading.Lock()
        self._key_locks = [threading.Lock() for _ in range(KEY_LOCKS)]

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content; see `Volume.put`. Long content goes in parts, at most 32 MiB of it in memory."""
        check_name(name)
        key = self.settings.key(name)
        with rewindable(content, s3_uploading.AT_ONCE_BYTES_MAX) as replay:
            if self.conditional_puts():
                return self._put(key, replay, {"IfNoneMatch": "*"})
            with self._key_locks[hash(key) % KEY_LOCKS]:
                return not self._rests(key) and self._put(key, replay, {})

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open content; see `Volume.get`. Whole content is compared with its SHA-256 by the last read.

        Raises `CorruptObject` where it differs: at once for short content, else from the read that ends it.
        """
        check_name(name)
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"offset {offset} or length {length} is negative")
        if length == 0:
            self.size(name)
            return io.BytesIO()
        ranged = offset > 0 or length is not None
        last = "" if length is None else offset + length - 1
        wanted = {"Range": f"bytes={offset}-{last}"} if ranged else {}
        try:
            answer, content, body = self._client.get(Key=self.settings.key(name), **wanted)
        except KeyMissing:
            raise NameMissing(name) from None
        except RangeBeyond:
            return io.BytesIO()
        size = int(answer.get("ContentLength", 0))
        if ranged and "ContentRange" not in answer and size:
            if body is not None:
                body.close()
            raise VolumeError(f"{self.settings.place} ignores ranges", permanent=True, name=name)
        expected = s3_reading.Expected(name, size, "" if ranged else _sha256_in(answer))
        return (
            s3_reading.whole(content, expected) if body is None else s3_reading.S3Reader.over(body, expected)
        )

    def exists(self, name: str) -> bool:
        """Tell whether content rests under a name; see `Volume.exists`."""
        check_name(name)
        return self._rests(self.settings.key(name))

    def size(self, name: str) -> int:
        """Return the bytes under a name; see `Volume.size`."""
        return self.described(name).size

    def described(self, name: str) -> Resting:
        """Return what the store says of an object: enough to confirm an upload without reading it.

        Raises `NameMissing`, `NameRefused` (permanent), `VolumeError`.
        """
        check_name(name)
        found = self._look(self.settings.key(name))
        if found is None:
            raise NameMissing(name)
        return found

    def delete(self, name: str) -> bool:
        """Remove content; see `Volume.delete`. Raises `RetainedObject` while its retention lasts.

        In a bucket with versions the bytes stay as an older version until a rule of the bucket removes them.
        """
        check_name(name)
        key = self.settings.key(name)
        found = self._look(key)
        if found is None:
            return False
        until = found.retained_until
        if until is None and self.settings.retention is not None and found.stored is not None:
            # Without the permission to read retentions the store says nothing of them.
            until = self.settings.retention.until(found.stored)
        if until is not None and until > self._clock.now():
            raise RetainedObject(name, until.astimezone(UTC))
        self._client.call("delete_object", Key=key)
        return True

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield names, a thousand with a request; see `Volume.names`. Objects of other makers are passed."""
        return self.names_after(prefix, "")

    def names_after(self, prefix: str, after: str) -> Iterator[str]:
        """Yield names after a given one; see `listing.ListsFromMiddle`."""
        start = self.settings.key("")
        page: dict[str, Any] = {"Prefix": start + prefix, "MaxKeys": NAMES_A_PAGE}
        if after:
            page["StartAfter"] = start + after
        while True:
            answer = self._client.call("list_objects_v2", **page)
            for entry in answer.get("Contents", ()):
                name = entry["Key"][len(start) :]
                if name > after and _is_name(name):
                    yield name
            if not answer.get("IsTruncated"):
                return
            token = answer.get("NextContinuationToken")
            if not token or token == page.get("ContinuationToken"):
                raise VolumeError(
                    f"{self.settings.place} does not say how its listing goes on",
                    hint="it is the store's own failure, or a proxy's before it; it is asked again",
                )
            page["ContinuationToken"] = token

    def check(self) -> s3_probe.StoreReport:
        """Try out what the store can do and what the credentials allow; see `s3_probe.probe`."""
        return s3_probe.probe(self._client)

    def conditional_puts(self) -> bool:
        """Tell whether the store honours conditional puts; asks it once. Raises `VolumeError`."""
        with self._probing:
            if self._conditional is None:
                self._conditional = s3_probe.honours_conditional_puts(self._client)
            return self._conditional

    def remove_leftovers(self, before: datetime) -> int:
        """Abort uploads in parts begun before a moment and never ended, 1,000 at most; return how many."""
        answer = self._client.call("list_multipart_uploads", Prefix=self.settings.key(""))
        aborted = 0
        for upload in answer.get("Uploads", ()):
            if upload["Initiated"] < before:
                self._client.call("abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
                aborted += 1
        return aborted

    def counts(self) -> Counts:
        """Return the HTTP requests so far by operation, their bytes, and errors by kind."""
        return self._tally.counts()

    def close(self) -> None:
        """End what is under way (it raises `VolumeClosed`); a store that hangs does not delay this."""
        self._client.close()

    def _put(self, key: str, content: Rewindable, condition: dict[str, Any]) -> bool:
        sha256 = s3_uploading.sha256_of(content)
        parameters = s3_uploading.object_parameters(self.settings, content.size, sha256, self._clock.now())
        try:
            if content.whole is not None:
                s3_uploading.put_at_once(self._client, key, content.whole, parameters | condition)
            elif condition and self._rests(key):
                return False  # what is that long is not sent to be refused at its end
            else:
                s3_uploading.put_in_parts(self._client, key, content, parameters, condition)
        except KeyTaken:
            return False
        except (KeyContended, VolumeUnreachable) as error:
            return self._settled(key, content.size, sha256, error)
        return True

    def _settled(self, key: str, size: int, sha256: str, error: VolumeError) -> bool:
        """Return whether a put was done whose outcome is unknown; raise its error if it was not."""
        if isinstance(error, VolumeUnreachable) and not error.uncertain:
            raise error
        try:
            found = self._look(key)
        except VolumeError:
            raise error from None
        if found is None:
            raise error
        return (found.size, found.sha256) == (size, sha256)

    def _rests(self, key: str) -> bool:
        return self._look(key) is not None

    def _look(self, key: str) -> Resting | None:
        try:
            answer, _, body = self._client.get(Key=key, Range="bytes=0-0")
        except KeyMissing:
            return None
        except RangeBeyond:
            return Resting(size=0, sha256=_SHA256_OF_NOTHING)
        if body is not None:
            body.close()
        told = str(answer.get("ContentRange", "")).rpartition("/")[2]
        return Resting(
            size=int(told) if told.isdigit() else int(answer.get("ContentLength", 0)),
            sha256=_sha256_in(answer),
            stored=answer.get("LastModified"),
            storage_class=str(answer.get("StorageClass", "")),
            retained_until=answer.get("ObjectLockRetainUntilDate"),
        )


def _sha256_in(answer: dict[str, Any]) -> str:
    return str(answer.get("Metadata", {}).get(s3_uploading.SHA256, ""))


def _is_name(key: str) -> bool:
    try:
        check_name(key)
    except NameRefused:
        return False
    return True
