"""What restores remember: which states were put where, so that one that is run again puts nothing twice.

The ledger remembers what goes into the AppServer. What goes into a scratch server is remembered in memory,
and gone with it: a drill must leave no trace that a real restore could take for its own. What was put, but
did not read back as it was to be, is remembered a second time, at its place `in_doubt`; so is what was not
read back at all: of that the content alone counts later, since its owner may have changed all else by then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Protocol

from backupd.store.ledger_tables import RestorePlace

_DOUBT = "in doubt: "
_UNREAD = "not read: "


def in_doubt(place: RestorePlace) -> RestorePlace:
    """Return under which place it is kept that a restored state is in doubt; an empty id says: no more."""
    item, transaction, target = place
    return item, transaction, f"{_DOUBT}{target}"


def unread(item: str) -> str:
    """Return what is kept at the place in doubt of a new item that was not read back."""
    return f"{_UNREAD}{item}"


class RestoreMemory(Protocol):
    """Keeps restores by the account that their states are of; each method blocks."""

    def restored(self, account: str) -> Mapping[RestorePlace, str]:
        """Return the new ids of an account's restored states."""
        ...

    def begun(self, account: str) -> Mapping[RestorePlace, int]:
        """Return the restores whose end was never told, with the journal's last number when they began."""
        ...

    def begin(self, account: str, places: Iterable[RestorePlace], basis: int) -> None:
        """Keep that restores begin, together; one that began before keeps its basis."""
        ...

    def end(self, account: str, restored: Mapping[RestorePlace, str]) -> None:
        """Keep as which items states were restored, together; they are not begun any more."""
        ...


class PassingMemory:
    """Remembers as long as it lives; safe from several threads that use different accounts."""

    def __init__(self) -> None:
        self._restored: defaultdict[str, dict[RestorePlace, str]] = defaultdict(dict)
        self._begun: defaultdict[str, dict[RestorePlace, int]] = defaultdict(dict)

    def restored(self, account: str) -> dict[RestorePlace, str]:
        """See `RestoreMemory`."""
        return dict(self._restored[account])

    def begun(self, account: str) -> dict[RestorePlace, int]:
        """See `RestoreMemory`."""
        return dict(self._begun[account])

    def begin(self, account: str, places: Iterable[RestorePlace], basis: int) -> None:
        """See `RestoreMemory`."""
        for place in places:
            self._begun[account].setdefault(place, basis)

    def end(self, account: str, restored: Mapping[RestorePlace, str]) -> None:
        """See `RestoreMemory`."""
        self._restored[account].update(restored)
        for place in restored:
            self._begun[account].pop(place, None)
