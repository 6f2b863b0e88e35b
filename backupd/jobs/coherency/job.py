"""The job: one run of the check, the comparison with the AppServer, the repair, and the verdict in words."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from backupd.clock import Clock
from backupd.control import CoherencyReply
from backupd.errors import UsageError
from backupd.jobs.coherency import memory
from backupd.jobs.coherency.check import Check, Checked, Wanted
from backupd.jobs.coherency.findings import SORTS, Finding, Weight, in_words
from backupd.jobs.coherency.memory import Remembered
from backupd.jobs.coherency.repair import Mended, Repair
from backupd.jobs.coherency.rotation import Position
from backupd.keeping_views import CoherencyCount, FindingView
from backupd.operations import Run, Verdict

REPORTED_MAX = 1_000
"""Findings that a reply carries; the rest is counted."""
LIST_THEM = "backupctl backup getCoherencyFindings"
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)\s*%?\Z")
_MINUTES_MAX = 7 * 24 * 60
_SECONDS = 60
Compare = Callable[[Sequence[str]], list[Finding]]


class Outcome(msgspec.Struct, kw_only=True):
    """What a run came to: what was found, what was mended, what is known now, and the verdict."""

    checked: Checked
    mended: Mended | None
    remembered: Remembered
    verdict: Verdict


def wanted_of(accounts: Sequence[str], sample: str | None, max_minutes: int | None) -> Wanted:
    """Return what a run shall look at. `sample` is such as `5%`. Raises `UsageError`."""
    share = None
    if sample is not None:
        told = _SHARE.match(sample.strip())
        share = None if told is None else float(told[1]) / 100
        if share is None or not 0 < share <= 1:
            raise UsageError(f"{sample[:40]!r} is no share", hint="such as 5%: more than 0, at most 100%")
    if max_minutes is not None and not 0 < max_minutes <= _MINUTES_MAX:
        raise UsageError(
            f"{max_minutes} minutes are no time for a run", hint=f"more than 0, at most {_MINUTES_MAX:,}"
        )
    if accounts and (share is not None or max_minutes is not None):
        raise UsageError(
            "single accounts are looked at as a whole", hint="leave sample and max_minutes out, or accountIds"
        )
    return Wanted(
        accounts=tuple(accounts),
        share=share,
        seconds_max=None if max_minutes is None else float(max_minutes * _SECONDS),
    )


class Job:
    """A check with what it may use. `repair` None: nothing is mended; `compare` None: no AppServer asked."""

    def __init__(
        self,
        check: Check,
        *,
        clock: Clock,
        repair: Repair | Callable[[Checked], Repair] | None = None,
        compare: Compare | None = None,
    ) -> None:
        self._check = check
        self._clock = clock
        self._repair = repair
        self._compare = compare

    def run(
        self,
        run: Run,
        wanted: Wanted,
        before: Remembered,
        keep: Callable[[Remembered], None] = lambda _remembered: None,
    ) -> Outcome:
        """Look, compare, mend; tell `keep` what is known then, also of a run that is stopped midway.

        Raises `BackupPathRefused`, `OperationStopped`, `OSError`.
        """
        # A whole run leaves the rotation of bounded ones alone until it is over.
        position = msgspec.structs.replace(before.position) if wanted.is_bounded else Position()
        places = {one.finding.path for one in before.findings}
        places |= {path.rpartition("/")[0] for path in places}
        noting = msgspec.structs.replace(wanted, noted=frozenset(places))
        try:
            checked = self._check.run(run, noting, position)
        except BaseException:
            if wanted.is_bounded:
                keep(msgspec.structs.replace(before, position=position))
            raise
        if self._compare is not None:
            checked.findings.add(self._compare(wanted.accounts))
        mended = None
        if self._repair is not None and checked.findings.kept:
            repair = self._repair(checked) if callable(self._repair) else self._repair
            mendable = [one for one in checked.findings.kept if not one.code.startswith("appserver.")]
            mended = repair.run(run, [one for one in mendable if one.sort.weight is not Weight.TOLD])
        verdict = judge(checked, mended, wanted)
        for one in checked.findings.kept:
            if mended is None and one.sort.weight is not Weight.TOLD:
                run.note_error(one.path or ".", f"{one.code}: {one.detail or one.sort.meaning}")
        for one, why in mended.left if mended is not None else ():
            run.note_error(one.path or ".", f"{one.code}: not mended: {why}")
        for one in mended.lost if mended is not None else ():
            run.note_error(one.path, f"blob.lost: {', '.join(one.items[:5]) or one.digest}")
        remembered = memory.after_run(
            before,
            checked,
            mended,
            wanted,
            position=before.position if wanted.accounts else position,
            now=self._clock.now(),
            verdict=verdict.sentence,
            is_there=lambda path: os.path.lexists(self._check.root / path),
        )
        keep(remembered)
        return Outcome(checked=checked, mended=mended, remembered=remembered, verdict=verdict)


def judge(checked: Checked, mended: Mended | None, wanted: Wanted) -> Verdict:
    """Return the counted verdict: successful where nothing is left to be seen to."""
    counts = dict(checked.findings.counts)
    told = {code: count for code, count in counts.items() if SORTS[code].weight is Weight.TOLD}
    open_ = {code: count for code, count in counts.items() if code not in told}
    total = sum(open_.values())
    megabytes = checked.read_bytes / 1e6
    words = [f"{checked.files:,} files, {megabytes:,.1f} MB looked at in {checked.seconds:,.1f} s"]
    words.append(f"{total:,} findings: {in_words(open_)}" if total else "no findings")
    is_clean = not total
    if mended is not None:
        unkept = total - sum(one.sort.weight is not Weight.TOLD for one in checked.findings.kept)
        left = len(mended.left) + unkept
        left += sum(one.code.startswith("appserver.") for one in checked.findings.kept)
        words.append(f"{mended.mended.total():,} mended, {len(mended.lost):,} lost for good, {left:,} left")
        if mended.aside:
            words.append(f"what was damaged is in {mended.aside}")
        is_clean = not left and not mended.lost
    lost = {code: told.pop(code) for code in ("blob.lost",) if code in told}
    if lost:
        words.append(f"known as lost for good: {in_words(lost)}")
    if told:
        words.append(f"past, and nothing to be done: {in_words(told)}")
    if wanted.is_bounded:
        words.append(f"{checked.share:.1%} of the pass is done")
    return Verdict(
        sentence="; ".join(words),
        counts={"files": checked.files, "bytes": checked.read_bytes, **counts},
        successful=is_clean,
    )


def reply_of(path: Path, outcome: Outcome) -> CoherencyReply:
    """Return what a console shows of a run it made itself."""
    checked, mended = outcome.checked, outcome.mended
    left = None if mended is None else {(one.code, one.path): why for one, why in mended.left}
    return CoherencyReply(
        path=str(path),
        clean=outcome.verdict.successful,
        verdict=outcome.verdict.sentence,
        checked=outcome.remembered.last_run,
        share=checked.share,
        counts=counts_view(checked.findings.counts),
        findings=tuple(_view(one, left) for one in checked.findings.kept[:REPORTED_MAX]),
        more=max(0, checked.findings.counts.total() - REPORTED_MAX),
    )


def reply_of_remembered(path: Path, remembered: Remembered) -> CoherencyReply:
    """Return what is known of a daemon's own path after all its runs."""
    return CoherencyReply(
        path=str(path),
        clean=not remembered.total,
        verdict=remembered.verdict,
        checked=remembered.last_run,
        last_whole=remembered.last_whole,
        share=remembered.share,
        counts=counts_view(Counter(remembered.counts)),
        findings=tuple(_view(one.finding, None) for one in remembered.findings),
        more=max(0, sum(remembered.counts.values()) - len(remembered.findings)),
    )


def counts_view(counts: Counter[str]) -> tuple[CoherencyCount, ...]:
    """Return the summary by code, the worst first."""
    weights = list(Weight)
    codes = sorted(
        (code for code in counts if counts[code]), key=lambda one: (weights.index(SORTS[one].weight), one)
    )
    return tuple(
        CoherencyCount(
            code=code,
            count=counts[code],
            severity=SORTS[code].weight.value,
            meaning=SORTS[code].meaning,
            cure=SORTS[code].cure,
        )
        for code in codes
    )


def _view(finding: Finding, left: dict[tuple[str, str], str] | None) -> FindingView:
    why = "" if left is None else left.get((finding.code, finding.path), "")
    return FindingView(
        code=finding.code,
        severity=finding.sort.weight.value,
        path=finding.path,
        detail=finding.detail,
        account=finding.account,
        items=finding.items,
        digest=finding.digest,
        left=why,
    )
