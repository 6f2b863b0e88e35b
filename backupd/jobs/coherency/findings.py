"""Findings: everything that can be wrong in a Backup Path, as one table of stable codes.

A code never changes its meaning once it was released: admins and their alerts know it. Each row says how bad
it is, what it means for restores, and the cure. docs/coherency.md lists the same rows, held by a test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

import msgspec

FINDINGS_KEPT_MAX = 10_000
"""Findings that are kept with their path; beyond it they are only counted."""
ITEMS_NAMED_MAX = 100
DETAIL_CHARACTERS_MAX = 500


class Weight(StrEnum):
    """How bad a finding is."""

    DANGER = "danger"
    """Something can't be restored, or soon could not."""
    ATTENTION = "attention"
    """Something is not as it should be; nothing of the backup is lost by it."""
    MILD = "mild"
    """Heals by itself in ordinary work."""
    TOLD = "told"
    """Known before, and nothing can be done: told, and no failure any more."""


class Sort(msgspec.Struct, frozen=True):
    """A row of the table: what one code means."""

    weight: Weight
    meaning: str
    cure: str


_FIX = "fixBackup true"
_MOVES = f"{_FIX} moves it into damaged/"
_SALVAGES = f"{_FIX} keeps the file in damaged/ and goes on with what can be read"
_SCAN = "a SmartScan records it"
_OLD_INDEX = f"the daemon builds it anew at its next start, {_FIX} at once"
_AGAIN = "copy the path again, or make it readable for who checks"
_DANGER, _ATTENTION, _MILD, _TOLD = Weight.DANGER, Weight.ATTENTION, Weight.MILD, Weight.TOLD

