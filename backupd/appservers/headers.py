"""A message's header fields as a photograph holds them: few, decoded, bounded, and never an error.

Mail in the wild has broken encodings, 8-bit headers, NUL bytes, lone carriage returns or no header at all.
Everything here is tolerant: what can't be decoded is shown as well as it can be. The message itself is kept
byte for byte elsewhere. The module searches bytes instead of parsing, since a first scan reads millions.
"""

from __future__ import annotations

import binascii
import email.utils
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from backupd.clock import written

HEADER_BYTES_MAX = 256 * 1024
FIELD_BYTES_MAX = 64 * 1024
TEXT_CHARACTERS_MAX = 1000
RECIPIENTS_MAX = 100

_ENCODED_WORD = re.compile(r"=\?([^?\s]{1,60})\?([bBqQ])\?([^?]*)\?=")
_BETWEEN_WORDS = re.compile(r"(\?=)\s+(?==\?[^?\s]{1,60}\?[bBqQ]\?)")
_QUOTED_BYTE = re.compile(rb"=([0-9A-Fa-f]{2})")
_SPECIAL = re.compile(r'[",()<>\\]')
_ANGLE = re.compile(r"<([^<>]*)>")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACED_COLON = re.compile(rb"\n([A-Za-z-]+)[ \t]+:")
_DATE = re.compile(
    r"(?:[A-Za-z]{3}, ?)?(\d{1,2}) ([A-Za-z]{3}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})(?: |$)"
)
_MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6}
_MONTHS |= {"jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12}
_REFUSED_CODECS = frozenset(
    {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "utf_7"}
)
"""Codecs that are no charsets of mail, or cost quadratic time."""


def photograph_headers(message: bytes) -> dict[str, Any]:
    """Return what a photograph tells of a message's header; keys without a value are left out."""
    block = _header_block(message)
    lowered = block.lower()
    metadata: dict[str, Any] = {}
    if subject := _field(block, lowered, b"\nsubject:"):
        metadata["subject"] = decoded(subject)
    if sender := _field(block, lowered, b"\nfrom:") or _field(block, lowered, b"\nsender:"):
        text = decoded(sender)
        metadata["from"] = text
        metadata["sender"] = address_of(text)
    recipients = 0
    for key, name in (("to", b"\nto:"), ("cc", b"\ncc:"), ("bcc", b"\nbcc:")):
        if found := _field(block, lowered, name):
            listed = split_addresses(_encoded_text(found))
            recipients += len(listed)
            if listed:
                metadata[key] = [_clean(_decode_words(one)) for one in listed[:RECIPIENTS_MAX]]
    if recipients:
        metadata["recipients"] = recipients
    if date := _field(block, lowered, b"\ndate:"):
        metadata["date"] = date_of(_clean(_encoded_text(date)))
    if identifier := _field(block, lowered, b"\nmessage-id:"):
        metadata["message_id"] = _clean(_encoded_text(identifier))
    if parent := _field(block, lowered, b"\nin-reply-to:"):
        metadata["in_reply_to"] = _clean(_encoded_text(parent))
    return metadata


def _header_block(message: bytes) -> bytes:
    """Return the header with a line feed before each field, lines ended by LF or CRLF."""
    head = message[:HEADER_BYTES_MAX]
    if b"\n" not in head:
        head = head.replace(b"\r", b"\n")
    if head.startswith((b"\n", b"\r\n")):
        return b""
    ends = [place for place in (head.find(b"\n\n"), head.find(b"\n\r\n")) if place >= 0]
    block = b"\n" + (head[: min(ends)] if ends else head)
    if b" :" in block or b"\t:" in block:
        block = _SPACED_COLON.sub(rb"\n\1:", block)
    return block


def _field(block: bytes, lowered: bytes, name: bytes) -> bytes:
    start = lowered.find(name)
    if start < 0:
        return b""
    start += len(name)
    end = block.find(b"\n", start)
    while end >= 0 and block[end + 1 : end + 2] in (b" ", b"\t"):
        end = block.find(b"\n", end + 1)
    value = block[start : end if end >= 0 else None]
    return value[:FIELD_BYTES_MAX].strip()


def _encoded_text(value: bytes) -> str:
    if value.isascii():
        return value.decode("ascii")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def decoded(value: bytes) -> str:
    """Return a header field's value as one line of text, its encoded words (RFC 2047) decoded."""
    return _clean(_decode_words(_encoded_text(value)))


def _decode_words(text: str) -> str:
    if "=?" not in text:
        return text
    parts: list[str] = []
    charset, pending, place = "", b"", 0
    # White space between encoded words does not count, and a character may be split between them.
    joined = _BETWEEN_WORDS.sub(r"\1", text)
    for match in _ENCODED_WORD.finditer(joined):
        content = _word_bytes(match.group(2), match.group(3))
        word_charset = match.group(1).partition("*")[0].lower()
        if match.start() > place or word_charset != charset:
            parts.append(_in_charset(pending, charset))
            parts.append(joined[place : match.start()])
            charset, pending = word_charset, b""
        pending += content
        place = match.end()
    parts.append(_in_charset(pending, charset))
    parts.append(joined[place:])
    return "".join(parts)


def _word_bytes(encoding: str, content: str) -> bytes:
    packed = content.encode("utf-8", "replace")
    if encoding in "qQ":
        return _QUOTED_BYTE.sub(lambda match: bytes((int(match.group(1), 16),)), packed.replace(b"_", b" "))
    packed = packed.rstrip(b"=")
    for padding in (b"=" * (-len(packed) % 4), b"A=="):
        try:
            return binascii.a2b_base64(packed + padding)
        except binascii.Error:
            continue
    return packed


def _in_charset(content: bytes, charset: str) -> str:
    if not content:
        return ""
    if charset.replace("-", "_") not in _REFUSED_CODECS:
        try:
            return content.decode(charset, "replace")
        except (LookupError, ValueError):
            pass
    return _encoded_text(content)


def _clean(text: str) -> str:
    """Return text as one bounded line without control characters and lone surrogates."""
    if not text.isprintable():
        text = _SURROGATE.sub("\ufffd", _CONTROL.sub(" ", text))
    text = " ".join(text.split())
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[: TEXT_CHARACTERS_MAX - 1] + "…"


clean_text = _clean
"""Other readers of tolerant text bound and clean theirs the same way."""


def split_addresses(text: str) -> list[str]:
    """Split a list of addresses at its commas, not at those in quotes, comments and angle brackets."""
    if '"' not in text and "(" not in text:
        return [part for part in (piece.strip() for piece in text.split(",")) if part]
    parts: list[str] = []
    start, depth, quoted, escaped = 0, 0, False, -1
    for match in _SPECIAL.finditer(text):
        sign, place = match.group(), match.start()
        if place == escaped:
            continue
        if sign == "\\":
            escaped = place + 1
        elif sign == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif sign == "(":
            depth += 1
        elif sign == ")":
            depth = max(0, depth - 1)
        elif sign == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def address_of(text: str) -> str:
    """Return the bare address in a decoded From field, or the whole text where none can be seen."""
    if found := _ANGLE.search(text):
        return found.group(1).strip() or text
    first = text.partition(",")[0].partition("(")[0].strip()
    return first if "@" in first else text


def date_of(text: str) -> str:
    """Return a Date field as RFC 3339 in UTC; the text itself where it is no date."""
    try:
        if match := _DATE.match(text):
            day, month, year, hour, minute, second, sign, zone_hours, zone_minutes = match.groups()
            number = _MONTHS.get(month.lower(), 0)
            leap = min(int(second), 59)
            moment = datetime(int(year), number, int(day), int(hour), int(minute), leap, tzinfo=UTC)
            offset = timedelta(hours=int(zone_hours), minutes=int(zone_minutes))
            return written(moment - offset if sign == "+" else moment + offset)
        parsed = email.utils.parsedate_to_datetime(text)
        return written(parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC))
    except (ValueError, OverflowError, TypeError, IndexError, OSError):
        return text
