"""Time: the one source of "now" and of waiting, and how moments are written and read.

A moment is an aware `datetime` in UTC with microseconds. On disk and on the wire it is RFC 3339 with a `Z`;
in SQLite it is an integer of microseconds since 1970. Code that decides takes moments as arguments; code
that acts takes a `Clock`, so that tests own time.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from backupd.errors import UsageError

if TYPE_CHECKING:
    import asyncio

MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ADMIN_FORMATS = ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y")


class Clock(Protocol):
    """What the code needs of time."""

    def now(self) -> datetime:
        """Return the present moment, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow, for measuring durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; the only way to wait for time in this project."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the machine's UTC time."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        import asyncio  # noqa: PLC0415 - 45 ms that the console, which only reads dates, need not pay

        await asyncio.sleep(seconds)


async def wait_until_set(event: asyncio.Event, clock: Clock, seconds: float) -> bool:
    """Wait for an event, but not longer than that; tell whether it is set."""
    import asyncio  # noqa: PLC0415 - as above

    async with asyncio.TaskGroup() as group:
        setting = group.create_task(event.wait(), name="event")
        timer = group.create_task(clock.sleep(seconds), name="timer of the event")
        await asyncio.wait({setting, timer}, return_when=asyncio.FIRST_COMPLETED)
        setting.cancel()
        timer.cancel()
    return event.is_set()


def microseconds(moment: datetime) -> int:
    """Return a moment as microseconds since 1970, exactly."""
    return (moment - _EPOCH) // MICROSECOND


def moment(microseconds_since_epoch: int) -> datetime:
    """Return the moment that many microseconds after 1970 began."""
    return _EPOCH + timedelta(microseconds=microseconds_since_epoch)


def written(when: datetime) -> str:
    """Return a moment as RFC 3339 UTC with exactly six digits, so that text sorts as time does."""
    # Not strftime: it is four times slower, and writes years before 1000 with fewer than four digits.
    return when.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_moment(text: str) -> datetime:
    """Read a date as admins write it: `dd/MM/yyyy [HH:mm[:ss]]` or ISO 8601; without a zone, local time.

    Raises `UsageError` that names the valid forms.
    """
    for form in _ADMIN_FORMATS:
        try:
            # A naive datetime means local time to astimezone, which is what an admin at a terminal means.
            return datetime.strptime(text.strip(), form).astimezone(UTC)
        except ValueError:
            continue
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        message = f"not a date: {text!r}"
        raise UsageError(
            message,
            hint='write "dd/MM/yyyy HH:mm:ss", an ISO 8601 date or a keyword the command names',
            date=text,
        ) from error
