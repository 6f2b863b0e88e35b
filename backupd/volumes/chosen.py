"""The volume that a choice means, with all that stands around it: retries, ownership, encryption.

Making one asks nothing of the place: that is done by the first call, so that a daemon starts while its store
is away. `claim` makes a place this server's, once, when an admin chooses it; from then on whatever is written
goes only to a place that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import msgspec

from backupd.buckets import Bucket, secret_of
from backupd.clock import Clock
from backupd.errors import UsageError
from backupd.volume_choice import BucketChoice, DefaultChoice, LocalChoice, VolumeChoice, bucket_of, described
from backupd.volumes import marker, ownership
from backupd.volumes.base import Volume
from backupd.volumes.counting import Counts
from backupd.volumes.listing import names_after
from backupd.volumes.mounted import MountedVolume
from backupd.volumes.owned import OwnedVolume
from backupd.volumes.retrying import RetryBudget, Retrying
from backupd.volumes.s3_settings import Retention, S3Settings

if TYPE_CHECKING:
    from backupd.volumes.keyring import Keyring
    from backupd.volumes.s3 import S3Volume

SERVERS_LISTED_MAX = 1_000


class ChosenVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume ready for use. `identity` lasts as long as the place does, `title` is for people.

    `bare` is the volume beneath encryption and ownership, where the owner's object lies in clear.
    """

    identity: str
    title: str
    is_remote: bool
    volume: Volume
    bare: Volume
    is_encrypted: bool = False
    store: S3Volume | None = None

    def counts(self) -> Counts | None:
        """Return what was asked of a store so far; None for a mounted path."""
        return None if self.store is None else self.store.counts()

    def close(self) -> None:
        """End what is under way; a store that hangs does not delay this."""
        if self.store is not None:
            self.store.close()


def make(
    choice: VolumeChoice,
    buckets: Sequence[Bucket],
    *,
    server_id: str | None,
    keyring: Callable[[], Keyring],
    retention: Retention | None = None,
    clock: Clock,
    sleep: Callable[[float], object],
    budget: RetryBudget | None = None,
) -> ChosenVolume | None:
    """Return the volume of a choice, None for the Backup Path itself.

    Without a `server_id` it is for reading whatever lies there. Raises `UsageError` for a bucket that is not
    configured, `ConfigError` for secrets and keys that can't be read.
    """
    match choice:
        case DefaultChoice():
            return None
        case LocalChoice():
            bare: Volume = MountedVolume(
                Path(choice.path), server_id=server_id, volume_id=choice.volume_id if server_id else ""
            )
            volume, store, identity, is_remote = bare, None, f"local:{choice.volume_id or choice.path}", False
        case BucketChoice():
            settings = settings_of(choice, bucket_of(choice, buckets), server_id or "", retention)
            from backupd.volumes.s3 import S3Volume  # noqa: PLC0415 - 0.2 s and 15 MB, only for a bucket

            store = S3Volume(settings, clock=clock)
            bare = volume = Retrying(store, budget, sleep=sleep, monotonic=clock.monotonic)
            if server_id is not None:
                volume = OwnedVolume(bare, server_id, monotonic=clock.monotonic)
            identity, is_remote = f"bucket:{settings.place}", True
        case _:
            assert_never(choice)
    if choice.encrypted:
        from backupd.volumes.encrypting import EncryptingVolume  # noqa: PLC0415 - brings OpenSSL along

        volume = EncryptingVolume(volume, keyring())
    return ChosenVolume(
        identity=identity,
        title=described(choice),
        is_remote=is_remote,
        volume=volume,
        bare=bare,
        is_encrypted=choice.encrypted,
        store=store,
    )


def claim(
    chosen: ChosenVolume, choice: VolumeChoice, *, server_id: str, name: str, now: datetime
) -> VolumeChoice:
    """Make the place this server's; return the choice as it is to be kept. Blocks.

    Raises `VolumeError` where it is another server's, holds something else or can't be reached.
    """
    if isinstance(choice, LocalChoice):
        made = marker.prepare(Path(choice.path), server_id=server_id, server_name=name, now=now)
        return msgspec.structs.replace(choice, volume_id=made.volume_id)
    ownership.claim(chosen.bare, server_id, now)
    return choice


def bucket_settings(bucket: Bucket) -> S3Settings:
    """Return how a bucket is reached; blocks, for a secret may lie in a file.

    Raises `ConfigError` for a secret that can't be had, `UsageError` for what the store can't take.
    """
    return S3Settings(
        bucket=bucket.bucket_name,
        access_key=bucket.access_key,
        secret=secret_of(bucket),
        endpoint=bucket.endpoint,
        region=bucket.signing_region,
        prefix=bucket.prefix,
        path_style=bucket.path_style,
        ca_file=Path(bucket.ca_file) if bucket.ca_file else None,
        signature_version=bucket.signature_version.value,
    )


def settings_of(
    choice: BucketChoice, bucket: Bucket, server_id: str, retention: Retention | None = None
) -> S3Settings:
    """Return how a bucket is reached, below the bucket's prefix, the volume's and the server's."""
    return msgspec.structs.replace(
        bucket_settings(bucket),
        prefix="/".join(part for part in (bucket.prefix, choice.volume_prefix, server_id) if part),
        use_infrequent_access=choice.use_infrequent_access,
        infrequent_access_threshold=choice.infrequent_access_threshold_bytes,
        use_intelligent_tiering=choice.use_intelligent_tiering,
        retention=retention,
    )


def servers_at(volume: Volume) -> list[str]:
    """Return the ids of the servers that own places on the first level of a volume, sorted.

    A few requests for each server, however much it keeps. Raises `VolumeError`.
    """
    found: list[str] = []
    after = ""
    while len(found) < SERVERS_LISTED_MAX:
        first = next(iter(names_after(volume, "", after)), None)
        if first is None:
            break
        level, is_below, _ = first.partition("/")
        if is_below and volume.exists(f"{level}/{ownership.NAME}"):
            found.append(level)
        # `~` sorts behind every other character that a name may have.
        after = f"{level}/{'~' * 200}" if is_below else level
    return found


def the_server(found: Sequence[str], wanted: str | None) -> str:
    """Return the server whose place is meant. Raises `UsageError` that names those there are."""
    if wanted is not None and wanted in found:
        return wanted
    if wanted is None and len(found) == 1:
        return found[0]
    there = ", ".join(found[:20]) or "none: check bucket, prefix and volume_prefix"
    said = f"no server {wanted!r} keeps a backup there" if wanted else "say whose backup is meant"
    raise UsageError(said, hint=f"server_id is one of: {there}")
