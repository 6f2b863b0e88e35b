"""Text for people: what came from mail made harmless, moments in local time, sizes and durations in words.

Whatever is read from a mailbox may hold terminal escapes, direction overrides and the like: `visible` is the
only way for it to a terminal.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime

import msgspec

_JOINERS = frozenset("\u200c\u200d")
"""Invisible, harmless, and needed by scripts and emoji."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MINUTE = 60
_HOUR = 3600
_DAY = 86400


def visible(text: str) -> str:
    """Return a text in which every character that could act on a terminal is written as its escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in _JOINERS or unicodedata.category(character) not in _HIDDEN
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def harmless_json(content: bytes) -> str:
    """Return JSON in which the control characters that JSON lets pass are escaped as well."""
    text = content.decode("utf-8", "replace").strip()
    return (
        "".join(f"\\u{ord(one):04x}" if "\x7f" <= one <= "\x9f" else one for one in text)
        if _has_c1(text)
        else text
    )


def _has_c1(text: str) -> bool:
    return any("\x7f" <= character <= "\x9f" for character in text)


def value_text(value: object) -> str:
    """Return a JSON value as an admin reads it: a text as it is, anything else as JSON."""
    if value is None:
        return ""
    return visible(value) if isinstance(value, str) else visible(msgspec.json.encode(value).decode())


def local(moment: datetime | None, *, exact: bool = False) -> str:
    """Return a moment in local time, in a form that commands take as a date; `exact` to the microsecond."""
    if moment is None:
        return ""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f" if exact else "%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def size(count: int | None) -> str:
    """Return bytes in the largest fitting unit."""
    if count is None:
        return ""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:  # noqa: PLR2004 - the definition of the unit
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def yes_no(truth: bool) -> str:  # noqa: FBT001 - the value is the argument
    """Return a boolean as the commands write it."""
    return "true" if truth else "false"
