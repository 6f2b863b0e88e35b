"""Volumes around volumes: how often and when they ask again, how they slow down, what they count and hide."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest

from backupd.errors import SpaceExhausted, VolumeError
from backupd.volumes.base import NameMissing, NameRefused
from backupd.volumes.counting import Counting, kind_of
from backupd.volumes.failures import AccessRefused, CorruptObject, VolumeBusy, VolumeUnreachable
from backupd.volumes.limiting import Limiting, Limits
from backupd.volumes.memory import MemoryVolume
from backupd.volumes.prefixed import Prefixed
from backupd.volumes.retrying import RetryBudget, Retrying


class Ticking:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Failing(MemoryVolume):
    """Raises the planned errors, one a call, before it does what it is asked."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)
        self.seen: list[bytes] = []

    def put(self, name, content):
        if not isinstance(content, bytes):
            content = content.read(1 << 30)
        self.seen.append(content)
        if self.errors:
            raise self.errors.pop(0)
        return super().put(name, content)

    def exists(self, name):
        if self.errors:
            raise self.errors.pop(0)
        return super().exists(name)


def retrying(volume, ticking: Ticking, **budget) -> Retrying:
    return Retrying(
        volume,
        RetryBudget(**budget),
        monotonic=ticking.monotonic,
        sleep=ticking.sleep,
        chance=lambda: 1.0,
    )


def away() -> VolumeUnreachable:
    return VolumeUnreachable("away")


def test_transient_errors_are_tried_again_with_growing_waits():
    """Waits double up to their bound, and the content is sent whole each time, also from a stream."""
    ticking = Ticking()
    volume = Failing(*(away() for _ in range(5)))
    content = io.BytesIO(b"ab" * 10)
    content.read(2)
    assert retrying(volume, ticking, first_wait_seconds=1, wait_seconds_max=5).put("a", content)
    assert ticking.slept == [1, 2, 4, 5, 5]
    assert volume.seen == [b"ab" * 9] * 6
    assert volume.get("a").read() == b"ab" * 9


def test_jitter_halves_a_wait_at_most():
    """By chance a wait is between half of its bound and all of it."""
    budget = RetryBudget(first_wait_seconds=4.0)
    assert [budget.wait_seconds(1, 0.0, chance) for chance in (0.0, 0.5, 1.0)] == [2.0, 3.0, 4.0]


def test_what_the_store_asks_to_wait_is_kept_to():
    """A store that says how long to wait is not asked before."""
    ticking = Ticking()
    volume = Failing(VolumeBusy("slow down", wait_seconds=17.0))
    assert retrying(volume, ticking).put("a", b"x")
    assert ticking.slept == [17.0]


@pytest.mark.parametrize("error", [AccessRefused("no"), SpaceExhausted("full"), ValueError("a bug")])
def test_others_are_not_tried_again(error):
    """Permanent errors, a full store and bugs come through at once."""
    ticking = Ticking()
    volume = Failing(error, away())
    with pytest.raises(type(error)):
        retrying(volume, ticking).put("a", b"x")
    assert (ticking.slept, len(volume.seen)) == ([], 1)


def test_budget_of_attempts_and_of_seconds():
    """When either is spent, the last error comes through, and no time is slept away for nothing."""
    few, short = Ticking(), Ticking()
    with pytest.raises(VolumeUnreachable):
        retrying(Failing(*(away() for _ in range(9))), few, attempts=3).exists("a")
    assert len(few.slept) == 2
    with pytest.raises(VolumeUnreachable):
        retrying(
            Failing(*(away() for _ in range(99))), short, attempts=99, seconds=10, first_wait_seconds=1
        ).exists("a")
    assert short.slept == [1, 2, 4]


