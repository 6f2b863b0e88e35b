"""Putting content into a bucket: what an object carries beside its bytes, in one request or in parts.

Every request carries checksums that the store compares (MD5, which all know, and SHA-256, which most know
now), and the SHA-256 of the whole content stays with the object as metadata, so that any later reader can
compare. Parts are bounded in number, size and in how many are under way; a failed upload is aborted.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hashlib
from collections import deque
from datetime import datetime
from typing import Any

from backupd.errors import BackupdError, VolumeError
from backupd.volumes.rewinding import COPY_BYTES, Rewindable
from backupd.volumes.s3_client import Answer, S3Client
from backupd.volumes.s3_settings import S3Settings

AT_ONCE_BYTES_MAX = 16 << 20
"""Content up to this size goes in one request, longer content in parts."""
PART_BYTES = 8 << 20
PARTS_MAX = 10_000
PARTS_AHEAD_MAX = 3
"""So many parts are under way at a time; with the one being read they bound the memory of an upload."""
SHA256 = "sha256"
"""The name of the metadata that holds the SHA-256 of the content, in hexadecimal."""


def sha256_of(content: Rewindable) -> str:
    """Return the SHA-256 of content in hexadecimal."""
    if content.whole is not None:
        return hashlib.sha256(content.whole).hexdigest()
    source: Any = content.rewound()
    digest = hashlib.sha256()
    while chunk := source.read(COPY_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def object_parameters(settings: S3Settings, size: int, sha256: str, now: datetime) -> dict[str, Any]:
    """Return what an object carries: its checksum, its storage class, its retention. Pure."""
    parameters: dict[str, Any] = {"Metadata": {SHA256: sha256}}
    if storage_class := settings.storage_class(size):
        parameters["StorageClass"] = storage_class
    if settings.retention is not None:
        parameters["ObjectLockMode"] = settings.retention.mode
        parameters["ObjectLockRetainUntilDate"] = settings.retention.until(now)
    return parameters


def body_parameters(settings: S3Settings, body: bytes) -> dict[str, Any]:
    """Return a request's body with the checksums that the store compares. Pure."""
    md5 = hashlib.md5(body, usedforsecurity=False).digest()
    parameters: dict[str, Any] = {"Body": body, "ContentMD5": base64.b64encode(md5).decode()}
    if settings.checksum_headers:
        parameters["ChecksumSHA256"] = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return parameters


def put_at_once(client: S3Client, key: str, body: bytes, parameters: dict[str, Any]) -> None:
    """Put content in one request. Raises as `S3Client.call`."""
    client.call("put_object", sent=len(body), Key=key, **parameters, **body_parameters(client.settings, body))


def put_in_parts(
    client: S3Client, key: str, content: Rewindable, parameters: dict[str, Any], condition: dict[str, Any]
) -> None:
    """Put content in parts; the object appears with the last request, or nothing does.

    Raises as `S3Client.call`, and what reading raises. An upload that fails is aborted; where that fails too
    its parts stay until `remove_leftovers` or a rule of the bucket removes them.
    """
    if content.size > PART_BYTES * PARTS_MAX:
        raise VolumeError(
            f"{content.size:,} bytes are more than an object may have here", permanent=True, key=key
        )
    if client.settings.checksum_headers:
        parameters = parameters | {"ChecksumAlgorithm": "SHA256"}
    begun = client.call("create_multipart_upload", Key=key, **parameters)
    # Stores that know no checksums refuse them in the closing request: only those that said so get them.
    upload = _Parts(client, key, begun["UploadId"], checksums="ChecksumAlgorithm" in begun)
    try:
        upload.send(content)
        client.call(
            "complete_multipart_upload",
            Key=key,
            UploadId=upload.identifier,
            MultipartUpload={"Parts": upload.sent},
            **condition,
        )
    except BaseException:
        upload.abort()
        raise


class _Parts:
    """The parts of one upload."""

    def __init__(self, client: S3Client, key: str, identifier: str, *, checksums: bool) -> None:
        self.identifier = identifier
        self.sent: list[dict[str, Any]] = []
        self._client = client
        self._key = key
        self._checksums = checksums
        self._under_way: deque[tuple[dict[str, Any], concurrent.futures.Future[Answer]]] = deque()

    def send(self, content: Rewindable) -> None:
        """Send everything."""
        source: Any = content.rewound()
        size = 0
        while body := _part(source):
            size += len(body)
            while len(self._under_way) >= PARTS_AHEAD_MAX:
                self._wait()
            self._begin(body)
        while self._under_way:
            self._wait()
        if size != content.size:
            raise VolumeError(f"the content of {self._key!r} changed its size while it was sent")

    def abort(self) -> None:
        """Give the upload up, as well as that is possible now."""
        for _, future in self._under_way:
            future.cancel()
        self._under_way.clear()
        with contextlib.suppress(BackupdError):
            self._client.call("abort_multipart_upload", Key=self._key, UploadId=self.identifier)

    def _begin(self, body: bytes) -> None:
        parameters = body_parameters(self._client.settings, body)
        part: dict[str, Any] = {"PartNumber": len(self.sent) + len(self._under_way) + 1}
        if self._checksums:
            part["ChecksumSHA256"] = parameters["ChecksumSHA256"]
        future = self._client.submit(
            "upload_part",
            sent=len(body),
            Key=self._key,
            UploadId=self.identifier,
            PartNumber=part["PartNumber"],
            **parameters,
        )
        self._under_way.append((part, future))

    def _wait(self) -> None:
        part, future = self._under_way[0]
        part["ETag"] = self._client.wait(future)["ETag"]
        self.sent.append(part)
        self._under_way.popleft()


def _part(source: Any) -> bytes:
    chunks: list[bytes] = []
    missing = PART_BYTES
    while missing > 0 and (chunk := source.read(missing)):
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)
