"""Histories: valid JSON at rest, growing at the end, whole after a torn append, and damage told by place."""

from __future__ import annotations

import errno
import json
import os
import stat
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.clock import microseconds
from backupd.errors import CorruptHistory, SpaceExhausted, VolumeError
from backupd.items import ItemKey, Kind
from backupd.states import State
from backupd.store import history_format
from backupd.store.history import TAIL_BYTES, Histories
from backupd.store.layout import Layout
from tests.unit.store.making import START, failing, message, state

UUID = "0192f3c4-6d4e-7c41-a5b8-3f0e8a9b7C1D"
PLACES = [
    (message("2057"), "accounts/alice/items/57/2057"),
    (message("7"), "accounts/alice/items/07/7"),
    (message("a/../b", "x@y.example"), "accounts/x@y.example/items/{}/a%2F..%2Fb"),
    (message("..", ".."), "accounts/%2E./items/{}/%2E."),
    (ItemKey("alice", Kind.DOCUMENT, UUID), f"accounts/alice/drive_items/1d/{UUID}"),
    (ItemKey("alice", Kind.DOCUMENT, "12"), "accounts/alice/items/12/12"),
    (ItemKey("alice", Kind.ACCOUNT, "alice"), "accounts/alice/account_info"),
    (ItemKey("", Kind.DOMAIN, "a.example"), "servers/domains/a.example"),
    (ItemKey("", Kind.COS, "default"), "servers/coses/default"),
    (ItemKey("", Kind.MAILING_LIST, "all@a.example"), "servers/mailing-lists/all@a.example"),
]
metadata = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


@st.composite
def histories(draw, most: int = 6) -> list[State]:
    """Draw states in ascending order."""
    states, transaction = [], 0
    for _ in range(draw(st.integers(1, most))):
        transaction += draw(st.integers(1, 1000))
        events = tuple(draw(st.lists(st.text(max_size=5))))
        states.append(state(transaction, metadata=draw(metadata), events=events))
    return states


def path_of(root, key) -> str:
    return str(Layout(root).history(key))


@pytest.mark.parametrize(("key", "place"), PLACES)
def test_places(tmp_path, key, place):
    """Every kind has its place, no id leaves its directory, modes are tight, walking finds the key."""
    store = Histories(tmp_path)
    store.append(key, [state(1, key.kind)])
    path = Layout(tmp_path).history(key)
    head, _, tail = place.partition("{}")
    assert str(path.relative_to(tmp_path)).startswith(head)
    assert str(path).endswith(tail)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(store.keys()) == [key]


def test_a_cut_name_keeps_its_id(tmp_path):
    """An id too long for a file name is found again from the states."""
    key = message("ü" * 500)
    store = Histories(tmp_path)
    store.append(key, [state(1, item=key.item)])
    assert list(store.keys()) == [key]
    assert store.read(key)[0].transaction == 1


@given(histories(), st.data())
@settings(max_examples=60, deadline=None)
def test_appending_in_any_portions(tmp_path_factory, states, data):
    """However states are portioned, the file is the same valid JSON, a state a line, and reads back equal."""
    root = tmp_path_factory.mktemp("h")
    store, key, rest = Histories(root), message(), states
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        store.append(key, rest[:count])
        rest = rest[count:]
    content = Layout(root).history(key).read_bytes()
    assert content == history_format.encode_history(states)
    assert len(json.loads(content)) == len(states) == content.count(b"\n") - 2
    assert store.read(key) == states
    last, events = store.last(key)
    assert last == states[-1]
    assert events == {event for one in states for event in one.events}


@given(histories(), histories(2), st.data())
@settings(max_examples=100, deadline=None)
def test_torn_tails(tmp_path_factory, states, added, data):
    """Whatever part of an append reached the disk: the states before are read, the next append repairs."""
    root = tmp_path_factory.mktemp("h")
    store, key = Histories(root), message()
    shift = states[-1].transaction
    added = [state(one.transaction + shift, metadata=one.metadata) for one in added]
    store.append(key, states)
    path = Layout(root).history(key)
    start = path.stat().st_size - 3
    store.append(key, added)
    content = path.read_bytes()
    cut = data.draw(st.integers(start, len(content)))
    zeros = data.draw(st.sampled_from([0, len(content) - cut]))
    path.write_bytes(content[:cut] + bytes(zeros))
    found = store.read(key)
    assert found == [*states, *added][: len(found)]
    assert len(found) >= len(states)
    assert store.last(key)[0] == found[-1]
    newer = state(found[-1].transaction + 1)
    store.append(key, [newer])
    assert path.read_bytes() == history_format.encode_history([*found, newer])


def test_cut_at_every_byte(tmp_path):
    """Cut or zeroed anywhere, a new file gives the whole states before, and appending makes it whole."""
    key, states = message(), [state(1), state(2)]
    store = Histories(tmp_path)
    store.append(key, states)
    path = Layout(tmp_path).history(key)
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        for filling in (b"", bytes(len(content) - cut)):
            path.write_bytes(content[:cut] + filling)
            found = store.read(key)
            assert found == states[: len(found)], cut
            assert store.last(key)[0] == (found[-1] if found else None)
            store.append(key, [state(9)])
            assert store.read(key) == [*found, state(9)], cut
            assert path.read_bytes() == history_format.encode_history([*found, state(9)])


