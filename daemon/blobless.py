"""Blobless: whether contents are left with the AppServer, and whether it can hold them.

The mode is wanted by an attribute and in force only where the AppServer holds what is deleted: it can't be
turned on elsewhere. Where an AppServer that could can't any more (its storage lies on another file system
since), contents are stored in the Backup Path until it can, and that is a problem in `status`. While the mode
is off, it is counted which contents the AppServer holds alone: a deep SmartScan fetches them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from backupd.appservers.base import AppServer, ContentHolder, HoldsDeleted
from backupd.clock import Clock, wait_until_set
from backupd.errors import AppServerRefused, BackupdError
from backupd.keeping_views import BloblessView
from backupd.store.store import Store

ATTRIBUTE = "backupBloblessMode"
LOOK_SECONDS = 300.0
"""So often it is tried again whether an AppServer that can't hold contents can by now."""

log = structlog.get_logger(__name__)


class Blobless:
    """The mode of one lifetime. `wanted` is what the attribute says."""

    def __init__(
        self, store: Store, appserver: AppServer, *, wanted: Callable[[], bool], clock: Clock
    ) -> None:
        self._store = store
        self._wanted = wanted
        self._clock = clock
        self._changed = asyncio.Event()
        self.holder: ContentHolder | None = None
        self.trouble = "" if isinstance(appserver, HoldsDeleted) else _no_holder().message
        if isinstance(appserver, HoldsDeleted):
            self.holder = appserver.holder()
            store.keeping.leave_with(self.holder, lambda: self.is_active)

    @property
    def is_active(self) -> bool:
        """Whether contents are left with the AppServer now."""
        return self._wanted() and not self.trouble

    def view(self) -> BloblessView:
        """Return the mode as `status` shows it."""
        return BloblessView(
            active=self.is_active,
            trouble=self.trouble if self._wanted() else "",
            not_fetched=0 if self.is_active else self._store.keeping.left,
        )

    def check(self, value: object) -> None:
        """Make sure that a value can be set; blocks. Raises `AppServerRefused` with the reason."""
        if not value:
            return
        if self.holder is None:
            raise _no_holder()
        self.holder.check()
        self.trouble = ""

    def look(self) -> None:
        """Look whether the mode that is wanted can be, and what is not fetched where it is off; blocks."""
        before = self.trouble
        if self.holder is None:
            return
        try:
            if self._wanted():
                self.holder.check()
            self.trouble = ""
            if not self._wanted():
                missing = self._store.keeping.not_fetched(self._store.index.known_blob)
                self._store.keeping.left = sum(1 for _ in missing)
        except (BackupdError, OSError) as error:
            self.trouble = str(error)
        if self.trouble != before and self.trouble:
            log.error("contents_not_held", reason=self.trouble, hint="they are stored in the Backup Path")

    def changed(self) -> None:
        """Take notice that the attribute changed; called on the event loop."""
        self._changed.set()

    async def run(self) -> None:
        """Look after every change, and now and then while something is wrong, until cancelled."""
        while True:
            self._changed.clear()
            await asyncio.to_thread(self.look)
            if self.trouble and self._wanted():
                await wait_until_set(self._changed, self._clock, LOOK_SECONDS)
            else:
                await self._changed.wait()


def _no_holder() -> AppServerRefused:
    return AppServerRefused(
        "this AppServer's storage can't hold what is deleted, so contents must be in the backup",
        hint="leave backupBloblessMode off",
    )
