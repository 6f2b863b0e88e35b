"""Sending metadata: what was recorded goes to the external volume within a minute, and how that stands.

The job `remote-metadata-upload` of the scheduler asks for a round; rounds do not wait in the queue of
operations, behind a restore of hours. What the volume raises is shown and tried again with the next round;
everything stays on the Backup Path meanwhile.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

import structlog

from backupd.clock import Clock
from backupd.errors import BackupdError
from backupd.jobs.metadata import Archived, MetadataUpload
from backupd.operations import Run
from backupd.volume_views import MetadataView
from daemon.own_thread import in_own_thread

log = structlog.get_logger(__name__)


class MetadataSending:
    """Rounds and passes of one lifetime; without an upload there is no external volume and nothing to do."""

    def __init__(self, upload: MetadataUpload | None, *, clock: Clock) -> None:
        self._upload = upload
        self._clock = clock
        self._asked = asyncio.Event()
        self._sending = asyncio.Lock()
        self._error, self._hint = "", ""
        self._failing_since: datetime | None = None
        self._last_sent: datetime | None = None
        self._last_pass: datetime | None = None
        self._sent_through: int | None = None
        self._waiting_since: datetime | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether there is an external volume that keeps metadata."""
        return self._upload is not None

    def view(self) -> MetadataView | None:
        """Return how sending stands; None without an external volume."""
        if self._upload is None:
            return None
        return MetadataView(
            sent_through=self._sent_through,
            last_sent=self._last_sent,
            last_pass=self._last_pass,
            error=self._error,
            hint=self._hint,
            failing_since=self._failing_since,
            waiting_since=self._waiting_since,
        )

    def sent_through(self) -> int | None:
        """Return up to which entry the journal is needed no more; None where nobody needs it. Any thread."""
        if self._upload is None:
            return None
        return self._sent_through or 0

    def ask(self) -> None:
        """Have a round soon."""
        self._asked.set()

    async def run(self) -> None:
        """Send whenever asked, until cancelled."""
        if self._upload is None:
            return
        self._asked.set()
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._round(self._upload)
            except (BackupdError, OSError) as error:
                self._note_failure(error)

    async def archive(self, run: Run, account: str | None = None) -> Archived | None:
        """Archive accounts that changed (or one); None without an external volume. Raises `VolumeError`."""
        upload = self._upload
        if upload is None:
            return None
        async with self._sending:
            done = await in_own_thread(lambda: upload.archive(run, account), name="metadata archives")
        if account is None and not done.failed:
            self._last_pass = self._clock.now()
        self._note_success(upload)
        return done

    async def send_server_archives(self) -> int:
        """Send the archives of the server itself. Raises `VolumeError`."""
        upload = self._upload
        if upload is None:
            return 0
        async with self._sending:
            return await in_own_thread(upload.send_server_archives, name="server archives")

    async def _round(self, upload: MetadataUpload) -> None:
        async with self._sending:
            self._waiting_since = self._clock.now()
            try:
                count = await in_own_thread(upload.send_changes, name="metadata")
            finally:
                self._waiting_since = None
        if count:
            log.debug("metadata_sent", entries=count)
        self._note_success(upload)

    def _note_success(self, upload: MetadataUpload) -> None:
        if self._failing_since is not None:
            log.info("metadata_is_sent_again")
        self._error, self._hint, self._failing_since = "", "", None
        self._last_sent = self._clock.now()
        self._sent_through = upload.reached

    def _note_failure(self, error: BackupdError | OSError) -> None:
        message = error.message if isinstance(error, BackupdError) else str(error)
        if message != self._error:
            log.error("metadata_not_sent", error=message)
        self._error, self._hint = message, error.hint if isinstance(error, BackupdError) else ""
        self._failing_since = self._failing_since or self._clock.now()
