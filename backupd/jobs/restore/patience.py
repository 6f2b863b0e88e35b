"""Patience: an AppServer that is away, or can't take anything for a while, is waited for with back-off.

An AppServer may answer and yet store nothing, while its disk is full, say: that is waited for, too. Where it
did others after an item had failed, and the item fails again, it is about this item; where it did others just
before, it may be, and the item is waited for not quite as long.
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
DOUBTFUL_SECONDS_MAX = 300.0
"""How long an item is tried again where the AppServer did others just before."""

Item = TypeVar("Item")
Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Patience:
    """Does things with an AppServer."""

    def __init__(self, appserver: AppServer, clock: Clock) -> None:
        self._appserver = appserver
        self._clock = clock
        self._successes = 0
        self._waited_in_vain = False

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
        failed_at: dict[int, int] = {}
        left = list(range(len(items)))
        began, delay, at_first = self._clock.monotonic(), BACK_OFF_SECONDS_MIN, self._successes
        while left:
            at_start = self._successes
            for number, end in zip(left, await _ends(act, [items[one] for one in left]), strict=True):
                ended[number] = end
                if isinstance(end, AppServerUnavailable):
                    failed_at.setdefault(number, self._successes)
                elif not isinstance(end, BackupdError):
                    self._successes += 1
                    self._waited_in_vain = False
            left = [number for number in left if isinstance(ended[number], AppServerUnavailable)]
            if not left:
                break
            waited = self._clock.monotonic() - began
            doubtful = waited > DOUBTFUL_SECONDS_MAX and self._successes > at_first
            too_long = waited > SECONDS_MAX
            again = delay > BACK_OFF_SECONDS_MIN
            all_given_up = too_long or doubtful or (again and self._waited_in_vain)
            given_up = {number for number in left if all_given_up or at_start > failed_at[number]}
            if given_up and await answers(self._appserver):
                self._waited_in_vain |= too_long
                for number in given_up:
                    ended[number] = _refused(ended[number])
                left = [number for number in left if number not in given_up]
            elif too_long:
                raise AppServerUnavailable(
                    f"the AppServer stayed away: {ended[left[0]]}",
                    hint="give the same command again when it is back: it goes on where it stopped",
                )
            if left:
                await self._sleep(run, ended[left[0]], delay)
                delay = min(delay * 2, BACK_OFF_SECONDS_MAX)
        return [ended[number] for number in range(len(items))]

    async def _sleep(self, run: Run, error: object, delay: float) -> None:
        log.warning("restore_waits", reason=str(error), retry_seconds=delay)
        run.check()
        await self._clock.sleep(delay)


async def answers(appserver: AppServer) -> bool:
    """Tell whether an AppServer is there, whatever else it may be unable to do."""
    try:
        await appserver.accounts()
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


def _refused(error: object) -> AppServerRefused:
    """Return what an AppServer that answers says of an item it can't do."""
    assert isinstance(error, AppServerUnavailable)
    return AppServerRefused(error.message, hint=error.hint)
