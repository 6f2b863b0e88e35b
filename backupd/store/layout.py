"""Layout: every path of the Backup Path, from names that come from outside (docs/formats.md).

Pure: nothing is read or made here. Names from outside become file names by `items.file_name_of` only.
Relative paths are text with `/` between names, as `disk.Directories` and volumes take them.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from backupd.items import SERVER_KINDS, ItemKey, Kind, file_name_of, two_digits_of

ACCOUNTS = "accounts"
BLOBS = "items"
PACKS = f"{BLOBS}/packs"
"""Where packs lie on an external volume; two levels, as for single blobs."""
SERVERS = "servers"
JOURNAL = "journal"
DAMAGED = "damaged"
PURGED = "purged"
"""Where the lists of what was purged are kept."""
PURGING = ".purging"
"""Where accounts wait to be emptied that are no part of the backup any more."""
LOST = "lost"
"""Where the lists are kept of contents that nothing at hand holds."""
CATALOG = "volume.sqlite"
DIRECTORIES = (ACCOUNTS, BLOBS, SERVERS, JOURNAL)
"""The directories a Backup Path always has."""
ACCOUNT_HISTORY = "account_info"
ITEMS = "items"
DOCUMENTS = "drive_items"
PLACES_REMEMBERED = 4_096
"""More than the items of one round of the recorder, which asks for the place of each several times."""
SERVER_DIRECTORIES = {Kind.DOMAIN: "domains", Kind.COS: "coses", Kind.MAILING_LIST: "mailing-lists"}
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")


class Layout:
    """The paths below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / ".lock"
        self.index = root / "index.sqlite"
        self.ledger = root / "state.sqlite"
        self.catalog = root / CATALOG
        self.journal = root / JOURNAL
        self.servers = root / SERVERS
        self.statistics = root / "backupstat"

    def map_file(self, server_id: str) -> Path:
        """Return the path of a server's map file."""
        return self.root / f"map_{file_name_of(server_id)}"

    def map_files(self) -> list[Path]:
        """Return the map files that are there, sorted."""
        return sorted(self.root.glob("map_*"))

    def account(self, account: str) -> Path:
        """Return an account's directory."""
        return self.root / account_directory(account)

    def account_statistics(self, account: str) -> Path:
        """Return the path of an account's `account_stat`: what scans need."""
        return self.account(account) / "account_stat"

    def account_backup_statistics(self, account: str) -> Path:
        """Return the path of an account's `backupstat`: what people want to know."""
        return self.account(account) / "backupstat"

    def history(self, key: ItemKey) -> Path:
        """Return the path of an item's history."""
        directory, name = history_place(key)
        return self.root / directory / name


@functools.lru_cache(maxsize=256)
def account_directory(account: str) -> str:
    """Return an account's directory, relative."""
    return f"{ACCOUNTS}/{file_name_of(account)}"


@functools.lru_cache(maxsize=PLACES_REMEMBERED)
def history_place(key: ItemKey) -> tuple[str, str]:
    """Return the directory (relative) and the file name of an item's history."""
    if key.kind in SERVER_KINDS:
        return f"{SERVERS}/{SERVER_DIRECTORIES[key.kind]}", file_name_of(key.item)
    directory = account_directory(key.account)
    if key.kind is Kind.ACCOUNT:
        return directory, ACCOUNT_HISTORY
    if key.kind is Kind.DOCUMENT and _UUID.match(key.item):
        return f"{directory}/{DOCUMENTS}/{key.item[-2:].lower()}", key.item
    return f"{directory}/{ITEMS}/{two_digits_of(key.item)}", file_name_of(key.item)


def pack_name(identifier: str) -> str:
    """Return the name of a pack on an external volume."""
    return f"{PACKS}/{identifier}.pack"


def blob_name(digest: str) -> str:
    """Return the name of a digest's blob on a volume."""
    return f"{BLOBS}/{digest[-3:-1]}/{digest}"
