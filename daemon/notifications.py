"""Notifications: messages are kept, then brought to admins on every way there is, again and again if need be.

`tell` takes a message and never waits: the inbox is bounded, and what does not fit is counted and logged. A
message below the threshold goes to nobody but the recipients of its own operation. One that was told within
the hour is not told again. Each way has its own turn, so that one that hangs or is down holds no other. What
can't be kept (a full disk) is sent anyway; what can't be sent is tried again for a day, also after a restart.
Nothing here can fail or delay an operation.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import uuid4

import msgspec
import structlog

from backupd.clock import Clock, wait_until_set
from backupd.decoding import decoder
from backupd.errors import BackupdError
from backupd.store.ledger_tables import KeptNotifications
from daemon import delivery
from daemon.delivery import Delivery, Notification, State, Undelivered, Way
from daemon.messages import Level, Message, Told

MAIL = "mail"
WEBHOOK = "webhook"
KEPT_MAX = 1_000
INBOX_MAX = 1_000
ONCE_SECONDS = 3_600.0
"""An equal message is told again only after this."""
ONCE_MAX = 1_000
IDLE_SECONDS = 300.0
"""How long a way waits at most before it looks again: timers do not count the time a machine slept."""

log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_decoder = decoder(Notification)


class Notifications:
    """All that is told. `recipients` are the admins' addresses; `threshold` is asked for each message."""

    def __init__(
        self,
        kept: KeptNotifications,
        ways: Mapping[str, Way],
        *,
        clock: Clock,
        recipients: tuple[str, ...] = (),
        threshold: Callable[[], Level] = lambda: Level.INFORMATION,
    ) -> None:
        self._kept = kept
        self._ways = ways
        self._clock = clock
        self._recipients = recipients
        self._threshold = threshold
        self._inbox: asyncio.Queue[Message] = asyncio.Queue(INBOX_MAX)
        self._pending: dict[int, Notification] = {}
        self._unkept = 0
        self._wakes = {name: asyncio.Event() for name in ways}
        self._not_before = dict.fromkeys(ways, 0.0)
        self._failures = dict.fromkeys(ways, 0)
        self._reasons: dict[str, str] = {}
        self._given_up = 0
        self._keeping = asyncio.Lock()
        self._told: OrderedDict[str, tuple[datetime, int]] = OrderedDict()
        self.dropped = 0

    def tell(self, message: Message) -> None:
        """Take a message; from the event loop's thread. What does not fit is counted and logged."""
        try:
            self._inbox.put_nowait(message)
        except asyncio.QueueFull:
            self.dropped += 1
            log.error("notification_dropped", subject=message.subject, waiting=INBOX_MAX)

    async def load(self) -> list[Notification]:
        """Take up what an earlier process could not send; return what it told, the newest first."""
        rows = await self._on_disk(lambda: self._kept.newest(KEPT_MAX)) or []
        known = [(number, found) for number, content in rows if (found := _decoded(number, content))]
        for number, notification in reversed(known):
            if notification.once:
                self._told[notification.once] = (notification.time, 0)
            if notification.is_pending:
                await self._take_up(number, notification)
        return [notification for _, notification in known]

    async def _take_up(self, number: int, notification: Notification) -> None:
        """Try at once what an earlier process still waited for: the reason may be gone with it."""
        left = self._without_lost_ways(notification)
        if left != notification:
            await self._change(number, left)
        ways = {name: msgspec.structs.replace(way, next_try=None) for name, way in left.ways.items()}
        self._await_ways(number, msgspec.structs.replace(left, ways=ways))

    async def run(self) -> None:
        """Bring what is told to admins until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, way in self._ways.items():
                group.create_task(self._serve(name, way), name=f"notifications by {name}")
            while True:
                await self._take(await self._inbox.get())

    async def close(self) -> None:
        """Keep what was told at the very end; the next start sends it."""
        while not self._inbox.empty():
            await self._take(self._inbox.get_nowait())

    def unsent(self) -> str:
        """Return what could not be sent and why, in words; empty where all is well."""
        waiting = sum(
            1
            for one in self._pending.values()
            if any(
                way.state is State.PENDING and (way.attempts or self._failures.get(name))
                for name, way in one.ways.items()
            )
        )
        troubles = [f"{name}: {reason}" for name, reason in self._reasons.items()]
        words = [f"{waiting:,} notifications wait"] if waiting else []
        words += [f"{self._given_up:,} could not be sent"] if self._given_up else []
        return f"{', '.join(words)} ({'; '.join(troubles)})" if words else ""

    # -------------------------------------------------------------------- taking

    async def _take(self, message: Message) -> None:
        now = self._clock.now()
        is_wanted = message.level.rank >= self._threshold().rank and not self._was_told(message.once, now)
        if not is_wanted and not message.own_recipients:
            return
        to = self._recipients if is_wanted else ()
        own = tuple(one for one in dict.fromkeys(message.own_recipients) if one not in to)
        ways = {}
        if to or own:
            ways[MAIL] = Delivery(recipients=(*to, *own))
        if is_wanted and WEBHOOK in self._ways:
            ways[WEBHOOK] = Delivery()
        notification = Notification(
            id=str(uuid4()),
            time=now,
            to=to,
            ways=ways,
            **{name: getattr(message, name) for name in Told.__struct_fields__},
        )
        notification = self._without_lost_ways(notification)
        number = await self._keep(notification)
        facts = {"importance": message.level.value, "subject": message.subject}
        log.info("notification_made", notification=number, **facts)
        self._await_ways(number, notification)

    def _was_told(self, once: str, now: datetime) -> bool:
        """Tell whether an equal message was told within the hour; else note that it is told now."""
        if not once:
            return False
        told = self._told.get(once)
        if told is not None and timedelta(0) <= now - told[0] < timedelta(seconds=ONCE_SECONDS):
            self._told[once] = (told[0], told[1] + 1)
            log.info("notification_not_repeated", about=once, times=told[1] + 1)
            return True
        self._told[once] = (now, 0)
        self._told.move_to_end(once)
        if len(self._told) > ONCE_MAX:
            self._told.popitem(last=False)
        return False

    def _without_lost_ways(self, notification: Notification) -> Notification:
        """Let ways fail that the configuration does not have (any more)."""
        ways = {
            name: msgspec.structs.replace(delivery.given_up(way), reason=f"{name} is not configured")
            if way.state is State.PENDING and name not in self._ways
            else way
            for name, way in notification.ways.items()
        }
        if ways != notification.ways:
            log.warning("notification_failed", subject=notification.subject, reason="no way is configured")
        return msgspec.structs.replace(notification, ways=ways)

    def _await_ways(self, number: int, notification: Notification) -> None:
        if not notification.is_pending:
            self._pending.pop(number, None)
            return
        self._pending[number] = notification
        if len(self._pending) > KEPT_MAX:
            oldest = next(iter(self._pending))
            log.error("notification_failed", notification=oldest, reason=f"{KEPT_MAX} newer ones wait")
            del self._pending[oldest]
            self._given_up += 1
        for wake in self._wakes.values():
            wake.set()

    # ------------------------------------------------------------------- sending

    async def _serve(self, name: str, way: Way) -> None:
        while True:
            self._wakes[name].clear()
            number, seconds = self._next(name)
            if number is None:
                await wait_until_set(self._wakes[name], self._clock, seconds)
            else:
                await self._attempt(name, way, number)

    def _next(self, name: str) -> tuple[int | None, float]:
        """Return the notification that is due on a way, or None and how long to wait."""
        now = self._clock.now()
        pause = self._not_before[name] - self._clock.monotonic()
        if pause > 0:
            return None, min(pause, IDLE_SECONDS)
        wait = IDLE_SECONDS
        for number, notification in self._pending.items():
            way = notification.ways.get(name)
            if way is None or way.state is not State.PENDING:
                continue
            seconds = (way.next_try - now).total_seconds() if way.next_try is not None else 0.0
            # A clock that was set back must not make anything wait longer than the longest pause.
            if seconds <= 0 or seconds > delivery.RETRY_SECONDS_MAX:
                return number, 0.0
            wait = min(wait, seconds)
        return None, wait

    async def _attempt(self, name: str, way: Way, number: int) -> None:
        notification = self._pending[number]
        before = notification.ways[name]
        try:
            outcome = await way.send(notification, before.recipients)
        except Exception as error:  # noqa: BLE001 - telling admins must never end the daemon; an error's text may hold a secret
            failure = error if isinstance(error, Undelivered) else _unexpected(error)
            now = self._clock.now()
            self._note_failure(name, failure)
            await self._went(name, number, delivery.after_failure(before, failure, notification.time, now))
            if failure.way_is_down:
                await self._give_up_old(name, now)
            return
        after = delivery.after_outcome(before, outcome, notification.time, self._clock.now())
        self._note_success(name, after)
        await self._went(name, number, after)

    async def _went(self, name: str, number: int, after: Delivery) -> None:
        """Take over how an attempt ended; other ways may have gone on meanwhile."""
        facts = {"notification": number, "way": name, "attempts": after.attempts}
        match after.state:
            case State.DELIVERED:
                log.info("notification_sent", **facts)
            case State.PENDING:
                log.warning("notification_not_sent", **facts, reason=after.reason)
            case State.FAILED:
                self._given_up += 1
                log.error("notification_failed", **facts, reason=after.reason)
        if after.refused and after.state is not State.FAILED:
            log.error("recipients_refused", **facts, recipients=after.refused, reason=after.reason)
        current = self._pending.get(number)
        if current is not None:
            await self._change(number, msgspec.structs.replace(current, ways={**current.ways, name: after}))

    async def _give_up_old(self, name: str, now: datetime) -> None:
        """Give up on what waits for a way that is down and is too old by now."""
        for number, notification in list(self._pending.items()):
            way = notification.ways.get(name)
            if way is not None and way.state is State.PENDING and delivery.is_too_old(notification.time, now):
                reason = way.reason or self._reasons.get(name, "")
                await self._went(name, number, msgspec.structs.replace(delivery.given_up(way), reason=reason))

    def _note_failure(self, name: str, failure: Undelivered) -> None:
        self._reasons[name] = failure.message
        if failure.way_is_down:
            self._failures[name] += 1
            pause = delivery.back_off_seconds(self._failures[name])
            self._not_before[name] = self._clock.monotonic() + pause

    def _note_success(self, name: str, after: Delivery) -> None:
        self._failures[name] = 0
        self._given_up = 0
        self._reasons.pop(name, None)
        if after.reason:
            self._reasons[name] = after.reason

    # ------------------------------------------------------------------- keeping

    async def _keep(self, notification: Notification) -> int:
        """Keep a new notification; return its number, a negative one where it could not be kept."""
        content = msgspec.json.encode(notification, enc_hook=str)

        def keep() -> int:
            number = self._kept.add(content, pending=notification.is_pending)
            self._kept.forget_all_but(KEPT_MAX)
            return number

        number = await self._on_disk(keep)
        if number is None:
            self._unkept -= 1
            return self._unkept
        return number

    async def _change(self, number: int, notification: Notification) -> None:
        self._await_ways(number, notification)
        if number <= 0:
            return
        content = msgspec.json.encode(notification, enc_hook=str)
        async with self._keeping:  # an older value must not come after a newer one
            await self._on_disk(lambda: self._kept.change(number, content, pending=notification.is_pending))

    async def _on_disk(self, work: Callable[[], _T]) -> _T | None:
        """Do something with the ledger in a thread; what the disk refuses is logged, and None comes back."""
        try:
            return await asyncio.to_thread(work)
        except (OSError, sqlite3.Error, BackupdError) as error:
            log.error("notification_not_kept", reason=str(error))
            return None


def _decoded(number: int, content: bytes) -> Notification | None:
    try:
        return _decoder.decode(content)
    except msgspec.DecodeError as error:
        log.error("notification_not_readable", notification=number, reason=str(error))
        return None


def _unexpected(error: Exception) -> Undelivered:
    return Undelivered(f"unexpected {type(error).__name__}", way_is_down=False)
