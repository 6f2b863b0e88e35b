"""Upload: the effects around the plan, in steps that block; the daemon repeats them in threads of its own.

`tend` keeps the queue and the cache: it never touches the volume, so it goes on while that is away. `round`
sends. Either may be ended at any moment and done again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec
import structlog

from backupd.jobs.upload import plan
from backupd.operations import Run
from backupd.store.outside.cache import Cache
from backupd.store.outside.catalog import Backlog
from backupd.store.outside.reading import BlobsOutside
from backupd.store.outside.reclaiming import Reclaimed, reclaim
from backupd.store.outside.sending import Sender

log = structlog.get_logger(__name__)


class Round(msgspec.Struct, frozen=True):
    """What a round confirmed, in objects of the queue and bytes of their files, and when to look again."""

    objects: int = 0
    bytes: int = 0
    wait_seconds: float | None = None


class Upload:
    """Sends what waits. `tend` and `round` are each called by one thread at a time."""

    def __init__(
        self,
        outside: BlobsOutside,
        cache: Cache,
        sender: Sender,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._outside = outside
        self._cache = cache
        self._sender = sender
        self._now = now

    def tend(
        self,
        cache_bytes_max: int,
        stop: Callable[[], bool] = lambda: False,
        *,
        lacking: int = 0,
        is_listed: bool = True,
    ) -> Backlog:
        """Write down what is new, find what was missed, make room; return what waits then.

        `lacking` bytes of room are wanted, whatever the bound of the cache allows. Nothing is let go for a
        volume that is to be listed first (`is_listed` false): what the catalog knows of it may be gone.
        """
        outside, catalog = self._outside, self._outside.catalog
        outside.keep_notes()
        if outside.sweep_due:
            outside.sweep_due = False
            try:
                catalog.clear_troubles()
                found = self._cache.sweep(catalog, stop=stop)
            except BaseException:
                outside.sweep_due = True
                raise
            if found:
                log.info("blobs_found_waiting", blobs=found)
        with outside.evicting:
            stays = outside.keeps_all or outside.rebuild_due or not is_listed
            freed = 0 if stays else self._cache.make_room(catalog, cache_bytes_max, lacking)
        if freed:
            log.info("cache_made_room", bytes=freed)
        return catalog.backlog()

    def reclaim(self, run: Run) -> Reclaimed:
        """Give back the room that dead contents take outside; see `reclaiming`. Uploads go on in between."""
        return reclaim(self._outside, self._sender, run)

    def round(self, stop: Callable[[], bool] = lambda: False) -> Round:
        """Send what is due. Raises what the volume does; what was confirmed before stays so."""
        outside = self._outside
        with outside.hand:
            # What an earlier round or process put may be there or not: that is known before anything is sent.
            self._sender.settle()
        queued = outside.catalog.queued(plan.WINDOW_MAX)
        planned = plan.plan(queued, self._now(), is_remote=outside.external.is_remote)
        objects = sent_bytes = 0
        for shipment in planned.shipments:
            if stop():
                break
            send = self._sender.send_pack if shipment.is_pack else self._sender.send_singles
            with outside.hand:
                done = send(shipment.blobs)
            objects += len(done)
            sent_bytes += sum(one.stored for one in done)
        return Round(objects, sent_bytes, planned.wait_seconds)
