"""Moments: how they are written, read and counted, and how admins may write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.clock import MICROSECOND, SystemClock, microseconds, moment, parse_moment, written
from backupd.errors import UsageError

MOMENTS = st.datetimes(
    min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)  # noqa: DTZ001 - hypothesis adds the zone
)  # fmt: skip


@given(MOMENTS)
def test_microseconds_are_exact(when: datetime) -> None:
    """Counting microseconds and back gives the same moment, also before 1970."""
    assert moment(microseconds(when)) == when
    assert microseconds(when + MICROSECOND) == microseconds(when) + 1


@given(MOMENTS)
def test_what_is_written_is_read(when: datetime) -> None:
    """The written form is read back exactly."""
    assert parse_moment(written(when)) == when


@given(MOMENTS, MOMENTS)
def test_written_moments_sort_as_time_does(one: datetime, other: datetime) -> None:
    """Text order is time order, so that texts can be compared."""
    assert (written(one) < written(other)) == (one < other)


def test_written_is_utc_with_six_digits() -> None:
    """A moment of another zone is written in UTC, with zeros where there is no fraction."""
    there = datetime(2026, 11, 23, 20, 55, tzinfo=timezone(timedelta(hours=2)))
    assert written(there) == "2026-11-23T18:55:00.000000Z"


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("23/11/2026 20:55:07", 0),
        ("  23/11/2026 20:55:07 ", 0),
        ("2026-11-23T20:55:07", 0),
        ("2026-11-23 20:55:07+00:00", None),
        ("2026-11-23T20:55:07Z", None),
        ("2026-11-23T22:55:07+02:00", None),
    ],
)
def test_admins_write_local_time_unless_they_say_otherwise(
    text: str, hours: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A date without a zone is the machine's local time; one with a zone is what it says."""
    expected = datetime(2026, 11, 23, 20, 55, 7, tzinfo=UTC)
    if hours is not None:
        expected = datetime(2026, 11, 23, 20, 55, 7).astimezone(UTC)
    assert parse_moment(text) == expected


def test_shorter_dates_mean_their_beginning() -> None:
    """Without seconds or time of day a date is the first moment it names."""
    assert parse_moment("23/11/2026 20:55") == parse_moment("23/11/2026 20:55:00")
    assert parse_moment("23/11/2026") == parse_moment("23/11/2026 00:00:00")
    assert parse_moment("2026-11-23") == parse_moment("23/11/2026")


@pytest.mark.parametrize(
    "text", ["", "yesterday", "31/02/2026", "11/23/2026", "0001-01-01T00:00:00+14:00", "٣"]
)
def test_no_date_is_a_usage_error(text: str) -> None:
    """What is no date is refused with the forms that are."""
    with pytest.raises(UsageError) as caught:
        parse_moment(text)
    assert "dd/MM/yyyy HH:mm:ss" in caught.value.hint


@given(st.text())
def test_any_text_is_a_moment_or_refused(text: str) -> None:
    """No text raises anything else, and what is read is UTC."""
    try:
        assert parse_moment(text).tzinfo is UTC
    except UsageError:
        return


async def test_the_machines_clock() -> None:
    """The machine's clock gives UTC, its durations do not go back, and waiting takes time."""
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    before = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.009
