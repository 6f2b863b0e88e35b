"""Uploading: keeps blobs going out to the external volume, and says how that stands.

Two loops. One keeps the queue and the cache and never touches the volume. The other sends; what the volume
raises is shown, and it is tried again with back-off, for as long as it takes: everything that is not
confirmed stays in the Backup Path. Intake and recording notice nothing of either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import structlog

from backupd.clock import Clock, wait_until_set
from backupd.errors import BackupdError, VolumeError
from backupd.jobs.upload.upload import Upload
from backupd.operations import Run
from backupd.store.outside.catalog import Backlog
from backupd.store.outside.reading import BlobsOutside
from backupd.store.outside.rebuilding import rebuild
from backupd.store.outside.reclaiming import Reclaimed
from backupd.volume_views import VolumeView
from backupd.volumes.counting import Counting
from daemon.own_thread import in_own_thread

TEND_SECONDS = 1.0
IDLE_SECONDS = 60.0
BACK_OFF_SECONDS_MAX = 300.0
PERMANENT_RETRY_SECONDS = 300.0
"""What trying again can't help is tried again too: an admin may have mended it."""
SILENT_SECONDS_MAX = 600.0
"""A call that takes longer hangs, or carries a very large content."""
RATE_SECONDS = 300.0
RATE_SAMPLES_MAX = 4_096

log = structlog.get_logger(__name__)


class UploadingParts(msgspec.Struct, frozen=True, kw_only=True):
    """What uploading is made of, once there is an external volume."""

    outside: BlobsOutside
    upload: Upload
    counted: Counting


