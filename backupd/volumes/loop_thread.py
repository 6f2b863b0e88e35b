"""An event loop in a thread of its own, so that blocking code of any thread can use an asynchronous client.

The thread starts with the first `submit`. `close` cancels what is under way, lets a last coroutine run, and
ends the thread: whoever waits is told `VolumeClosed`, so that a store that hangs holds nobody.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from backupd.volumes.failures import VolumeClosed

CLOSE_SECONDS_MAX = 5.0
T = TypeVar("T")


class LoopThread:
    """A loop that runs coroutines for callers of other threads."""

    def __init__(self, name: str, at_end: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._at_end = at_end
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(
        self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any
    ) -> concurrent.futures.Future[T]:
        """Start a coroutine function in the loop. Raises `VolumeClosed`."""
        with self._lock:
            if self._closed:
                raise VolumeClosed(self._name)
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(function(*arguments), self._loop)

    def wait(self, future: concurrent.futures.Future[T]) -> T:
        """Return what a coroutine returned, or raise what it raised; `VolumeClosed` if it was cancelled."""
        try:
            return future.result()
        except (concurrent.futures.CancelledError, asyncio.CancelledError):
            raise VolumeClosed(self._name) from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel everything, run `at_end`, end the thread; waits a bounded time. Again: nothing."""
        with self._lock:
            already, self._closed = self._closed, True
        if already or self._loop is None or self._thread is None:
            return
        ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        try:
            ending.result(CLOSE_SECONDS_MAX)
        except TimeoutError:
            ending.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS_MAX)

    def _run(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._at_end()
