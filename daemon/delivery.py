"""Delivery: a notification as it is kept, how far each way has brought it, and when a way is tried again.

A way (e-mail, webhook) that failed is tried again after a pause that doubles each time, until a day after the
notification was made; then it has failed. Whether a way as a whole is down (no connection, a refused login)
or only this notification was not taken is told by the error: what is down is left alone for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

import msgspec

from backupd.errors import BackupdError
from backupd.views import NotificationView
from daemon.messages import Told

RETRY_SECONDS_MIN = 15.0
RETRY_SECONDS_MAX = 1_800.0
GIVE_UP_SECONDS = 86_400.0
"""So long after a notification was made it is tried to send it."""
REASON_CHARACTERS_MAX = 300


class State(StrEnum):
    """How far a way has brought a notification."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Delivery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One way's part. `recipients` are those it still has to reach, `refused` those that can't be reached."""

    state: State = State.PENDING
    recipients: tuple[str, ...] = ()
    reached: int = 0
    refused: tuple[str, ...] = ()
    attempts: int = 0
    next_try: datetime | None = None
    reason: str = ""


class Notification(Told, frozen=True, kw_only=True, omit_defaults=True):
    """A message with its identity and its ways. `to` are the admins among the recipients."""

    id: str
    time: datetime
    to: tuple[str, ...] = ()
    ways: dict[str, Delivery] = {}

    @property
    def is_pending(self) -> bool:
        """Whether a way still has to be gone."""
        return any(delivery.state is State.PENDING for delivery in self.ways.values())


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended: recipients refused for good, and those to try again, each with the reason."""

    refused: Mapping[str, str] = {}
    later: Mapping[str, str] = {}


class Undelivered(BackupdError):
    """A way could not bring a notification. `permanent`: it never will; `way_is_down`: nor any other now.

    The message holds no secret: neither a password nor a URL, whose path may be one.
    """

    exit_status = 69

    def __init__(self, message: str, *, permanent: bool = False, way_is_down: bool = True) -> None:
        super().__init__(message[:REASON_CHARACTERS_MAX])
        self.permanent = permanent
        self.way_is_down = way_is_down and not permanent


class Way(Protocol):
    """A way to tell admins."""

    async def send(self, notification: Notification, recipients: tuple[str, ...]) -> Outcome:
        """Send once, within a bounded time. Raises `Undelivered`."""
        ...


def back_off_seconds(failures: int) -> float:
    """Return how long to wait after so many failures in a row."""
    return min(RETRY_SECONDS_MIN * 2.0 ** min(failures - 1, 16), RETRY_SECONDS_MAX)


def after_outcome(delivery: Delivery, outcome: Outcome, told: datetime, now: datetime) -> Delivery:
    """Return a delivery after an attempt that reached somebody, or was refused by all."""
    remaining = tuple(one for one in delivery.recipients if one in outcome.later)
    refused = (*delivery.refused, *(one for one in delivery.recipients if one in outcome.refused))
    reached = delivery.reached + len(delivery.recipients) - len(remaining) - len(outcome.refused)
    reasons = "; ".join(f"{one}: {why}" for one, why in {**outcome.refused, **outcome.later}.items())
    changed = msgspec.structs.replace(
        delivery,
        recipients=remaining,
        refused=refused,
        reached=reached,
        attempts=delivery.attempts + 1,
        next_try=None,
        reason=reasons[:REASON_CHARACTERS_MAX],
    )
    if remaining:
        return _later_or_never(changed, told, now)
    state = State.FAILED if refused and not reached else State.DELIVERED
    return msgspec.structs.replace(changed, state=state)


def after_failure(delivery: Delivery, error: Undelivered, told: datetime, now: datetime) -> Delivery:
    """Return a delivery after an attempt that reached nobody; where the way is down, its pause holds."""
    changed = msgspec.structs.replace(delivery, attempts=delivery.attempts + 1, reason=error.message)
    if error.permanent:
        return given_up(changed)
    if error.way_is_down:
        return given_up(changed) if is_too_old(told, now) else msgspec.structs.replace(changed, next_try=None)
    return _later_or_never(changed, told, now)


def is_too_old(told: datetime, now: datetime) -> bool:
    """Tell whether the time is over in which it is tried to send what was made then."""
    return now - told >= timedelta(seconds=GIVE_UP_SECONDS)


def _later_or_never(delivery: Delivery, told: datetime, now: datetime) -> Delivery:
    when = now + timedelta(seconds=back_off_seconds(delivery.attempts))
    return given_up(delivery) if is_too_old(told, when) else msgspec.structs.replace(delivery, next_try=when)


def given_up(delivery: Delivery) -> Delivery:
    """Return a delivery that is tried no more; who was reached before stays reached."""
    refused = (*delivery.refused, *delivery.recipients)
    return msgspec.structs.replace(
        delivery, state=State.FAILED, refused=refused, recipients=(), next_try=None
    )


def view(number: int, notification: Notification, *, with_text: bool) -> NotificationView:
    """Return a notification as the control socket shows it: the ways by name, refused recipients too."""
    ways = notification.ways
    failed = [name for name, way in ways.items() if way.state is State.FAILED and not way.reached]
    failed += [f"{name} to {one}" for name, way in ways.items() if name not in failed for one in way.refused]
    text = notification.text
    if with_text:
        reasons = [f"{name}: {way.reason}" for name, way in ways.items() if way.reason]
        text += "\n" + "\n".join(reasons) if reasons else ""
    return NotificationView(
        id=number,
        time=notification.time,
        level=notification.level.value,
        subject=notification.subject,
        operation=notification.operation,
        text=text if with_text else "",
        delivered=tuple(name for name, way in ways.items() if way.reached or way.state is State.DELIVERED),
        pending=tuple(name for name, way in ways.items() if way.state is State.PENDING),
        failed=tuple(failed),
    )
