"""When a loss is unusual: pure functions over the lives of an account's items.

Words: a *look-back* is a stretch up to now with the share that is too much for it. What was lost is judged
against what was alive at the worst moment of the look-back: the one from which on the largest share of what
was there then is gone now. So mail that comes and goes all day is no loss, new mail that comes after a loss
does not dilute it, and a mailbox that was filled and emptied on one day is one. A slow loss is seen by longer
look-backs, which must lose more. Moments are microseconds since 1970.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from backupd.clock import microseconds
from backupd.store.index_losses import Lives

LOOK_BACKS = ((1, 1), (7, 2), (30, 3))
"""Each as so many windows and so many times the share: by default 30 % a day, 60 % a week, 90 % a month."""
SHARE_MAX = 90
"""The share of a longer look-back is at most this, in percent, unless that of the window itself is higher."""
WINDOWS_MAX = max(windows for windows, _ in LOOK_BACKS)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is unusual: `share` percent within `hours`, and at least `minimum`. A share of 0: nothing is."""

    share: int = 30
    hours: int = 24
    minimum: int = 100


class LookBack(msgspec.Struct, frozen=True):
    """A stretch up to now, and the share that is too much for it."""

    hours: int
    share: int

    def start(self, now: datetime) -> datetime:
        """Return when it begins."""
        return now - timedelta(hours=self.hours)


class Loss(msgspec.Struct, frozen=True):
    """So many of so many went within so many hours."""

    lost: int
    total: int
    hours: int


def look_backs(limits: Limits) -> list[LookBack]:
    """Return the look-backs of these limits, the shortest first; none where the guard is off."""
    if not limits.share:
        return []
    return [
        LookBack(limits.hours * windows, max(limits.share, min(limits.share * times, SHARE_MAX)))
        for windows, times in LOOK_BACKS
    ]


def judge(
    lives: Lives,
    limits: Limits,
    now: datetime,
    *,
    marks: Mapping[int, int],
    lifted_through: Mapping[str, int] | int = 0,
) -> Loss | None:
    """Return the loss that is unusual, of the shortest look-back that sees one; None where all is as usual.

    `marks` has, by a look-back's hours, the transaction behind which everything was recorded within it.
    Deletions up to `lifted_through` (one for all, or by item) were seen by an admin and count no more.
    """
    for look_back in look_backs(limits):
        start = microseconds(look_back.start(now))
        after = marks.get(look_back.hours)
        gone = []
        for one in lives.gone:
            seen = lifted_through if isinstance(lifted_through, int) else lifted_through.get(one.item, 0)
            recorded = after is not None and one.transaction > after
            if one.transaction > seen and (one.last >= start or recorded):
                death = max(one.last, start + 1)
                gone.append((min(one.first, death - 1), death))
        worst = _worst(lives, gone, start, limits.minimum)
        if worst is not None and worst[0] * 100 >= look_back.share * worst[1]:
            return Loss(*worst, look_back.hours)
    return None


def _worst(lives: Lives, gone: Sequence[tuple[int, int]], start: int, minimum: int) -> tuple[int, int] | None:
    """Return lost and alive at the worst moment of those at which at least `minimum` lived that are gone."""
    if len(gone) < max(1, minimum):
        return None
    births = sorted(birth for birth, _ in gone)
    deaths = sorted(death for _, death in gone)
    worst: tuple[int, int] | None = None
    # Only a birth of something that is gone now can make a moment worse than the one before.
    for when in [start, *sorted({birth for birth in births if birth > start})]:
        lost = bisect_right(births, when) - bisect_right(deaths, when)
        if lost < max(1, minimum):
            continue
        total = lost + lives.living_before + bisect_right(lives.living_since, when)
        if worst is None or (lost * worst[1], lost) > (worst[0] * total, worst[0]):
            worst = (lost, total)
    return worst
