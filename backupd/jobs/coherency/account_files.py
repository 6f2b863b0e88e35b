"""The small files beside histories: statistics, the list of mapped items, leftovers of interrupted writes."""

from __future__ import annotations

import time

import msgspec

from backupd.decoding import decoded
from backupd.items import Kind
from backupd.jobs.coherency.findings import Finding
from backupd.jobs.coherency.shelves import Entry
from backupd.store.foreign_files import Tree, why_unreadable
from backupd.store.id_mapper import ID_MAPPER
from backupd.store.statistics import AccountStatistics, BackupStatistics

BYTES_MAX = 64 << 20
GRACE_SECONDS = 3_600
"""What is younger may be in the middle of being written, or referred to in a moment."""
_FORMS: dict[str, type[AccountStatistics | BackupStatistics]] = {
    "account_stat": AccountStatistics,
    "backupstat": BackupStatistics,
}
_KINDS = frozenset(kind.value.encode() for kind in Kind)
_FIELDS = 4


def judge_beside(tree: Tree, path: str, entry: Entry) -> list[Finding]:
    """Judge a file that stands in an account's folder, or at the top, and is no history."""
    if entry.name.startswith("."):
        return [Finding(code="file.leftover", path=path)] if is_old(entry) else []
    if entry.name not in _FORMS and entry.name != ID_MAPPER:
        return [Finding(code="file.unknown", path=path)]
    code = "mapper.corrupt" if entry.name == ID_MAPPER else "statistics.unreadable"
    try:
        with tree.open(path) as file:
            content = file.read(BYTES_MAX)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Finding(code=code, path=path, detail=why_unreadable(error))]
    reason = why_no_mapper(content) if entry.name == ID_MAPPER else why_no_statistics(entry.name, content)
    return [Finding(code=code, path=path, detail=reason)] if reason else []


def why_no_statistics(name: str, content: bytes) -> str:
    """Return why bytes are no statistics file of this name, an empty text where they are one."""
    try:
        decoded(content, _FORMS[name])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return str(error) or "it is no JSON"
    return ""


def why_no_mapper(content: bytes) -> str:
    """Return which line of an id_mapper.log is none; a last line without its end is none and no matter."""
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        fields = line.split(b"\t")
        if len(fields) != _FIELDS or fields[2] not in _KINDS:
            return f"line {number:,} has not the four fields of a mapped item"
    return ""


def is_old(entry: Entry) -> bool:
    """Tell whether a name stands there longer than any write takes."""
    return time.time() - entry.modified > GRACE_SECONDS
