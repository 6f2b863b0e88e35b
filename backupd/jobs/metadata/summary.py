"""The summary of a pass: whose backup it is, and how much must come back of it."""

from __future__ import annotations

from typing import Any

import msgspec

from backupd.decoding import decoded
from backupd.jobs.metadata import names
from backupd.store.statistics import BackupStatistics
from backupd.volumes.base import NameMissing, ObjectDamaged, Volume

SUMMARY_BYTES_MAX = 1 << 30


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """`map` is the map file, `accounts` the histories each account had (empty: the server's entries)."""

    map: dict[str, Any]
    statistics: BackupStatistics
    through: int
    accounts: dict[str, int]


def newest_summary(volume: Volume) -> tuple[Summary | None, str]:
    """Return the newest summary on a volume that can be read; None with the reason where there is none.

    The reason is empty where no summary was ever written. Raises `VolumeError`.
    """
    reason = ""
    for one in reversed(names.summary_objects(volume.names(names.SUMMARIES))):
        try:
            with volume.get(one.name) as file:
                return decoded(file.read(SUMMARY_BYTES_MAX), Summary), ""
        except (msgspec.DecodeError, UnicodeDecodeError, NameMissing, ObjectDamaged) as error:
            reason = reason or f"{one.name}: {error}"
    return None, reason
