"""What must be known to use a bucket: where it is, who we are there, and how objects are to be kept.

Settings are values without effects: reading secrets from files and looking at the store is others' work.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from backupd.errors import UsageError
from backupd.secret import Secret
from backupd.volumes.base import NameRefused, check_name

INFREQUENT_ACCESS_BYTES = 65_536
REGION = "us-east-1"
"""The region that stores without regions expect in signatures."""

RetentionMode = Literal["GOVERNANCE", "COMPLIANCE"]


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """Object lock for every object put: nobody deletes it for so many days.

    GOVERNANCE can be lifted by who has a special permission, COMPLIANCE by nobody.
    """

    days: int
    mode: RetentionMode = "GOVERNANCE"

    def until(self, stored: datetime) -> datetime:
        """Return when the retention of an object ends that was stored then."""
        return stored + timedelta(days=self.days)


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a connection to a bucket. Raises `UsageError` for what can't be right.

    `endpoint` empty means Amazon's own of the region. `conditional_puts` None means: find out. Sizes are in
    bytes, times in seconds; `request_seconds` bounds a request as a whole, apart from the time that its
    bytes take at `bytes_per_second_min`.
    """

    bucket: str
    access_key: str
    secret: Secret
    endpoint: str = ""
    region: str = REGION
    prefix: str = ""
    path_style: bool = True
    ca_file: Path | None = None
    signature_version: Literal["V4", "V2"] = "V4"
    use_infrequent_access: bool = False
    infrequent_access_threshold: int = INFREQUENT_ACCESS_BYTES
    use_intelligent_tiering: bool = False
    retention: Retention | None = None
    conditional_puts: bool | None = None
    checksum_headers: bool = True
    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    request_seconds: float = 120.0
    bytes_per_second_min: int = 32_768
    requests_max: int = 16

    def __post_init__(self) -> None:
        if len(self.bucket) < 3 or "/" in self.bucket:  # noqa: PLR2004 - the shortest name that stores take
            raise UsageError(f"{self.bucket!r} is no name of a bucket", hint="3 to 63 characters, without /")
        if self.endpoint:
            parts = urlsplit(self.endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UsageError(f"{self.endpoint!r} is no URL of a store", hint="https://host[:port]")
        if self.prefix:
            try:
                check_name(self.prefix)
            except NameRefused as error:
                raise UsageError(f"{self.prefix!r} is no prefix", hint=error.hint) from error
        if self.use_infrequent_access and self.use_intelligent_tiering:
            raise UsageError(
                "use_infrequent_access and use_intelligent_tiering exclude each other",
                hint="intelligent tiering moves objects between the classes by itself",
            )
        if self.retention is not None and self.retention.days < 1:
            raise UsageError("a retention lasts at least one day", hint="leave it out for none")
        if self.requests_max < 1:
            raise UsageError("at least one request must be allowed at a time")

    @property
    def place(self) -> str:
        """Where this is, for people: never with a secret."""
        store = self.endpoint or f"s3.{self.region}.amazonaws.com"
        return "/".join(part for part in (store.rstrip("/"), self.bucket, self.prefix) if part)

    def key(self, name: str) -> str:
        """Return the object key of a name (or of a beginning of names)."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def storage_class(self, size: int) -> str:
        """Return the storage class for content of so many bytes; empty for the store's default."""
        if self.use_intelligent_tiering:
            return "INTELLIGENT_TIERING"
        if self.use_infrequent_access and size >= self.infrequent_access_threshold:
            return "STANDARD_IA"
        return ""

    def seconds_for(self, size: int) -> float:
        """Return how long a request may take that carries so many bytes."""
        return self.request_seconds + size / self.bytes_per_second_min
