"""Proof: whether what was restored reads back as it was to be, in content, folder, flags and dates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from backupd.appservers.base import Reading
from backupd.items import digest_text
from backupd.states import Photograph

COPY_BYTES = 1 << 20
PROVEN_KEYS = ("folder", "flags", "tags", "received", "uid")
"""What a restored item must agree in with its photograph, where both have it, besides the content."""


def why_not_equal(wanted: Photograph, found: Reading) -> str:
    """Return in words what reads back otherwise, an empty text where nothing does; reads the content."""
    if found.content is not None and digest_of_reading(found) != wanted.digest:
        return "its content reads back otherwise"
    for name in PROVEN_KEYS:
        if name in wanted.metadata and name in found.metadata:
            want, have = wanted.metadata[name], found.metadata[name]
            if _normal(want) != _normal(have):
                return f"it reads back with {name} {have!r} instead of {want!r}"
    return ""


def digest_of_reading(reading: Reading) -> str | None:
    """Return the digest of what a reading holds; blocks."""
    if reading.content is None:
        return None
    sha256 = hashlib.sha256()
    file: BinaryIO
    with reading.content.open() as file:
        while piece := file.read(COPY_BYTES):
            sha256.update(piece)
    return digest_text(sha256.digest())


def same_attributes(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether attributes read back as they were, but for what files of TOML can't say."""
    return bool(_filled(found) == _filled(wanted))


def _filled(value: Any) -> Any:
    """Return a value without what TOML can't say: nulls, and that an account's name has a domain."""
    match value:
        case dict():
            return {key: _filled(one) for key, one in value.items() if one is not None and key != "domain"}
        case list() | tuple():
            return [_filled(one) for one in value if one is not None]
        case _:
            return value


def _normal(value: Any) -> Any:
    """Return a value as it is compared: flags and tags have no order."""
    return sorted(value, key=str) if isinstance(value, list | tuple) else value
