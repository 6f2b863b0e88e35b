"""JSON and values into typed ones; every typed decoding in the program goes through here.

msgspec learns a type when it is first decoded, and marks it as known before it knows all of it: another
thread that decodes the same type meanwhile ends the process with SIGSEGV (seen with msgspec 0.22). Here types
are learned one at a time, and nobody decodes one that is not learned to its end.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, TypeVar, cast, overload

import msgspec

_Wanted = TypeVar("_Wanted")
_learning = threading.Lock()


@overload
def decoder(wanted: type[_Wanted]) -> msgspec.json.Decoder[_Wanted]: ...
@overload
def decoder(wanted: Any) -> msgspec.json.Decoder[Any]: ...
def decoder(wanted: Any) -> msgspec.json.Decoder[Any]:
    """Return the decoder of a type; any number of threads may use it. Raises `TypeError` for no JSON type."""
    return _learned(wanted)


def decoded(content: bytes | str, wanted: type[_Wanted]) -> _Wanted:
    """Return what JSON holds. Raises `msgspec.DecodeError`, `UnicodeDecodeError`, `RecursionError`."""
    return cast("_Wanted", _learned(cast("Any", wanted)).decode(content))


def converted(value: Any, wanted: type[_Wanted]) -> _Wanted:
    """Return plain values as a type. Raises `msgspec.ValidationError`, `RecursionError`."""
    _learned(cast("Any", wanted))
    return msgspec.convert(value, wanted)


@functools.cache
def _learned(wanted: Any) -> msgspec.json.Decoder[Any]:
    with _learning:
        return msgspec.json.Decoder(wanted)
