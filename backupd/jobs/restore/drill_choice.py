"""What a restore drill takes: items, accounts and moments, drawn at random from a seed; pure.

Everything that can be drawn has a rank, a hash of the seed and its name, and those of the lowest ranks are
drawn: each is as likely as any other, memory holds what is drawn and not what there is, and the same seed
draws the same again as long as nothing of lower rank has come.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from backupd.clock import MICROSECOND
from backupd.items import ItemKey
from backupd.states import State

SEED_MAX = 10**9
_WHOLE = 1 << 64


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """A state of an item, and a moment at which it was the valid one."""

    state: State
    moment: datetime


def rank(seed: int, *words: str) -> int:
    """Return a number of 64 bits that seed and words give, and that looks like any other."""
    content = "\0".join((str(seed), *words)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(content).digest()[:8])


def ranked(seed: int, keys: Iterable[ItemKey], count: int, *, purpose: str) -> list[ItemKey]:
    """Return the `count` keys of the lowest ranks, lowest first. Another purpose draws others."""
    return heapq.nsmallest(
        count, keys, key=lambda key: (rank(seed, purpose, key.account, key.kind.value, key.item), key)
    )


def draw_state(
    seed: int, key: ItemKey, history: Sequence[State], now: datetime, *, alive: bool = False
) -> Drawn | None:
    """Draw one of an item's states, each as likely, and a moment within it; None where none can be restored.

    A state that lacks its photograph or content was recorded as lacking it: there is nothing to be proven.
    `alive` draws none in which the item was deleted.
    """
    places = [
        place
        for place, state in enumerate(history)
        if not state.lacking and state.digest is not None and not (alive and state.deleted)
    ]
    if not places:
        return None
    words = (key.account, key.kind.value, key.item)
    place = places[rank(seed, "state", *words) % len(places)]
    state = history[place]
    until = history[place + 1].start - MICROSECOND if place + 1 < len(history) else now
    return Drawn(state=state, moment=_between(state.start, until, rank(seed, "moment", *words)))


def moment_of_account(drawn: datetime, *, first: datetime, deleted_at: datetime | None) -> datetime:
    """Return a moment of one of its items, moved to where the account itself was there."""
    if deleted_at is not None:
        drawn = min(drawn, deleted_at - MICROSECOND)
    return max(drawn, first)


def _between(start: datetime, until: datetime, number: int) -> datetime:
    span = max(0, (until - start) // MICROSECOND)
    return start + (span * number // _WHOLE) * MICROSECOND
