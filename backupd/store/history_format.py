r"""The history file: a JSON array with one state per line, and what an interrupted append may leave of it.

At rest a file is `[\n<state>,\n<state>\n]\n`. Appending overwrites the closing bracket and what follows, so
a crash leaves a *torn tail*: a last line cut short, filled with zeros, or no closing bracket. Anything else
that is not such a file is damage and raises `CorruptHistory` with the offset. Pure: bytes in, states out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from backupd.decoding import decoder
from backupd.errors import CorruptHistory
from backupd.states import State

OPENING = b"[\n"
CLOSING = b"\n]\n"
_HOLE = bytes(16)
_encoder = msgspec.json.Encoder()
_decoder = decoder(State)
_list_decoder = decoder(list[State])


class Parsed(msgspec.Struct, frozen=True):
    """The states of a file (or of its tail), and where the last whole state ends."""

    states: list[State]
    end: int
    is_torn: bool


def encode_lines(states: Sequence[State]) -> bytes:
    """Return states as they stand between the brackets."""
    return b",\n".join([_encoder.encode(state) for state in states])


def encode_history(states: Sequence[State]) -> bytes:
    """Return a whole file."""
    return OPENING + encode_lines(states) + CLOSING


def parse(content: bytes, path: str) -> Parsed:
    """Read a whole file. Raises `CorruptHistory` for damage; a torn tail is left out."""
    if content.startswith(OPENING) and content.endswith(CLOSING):
        try:
            states = _list_decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass  # read line by line, to name the place
        else:
            if is_ascending(states) and content.count(b"\n") == len(states) + 2:
                return Parsed(states, len(content) - len(CLOSING), is_torn=False)
    return parse_lines(content, 0, path)


def parse_lines(content: bytes, base: int, path: str) -> Parsed:
    """Read states line by line, from the beginning of a line on; `base` is its offset in the file."""
    states: list[State] = []
    content = _without_holes(content)
    if base == 0 and not content.startswith(OPENING):
        if OPENING.startswith(content):
            return Parsed(states, 0, is_torn=True)
        raise corrupt(path, 0, "it does not begin with '['")
    place = len(OPENING) if base == 0 else 0
    end = base + place
    while True:
        stop = content.find(b"\n", place)
        line = content[place:] if stop < 0 else content[place:stop]
        if line == b"]" and states and stop in (-1, len(content) - 1):
            return Parsed(states, end, is_torn=not content.endswith(b"}" + CLOSING))
        try:
            state = _decoder.decode(line.removesuffix(b","))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if _may_be_torn(content, place, stop):
                return Parsed(states, end, is_torn=True)
            raise corrupt(path, base + place, str(error)) from error
        if states and not (content[place - 2 : place - 1] == b"," and is_ascending([states[-1], state])):
            raise corrupt(path, base + place, "the state does not follow the one before")
        states.append(state)
        end = base + place + len(line.removesuffix(b","))
        if stop < 0:
            return Parsed(states, end, is_torn=True)
        place = stop + 1


def is_ascending(states: Sequence[State]) -> bool:
    """Tell whether transactions and start-dates strictly increase."""
    return all(
        one.transaction < other.transaction and one.start < other.start for one, other in pairwise(states)
    )


def salvage(content: bytes) -> list[State]:
    """Return the states that can be read and fit the order, whatever stands between.

    Of two neighbours that contradict each other the later one stays, if it fits what was before.
    """
    states: list[State] = []
    for line in content.split(b"\n"):
        try:
            state = _decoder.decode(line.removesuffix(b","))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if is_ascending([*states[-1:], state]):
            states.append(state)
        elif is_ascending([*states[-2:-1], state]):
            states[-1] = state
    return states


def corrupt(path: str, offset: int, reason: str) -> CorruptHistory:
    """Return the error that names file and offset."""
    return CorruptHistory(
        f"{path}: no valid state at offset {offset}: {reason}",
        hint="the file is left as it is; its readable states are still served",
        path=path,
        offset=offset,
    )


def _without_holes(content: bytes) -> bytes:
    """Return what stands before room that the file system had made but not filled; JSON holds no zeros."""
    hole = content.find(_HOLE)
    return (content if hole < 0 else content[:hole]).rstrip(b"\0")


def _may_be_torn(content: bytes, place: int, stop: int) -> bool:
    """Tell whether a line that is no state may be where an append ended, or the closing bracket's."""
    return stop < 0 or (stop - place <= 1 and stop + 1 == len(content))
