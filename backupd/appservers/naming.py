"""Names from a file system as text, and back: metadata, ids and locators are always valid Unicode.

File names on Linux are bytes. Python shows bytes that are no UTF-8 as lone surrogates, which no JSON can
hold. `shown` writes each such byte as a character of the private-use range U+EF80..U+EFFF (the convention
of OPTU-8), and does the same to names that use this range themselves, so that `raw` brings every name back
exactly.

Maildir++ folder names are modified UTF-7 (RFC 3501 §5.1.3). A name that is no canonical modified UTF-7 is
shown as it stands.
"""

from __future__ import annotations

import base64
import binascii
import os
import re

from backupd.errors import AppServerRefused

NAME_BYTES_MAX = 255
_FIRST = 0xEF00
_ESCAPED = re.compile("[\uef80-\uefff]")
_SHIFTED = re.compile(r"&([A-Za-z0-9+,]*)-")
_UNPRINTED = re.compile(r"[^\x20-\x25\x27-\x7e]+|&")


def shown(name: str) -> str:
    """Return an operating system's name as text that JSON can hold."""
    if name.isascii():
        return name
    raw_bytes = os.fsencode(name)
    try:
        if not _ESCAPED.search(name):
            raw_bytes.decode("utf-8")
            return name
    except UnicodeDecodeError:
        pass
    return "".join(
        character if _is_plain(character) else "".join(chr(_FIRST + byte) for byte in os.fsencode(character))
        for character in name
    )


def _is_plain(character: str) -> bool:
    return not ("\ud800" <= character <= "\udfff" or "\uef80" <= character <= "\uefff")


def raw(text: str) -> str:
    """Return the operating system's name behind a shown one."""
    if text.isascii() or not _ESCAPED.search(text):
        return text
    return os.fsdecode(
        b"".join(
            bytes((ord(character) - _FIRST,)) if "\uef80" <= character <= "\uefff" else os.fsencode(character)
            for character in text
        )
    )


def checked_name(text: str) -> str:
    """Return the file name for one name of a path from outside, or raise `AppServerRefused`."""
    try:
        name = raw(text)
        size = len(os.fsencode(name))
    except UnicodeEncodeError as error:
        raise AppServerRefused(f"{text!r} is no valid name", name=text) from error
    if text in ("", ".", "..") or "/" in name or "\0" in name:
        raise AppServerRefused(f"{text!r} is no name of a file or folder", name=text)
    if size > NAME_BYTES_MAX:
        raise AppServerRefused(f"the name {text[:60]!r}… is longer than {NAME_BYTES_MAX} bytes", name=text)
    return name


def checked_path(text: str) -> list[str]:
    """Return the names of a folder path from outside; the empty path has none."""
    return [checked_name(name) for name in text.split("/")] if text else []


def from_utf7(name: str) -> str:
    """Return a Maildir++ folder name decoded from modified UTF-7, or itself where that can't come back."""
    if "&" not in name:
        return name
    try:
        decoded = _SHIFTED.sub(_unshift, name)
        decoded.encode("utf-8")
    except (binascii.Error, UnicodeError):
        return name
    return decoded if to_utf7(decoded) == name and "/" not in decoded and "\0" not in decoded else name


def _unshift(match: re.Match[str]) -> str:
    packed = match.group(1)
    if not packed:
        return "&"
    packed = packed.replace(",", "/") + "=" * (-len(packed) % 4)
    return base64.b64decode(packed, validate=True).decode("utf-16-be")


def to_utf7(text: str) -> str:
    """Return text as modified UTF-7."""
    return _UNPRINTED.sub(_shift, text)


def _shift(match: re.Match[str]) -> str:
    if match.group() == "&":
        return "&-"
    packed = base64.b64encode(match.group().encode("utf-16-be")).decode("ascii").rstrip("=")
    return "&" + packed.replace("/", ",") + "-"
