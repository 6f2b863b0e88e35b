"""Timekeeping: whether the wall clock can be believed, from what is remembered of it. Pure.

What is old is purged by the wall clock, so a clock that is wrong by a year must purge nothing. A *reckoning*
is a moment that was believed, with the machine's boot and the seconds since then (CLOCK_BOOTTIME, which goes
on while the machine sleeps and which nobody can set). Within one boot the present is reckoned from it to the
second; after another boot it is not earlier. A doubt stays, over restarts, until the clock agrees with the
reckoning again or somebody who knows accepts the time: what happens under a wrong clock can't hide it.

*Marks* are reckoned moments with the last number of the journal by then. By them a deletion that claims to be
older counts from when it was recorded: neither a clock that was behind nor an event ages it.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import datetime, timedelta

import msgspec

BACKWARD_MAX = timedelta(hours=1)
"""A clock this far behind the reckoning is only being corrected."""
FORWARD_MAX = timedelta(days=3)
"""A clock further ahead than this of all that passed is in doubt."""


MARK_EVERY = timedelta(hours=6)
MARKS_MAX = 2_000
"""With more, every second one of the older half goes: the older, the coarser."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """A moment, and the number of the last journal entry by then."""

    moment: datetime
    sequence: int


class Marks(msgspec.Struct, frozen=True):
    """Marks, the oldest first; neither moments nor numbers run back."""

    marks: tuple[Mark, ...] = ()

    def gone_since(self, claimed: datetime, transaction: int) -> datetime:
        """Return from when a deletion counts: what it claims, or the last mark before it was recorded."""
        before = bisect_left(self.marks, transaction, key=lambda mark: mark.sequence)
        return max(claimed, self.marks[before - 1].moment) if before else claimed

    def with_one(self, moment: datetime, sequence: int) -> Marks:
        """Return the marks as they are to be kept at a moment; later ones are of a clock that was ahead."""
        kept = [mark for mark in self.marks if mark.moment <= moment and mark.sequence <= sequence]
        if not kept or moment - kept[-1].moment >= MARK_EVERY:
            kept.append(Mark(moment, sequence))
        if len(kept) > MARKS_MAX:
            half = MARKS_MAX // 2
            kept = kept[:half:2] + kept[half:]
        return Marks(tuple(kept))


class Uptime(msgspec.Struct, frozen=True):
    """The boot a machine is in, and the seconds since it began."""

    boot: str
    seconds: float


class Reckoning(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A believed moment; `doubt` says why the clock was not believed when it was last looked at."""

    moment: datetime
    boot: str
    seconds: float
    doubt: str = ""
    since: datetime | None = None


def reckon(
    known: Reckoning | None, now: datetime, uptime: Uptime, *, evidence: datetime | None = None
) -> Reckoning:
    """Return what is known of time after a look at the clock.

    `evidence` is a moment that has passed by this machine's own word, such as the end of a scan; it counts
    only where nothing is known: what was written under a wrong clock must not outweigh a reckoning.
    """
    if known is None:
        begun = now if evidence is None else max(now, evidence)
        known = Reckoning(moment=begun, boot=uptime.boot, seconds=uptime.seconds)
    is_same_boot = bool(uptime.boot) and known.boot == uptime.boot
    passed = timedelta(seconds=max(0.0, uptime.seconds - known.seconds)) if is_same_boot else timedelta()
    expected = known.moment + passed
    doubt = _doubt(now, expected, is_same_boot=is_same_boot)
    return Reckoning(
        moment=expected if doubt else now,
        boot=uptime.boot,
        seconds=uptime.seconds,
        doubt=doubt,
        since=(known.since or now) if doubt else None,
    )


def accepted(now: datetime, uptime: Uptime) -> Reckoning:
    """Return what is known of time once somebody said that the clock is right."""
    return Reckoning(moment=now, boot=uptime.boot, seconds=uptime.seconds)


def _doubt(now: datetime, expected: datetime, *, is_same_boot: bool) -> str:
    told = f"the clock says {now:%Y-%m-%d %H:%M} UTC"
    if now < expected - BACKWARD_MAX:
        return f"{told}, but it was {expected:%Y-%m-%d %H:%M} UTC or later already"
    if now - expected > FORWARD_MAX:
        why = "jumped forward" if is_same_boot else "jumped forward, or the machine was off for long"
        return f"{told}, {(now - expected).days} days more than passed since it was last believed: it {why}"
    return ""
