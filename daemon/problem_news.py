"""News of problems: what came up, what went away, which gaps opened and healed, which runs were missed.

`ProblemNews` compares what is known at each look with the look before and is pure. A problem is told once it
has lasted a moment (a critical one at once), and again only where it comes back after an hour; that it went
away is told for every one that was told, once it has stayed away for a moment. Gaps are told together, at
once and then at most once an hour: on a busy server they open and heal all day. Failed operations are told
by themselves, and that admins can't be told is nothing to be told.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta

import structlog

from backupd.clock import Clock, wait_until_set
from backupd.control import StatusReply
from backupd.errors import BackupdError
from backupd.store.ledger import Gap, Ledger
from backupd.views import Problem, ScheduleView
from daemon import condition, keeping_condition, messages
from daemon.delivery import Notification
from daemon.messages import Level, Message

LOOK_SECONDS = 30.0
LASTING = timedelta(seconds=20)
"""A problem that lasts less long is not told, unless it is critical; nor is its end."""
QUIET = timedelta(hours=1)
"""For so long the same problem is not told again, nor are gaps."""
KNOWN_MAX = 500
TOLD_ELSEWHERE = frozenset(
    {condition.GAP, condition.OPERATION_FAILED, condition.RUN_MISSED, condition.UNSENT}
)

log = structlog.get_logger(__name__)


class _Known:
    """A problem: since when it is there, or else away, and when it was told last."""

    def __init__(self, message: str, *, since: datetime, told: datetime | None = None) -> None:
        self.message = message
        self.since = since
        self.away_since: datetime | None = None
        self.told = told
        self.is_told = told is not None


class ProblemNews:
    """Knows what was told. `server` is the name by which admins know this server."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._known: dict[str, _Known] = {}
        self._missed: dict[str, datetime | None] | None = None

    def recall(self, told: Iterable[Notification]) -> None:
        """Take over what an earlier process told, the newest first: it is not told again after a start."""
        for one in told:
            if one.about and one.about not in self._known and len(self._known) < KNOWN_MAX:
                known = _Known(str(one.facts.get("message", "")), since=one.time, told=one.time)
                known.is_told = not one.is_over
                self._known[one.about] = known

    def of_problems(self, problems: Sequence[Problem], now: datetime) -> list[Message]:
        """Return what is new about problems."""
        present = {about_of(one): one for one in problems if one.name not in TOLD_ELSEWHERE}
        found = [
            message for about, problem in present.items() if (message := self._come_up(about, problem, now))
        ]
        for about in [about for about in self._known if about not in present]:
            known = self._known[about]
            known.away_since = known.away_since or now
            if now - known.away_since < LASTING:
                continue
            if known.is_told:
                found.append(messages.of_problem_over(about, known.message, self._server))
                known.is_told = False
            if known.told is None or now - known.told >= QUIET:
                del self._known[about]
        return found

    def _come_up(self, about: str, problem: Problem, now: datetime) -> Message | None:
        known = self._known.setdefault(about, _Known(problem.message, since=now))
        if known.away_since is not None and now - known.away_since >= LASTING:
            known.since = now
        known.away_since = None
        known.message = problem.message
        message = messages.of_problem(about, problem, self._server)
        lasts = now - known.since >= LASTING or message.level is Level.CRITICAL
        is_quiet = known.told is not None and timedelta(0) <= now - known.told < QUIET
        if known.is_told or is_quiet or not lasts:
            return None
        known.is_told, known.told = True, now
        return message

    def of_runs(self, schedules: Sequence[ScheduleView], now: datetime) -> list[Message]:
        """Return which runs were missed since the last look; those before the first look that are recent."""
        before = self._missed
        self._missed = {one.job: one.last_missed for one in schedules}
        if before is None:
            before = {one.job: one.last_missed for one in schedules if not _is_recent(one.last_missed, now)}
        missed = [one for one in schedules if one.last_missed and one.last_missed != before.get(one.job)]
        return [messages.of_missed_run(one, self._server) for one in missed]


