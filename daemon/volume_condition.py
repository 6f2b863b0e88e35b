"""Condition of the external volume: from how uploading stands to problems. Pure.

None of them is a danger yet: what waits is in the Backup Path, and intake goes on until that is full.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from backupd.views import Problem
from backupd.volume_views import MetadataView, VolumeView
from daemon.problems import attention

UNREACHABLE_AFTER = timedelta(seconds=60)
"""A store that is away for less is not worth a word."""
BEHIND_AFTER = timedelta(minutes=30)
METADATA_AFTER = timedelta(minutes=10)
"""Metadata goes out each minute: after so long it is no accident any more."""

UNREACHABLE = "volume_unreachable"
BEHIND = "uploads_behind"
NOT_SENT = "blobs_damaged"
REBUILDING = "catalog_rebuilding"
METADATA = "metadata_not_sent"
CACHE_BYTES_MIN = 64 << 20
"""Less than this waiting is no problem, however small the cache was made: what just came must wait."""


def volume_problems(volume: VolumeView | None, now: datetime) -> list[Problem]:
    """Return what is not well with the external volume."""
    if volume is None:
        return []
    return [*_unreachable(volume, now), *_behind(volume, now), *_others(volume), *_metadata(volume, now)]


def _unreachable(volume: VolumeView, now: datetime) -> list[Problem]:
    since = volume.failing_since
    if not volume.error or since is None or (now - since < UNREACHABLE_AFTER and not volume.permanent):
        return []
    verb = "refuses uploads" if volume.permanent else "can't be used"
    following = f", next try {volume.next_try:%H:%M:%S} UTC" if volume.next_try else ""
    return [
        attention(
            UNREACHABLE,
            f"the external volume {volume.title} {verb} since {since:%Y-%m-%d %H:%M} UTC: "
            f"{volume.error}{following}",
            volume.hint
            or "blobs stay in the Backup Path and go out by themselves once it is back; is the network up?",
        )
    ]


def _behind(volume: VolumeView, now: datetime) -> list[Problem]:
    rest = (
        f"; at the present rate it takes {volume.remaining_seconds / 3600:,.1f} h"
        if volume.remaining_seconds is not None
        else ""
    )
    if volume.waiting_bytes > max(volume.cache_bytes_max, CACHE_BYTES_MIN):
        return [
            attention(
                BEHIND,
                f"{volume.waiting_bytes >> 20:,} MB wait for the external volume, more than the "
                f"{volume.cache_bytes_max >> 20:,} MB of backupBlobCacheSize{rest}",
                "nothing is dropped: intake goes on until the Backup Path reaches ZxBackup_SpaceThreshold; "
                "mend the volume, or make room",
            )
        ]
    if volume.oldest is not None and now - volume.oldest > BEHIND_AFTER:
        return [
            attention(
                BEHIND,
                f"{volume.waiting_objects:,} blobs wait for the external volume, the oldest since "
                f"{volume.oldest:%Y-%m-%d %H:%M} UTC{rest}",
                "nothing is lost here; but what is not outside yet is lost with this machine",
            )
        ]
    return []


def _others(volume: VolumeView) -> list[Problem]:
    found = []
    if volume.damaged_objects:
        found.append(
            attention(
                NOT_SENT,
                f"{volume.damaged_objects:,} blobs can't be sent: {volume.damage}",
                "a file that is damaged here: check the disk, move it aside, a deep scan stores it again; an "
                "object that is wrong outside: remove it with a key that may",
            )
        )
    if volume.rebuilding:
        found.append(
            attention(
                REBUILDING, volume.rebuilding, "contents that are only outside can be read once it is done"
            )
        )
    if volume.error and volume.failing_since is None:
        found.append(
            attention(
                BEHIND,
                f"the upload queue can't be kept: {volume.error}",
                "it is tried again by itself; has the Backup Path room, is its disk well?",
            )
        )
    return found


def _metadata(volume: VolumeView, now: datetime) -> list[Problem]:
    view = volume.metadata or MetadataView()
    since = view.failing_since or view.waiting_since
    if since is None or now - since < METADATA_AFTER:
        return []
    reason = view.error or "the volume does not answer"
    return [
        attention(
            METADATA,
            f"no metadata was sent to {volume.title} since {since:%Y-%m-%d %H:%M} UTC: {reason}",
            view.hint
            or "what changed since then would be lost with this machine; everything is kept here and goes "
            "out by itself once the volume takes it",
        )
    ]