SORTS: dict[str, Sort] = {
    "history.torn": Sort(
        _MILD,
        "an append was cut short: the state being written is not in it, all before are",
        "a restart of the daemon records the state again from the journal; " + _SALVAGES,
    ),
    "history.corrupt": Sort(_DANGER, "states of the item can't be read; the others still can", _SALVAGES),
    "history.order": Sort(
        _DANGER, "states contradict each other in order: as of some moments the item is unclear", _SALVAGES
    ),
    "history.empty": Sort(_DANGER, "the history holds no state: nothing of the item is known", _MOVES),
    "history.missing": Sort(
        _DANGER,
        "the index knows an item whose history is not there: restores by id fail",
        f"{_FIX} writes the history anew from what the index knows",
    ),
    "history.misfiled": Sort(
        _DANGER,
        "the history lies where no restore looks for it",
        f"{_FIX} moves it to its place, or into damaged/ where another history is there",
    ),
    "history.identity": Sort(_ATTENTION, "states in the file name another item than the file does", _MOVES),
    "history.foreign_kind": Sort(
        _ATTENTION, "the file tells of a kind of item that does not belong in its folder", _MOVES
    ),
    "history.digest": Sort(_DANGER, "a state's digest is none: its content can't be found", _SALVAGES),
    "history.size": Sort(
        _DANGER,
        "a state tells another size than its content has: a restore refuses the content",
        f"{_FIX} writes the true size and keeps the old file in damaged/; the content itself is whole",
    ),
    "history.unreadable": Sort(_DANGER, "the file can't be read at all", _AGAIN),
    "blob.corrupt": Sort(
        _DANGER,
        "the content is not the one recorded: it can't be restored",
        f"{_FIX} moves it into damaged/ and reads the content from the AppServer, where it still is",
    ),
    "blob.missing": Sort(
        _DANGER,
        "a state's content is not there: it can't be restored",
        f"{_FIX} reads the content from the AppServer, where it still is",
    ),
    "blob.lost": Sort(
        _TOLD,
        "the content is lost for good, as a repair found: the states that had it keep their metadata",
        "none; a deep scan stores it again if it ever comes back",
    ),
    "blob.orphan": Sort(_ATTENTION, "no state refers to the content: it only takes space", _MOVES),
    "blob.misfiled": Sort(
        _DANGER,
        "the content lies where no restore looks for it",
        f"{_FIX} moves it to its place, or into damaged/ where the content is there already",
    ),
    "blob.empty": Sort(
        _DANGER,
        "a file of no bytes stands where a content should, as a crash of the file system leaves it",
        f"{_FIX} moves it into damaged/ and reads the content from the AppServer, where it still is",
    ),
    "blob.unreadable": Sort(_DANGER, "the file can't be read at all", _AGAIN),
    "catalog.corrupt": Sort(
        _ATTENTION,
        "the catalog of the external volume is damaged; it is derived, nothing is lost",
        "start the daemon: it moves the catalog aside and builds it anew from the volume",
    ),
    "index.missing": Sort(_MILD, "there is no index; it is derived, nothing is lost", _OLD_INDEX),
    "index.corrupt": Sort(_ATTENTION, "the index is damaged; it is derived, nothing is lost", _OLD_INDEX),
    "index.version": Sort(_MILD, "the index is of another version and was not compared", _OLD_INDEX),
    "index.unread": Sort(
        _MILD,
        "the index could not be looked at without writing, and was not compared",
        "start the daemon once, then check again",
    ),
    "index.lacks": Sort(
        _ATTENTION, "the index does not know an item: searches and scans miss it", f"{_FIX} takes it in"
    ),
    "index.differs": Sort(
        _ATTENTION, "the index tells otherwise of an item than its history", f"{_FIX} takes it in anew"
    ),
    "account.no_history": Sort(
        _ATTENTION,
        "an account's items are there, its own history is not: attributes and password can't be restored",
        _SCAN + " while the account exists",
    ),
    "map.missing": Sort(
        _DANGER,
        "no map file says whose backup this is: the daemon will not start on it",
        "put map_<server id> back from a copy",
    ),
    "map.unreadable": Sort(
        _DANGER, "the map file can't be read: the daemon will not start on it", "put it back from a copy"
    ),
    "map.foreign": Sort(
        _DANGER,
        "a map file of another server: the daemon will not start on it",
        "move what does not belong there away",
    ),
    "statistics.unreadable": Sort(
        _MILD, "figures of a scan can't be read: the next scan looks at everything", _MOVES
    ),
    "mapper.corrupt": Sort(
        _ATTENTION, "a line of id_mapper.log is none: where an item came from is not known", _MOVES
    ),
    "journal.torn": Sort(
        _MILD, "an append was cut short: what was not acknowledged ends here", "the next start cuts it"
    ),
    "journal.corrupt": Sort(
        _DANGER,
        "records of the journal can't be read: changes that were not recorded yet are lost",
        "the daemon steps over it and scans; keep the file",
    ),
    "journal.passed": Sort(
        _TOLD,
        "records of the journal can't be read; the recorder is past them: recorded, or made up for by a scan",
        "nothing: they go with their segment, once retention has passed",
    ),
    "ledger.missing": Sort(
        _ATTENTION,
        "there is no ledger: settings and operations are those of a new backup",
        "put state.sqlite back from the newest servers/configuration_*.tar.gz",
    ),
    "ledger.corrupt": Sort(
        _DANGER,
        "the ledger is damaged: the daemon will not start on it",
        "put state.sqlite back from the newest servers/configuration_*.tar.gz",
    ),
    "archive.corrupt": Sort(
        _ATTENTION, "an archive below servers/ can't be read to its end", _MOVES + "; backup doBackupCluster"
    ),
    "file.unknown": Sort(_ATTENTION, "something that does not belong into a Backup Path", _MOVES),
    "file.leftover": Sort(_MILD, "what an interrupted write left; nothing reads it", _MOVES),
    "file.link": Sort(
        _ATTENTION, "a link: none is followed here, so what it points to is not part of the backup", _MOVES
    ),
    "file.special": Sort(_ATTENTION, "a pipe, socket or device; it is never opened", _MOVES),
    "file.mode": Sort(
        _ATTENTION, "other users of the machine may read or write it", f"{_FIX} sets 0600, folders 0700"
    ),
    "appserver.missing": Sort(
        _ATTENTION, "the backup has it as living, the AppServer does not have it", _SCAN
    ),
    "appserver.differs": Sort(_ATTENTION, "the AppServer holds it otherwise than recorded", _SCAN),
    "appserver.unknown": Sort(_ATTENTION, "the AppServer has it, the backup does not", _SCAN),
    "appserver.unread": Sort(
        _ATTENTION, "an account could not be compared with the AppServer", "see whether the AppServer answers"
    ),
}
"""The table, by code."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong. `path` is relative to the Backup Path.

    `detail` says what exactly; `account`, `items` (the first hundred) and `digest` whom it concerns.
    """

    code: str
    path: str
    detail: str = ""
    account: str = ""
    items: tuple[str, ...] = ()
    digest: str = ""

    @property
    def sort(self) -> Sort:
        """What its code means."""
        return SORTS[self.code]


class Findings:
    """Findings as they gather: all are counted, a bounded number is kept."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.counts: Counter[str] = Counter()

    def add(self, findings: Iterable[Finding]) -> None:
        """Take findings in."""
        for one in findings:
            assert one.code in SORTS, one.code
            self.counts[one.code] += 1
            if len(self.kept) < FINDINGS_KEPT_MAX:
                detail = one.detail[:DETAIL_CHARACTERS_MAX]
                items = one.items[:ITEMS_NAMED_MAX]
                self.kept.append(msgspec.structs.replace(one, detail=detail, items=items))

    @property
    def total(self) -> int:
        """How many there are, those that are only told left out."""
        return sum(count for code, count in self.counts.items() if SORTS[code].weight is not Weight.TOLD)


def in_words(counts: dict[str, int]) -> str:
    """Return counts by code as words, the worst first."""
    order = list(SORTS)
    weights = list(Weight)
    codes = sorted(counts, key=lambda code: (weights.index(SORTS[code].weight), order.index(code)))
    return ", ".join(f"{counts[code]:,} {code}" for code in codes if counts[code])
