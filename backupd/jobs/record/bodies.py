"""Contents that came along with events: stored at once, or, blobless, held where nothing else is left."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from backupd.appservers.base import BytesContent
from backupd.coalescing import Entry, Group
from backupd.errors import AppServerUnavailable
from backupd.jobs.record.round import Round
from backupd.store.beyond import Staged
from backupd.store.store import Store


def store_bodies(store: Store, groups: Sequence[Group], entries: Sequence[Entry]) -> dict[str, bytes]:
    """Store contents that came along, so that what may have to wait needs no copy of them.

    A content may have come with an earlier change than the one whose photograph names it. Blobless, they
    are returned instead: the item itself is what the AppServer can hold without a copy.
    """
    bodies = {
        one.change.digest: one.change.body
        for one in entries
        if one.change.digest is not None and one.change.body is not None
    }
    if store.keeping.is_blobless:
        return bodies
    wanted = dict.fromkeys(group.photographed.digest for group in groups if group.photographed is not None)
    staged: list[Staged] = []
    try:
        staged.extend(store.blobs.stage(bodies[digest]) for digest in wanted if digest in bodies)
        store.blobs.commit(staged)
    except BaseException:
        store.blobs.discard(staged)
        raise
    return {}


def hold_body(store: Store, round_: Round, place: int) -> None:
    """Have the content held that came along with an item which can't be read."""
    told = round_.planned.groups[place].photographed
    body = round_.bodies.get(told.digest or "") if told is not None else None
    if body is not None:
        with suppress(AppServerUnavailable):
            round_.staged.append(store.keeping.stage(BytesContent(body)))
