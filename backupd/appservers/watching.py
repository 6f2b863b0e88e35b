"""Follows the files of a mail host by inotify, through watchfiles, and yields what happens as it happens.

watchfiles gives hints (paths, in batches of some milliseconds); `live` finds out what they mean. It fails
altogether at a name that is no UTF-8, and stays silent when hints are lost: in the first case watching
begins anew and everything is swept at once, the second is what the steady sweep is for (`live_folders`).
Where it fails again and again, as at a directory of such a name, the sweep alone finds what happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncGenerator

import structlog
from watchfiles import awatch
from watchfiles._rust_notify import WatchfilesRustInternalError

from backupd.appservers.base import Watched
from backupd.appservers.live import Tracker
from backupd.clock import Clock
from backupd.errors import AppServerUnavailable

STEP_MS = 10
DEBOUNCE_MS = 50
TICK_MS = 60
"""So often the watch looks at what it waits for, also where nothing happens."""
SWEEP_SHARE_SECONDS = 0.002
"""So long the sweep may take of each tick."""
RESTART_SECONDS = 1.0
RESTART_SECONDS_MAX = 60.0
"""So long the sweep works alone where watching failed several times in a row."""
SWEEP_ALONE_SHARE_SECONDS = 0.02
log = structlog.get_logger(__name__)


async def watch_tree(root: str, tracker: Tracker, clock: Clock) -> AsyncGenerator[Watched, None]:
    """Yield an empty batch once watching has begun, then what happens, until cancelled.

    Raises `AppServerUnavailable` where the root is gone or can't be watched.
    """
    first = True
    pause, failed = RESTART_SECONDS, float("-inf")
    while True:
        try:
            async with contextlib.aclosing(_hints(root)) as hints:
                async for paths in hints:
                    if first:
                        first = False
                        yield Watched()
                    watched = await asyncio.to_thread(_look, tracker, paths)
                    if watched.changes or watched.missed:
                        yield watched
        except ExceptionGroup as group:
            internal, others = group.split(WatchfilesRustInternalError)
            if others is not None:
                raise
            log.warning("watch_restarted", reason=str(internal.exceptions if internal else group))
            first = False
            pause = _pause(pause, clock.monotonic() - failed)
            async with contextlib.aclosing(_sweeping(tracker, clock, pause)) as sweeping:
                async for watched in sweeping:
                    yield watched
            failed = clock.monotonic()
        except FileNotFoundError as error:
            raise AppServerUnavailable(f"{root} is gone", hint="is the mail storage mounted?") from error
        except OSError as error:
            hint = "raise fs.inotify.max_user_watches" if error.errno in (errno.ENOSPC, errno.EMFILE) else ""
            raise AppServerUnavailable(f"{root} can't be watched: {error}", hint=hint) from error


def _pause(before: float, lasted: float) -> float:
    """Return how long to watch by the sweep alone: longer each time, until a watch lasted."""
    return RESTART_SECONDS if lasted > 2 * RESTART_SECONDS_MAX else min(2 * before, RESTART_SECONDS_MAX)


async def _sweeping(tracker: Tracker, clock: Clock, seconds: float) -> AsyncGenerator[Watched, None]:
    """Yield an empty batch, then what the sweep finds without hints; what comes later it finds after."""
    tracker.sweep_now()
    yield Watched()
    until = clock.monotonic() + seconds
    while clock.monotonic() < until:
        watched = await asyncio.to_thread(_look, tracker, set(), SWEEP_ALONE_SHARE_SECONDS)
        if watched.changes or watched.missed:
            yield watched
        await clock.sleep(TICK_MS / 1000)
    tracker.sweep_now()


async def _hints(root: str) -> AsyncGenerator[set[str], None]:
    """Yield sets of touched paths; an empty one at each tick without any."""
    changes = awatch(
        root,
        watch_filter=None,
        debounce=DEBOUNCE_MS,
        step=STEP_MS,
        rust_timeout=TICK_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    async with contextlib.aclosing(changes):
        async for batch in changes:
            yield {path for _, path in batch}


def _look(tracker: Tracker, paths: set[str], share_seconds: float = SWEEP_SHARE_SECONDS) -> Watched:
    watched = tracker.look(paths)
    if paths:
        return watched
    swept = tracker.sweep(share_seconds)
    return Watched(changes=(*watched.changes, *swept.changes), missed=watched.missed | swept.missed)
