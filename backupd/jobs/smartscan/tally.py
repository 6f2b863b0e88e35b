"""What a scan is asked for, and what it counts."""

from __future__ import annotations

from collections.abc import Collection

import msgspec


class ScanOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to scan. `deep` reads every item again; `force` believes suspicious listings."""

    deep: bool = False
    force: bool = False
    read_errors_max: int | None = None


class Tally(msgspec.Struct, kw_only=True):
    """What a scan counted."""

    accounts: int = 0
    unchanged_accounts: int = 0
    unchanged: int = 0
    created: int = 0
    changed: int = 0
    deleted: int = 0
    vanished: int = 0
    unreadable: int = 0
    refused: int = 0
    unlisted: int = 0
    not_enabled: int = 0
    content_bytes: int = 0
    is_undumped: bool = False
    fetched: int = 0
    not_fetched: int = 0

    def sentence(self) -> str:
        """Return the verdict in words, with every count."""
        seen = self.unchanged + self.created + self.changed
        parts = [
            f"{self.accounts:,} accounts, {self.unchanged_accounts:,} of them unchanged",
            f"{seen:,} items looked at: {self.created:,} new, {self.changed:,} changed",
            f"{self.unchanged:,} as recorded",
            f"{self.deleted:,} deleted",
            f"{self.vanished:,} vanished while being read",
            f"{self.unreadable:,} unreadable",
        ]
        if self.not_enabled:
            parts.append(f"{self.not_enabled:,} accounts left out that are not backed up")
        if self.unlisted:
            parts.append(f"{self.unlisted:,} accounts could not be listed")
        if self.refused:
            parts.append(f"{self.refused:,} listings refused")
        if self.is_undumped:
            parts.append("the configuration could not be dumped")
        if self.fetched:
            parts.append(f"{self.fetched:,} held contents fetched into the backup")
        if self.not_fetched:
            parts.append(f"{self.not_fetched:,} held contents could not be fetched")
        return ", ".join(parts)


ALL_ACCOUNTS = "accounts"
ALL_ENTRIES = "domains, COS and mailing lists"
"""What a refused listing is called that is of no single account."""


def believing(refused: Collection[str]) -> str:
    """Return the command that believes the listings that were refused: of one account, or of all."""
    one = [what for what in refused if what not in (ALL_ACCOUNTS, ALL_ENTRIES)]
    scan = f"doAccountScan {one[0]}" if len(one) == len(refused) == 1 else "doSmartScan start"
    return f"backupctl backup {scan} force true"