class GapNews:
    """Gathers what happened to gaps, and tells it at once, then at most once in `QUIET`."""

    def __init__(self, server: str, known: Iterable[Gap] = (), told: datetime | None = None) -> None:
        """Make it with every gap there ever was: these are not told any more; `told` is when any were."""
        self._server = server
        gaps = list(known)
        self.seen = max((gap.id for gap in gaps), default=0)
        self._open = {gap.id for gap in gaps if gap.closed is None}
        self._opened: list[Gap] = []
        self._opened_total = 0
        self._healed = 0
        self._told = told

    def look(self, new: Sequence[Gap], open_now: Iterable[int], now: datetime) -> list[Message]:
        """Return what is to be told; `new` are the gaps opened since the last look, closed or not."""
        still_open = set(open_now)
        ever_open = self._open | {gap.id for gap in new}
        self._healed += len(ever_open - still_open)
        self._open = still_open
        self.seen = max([self.seen, *(gap.id for gap in new)])
        self._opened += new[: messages.GAPS_TOLD_MAX - len(self._opened)]
        self._opened_total += len(new)
        is_quiet = self._told is not None and timedelta(0) <= now - self._told < QUIET
        # That the last gap healed closes what was told: it need not wait.
        all_healed = bool(self._healed) and not still_open and not self._opened_total
        if not (self._opened_total or self._healed) or (is_quiet and not all_healed):
            return []
        if not self._opened_total and still_open:
            return []
        message = messages.of_gaps(
            self._opened, self._opened_total, self._healed, len(still_open), self._server
        )
        self._opened, self._opened_total, self._healed, self._told = [], 0, 0, now
        return [message]


class NewsWatch:
    """Looks at the daemon's own status from time to time and tells the news."""

    def __init__(
        self,
        ledger: Ledger,
        tell: Callable[[Message], None],
        *,
        server: str,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._tell = tell
        self._server = server
        self._clock = clock
        self._wake = asyncio.Event()
        self._problems = ProblemNews(server)
        self._gaps = GapNews(server)

    async def load(self, told: Sequence[Notification]) -> None:
        """Take over what an earlier process told; what opens from now on is new."""
        self._problems.recall(told)
        try:
            every = await asyncio.to_thread(lambda: self._ledger.gaps(is_open=None))
        except (OSError, sqlite3.Error, BackupdError) as error:
            log.error("gaps_not_read", reason=str(error))
            return
        last = next((one.time for one in told if one.facts.get("what") == messages.GAPS), None)
        self._gaps = GapNews(self._server, every, told=last)

    def look_soon(self) -> None:
        """Look at once; from the event loop's thread."""
        self._wake.set()

    async def run(self, status: Callable[[], Awaitable[StatusReply]]) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self._look(status)
            except (OSError, sqlite3.Error, BackupdError) as error:
                log.error("status_not_read", reason=str(error))
            await wait_until_set(self._wake, self._clock, LOOK_SECONDS)
            self._wake.clear()

    async def _look(self, ask: Callable[[], Awaitable[StatusReply]]) -> None:
        seen = self._gaps.seen
        new = await asyncio.to_thread(self._ledger.gaps_after, seen)
        open_now = {gap.id for gap in await asyncio.to_thread(self._ledger.gaps)}
        # One that opened between the two readings is new at the next look.
        open_now = {number for number in open_now if number <= max([seen, *(gap.id for gap in new)])}
        status = await ask()
        now = self._clock.now()
        for message in (
            *self._gaps.look(new, open_now, now),
            *self._problems.of_problems(status.problems, now),
            *self._problems.of_runs(status.schedules, now),
        ):
            self._tell(message)


def about_of(problem: Problem) -> str:
    """Return what names a problem from look to look, though the figures in its sentence change."""
    if problem.name in {condition.DAMAGED, keeping_condition.MASS_DELETION}:
        return f"{problem.name}: {problem.message}"
    return problem.name or re.sub(r"\d[\d,.]*", "#", problem.message.partition(": ")[0])


def _is_recent(when: datetime | None, now: datetime) -> bool:
    return when is not None and now - when < QUIET