def test_every_bit_flipped(tmp_path):
    """A flipped bit gives an error that names the file, or a history of as many states as were written."""
    key, states = message(), [state(1), state(2), state(3)]
    store = Histories(tmp_path)
    store.append(key, states)
    path = Layout(tmp_path).history(key)
    content = path.read_bytes()
    told = 0
    for place in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            found = store.read(key)
        except CorruptHistory as error:
            names_it = str(path) in error.message and f"offset {error.facts['offset']}" in error.message
            told += names_it and len(store.salvage(key)) >= 1
        else:
            assert len(found) == 3, place
            told += 1
    assert told == len(content) * 8


def test_damage_before_the_end_is_named(tmp_path):
    """Damage names the offset of its line; the end can still be read and appended to."""
    key, states = message(), [state(number) for number in range(1, 2000)]
    store = Histories(tmp_path)
    store.append(key, states)
    path = Layout(tmp_path).history(key)
    content = bytearray(path.read_bytes())
    assert len(content) > 2 * TAIL_BYTES
    offset = content.index(b'{"transaction":7,')
    content[offset + 3] = 0xFF
    path.write_bytes(content)
    with pytest.raises(CorruptHistory, match=f"at offset {offset}:"):
        store.read(key)
    assert store.last(key)[0] == states[-1]
    store.append(key, [state(2000)])
    assert store.last(key)[0] == state(2000)
    assert [one.transaction for one in store.salvage(key)] == [n for n in range(1, 2001) if n != 7]
    walked = list(store.walk())
    assert [found.key for found in walked] == [key]
    assert f"offset {offset}" in walked[0].damage
    assert len(walked[0].states) == 1999


def test_states_out_of_order_are_damage(tmp_path):
    """A history whose transactions or times do not ascend is not believed."""
    key = message()
    path = Layout(tmp_path).history(key)
    path.parent.mkdir(parents=True)
    for bad in ([state(2), state(1)], [state(1), state(1)]):
        path.write_bytes(history_format.encode_history(bad))
        with pytest.raises(CorruptHistory, match="does not follow"):
            Histories(tmp_path).read(key)


def test_last_reads_only_the_end(tmp_path, monkeypatch):
    """Of a big history little is read, unless the last state itself is big."""
    key = message()
    store = Histories(tmp_path)
    store.append(key, [state(number, events=(f"e{number}",)) for number in range(1, 20_000)])
    asked: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: asked.append(size) or pread(fd, size, at))
    last, events = store.last(key)
    assert last.transaction == 19_999
    assert {"e19999", "e19990"} <= events
    assert sum(asked) <= TAIL_BYTES
    big = state(20_000, metadata={"text": "x" * (5 * TAIL_BYTES)})
    store.append(key, [big])
    assert store.last(key)[0] == big


def test_no_history(tmp_path):
    """An item that was never recorded has no states, no last one, and nothing is made by asking."""
    store = Histories(tmp_path)
    assert store.read(message()) == []
    assert store.last(message()) == (None, frozenset())
    assert list(store.keys()) == []
    store.append(message(), [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["history.append", "history.created"])
def test_a_new_history_that_can_not_be_written(tmp_path, step):
    """On a full disk no part of a new history stays."""
    store = Histories(tmp_path)
    with failing(step), pytest.raises(SpaceExhausted):
        store.append(message(), [state(1)]) if step != "history.append" else _told(store)
    assert store.read(message()) == []
    assert list(store.keys()) == []
    store.append(message(), [state(1)])
    assert store.read(message()) == [state(1)]


def _told(store: Histories) -> None:
    try:
        store.append(message(), [state(1)])
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017 - the step stands before anything is done
        raise SpaceExhausted("told") from error


def test_a_history_that_can_not_grow(tmp_path):
    """On a full disk a history stays as it was, byte for byte."""
    store, key = Histories(tmp_path), message()
    store.append(key, [state(1)])
    before = Layout(tmp_path).history(key).read_bytes()
    with failing("history.grown"), pytest.raises(SpaceExhausted):
        store.append(key, [state(2)])
    assert Layout(tmp_path).history(key).read_bytes() == before


def test_no_link_is_followed(tmp_path):
    """A link in place of a directory or of a history is refused, not followed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "path"
    (root / "accounts").mkdir(parents=True)
    (root / "accounts" / "alice").symlink_to(outside)
    for ask in (
        lambda: Histories(root).append(message(), [state(1)]),
        lambda: Histories(root).read(message()),
    ):
        with pytest.raises(VolumeError, match="links are not followed"):
            ask()
    key = message(account="bob")
    Histories(root).append(key, [state(1)])
    path = Layout(root).history(key)
    path.rename(outside / "it")
    path.symlink_to(outside / "it")
    before = (outside / "it").read_bytes()
    with pytest.raises(OSError, match=r"symbolic|link"):
        Histories(root).append(key, [state(2)])
    assert (outside / "it").read_bytes() == before


def test_dates_keep_their_microseconds(tmp_path):
    """Start-dates come back to the microsecond."""
    store, key = Histories(tmp_path), message()
    odd = State(
        transaction=1,
        kind=Kind.MESSAGE,
        start=START + timedelta(microseconds=1),
        change=state(1).change,
        origin=state(1).origin,
    )
    store.append(key, [odd])
    assert microseconds(store.read(key)[0].start) == microseconds(odd.start)
