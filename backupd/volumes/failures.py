"""What a volume outside this machine may answer in place of the wished, each with what helps.

Transient ones (`permanent` False) pass by themselves: the store is away, busy, or bytes were damaged on the
way. Permanent ones need somebody: other credentials, a bucket, the right time on this machine. A full store
is `backupd.errors.SpaceExhausted`, as on a disk.
"""

from __future__ import annotations

from datetime import datetime

from backupd.clock import written
from backupd.errors import VolumeError
from backupd.volumes.base import ObjectDamaged


class VolumeUnreachable(VolumeError):
    """The store did not answer, not in time, or with a failure of its own. Transient.

    `uncertain`: what was asked may have been done all the same (the reply was lost, not the request).
    """

    def __init__(self, message: str, *, uncertain: bool = True, hint: str = "", **facts: object) -> None:
        super().__init__(message, permanent=False, hint=hint, **facts)
        self.uncertain = uncertain


class VolumeBusy(VolumeUnreachable):
    """The store asks for fewer requests. Transient; `wait_seconds` is what it asked for, 0 if nothing."""

    def __init__(self, message: str, *, wait_seconds: float = 0.0, hint: str = "", **facts: object) -> None:
        super().__init__(message, uncertain=True, hint=hint, **facts)
        self.wait_seconds = wait_seconds


class CorruptObject(ObjectDamaged):
    """Bytes are not those that were stored: read or sent wrongly once, or for good. Transient: once more."""

    def __init__(self, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(message, permanent=False, hint=hint, **facts)


class AccessRefused(VolumeError):
    """The store does not take the credentials, or does not allow this with them. Permanent."""

    def __init__(self, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(message, permanent=True, hint=hint, **facts)


class BucketMissing(VolumeError):
    """The bucket does not exist. Permanent."""

    def __init__(self, bucket: str, **facts: object) -> None:
        super().__init__(
            f"the bucket {bucket!r} does not exist",
            permanent=True,
            hint="create it at the store or correct its name; what lay in it is lost to this backup",
            bucket=bucket,
            **facts,
        )


class ClockSkewed(VolumeError):
    """The clocks of store and machine differ too much for signed requests. Permanent until they agree."""

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(
            message,
            permanent=True,
            hint="set this machine's clock (timedatectl; chrony or systemd-timesyncd keep it right)",
            **facts,
        )


class RetainedObject(VolumeError):
    """The object is kept by its retention and can't be deleted before that ends. Permanent until then."""

    def __init__(self, name: str, until: datetime) -> None:
        super().__init__(
            f"{name!r} is retained at the store until {written(until)}",
            permanent=True,
            hint="a later purge deletes it",
            name=name,
            until=written(until),
        )
        self.until = until


class VolumeClosed(VolumeError):
    """The volume was closed, before the request or while it was under way. Permanent."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is closed", permanent=True)
