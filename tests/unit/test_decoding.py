"""Typed decoding: values come out as types, and threads that meet a type for the first time live."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from backupd.decoding import converted, decoded, decoder

MANY_AT_ONCE = """
import sys, threading
import msgspec
from backupd.decoding import converted, decoded

sys.setswitchinterval(1e-6)
for round in range(200):
    inner = msgspec.defstruct("Inner", [(f"f{n}", int | None, None) for n in range(30)])
    outer = msgspec.defstruct("Outer", [("g", inner | None, None), ("many", list[inner], [])])
    together = threading.Barrier(4)
    found = []

    def read(way):
        together.wait()
        found.append(way())

    ways = [
        lambda: decoded(b'{"many":[{"f29":3}]}', outer).many[0].f29,
        lambda: decoded(b'{"f28":3}', inner).f28,
        lambda: converted({"g": {"f27": 3}}, outer).g.f27,
        lambda: decoded(b'[{"f0":3}]', list[inner])[0].f0,
    ]
    threads = [threading.Thread(target=read, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3, 3, 3, 3], found
"""


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int = 0


def test_what_is_decoded_has_its_type():
    assert decoded(b'{"x":1}', Point) == Point(1)
    assert decoded('[{"x":1,"y":2}]', list[Point]) == [Point(1, 2)]
    assert converted({"x": 3}, Point) == Point(3)
    assert decoder(Point).decode(b'{"x":4}') == Point(4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(msgspec.ValidationError):
        decoded(b'{"x":"one"}', Point)
    with pytest.raises(msgspec.ValidationError):
        converted({}, Point)
    with pytest.raises(msgspec.DecodeError):
        decoded(b"{", Point)


def test_threads_may_meet_a_type_for_the_first_time_together():
    """Without one place where types are learned, this ends with SIGSEGV."""
    done = subprocess.run([sys.executable, "-c", MANY_AT_ONCE], check=False, timeout=60, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
