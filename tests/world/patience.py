"""Waiting in tests: until something is so, for a bounded time, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

SECONDS_MAX = 30.0
POLL_SECONDS = 0.02

T = TypeVar("T")


def eventually(claim: str, probe: Callable[[], T], seconds: float = SECONDS_MAX) -> T:
    """Return what a probe gives once it gives something. Raises `AssertionError` naming the claim."""
    end = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {claim}"
        time.sleep(POLL_SECONDS)
    return found


class Stopwatch:
    """Remembers how long each claim took to become true."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, claim: str, probe: Callable[[], T], seconds: float = SECONDS_MAX) -> T:
        """Wait as `eventually` does, and remember how long it took."""
        began = time.monotonic()
        found = eventually(claim, probe, seconds)
        self.seconds[claim] = round(time.monotonic() - began, 3)
        return found

    def slower_than(self, seconds: float) -> dict[str, float]:
        """Return what took longer than so many seconds."""
        return {claim: took for claim, took in self.seconds.items() if took >= seconds}