class Uploading:
    """The loops of uploading; without parts there is no external volume and nothing to do."""

    def __init__(
        self,
        parts: UploadingParts | None,
        *,
        clock: Clock,
        cache_bytes_max: Callable[[], int],
        lacking: Callable[[], int] = lambda: 0,
    ) -> None:
        """Make them; `lacking` says how many bytes of room the Backup Path lacks."""
        self._parts = parts
        self._clock = clock
        self._cache_bytes_max = cache_bytes_max
        self._lacking = lacking
        self._backlog = Backlog()
        self._wake = asyncio.Event()
        self._is_ending = False
        self._sent: deque[tuple[float, int, int]] = deque(maxlen=RATE_SAMPLES_MAX)
        self._began = clock.monotonic()
        self._sent_objects = self._sent_bytes = 0
        self._failures = self._failures_total = 0
        self._error, self._hint, self._permanent = "", "", False
        self._failing_since: datetime | None = None
        self._next_try: datetime | None = None
        self._queue_error = ""
        self._rebuilding = ""
        self._calls, self._last_call = 0, clock.monotonic()
        self._is_sending = False
        self._is_listed = False
        """Whether the catalog is what the volume holds, as far as anybody knows."""

    @property
    def outside(self) -> BlobsOutside | None:
        """The contents outside; None without an external volume."""
        return None if self._parts is None else self._parts.outside

    def view(self) -> VolumeView | None:
        """Return how uploading stands; None without an external volume."""
        if self._parts is None:
            return None
        backlog, (objects_rate, bytes_rate) = self._backlog, self._rates()
        silent = self._silent_seconds(self._parts)
        silence = f"no answer for {silent:,.0f} s" if silent > SILENT_SECONDS_MAX else ""
        since = self._clock.now() - timedelta(seconds=silent) if silence else self._failing_since
        return VolumeView(
            title=self._parts.outside.external.title,
            reachable=self._failures == 0 and not silence,
            waiting_objects=backlog.objects - backlog.troubled,
            waiting_bytes=backlog.bytes,
            oldest=backlog.oldest,
            damaged_objects=backlog.troubled,
            damage=backlog.trouble,
            cached_objects=backlog.cached_objects,
            cached_bytes=backlog.cached_bytes,
            cache_bytes_max=self._cache_bytes_max(),
            sent_objects=self._sent_objects,
            sent_bytes=self._sent_bytes,
            objects_per_second=objects_rate,
            bytes_per_second=bytes_rate,
            remaining_seconds=backlog.bytes / bytes_rate if bytes_rate and backlog.bytes else None,
            requests=self._parts.counted.tally.counts().requests,
            failures=self._failures_total,
            error=silence or self._error or self._queue_error,
            hint=self._hint,
            permanent=self._permanent,
            failing_since=since,
            next_try=self._next_try,
            rebuilding=self._rebuilding,
        )

    def reclaim(self, run: Run) -> Reclaimed | None:
        """Give back the room that dead contents take outside; blocks. None without an external volume.

        Raises `OperationStopped`, `VolumeError`, `OSError`.
        """
        return None if self._parts is None else self._parts.upload.reclaim(run)

    async def run(self) -> None:
        """Upload until cancelled."""
        parts = self._parts
        if parts is None:
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tend(parts), name="upload queue")
                tasks.create_task(self._send(parts), name="sending")
        finally:
            self._is_ending = True

    async def close(self) -> None:
        """Close the catalog."""
        self._is_ending = True
        if self._parts is not None:
            await asyncio.to_thread(self._parts.outside.catalog.close)

    def _stop(self) -> bool:
        return self._is_ending

    # ------------------------------------------------------------ queue and cache

    async def _tend(self, parts: UploadingParts) -> None:
        while True:
            try:
                self._backlog = await in_own_thread(
                    lambda: parts.upload.tend(
                        self._cache_bytes_max(),
                        self._stop,
                        lacking=self._lacking(),
                        is_listed=self._is_listed,
                    ),
                    name="upload queue",
                )
                self._queue_error = ""
            except (OSError, BackupdError) as error:
                if self._queue_error != str(error):
                    log.error("upload_queue_not_kept", error=str(error))
                self._queue_error = str(error)
            if self._backlog.objects > self._backlog.troubled:
                self._wake.set()
            await self._clock.sleep(TEND_SECONDS)

    # ------------------------------------------------------------------- sending

    async def _send(self, parts: UploadingParts) -> None:
        self._is_listed = await asyncio.to_thread(parts.outside.catalog.is_whole)
        while True:
            try:
                if parts.outside.rebuild_due:
                    # Kept first: neither a store that is away nor the end of the process may forget it.
                    await asyncio.to_thread(parts.outside.catalog.set_whole, whole=False)
                    self._is_listed = False
                    parts.outside.rebuild_due = False
                if not self._is_listed:
                    await self._rebuild(parts)
                    self._is_listed = True
                self._is_sending = True
                round_ = await in_own_thread(lambda: parts.upload.round(self._stop), name="sending")
            except (OSError, BackupdError) as error:
                self._is_sending = False
                await self._back_off(error)
                continue
            self._is_sending = False
            self._note_success(round_.objects, round_.bytes)
            if round_.wait_seconds == 0:
                await self._clock.sleep(0)
                continue
            self._wake.clear()
            if round_.wait_seconds is None:
                await wait_until_set(self._wake, self._clock, IDLE_SECONDS)
            else:
                await self._clock.sleep(round_.wait_seconds)

    async def _rebuild(self, parts: UploadingParts) -> None:
        """Find out what rests on the volume: it is new to the catalog, or the catalog was lost."""
        run = Run(self._clock)
        self._rebuilding = "the catalog of the external volume is being built anew"
        log.warning("catalog_rebuild_began", volume=parts.outside.external.title)
        done = await in_own_thread(
            lambda: rebuild(parts.outside, run, now=self._clock.now), name="catalog rebuild"
        )
        for problem in run.errors:
            log.error("object_not_used", object=problem.item, reason=problem.reason)
        log.info("catalog_rebuild_done", objects=done.objects, contents=done.contents)
        self._rebuilding = ""

    async def _back_off(self, error: OSError | BackupdError) -> None:
        self._failures += 1
        self._failures_total += 1
        now = self._clock.now()
        self._failing_since = self._failing_since or now
        self._permanent = isinstance(error, VolumeError) and error.permanent
        message = error.message if isinstance(error, BackupdError) else str(error)
        delay = min(2.0 ** min(self._failures - 1, 16), BACK_OFF_SECONDS_MAX)
        if self._permanent:
            delay = PERMANENT_RETRY_SECONDS
        if message != self._error:
            log.error("upload_failed", error=str(error), permanent=self._permanent, retry_seconds=delay)
        self._error, self._hint = message, error.hint if isinstance(error, BackupdError) else ""
        self._next_try = now + timedelta(seconds=delay)
        await self._clock.sleep(delay)

    def _note_success(self, objects: int, sent_bytes: int) -> None:
        if self._failures:
            log.info("uploads_go_on", failures=self._failures)
        self._failures = 0
        self._error, self._hint, self._permanent = "", "", False
        self._failing_since = self._next_try = None
        if objects:
            self._sent.append((self._clock.monotonic(), objects, sent_bytes))
            self._sent_objects += objects
            self._sent_bytes += sent_bytes

    def _silent_seconds(self, parts: UploadingParts) -> float:
        """Return for how long the call to the volume that is under way has not come back; 0 without one."""
        calls, now = sum(parts.counted.tally.counts().requests.values()), self._clock.monotonic()
        if calls != self._calls or not self._is_sending:
            self._calls, self._last_call = calls, now
        return now - self._last_call

    def _rates(self) -> tuple[float, float]:
        """Return objects and bytes per second of the last `RATE_SECONDS`."""
        now = self._clock.monotonic()
        while self._sent and self._sent[0][0] < now - RATE_SECONDS:
            self._sent.popleft()
        seconds = max(1.0, min(RATE_SECONDS, now - self._began))
        return (
            sum(objects for _, objects, _ in self._sent) / seconds,
            sum(sent_bytes for _, _, sent_bytes in self._sent) / seconds,
        )
