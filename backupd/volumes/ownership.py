"""Whose a place on a volume is: a small object that the first server puts there and others respect.

`backupd-volume.json` lies unencrypted at the top of a server's prefix: server id, since when, and the version
of the layout below. It is put once and never changed. A place that belongs to another server is refused, and
so is one that has objects but no owner, for those are somebody's.
"""

from __future__ import annotations

import itertools
from datetime import datetime

import msgspec

from backupd.clock import written
from backupd.decoding import decoded
from backupd.errors import VolumeError
from backupd.volumes.base import NameMissing, Volume

NAME = "backupd-volume.json"
FORMAT = 1
OWNER_BYTES_MAX = 4096


class Owner(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Whose a place is."""

    server_id: str
    since: str
    format: int = FORMAT


class PlaceRefused(VolumeError):
    """A place on a volume that must not be used: another server's, or of unknown content. Permanent."""

    def __init__(self, message: str, *, hint: str, **facts: object) -> None:
        super().__init__(message, permanent=True, hint=hint, **facts)


def owner(volume: Volume) -> Owner | None:
    """Return whose a place is; None if nobody has claimed it.

    Raises `PlaceRefused` for a marker that can't be read or is of a newer version, `VolumeError`.
    """
    try:
        with volume.get(NAME) as file:
            content = file.read(OWNER_BYTES_MAX)
    except NameMissing:
        return None
    try:
        found = decoded(content, Owner)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise PlaceRefused(
            f"{NAME} says nothing that can be understood: {error}",
            hint="nothing is written there; look at the object, or use another prefix",
        ) from error
    if found.format > FORMAT:
        raise PlaceRefused(
            f"the place has the layout {found.format}, newer than {FORMAT}, the newest known here",
            hint="use the version of backupd that wrote it, or a newer one",
            format=found.format,
        )
    return found


def require(volume: Volume, server_id: str) -> Owner:
    """Return the owner of a place if it is this server; raises `PlaceRefused` if not, `VolumeError`."""
    found = owner(volume)
    if found is None:
        raise PlaceRefused(
            "the place has no owner",
            hint=f"{NAME} is missing: look at bucket and prefix; if the bucket was emptied or made anew, "
            "choose it again by setBackupVolume",
            name=NAME,
        )
    if found.server_id != server_id:
        raise PlaceRefused(
            f"the place belongs to the server {found.server_id} since {found.since}",
            hint="give each server a prefix of its own; another server's backup is only read, by a restore",
            owner=found.server_id,
        )
    return found


def claim(volume: Volume, server_id: str, now: datetime) -> Owner:
    """Make a place this server's if it is nobody's; return its owner. Again: nothing changes.

    Two servers that claim at the same moment: one of them is refused. Raises as `require`, and `PlaceRefused`
    for a place with objects and no owner.
    """
    if owner(volume) is None:
        strange = list(itertools.islice(volume.names(), 1))
        if strange and strange != [NAME]:
            raise PlaceRefused(
                f"the place has no owner, but objects such as {strange[0]!r}",
                hint="use an empty prefix or bucket; what is there is not touched",
                name=strange[0],
            )
        volume.put(NAME, msgspec.json.encode(Owner(server_id=server_id, since=written(now))))
    return require(volume, server_id)
