"""Rotation: which shelves come next, so that bounded runs complete a whole pass one after the other.

A pass has two rings, blobs and histories. A bounded run advances both alike, by turns, and ends where its
share or its time is used up; the next one goes on behind the last shelf of each. Pure but for the listing of
folders that it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from backupd.jobs.coherency.shelves import Ring, Step, Walk


class Position(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How far the present pass is: the last shelf of each ring that was looked at, and which ring is done."""

    began: datetime | None = None
    blobs: str = ""
    histories: str = ""
    blobs_done: bool = False
    histories_done: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether the pass has come to its end."""
        return self.blobs_done and self.histories_done

    def note(self, step: Step) -> None:
        """Note that a shelf was looked at."""
        if step.ring is Ring.BLOBS:
            self.blobs = step.path
        else:
            self.histories = step.path


class Rings:
    """The steps of a pass that are still to be taken from a position on."""

    def __init__(self, walk: Walk, position: Position, extra_accounts: list[str]) -> None:
        self._walk = walk
        self.position = position
        shelves = walk.blob_shelves()
        self._blobs = [] if position.blobs_done else [one for one in shelves if one.path > position.blobs]
        self._blobs_all = len(shelves)
        self._accounts = sorted({*walk.account_folders(), *extra_accounts})
        self._accounts_done = 0
        self._blobs_taken = 0
        self._histories = self._from_position()
        self._next_history = None if position.histories_done else next(self._histories, None)

    @property
    def blobs_share(self) -> float:
        """Which part of the ring of blobs is behind us."""
        left = len(self._blobs) - self._blobs_taken
        return 1.0 if not left else 1.0 - left / max(1, self._blobs_all)

    @property
    def histories_share(self) -> float:
        """Which part of the ring of histories is behind us, reckoned in accounts."""
        if self._next_history is None:
            return 1.0
        return self._accounts_done / max(1, len(self._accounts) + 1)

    @property
    def share(self) -> float:
        """Which part of the whole pass is behind us."""
        return (self.blobs_share + self.histories_share) / 2

    def next_blobs(self) -> Step | None:
        """Take the next shelf of blobs."""
        if self._blobs_taken >= len(self._blobs):
            return None
        self._blobs_taken += 1
        return self._blobs[self._blobs_taken - 1]

    def next_histories(self) -> Step | None:
        """Take the next shelf of histories."""
        step = self._next_history
        if step is not None:
            self._next_history = next(self._histories, None)
        return step

    def by_turns(self) -> Iterator[Step]:
        """Yield shelves of both rings so that they come to their end together."""
        while True:
            take_blobs = self.blobs_share <= self.histories_share
            step = self.next_blobs() if take_blobs else self.next_histories()
            step = step or self.next_histories() or self.next_blobs()
            if step is None:
                return
            yield step

    def blobs_first(self) -> Iterator[Step]:
        """Yield all shelves of blobs, then all of histories."""
        while (step := self.next_blobs() or self.next_histories()) is not None:
            yield step

    def _from_position(self) -> Iterator[Step]:
        last = self.position.histories
        servers = self._walk.server_shelves()
        if not last.startswith("accounts/"):
            yield from (step for step in servers if step.path > last)
            last = ""
        self._accounts_done = 1
        reached = last.split("/")[1] if last else ""
        for account in self._accounts:
            if account >= reached:
                steps = list(self._walk.shelves_of(account))
                paths = [step.path for step in steps]
                begin = paths.index(last) + 1 if account == reached and last in paths else 0
                yield from steps[begin:]
            self._accounts_done += 1
