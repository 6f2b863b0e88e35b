"""One state out of a history that somebody else wrote: read line by line, in bounded memory, and checked.

A torn tail is left out as in our own histories. A line that is no state is passed over and told, the others
are used. What does not have the form that a photograph must have (folder, flags, dates, nesting, numbers that
fit) is refused here, so that nothing behind this has to doubt it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO

import msgspec

from backupd.decoding import converted, decoder
from backupd.items import Area, is_digest
from backupd.states import State

LINE_BYTES_MAX = 4 << 20
"""One state; the photographs of this project have a few kilobytes."""
HISTORY_BYTES_MAX = 1 << 30
NESTING_MAX = 24
NUMBER_MAX = 2**63 - 1
TEXT_CHARACTERS_MAX = 4_096
ID_CHARACTERS_MAX = 1_000
_decoder = decoder(State)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f]")
_BETWEEN = frozenset({b"[", b"]", b""})


class _Form(msgspec.Struct):
    """The parts of a photograph that a restore acts on. The rest is carried along as it is."""

    folder: str = ""
    area: Area = Area.MAIL
    flags: list[str] = []
    tags: list[str] = []
    received: datetime | None = None
    modified: datetime | None = None
    name: str | None = None
    uid: str | None = None


class FoundState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a moment, None before the first; `first` is when the item came; `bytes` its line's size.

    `damage` tells of lines that could not be read.
    """

    state: State | None
    first: datetime | None
    bytes: int = 0
    damage: str = ""


def state_of(file: BinaryIO, when: datetime) -> FoundState:
    """Return the state valid at a moment. Raises `ValueError` for what is no history at all."""
    current: State | None = None
    first: datetime | None = None
    last: State | None = None
    size, damage, unread = 0, "", 0
    for line in _lines(file):
        state = _read(line)
        if state is None:
            unread += 1
            continue
        if unread:
            damage = "some of its states can't be read"
        if last is not None and not (last.transaction < state.transaction and last.start < state.start):
            damage = "its states are out of order"
            continue
        last = state
        first = first or state.start
        if state.start <= when:
            current, size = state, len(line)
    if last is None:
        raise ValueError("it holds no state")
    # One unreadable line at the end is where an append was cut short: no damage.
    if unread > 1:
        damage = damage or "some of its states can't be read"
    return FoundState(state=current, first=first, bytes=size, damage=damage)


def why_unusable(state: State) -> str:
    """Return in words what keeps a state from being restored, an empty text where nothing does."""
    if not 0 < state.transaction <= NUMBER_MAX or not 0 <= (state.size or 0) <= NUMBER_MAX:
        return f"its transaction is {state.transaction}, its size {state.size}"
    if state.digest is not None and not is_digest(state.digest):
        return "its digest is none"
    if _nesting(state.metadata) > NESTING_MAX:
        return f"its metadata is nested deeper than {NESTING_MAX}"
    try:
        form = converted(state.metadata, _Form)
    except (msgspec.ValidationError, RecursionError) as error:
        return f"its metadata is no photograph: {error}"
    names = (form.folder, form.name, form.uid)
    if not all(text is None or _is_name(text, TEXT_CHARACTERS_MAX) for text in names) or not all(
        _is_plain(text, TEXT_CHARACTERS_MAX) for text in (*form.flags, *form.tags)
    ):
        return "its metadata holds names that are none"
    return ""


def is_identifier(text: str) -> bool:
    """Tell whether an id from outside can be one; some are made of a file's name."""
    return bool(text) and _is_name(text, ID_CHARACTERS_MAX)


def _is_plain(text: str, characters_max: int) -> bool:
    return _is_name(text, characters_max) and not _UNPRINTABLE.search(text)


def _is_name(text: str, characters_max: int) -> bool:
    r"""Tell whether a file could be called so: control characters may be, as in macOS's `Icon\r`."""
    if len(text) > characters_max or "\0" in text:
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines that may be states, each in bounded memory. Raises `ValueError` beyond a bound."""
    read = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        read += len(line)
        if read > HISTORY_BYTES_MAX:
            raise ValueError(f"it is larger than {HISTORY_BYTES_MAX >> 20} MiB")
        if len(line) > LINE_BYTES_MAX:
            raise ValueError(f"a state in it is larger than {LINE_BYTES_MAX >> 20} MiB")
        state = line.strip(b"\0").rstrip(b"\n").removesuffix(b",")
        if state not in _BETWEEN:
            yield state


def _read(line: bytes) -> State | None:
    try:
        state = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return state if state.start.tzinfo is not None else None


def _nesting(value: Any) -> int:
    """Return how deep a value is nested, looking no deeper than is needed to know that it is too deep."""
    depth, level = 0, [value]
    while level and depth <= NESTING_MAX:
        level = [
            below
            for one in level
            if isinstance(one, dict | list)
            for below in (one.values() if isinstance(one, dict) else one)
        ]
        depth += 1
    return depth