class Torn(io.RawIOBase):
    """Reads of 4 bytes, then an error."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if not self._content:
            raise VolumeUnreachable("torn")
        size = min(4, len(buffer))
        taken, self._content = self._content[:size], self._content[size:]
        buffer[: len(taken)] = taken
        return len(taken)


class Tearing(MemoryVolume):
    """Breaks the first readings off after some bytes, which may be wrong ones."""

    def __init__(self, *beginnings: bytes) -> None:
        super().__init__()
        self.beginnings = list(beginnings)
        self.opened = 0

    def get(self, name, *, offset=0, length=None):
        self.opened += 1
        if self.beginnings:
            return Torn(self.beginnings.pop(0))
        return super().get(name, offset=offset, length=length)


def test_a_store_that_is_away_is_asked_once_until_it_answers():
    """Who comes after a spent budget spends no other; after one answer each call has its own again."""
    ticking = Ticking()
    volume = Failing(*(away() for _ in range(6)))
    patient = retrying(volume, ticking, attempts=3, seconds=1000)
    for slept in (2, 2, 2):
        with pytest.raises(VolumeUnreachable):
            patient.exists("a")
        assert len(ticking.slept) == slept
    volume.errors.clear()
    assert not patient.exists("a")
    volume.errors += [away(), away()]
    assert not patient.exists("a")
    assert len(ticking.slept) == 4


def test_a_refusal_is_no_absence():
    """Errors that waiting does not mend say nothing of whether the store answers."""
    ticking = Ticking()
    volume = Failing(*(AccessRefused("no") for _ in range(9)))
    patient = retrying(volume, ticking, attempts=3)
    for _ in range(9):
        with pytest.raises(AccessRefused):
            patient.exists("a")
    volume.errors += [away(), away()]
    assert not patient.exists("a")


def test_a_torn_reading_goes_on():
    """A reading that breaks off twice gives the content once, whole."""
    volume = Tearing(b"0123", b"01234567")
    volume.put("a", b"0123456789")
    file = Retrying(volume, sleep=lambda _: None).get("a")
    assert b"".join(iter(lambda: file.read1(3), b"")) == b"0123456789"
    assert volume.opened == 3


def test_a_torn_reading_with_other_bytes_is_no_content():
    """What was handed out before a reading broke off must be there again, else the reading fails."""
    volume = Tearing(b"012X")
    volume.put("a", b"0123456789")
    file = Retrying(volume, RetryBudget(attempts=3), sleep=lambda _: None).get("a")
    assert file.raw.read(4) == b"012X"
    with pytest.raises(CorruptObject):
        file.read()


def test_a_listing_goes_on_where_it_broke_off():
    """A listing that fails on its way gives each name once, in order."""

    class Stumbling(MemoryVolume):
        failures = 8

        def names(self, prefix: str = "") -> Iterator[str]:
            for count, name in enumerate(super().names(prefix)):
                if count == 9 - self.failures and self.failures:
                    self.failures -= 1
                    raise VolumeUnreachable("away")
                yield name

    volume = Stumbling()
    for number in range(10):
        volume.put(f"n{number}", b"x")
    assert list(Retrying(volume, sleep=lambda _: None).names()) == [f"n{number}" for number in range(10)]
    assert volume.failures == 0


@pytest.mark.parametrize("as_stream", [False, True])
def test_bytes_a_second(as_stream):
    """Over time no more bytes pass than allowed, in both directions together."""
    ticking = Ticking()
    volume = Limiting(
        MemoryVolume(), Limits(bytes_per_second=1_000), monotonic=ticking.monotonic, sleep=ticking.sleep
    )
    for number in range(10):
        content = b"x" * 1_000
        volume.put(f"n{number}", io.BytesIO(content) if as_stream else content)
    assert 7.9 <= ticking.now - 100 <= 10
    volume.get("n1").read()
    volume.exists("n1")
    volume.put("last", b"x")
    assert ticking.now - 100 >= 9.9


def test_requests_a_second():
    """Over time no more requests pass than allowed; a second's worth may go at once."""
    ticking = Ticking()
    volume = Limiting(
        MemoryVolume(), Limits(requests_per_second=5), monotonic=ticking.monotonic, sleep=ticking.sleep
    )
    for _ in range(5):
        volume.exists("a")
    assert ticking.slept == []
    for _ in range(20):
        volume.exists("a")
    assert 3.5 <= ticking.now - 100 <= 5


def test_counts():
    """Requests, bytes each way and errors by kind are counted; what was there already is not sent."""
    volume = Counting(MemoryVolume())
    volume.put("a", b"12345")
    volume.put("a", b"12345")
    volume.put("b", io.BytesIO(b"123"))
    with volume.get("a") as file:
        file.read()
    with pytest.raises(NameMissing):
        volume.get("none")
    list(volume.names())
    counts = volume.tally.counts()
    assert counts.requests == {"put": 3, "get": 2, "names": 1}
    assert (counts.sent_bytes, counts.received_bytes) == (8, 5)
    assert counts.errors == {"name_missing": 1}
    assert counts.requests_total == 6


@pytest.mark.parametrize(
    ("error", "kind"),
    [(VolumeUnreachable("x"), "volume_unreachable"), (VolumeError("x"), "volume_error")],
)
def test_kinds_of_errors(error, kind):
    """Metrics name errors in words of their own."""
    assert kind_of(error) == kind


def test_prefixes_do_not_meet():
    """Two servers on one volume see only their own names, even where one prefix begins like the other."""
    shared = MemoryVolume()
    one, ten = Prefixed(shared, "srv1"), Prefixed(shared, "srv10")
    one.put("items/a", b"one")
    ten.put("items/a", b"ten")
    shared.put("srv1", b"beside")
    assert (one.get("items/a").read(), ten.get("items/a").read()) == (b"one", b"ten")
    assert list(one.names()) == list(ten.names()) == ["items/a"]
    assert one.delete("items/a")
    assert ten.exists("items/a")
    asks: list[Callable[[str], object]] = [one.get, one.size]
    for ask in asks:
        with pytest.raises(NameMissing) as told:
            ask("items/a")
        assert told.value.facts["name"] == "items/a"


def test_a_prefix_counts_as_levels():
    """A name that is too deep only with its prefix is refused, and a prefix must be a name."""
    volume = Prefixed(MemoryVolume(), "a/b/c")
    assert volume.put("1/2/3/4/5", b"x")
    with pytest.raises(NameRefused):
        volume.put("1/2/3/4/5/6", b"x")
    with pytest.raises(NameRefused):
        Prefixed(MemoryVolume(), "../elsewhere")


def test_a_whole_reading_with_wrong_bytes_begins_anew():
    """Content read at once comes right though its first reading had wrong bytes: nobody has seen them."""
    volume = Tearing(b"012X", b"01234")
    volume.put("a", b"0123456789")
    assert Retrying(volume, sleep=lambda _: None).get("a").read() == b"0123456789"
