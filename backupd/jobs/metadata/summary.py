"""The summary of a pass: whose backup it is, and how much must come back of it."""

from __future__ import annotations

from typing import Any

import msgspec

from backupd.store.statistics import BackupStatistics


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """`map` is the map file, `accounts` the histories each account had (empty: the server's entries)."""

    map: dict[str, Any]
    statistics: BackupStatistics
    through: int
    accounts: dict[str, int]
