"""A round of the recorder: what it read and planned, what came of it, and the counts since the start."""

from __future__ import annotations

import msgspec

from backupd.errors import AppServerRefused, AppServerUnavailable, ItemVanished
from backupd.jobs.record import plan
from backupd.states import Photograph
from backupd.store.keeping import Kept

Outcome = Photograph | AppServerUnavailable | AppServerRefused | ItemVanished
"""What reading an item gave: its photograph, with the content staged, or why there is none."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What one round did. `more`: the journal goes on behind what was read."""

    entries: int = 0
    transactions: int = 0
    more: bool = False


class RecorderCounts(msgspec.Struct, kw_only=True):
    """Counts since the recorder began."""

    transactions: int = 0
    vanished: int = 0
    duplicates: int = 0
    unwanted: int = 0
    gaps: int = 0
    journal_errors: int = 0


class Round(msgspec.Struct):
    """A batch on its way: by place in the plan what has to be read, what joins others, what came of it."""

    entries: int
    planned: plan.Plan
    needs: list[int] = []
    joins: frozenset[int] = frozenset()
    more: bool = False
    outcomes: dict[int, Outcome] = {}
    staged: list[Kept] = []
    present: set[str] = set()
    """Contents that were blobs already when the round began; nobody removes them before it ends."""
    bodies: dict[str, bytes] = {}
    """Contents that came along and were not stored, in blobless mode, by digest."""
