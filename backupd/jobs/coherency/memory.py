"""What is remembered of coherency checks from one run to the next: where the pass stands, and what is wrong.

A finding stays open until a run looked at its place again and did not find it any more, until a repair mended
it, or until a whole pass that began later is over. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime

import msgspec

from backupd.decoding import decoded
from backupd.jobs.coherency.check import Checked, Wanted
from backupd.jobs.coherency.findings import SORTS, Finding, Weight
from backupd.jobs.coherency.repair import Mended
from backupd.jobs.coherency.rotation import Position

NAME = "coherency"
"""Under which it is remembered in the ledger."""
OPEN_MAX = 1_000
"""Findings that are remembered with their path; beyond it only the numbers are."""
_ABSENT = frozenset({"blob.missing", "blob.lost", "history.missing"})


class OpenFinding(msgspec.Struct, frozen=True):
    """A finding, and when it was last seen."""

    finding: Finding
    seen: datetime


class Remembered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known after the last run. `counts` by code, those that are only told included.

    `share` is the part of the present pass that is done; `last_whole` when a pass last came to its end.
    """

    position: Position = msgspec.field(default_factory=Position)
    findings: tuple[OpenFinding, ...] = ()
    counts: dict[str, int] = {}
    last_run: datetime | None = None
    last_whole: datetime | None = None
    share: float = 0.0
    verdict: str = ""

    @property
    def total(self) -> int:
        """How many findings are open, those that are only told left out."""
        return sum(count for code, count in self.counts.items() if SORTS[code].weight is not Weight.TOLD)


def encode(remembered: Remembered) -> bytes:
    """Return it as it is kept."""
    return msgspec.json.encode(remembered)


def decode(facts: bytes | None) -> Remembered:
    """Read it back; what can't be read counts as never kept."""
    if facts is None:
        return Remembered()
    try:
        found = decoded(facts, Remembered)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Remembered()
    known = {code: count for code, count in found.counts.items() if code in SORTS}
    findings = tuple(one for one in found.findings if one.finding.code in SORTS)
    return msgspec.structs.replace(found, counts=known, findings=findings)


def after_run(
    before: Remembered,
    checked: Checked,
    mended: Mended | None,
    wanted: Wanted,
    *,
    position: Position,
    now: datetime,
    verdict: str,
    is_there: Callable[[str], bool],
) -> Remembered:
    """Return what is known after a run. `is_there` tells whether anything stands at a path by now."""
    is_whole = not wanted.accounts and position.is_complete
    looked_at = checked.looked_at
    kept = []
    for one in before.findings:
        is_old = is_whole and (checked.began is None or one.seen < checked.began)
        if one.finding.code in _ABSENT:
            # Found where histories are, not where the content should be.
            is_over = is_there(one.finding.path)
        else:
            is_over = _is_looked_at(one.finding, looked_at)
        if not is_old and not is_over:
            kept.append(one)
    gone = _mended_ones(checked, mended)
    known = {_mark(one.finding) for one in kept}
    fresh = [one for one in checked.findings.kept if _mark(one) not in gone and _mark(one) not in known]
    if mended is not None:
        fresh += [msgspec.structs.replace(one, code="blob.lost") for one in mended.lost]
    kept += [OpenFinding(one, now) for one in fresh]
    counts = Counter(one.finding.code for one in kept)
    for code, count in checked.findings.counts.items():
        # Those beyond what is kept with a path are known by their number alone.
        unkept = count - sum(one.code == code for one in checked.findings.kept)
        counts[code] += unkept
    return Remembered(
        position=Position() if position.is_complete else position,
        findings=tuple(kept[:OPEN_MAX]),
        counts={code: count for code, count in counts.items() if count},
        last_run=now,
        last_whole=now if is_whole else before.last_whole,
        share=before.share if wanted.accounts else checked.share,
        verdict=verdict,
    )


def _is_looked_at(finding: Finding, looked_at: set[str]) -> bool:
    """Tell whether a run looked where a finding was, so that it would have found it again."""
    return finding.path in looked_at or finding.path.rpartition("/")[0] in looked_at


def _mended_ones(checked: Checked, mended: Mended | None) -> set[tuple[str, str]]:
    if mended is None:
        return set()
    left = {_mark(one) for one, _ in mended.left}
    return {_mark(one) for one in checked.findings.kept} - left


def _mark(finding: Finding) -> tuple[str, str]:
    return finding.code, finding.path
