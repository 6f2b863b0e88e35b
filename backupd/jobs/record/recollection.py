"""Recollection: what the journal said lately and no history tells.

A change that left an item as it was leaves no state. Two things must be known of it all the same: that its
event has come, for a broker may deliver it again; and that the item was looked at behind its sequence
number, for a scan's finding from before must not win over it. Both are kept for the last `EVENTS_MAX`
events, far more than a broker has under way at a time; after a start they come from the journal's end.
Of what lies before `floor` nothing is known.
"""

from __future__ import annotations

from collections import OrderedDict

from backupd.coalescing import Entry
from backupd.items import ItemKey

EVENTS_MAX = 20_000


class Recollection:
    """Used by the recorder's thread alone. `floor` is the sequence number behind which it begins."""

    def __init__(self, floor: int, *, events_max: int = EVENTS_MAX) -> None:
        self._events_max = events_max
        self._first_of_event: OrderedDict[int, int] = OrderedDict()
        self._newest_of_item: OrderedDict[ItemKey, int] = OrderedDict()
        self.floor = floor

    def came_before(self, entry: Entry) -> bool:
        """Remember an entry's event; tell whether it came before under a lower sequence number."""
        # Hashes take a tenth of the memory; an identifier counts per item, as publishers may have it.
        event = hash((entry.change.account, entry.change.item, entry.change.event))
        first = self._first_of_event.setdefault(event, entry.sequence)
        if len(self._first_of_event) > self._events_max:
            self._first_of_event.popitem(last=False)
        return first < entry.sequence

    def note(self, key: ItemKey, sequence: int) -> None:
        """Remember that an item was looked at up to a sequence number, without a state of it."""
        self._newest_of_item[key] = sequence
        self._newest_of_item.move_to_end(key)
        if len(self._newest_of_item) > self._events_max:
            self.floor = max(self.floor, self._newest_of_item.popitem(last=False)[1])

    def newest(self, key: ItemKey, *, has_history: bool) -> int:
        """Return the last sequence number that may be known of an item; 0 where there can be none.

        What is forgotten can only have left an item as it was, and such an item has a history.
        """
        return max(self._newest_of_item.get(key, 0), self.floor if has_history else 0)
