"""What is sent next: from what waits, oldest first, to shipments. Pure.

To a remote store small contents go together: a pack is sent once enough waits to fill it, or once its oldest
content has waited for `AGE_SECONDS_MAX`, so that a lone message is outside soon too. Large ones go alone. To
a mounted volume everything goes alone and at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from backupd.store.outside.catalog import Queued
from backupd.store.packs import CONTENTS_MAX, PACK_BYTES, PACKED_BYTES_MAX

AGE_SECONDS_MAX = 5.0
WINDOW_MAX = 8_192
"""So many of the oldest are looked at for one plan."""
SINGLES_MAX = 64
SINGLES_BYTES_MAX = 256 << 20
PACK_CONTENT_BYTES_MAX = 64 << 20
"""What compresses very well is not gathered without end."""


class Shipment(msgspec.Struct, frozen=True):
    """What goes together: into one pack, or a few objects after each other."""

    blobs: tuple[Queued, ...]
    is_pack: bool


class Plan(msgspec.Struct, frozen=True):
    """What to send now, in order, and after how many seconds to look again (None: when something comes)."""

    shipments: tuple[Shipment, ...]
    wait_seconds: float | None


def plan(queued: Sequence[Queued], now: datetime, *, is_remote: bool) -> Plan:
    """Return what to send of what waits, given oldest first, at most `WINDOW_MAX` of it."""
    is_window_full = len(queued) >= WINDOW_MAX
    small = [one for one in queued if is_remote and one.size <= PACKED_BYTES_MAX]
    large = [one for one in queued if not is_remote or one.size > PACKED_BYTES_MAX]
    shipments = [Shipment(group, is_pack=False) for group in _groups(large, SINGLES_MAX, SINGLES_BYTES_MAX)]
    wait: float | None = None
    for group in _groups(small, CONTENTS_MAX, PACK_BYTES):
        age = (now - group[0].since).total_seconds()
        # A time to come is one of a clock that was set back, and nothing to wait for.
        rest = AGE_SECONDS_MAX - age if age >= 0 else 0.0
        if _is_full(group) or is_window_full or rest <= 0:
            shipments.append(Shipment(group, is_pack=True))
        else:
            wait = rest
    shipments.sort(key=lambda shipment: shipment.blobs[0].since)
    return Plan(tuple(shipments), 0.0 if shipments else wait)


def _groups(blobs: Sequence[Queued], count_max: int, bytes_max: int) -> list[tuple[Queued, ...]]:
    groups: list[list[Queued]] = []
    stored = content = 0
    for one in blobs:
        if (
            not groups
            or len(groups[-1]) >= count_max
            or stored >= bytes_max
            or content >= PACK_CONTENT_BYTES_MAX
        ):
            groups.append([])
            stored = content = 0
        groups[-1].append(one)
        stored += one.stored
        content += one.size
    return [tuple(group) for group in groups]


def _is_full(group: Sequence[Queued]) -> bool:
    return (
        sum(one.stored for one in group) >= PACK_BYTES
        or sum(one.size for one in group) >= PACK_CONTENT_BYTES_MAX
        or len(group) >= CONTENTS_MAX
    )
