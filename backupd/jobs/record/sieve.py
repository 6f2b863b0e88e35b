"""Sieve: leaves out of a round what is of accounts that are not backed up, and counts it once."""

from __future__ import annotations

from collections.abc import Sequence

from backupd.coalescing import Entry
from backupd.enrolment import Enrolment
from backupd.items import ItemKey, Kind
from backupd.jobs.record.plan import GapFound
from backupd.states import State


class Sieve:
    """Entries behind `through` have not been seen yet; what a failed round saw is seen again."""

    def __init__(self, enrolment: Enrolment, through: int) -> None:
        self._enrolment = enrolment
        self._through = through
        self.unwanted = 0

    def wanted(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries that are to be recorded; in the order of the journal."""
        wanted = []
        for entry in entries:
            if self._enrolment.is_wanted(entry.change):
                wanted.append(entry)
            elif entry.sequence > self._through:
                self.unwanted += 1
        self._through = max(self._through, entries[-1].sequence)
        return wanted

    def is_about_enrolled(self, gap: GapFound) -> bool:
        """Tell whether a gap matters: nobody needs to heal what is not backed up."""
        return self._enrolment.is_enabled(gap.account)

    def note(self, key: ItemKey, state: State) -> None:
        """Take in what was recorded of an account itself."""
        if key.kind is Kind.ACCOUNT and not state.deleted:
            self._enrolment.note(key.account, state.metadata)
