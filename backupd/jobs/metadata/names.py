"""Names of metadata objects on an external volume: everything about an object that must be known unread.

    backupstat/<through>-<moment>.json                      a summary, written once all of a pass is outside
    accounts/<account>/<through>-<mark>-<moment>.tar.zst     an account's directory
    server/entries/<through>-<mark>-<moment>.tar.zst         domains, classes of service, mailing lists
    server/states/<first>-<last>.jsonl.zst                   a parcel: states these journal entries made
    server/journal/<first>-<last>.journal.zst                the journal entries themselves
    server/<archive>                                         archives of `servers/`, `#` written as `~`

`through` is the journal sequence up to which everything was recorded when the object was made, `mark` tells
two contents of an account apart, numbers have 20 digits so that names sort as they do. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from backupd.items import file_name_of

ACCOUNTS = "accounts/"
ENTRIES = "server/entries/"
STATES = "server/states/"
JOURNAL = "server/journal/"
SERVER = "server/"
SUMMARIES = "backupstat/"
_MOMENT = "%Y%m%dT%H%M%SZ"
_NAME_CHARACTERS_MAX = 200
_ARCHIVE = re.compile(r"(accounts/[^/]+/|server/entries/)(\d{20})-([0-9a-f]{16})-(\d{8}T\d{6}Z)\.tar\.zst\Z")
_RANGE = re.compile(r"server/(states|journal)/(\d{20})-(\d{20})\.(?:jsonl|journal)\.zst\Z")
_SUMMARY = re.compile(r"backupstat/(\d{20})-(\d{8}T\d{6}Z)\.json\Z")
_SERVER_ARCHIVE = re.compile(r"server/([a-z]+_[0-9_]+~[0-9_]+\.tar\.gz)\Z")


class ArchiveObject(msgspec.Struct, frozen=True, order=True):
    """An archive of an account, or of the server's entries; `folder` is where all of one account lie."""

    folder: str
    through: int
    moment: datetime
    mark: str
    name: str


class RangeObject(msgspec.Struct, frozen=True, order=True):
    """A parcel of states or a stretch of the journal, for these sequence numbers."""

    first: int
    last: int
    name: str


class SummaryObject(msgspec.Struct, frozen=True, order=True):
    """A summary of a pass."""

    through: int
    moment: datetime
    name: str


def account_folder(account: str) -> str:
    """Return where an account's archives lie; an empty account means the server's entries."""
    if not account:
        return ENTRIES
    name = file_name_of(account).replace("~", "~7E").replace("%", "~25")
    if len(name) > _NAME_CHARACTERS_MAX:
        name = name[:100] + "~~" + hashlib.sha256(name.encode()).hexdigest()
    return f"{ACCOUNTS}{name}/"


def mark_of(*facts: int) -> str:
    """Return the mark of an account whose index rows say these facts."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def archive_name(account: str, through: int, mark: str, moment: datetime) -> str:
    """Return an archive's name."""
    return f"{account_folder(account)}{through:020d}-{mark}-{moment.astimezone(UTC):{_MOMENT}}.tar.zst"


def states_name(first: int, last: int) -> str:
    """Return a parcel's name."""
    return f"{STATES}{first:020d}-{last:020d}.jsonl.zst"


def journal_name(first: int, last: int) -> str:
    """Return the name of a stretch of the journal."""
    return f"{JOURNAL}{first:020d}-{last:020d}.journal.zst"


def summary_name(through: int, moment: datetime) -> str:
    """Return a summary's name."""
    return f"{SUMMARIES}{through:020d}-{moment.astimezone(UTC):{_MOMENT}}.json"


def server_archive_name(file_name: str) -> str:
    """Return the name of an archive of `servers/`."""
    return f"{SERVER}{file_name.replace('#', '~')}"


def archive_objects(names: Iterable[str]) -> list[ArchiveObject]:
    """Return the archives among names, those of one folder beside each other, oldest first."""
    found = []
    for name in names:
        match = _ARCHIVE.match(name)
        if match:
            folder, through, mark, moment = match.groups()
            found.append(ArchiveObject(folder, int(through), _moment(moment), mark, name))
    return sorted(found)


def range_objects(names: Iterable[str]) -> list[RangeObject]:
    """Return the parcels or stretches among names, by first number; of equal ones the longest comes last."""
    matches = ((_RANGE.match(name), name) for name in names)
    return sorted(RangeObject(int(found[2]), int(found[3]), name) for found, name in matches if found)


def summary_objects(names: Iterable[str]) -> list[SummaryObject]:
    """Return the summaries among names, oldest first."""
    matches = ((_SUMMARY.match(name), name) for name in names)
    return sorted(SummaryObject(int(found[1]), _moment(found[2]), name) for found, name in matches if found)


def server_archives(names: Iterable[str]) -> dict[str, str]:
    """Return the archives of `servers/` among names: their file names, and their names on the volume."""
    matches = ((_SERVER_ARCHIVE.match(name), name) for name in names)
    return {found[1].replace("~", "#"): name for found, name in matches if found}


def _moment(text: str) -> datetime:
    return datetime.strptime(text, _MOMENT).replace(tzinfo=UTC)
