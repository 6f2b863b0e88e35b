"""The sentences with which a purge ends, from what was planned and what was done. Pure."""

from __future__ import annotations

from collections import Counter

from backupd.jobs.purge.histories import Done
from backupd.jobs.purge.plan import Tally
from backupd.operations import Verdict
from backupd.retention import WORDS, Retention, Stay

_UNITS = ("bytes", "KB", "MB", "GB", "TB")
_STEP = 1_000
_UNTOLD = frozenset({Stay.LIVE, Stay.BLOB_IN_GRACE})


def infinite() -> Verdict:
    """Return the verdict where everything stays for ever."""
    return Verdict(
        sentence="infinite retention: every retention is 0, so nothing is ever purged; nothing was looked at"
    )


def sentence(tally: Tally, done: Done, retention: Retention, *, errors: int) -> Verdict:
    """Return the verdict of a purge that came to its end."""
    staying = Counter(tally.staying)
    staying.update(done.kept)
    parts = [
        (
            f"{_counted(done.histories, 'history', 'histories')} and {_counted(done.accounts, 'account')}"
            f"{f' with {done.account_items:,} histories' if done.accounts else ''} removed"
        ),
        f"{_counted(done.blobs, 'blob')} removed, {bytes_in_words(done.freed_bytes)} freed",
    ]
    if done.archives:
        parts.append(f"{_counted(done.archives, 'old archive')} of the server removed")
    if done.segments:
        parts.append(f"{_counted(done.segments, 'old journal segment')} removed")
    if done.condemned:
        parts.append(f"{_counted(done.condemned, 'blob')} without a reference in grace")
    parts += _stays(staying, retention)
    if errors:
        parts.append(f"{_counted(errors, 'error')} listed")
    counts = {
        "histories": done.histories,
        "accounts": done.accounts,
        "accountHistories": done.account_items,
        "archives": done.archives,
        "blobs": done.blobs,
        "freedBytes": done.freed_bytes,
        "condemned": done.condemned,
        "live": tally.staying[Stay.LIVE],
        "stay": staying.total() - staying[Stay.LIVE],
    }
    return Verdict(sentence="; ".join(parts), counts=counts)


def foreseen(tally: Tally, retention: Retention, *, archives: int, refusal: str) -> Verdict:
    """Return the verdict of a dry run: nothing was changed."""
    alone = tally.going_by_kind.total()
    by_kind = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.going_by_kind.items()))
    accounts = len(tally.going_accounts)
    parts = [
        (
            f"dry run, nothing was changed: {_counted(alone, 'history', 'histories')}"
            f"{f' ({by_kind})' if by_kind else ''} and {_counted(accounts, 'account')}"
            f"{f' with {tally.going_items - alone:,} histories' if accounts else ''} would go"
        ),
        f"their contents have up to {bytes_in_words(tally.going_bytes)}",
    ]
    if archives:
        parts.append(f"{_counted(archives, 'old archive')} of the server would go")
    parts += _stays(tally.staying, retention)
    if refusal:
        parts.append(f"without force true this purge would stop: {refusal}")
    counts = {
        "histories": alone,
        "accounts": accounts,
        "accountHistories": tally.going_items - alone,
        "archives": archives,
        "contentBytes": tally.going_bytes,
        "live": tally.staying[Stay.LIVE],
        "stay": tally.staying.total() - tally.staying[Stay.LIVE],
    }
    return Verdict(sentence="; ".join(parts), counts=counts)


def bytes_in_words(count: int) -> str:
    """Return a number of bytes as people read it."""
    size, unit = float(count), 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size /= _STEP
        unit += 1
    return f"{count} bytes" if unit == 0 else f"{size:,.1f} {_UNITS[unit]}"


def _stays(staying: Counter[Stay], retention: Retention) -> list[str]:
    told = sorted((why, count) for why, count in staying.items() if count and why not in _UNTOLD)
    parts = []
    if told:
        reasons = ", ".join(f"{WORDS[why]} {count:,}" for why, count in told)
        parts.append(f"{sum(count for _, count in told):,} things stay: {reasons}")
    if retention.for_ever:
        parts.append(f"infinite retention of {' and '.join(retention.for_ever)}")
    return parts


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
