"""Journal segments: how records lie in a file, and how to find one's way past a damaged one.

A segment is a header (magic, version, first sequence, CRC-32C of these) and records: length of the payload,
CRC-32C of the payload (both 32 bits, little-endian), payload. A payload is a JSON object whose first key is
its sequence number, so that a record proves its place: sequence numbers in a segment are consecutive.

After a record that does not check, the next one that does is searched by the text every payload begins with.
No payload can hold a false record: the highest byte of a length is a control character, and JSON holds none.
Pure reading; nothing here writes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import google_crc32c

MAGIC = b"backupdJ"
VERSION = 1
PAYLOAD_BYTES_MAX = 64 << 20
"""A record's payload in bytes, at most."""
_HEADER = struct.Struct("<8sIQ")
_RECORD = struct.Struct("<II")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECK.size
RECORD_HEADER_BYTES = _RECORD.size
_MARK = b'{"sequence":'
_PAYLOAD_BYTES_MIN = len(_MARK) + 2
_NUMBER_CHARACTERS_MAX = 20
_CHUNK_BYTES = 1 << 18


class Record(NamedTuple):
    """A record that checks, and where it lies."""

    sequence: int
    offset: int
    end: int
    payload: bytes


class Damage(NamedTuple):
    """Bytes that are no record, from `offset` to the record that was found behind them (None: to the end)."""

    offset: int
    found: Record | None


class Header(NamedTuple):
    """What a header that checks says."""

    version: int
    first: int


def encode_header(first: int) -> bytes:
    """Return the header of a segment that begins with a sequence number."""
    packed = _HEADER.pack(MAGIC, VERSION, first)
    return packed + _CHECK.pack(google_crc32c.value(packed))


def decode_header(content: bytes) -> Header | None:
    """Return what a header says, or None if it does not check."""
    if len(content) < HEADER_BYTES:
        return None
    magic, version, first = _HEADER.unpack_from(content)
    (check,) = _CHECK.unpack_from(content, _HEADER.size)
    if magic != MAGIC or check != google_crc32c.value(content[: _HEADER.size]):
        return None
    return Header(version, first)


def encode_records(first: int, payloads: Sequence[bytes]) -> bytes:
    """Return records for JSON objects, numbered from `first`.

    Raises `ValueError` for what is no object or too long.
    """
    parts: list[bytes] = []
    pack, checksum = _RECORD.pack, google_crc32c.value
    for sequence, payload in enumerate(payloads, first):
        if payload[:2] != b'{"' or len(payload) > PAYLOAD_BYTES_MAX - 64:
            raise ValueError(f"no JSON object of at most {PAYLOAD_BYTES_MAX} bytes: {payload[:40]!r}")
        numbered = b'{"sequence":%d,%b' % (sequence, payload[1:])
        parts.append(pack(len(numbered), checksum(numbered)))
        parts.append(numbered)
    return b"".join(parts)


def walk(descriptor: int, *, offset: int, end: int, expected: int) -> Iterator[Record | Damage]:
    """Yield the records of a segment from an offset, and the `Damage` before one that lies behind it.

    `expected` is the sequence number of the record at `offset`. A record with another number is damage, too.
    """
    window = _Window(descriptor, end)
    while offset < end:
        record = _record_at(window, offset, end)
        if record is None or record.sequence != expected:
            found = record if record is not None and record.sequence > expected else None
            found = found or _search(window, offset + 1, end, expected)
            yield Damage(offset, found)
            if found is None:
                return
            record = found
        yield record
        offset, expected = record.end, record.sequence + 1


def is_torn(descriptor: int, offset: int, end: int) -> bool:
    """Tell whether bytes without any record behind them are what an interrupted append leaves.

    That is a record cut short or filled with zeros to the end. A whole record that does not check is not,
    nor is one that checks when its length is taken to be wrong: those were damaged after they were written.
    """
    window = _Window(descriptor, end)
    head = window.at(offset, RECORD_HEADER_BYTES)
    if len(head) < RECORD_HEADER_BYTES or window.at(end - 1, 1) == b"\0":
        return True
    length, check = _RECORD.unpack(head)
    begin = offset + RECORD_HEADER_BYTES
    return bool(begin + length > end and google_crc32c.value(window.at(begin, end - begin)) != check)


class _Window:
    """Bytes of a file up to an end, read in chunks."""

    def __init__(self, descriptor: int, end: int) -> None:
        self._descriptor = descriptor
        self._end = end
        self._start = 0
        self._chunk = b""

    def at(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset; fewer at the end."""
        length = min(length, self._end - offset)
        begin = offset - self._start
        if begin < 0 or begin + length > len(self._chunk):
            wanted = min(max(length, _CHUNK_BYTES), self._end - offset)
            self._chunk, self._start, begin = os.pread(self._descriptor, wanted, offset), offset, 0
        return self._chunk[begin : begin + length]


def _record_at(window: _Window, offset: int, end: int) -> Record | None:
    head = window.at(offset, RECORD_HEADER_BYTES)
    if len(head) < RECORD_HEADER_BYTES:
        return None
    length, check = _RECORD.unpack(head)
    begin = offset + RECORD_HEADER_BYTES
    if not _PAYLOAD_BYTES_MIN <= length <= PAYLOAD_BYTES_MAX or begin + length > end:
        return None
    payload = window.at(begin, length)
    if len(payload) != length or google_crc32c.value(payload) != check:
        return None
    sequence = _sequence_of(payload)
    return None if sequence is None else Record(sequence, offset, begin + length, payload)


def _sequence_of(payload: bytes) -> int | None:
    if not payload.startswith(_MARK):
        return None
    number = payload[len(_MARK) : len(_MARK) + _NUMBER_CHARACTERS_MAX].split(b",", 1)[0]
    return int(number) if number.isdigit() else None


def _search(window: _Window, offset: int, end: int, lowest: int) -> Record | None:
    """Return the first record at or behind an offset whose sequence is at least `lowest`."""
    place = offset + RECORD_HEADER_BYTES
    while place < end:
        chunk = window.at(place, _CHUNK_BYTES)
        begin = chunk.find(_MARK)
        if begin < 0:
            place += max(1, len(chunk) - len(_MARK) + 1)
            continue
        record = _record_at(window, place + begin - RECORD_HEADER_BYTES, end)
        if record is not None and record.sequence >= lowest:
            return record
        place += begin + 1
    return None
