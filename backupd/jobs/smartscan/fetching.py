"""Fetching: brings contents home that the AppServer held, once blobless mode is off.

A deep scan has read and stored what its items hold now. What is left are contents of deleted items and of
earlier states: they are copied out of the AppServer's hold, a group at a time, each verified by its digest.
Then whatever rests in the Backup Path is let go there. An interruption leaves the rest for the next deep
scan; nothing is let go before its blob is durable, and what no state refers to is left to the purge.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

import msgspec
import structlog

from backupd.errors import BackupdError, CorruptBlob, SpaceExhausted
from backupd.operations import Run
from backupd.store.beyond import Staged
from backupd.store.store import Store

GROUP_CONTENTS = 256

log = structlog.get_logger(__name__)


class Fetched(msgspec.Struct, kw_only=True):
    """What came of it: contents fetched, those that could not be, and those let go on the AppServer."""

    contents: int = 0
    failed: int = 0
    released: int = 0


def count_held(store: Store) -> int:
    """Return how many contents only the AppServer holds; 0 in blobless mode, or where nothing can be held.

    Blocks. Raises `AppServerUnavailable`.
    """
    keeping = store.keeping
    if keeping.holder is None or keeping.is_blobless:
        return 0
    return sum(1 for _ in keeping.not_fetched(store.index.known_blob))


async def fetch_held(run: Run, store: Store, began: datetime, left_before: int = 0) -> Fetched:
    """Fetch what is held and no blob, then let go what the Backup Path has; `began` is when the scan did.

    `left_before` says how many were held alone before the scan: those that it stored by itself, because their
    items are still there, count as fetched. Nothing is done in blobless mode, or where nothing can be held.
    Raises `OperationStopped`, `SpaceExhausted`, `AppServerUnavailable`, `VolumeError`.
    """
    fetched = Fetched()
    keeping = store.keeping
    if keeping.holder is None or keeping.is_blobless:
        return fetched
    wanted = await asyncio.to_thread(list, keeping.not_fetched(store.index.known_blob))
    for group in (wanted[at : at + GROUP_CONTENTS] for at in range(0, len(wanted), GROUP_CONTENTS)):
        run.check()
        failed = await asyncio.to_thread(_fetch, store, group)
        for digest, reason in failed:
            run.note_error(digest, reason)
            log.error("held_content_lost", digest=digest, reason=reason)
        fetched.failed += len(failed)
        fetched.contents += len(group) - len(failed)
    fetched.contents = max(fetched.contents, left_before - fetched.failed)
    keeping.left = fetched.failed
    if keeping.is_blobless:
        return fetched  # Turned on again meanwhile: what is held stays.
    released = await asyncio.to_thread(
        keeping.holder.release, lambda digest: not store.blobs.contains(digest), before=began
    )
    fetched.released = released.contents
    if fetched.contents or fetched.released:
        log.info("held_contents_fetched", contents=fetched.contents, released=fetched.released)
    return fetched


def _fetch(store: Store, digests: list[str]) -> list[tuple[str, str]]:
    """Copy a group of contents into the Backup Path; return those that could not be, with the reason."""
    store.check_space()
    staged: list[Staged] = []
    failed: list[tuple[str, str]] = []
    try:
        for digest in digests:
            try:
                with store.blobs.open(digest) as content:
                    staged.append(store.blobs.stage(content))
            except SpaceExhausted:
                raise
            except (BackupdError, OSError) as error:
                is_changed = isinstance(error, CorruptBlob)
                reason = "it was rewritten in place by other software" if is_changed else str(error)
                failed.append((digest, f"the content is held no more: {reason}"))
        store.blobs.commit(staged)
    except BaseException:
        store.blobs.discard(staged)
        raise
    return failed
