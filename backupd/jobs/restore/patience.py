"""Patience: an AppServer that is away, or can't take anything for a while, is waited for with back-off.

Where some items went well and others don't, although the AppServer answers, it is about those items: they are
given up much sooner than an AppServer is that can't do anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from backupd.appservers.base import AppServer
from backupd.clock import Clock
from backupd.errors import AppServerRefused, AppServerUnavailable, BackupdError
from backupd.operations import Run

BACK_OFF_SECONDS_MIN = 1.0
BACK_OFF_SECONDS_MAX = 60.0
SECONDS_MAX = 900.0
"""How long an AppServer that is away is waited for."""
SOME_SECONDS_MAX = 30.0
"""How long some items are tried again that an AppServer can't do while it does others."""

Item = TypeVar("Item")
Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Patience:
    """Does things with an AppServer."""

    def __init__(self, appserver: AppServer, clock: Clock) -> None:
        self._appserver = appserver
        self._clock = clock

    async def wait(self, run: Run, act: Callable[[], Awaitable[Result]]) -> Result:
        """Do something as soon as the AppServer can. Raises `AppServerUnavailable` where it stays away."""

        async def once(_: Sequence[None]) -> list[Result | BackupdError]:
            return [await act()]

        (end,) = await self.each(run, [None], once)
        if isinstance(end, BackupdError):
            raise end
        return end

    async def each(
        self,
        run: Run,
        items: Sequence[Item],
        act: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BackupdError]]],
    ) -> list[Result | BackupdError]:
        """Do something with many items together, and with those again that did not go; return each's end.

        What an AppServer that answers can't do with some of them is among the ends as its error.
        """
        ended: dict[int, Result | BackupdError] = {}
        left = list(range(len(items)))
        began, delay = self._clock.monotonic(), BACK_OFF_SECONDS_MIN
        while left:
            ended |= zip(left, await _ends(act, [items[number] for number in left]), strict=True)
            left = [number for number in left if isinstance(ended[number], AppServerUnavailable)]
            if not left:
                break
            error, waited = ended[left[0]], self._clock.monotonic() - began
            if len(left) < len(items) and waited > SOME_SECONDS_MAX and await self._answers():
                break
            if waited > SECONDS_MAX:
                raise AppServerUnavailable(
                    f"the AppServer stayed away: {error}",
                    hint="give the same command again when it is back: it goes on where it stopped",
                )
            await self._sleep(run, error, delay)
            delay = min(delay * 2, BACK_OFF_SECONDS_MAX)
        return [ended[number] for number in range(len(items))]

    async def _sleep(self, run: Run, error: object, delay: float) -> None:
        log.warning("restore_waits", reason=str(error), retry_seconds=delay)
        run.check()
        await self._clock.sleep(delay)

    async def _answers(self) -> bool:
        try:
            await self._appserver.accounts()
        except AppServerUnavailable:
            return False
        return True


async def _ends(
    act: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BackupdError]]], items: Sequence[Item]
) -> Sequence[Result | BackupdError]:
    """Do it; what stands in the way of all is the end of each."""
    try:
        return await act(items)
    except (AppServerUnavailable, AppServerRefused) as error:
        return [error] * len(items)
