"""Reading the journal: entries in order, up to what is durable, and past what is damaged.

A reader knows nothing of appending: it is handed a `View`, replaced as a whole whenever more is durable, and
any thread may read. Files are opened per call; the place where the last call ended is remembered.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from backupd.coalescing import Entry
from backupd.decoding import decoder
from backupd.errors import CorruptJournal
from backupd.events import Change
from backupd.store import segments
from backupd.store.segments import HEADER_BYTES, Damage, Record

OPEN_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
_NAME = re.compile(r"(\d{20})\.journal\Z")
_decoder = decoder(Change)


class Segment(msgspec.Struct, frozen=True):
    """One file of the journal."""

    first: int
    path: Path


class View(msgspec.Struct, frozen=True):
    """What readers may see, replaced as a whole: the segments, the last durable number and where it ends."""

    segments: tuple[Segment, ...]
    last: int
    end: int

    def around(self, sequence: int) -> tuple[Segment, Segment | None]:
        """Return the segment a sequence number lies in, and the one behind."""
        place = bisect_right(self.segments, sequence, key=lambda segment: segment.first)
        following = self.segments[place] if 0 < place < len(self.segments) else None
        return self.segments[max(0, place - 1)], following


class JournalReader:
    """Reads entries of the segments in `view`."""

    def __init__(self) -> None:
        self.view = View((), 0, 0)
        self._position = (0, 0, 0)

    def read(self, after: int, entries_max: int, bytes_max: int) -> list[Entry]:
        """Return entries after a sequence number; see `Journal.read`."""
        view = self.view
        entries: list[Entry] = []
        try:
            while after < view.last and len(entries) < entries_max and bytes_max > 0:
                segment, following = view.around(after + 1)
                for record in self._records(view, segment, following, after):
                    entries.append(_entry_of(record, segment))
                    after, bytes_max = record.sequence, bytes_max - len(record.payload)
                    if len(entries) >= entries_max or bytes_max <= 0:
                        self._position = (segment.first, after + 1, record.end)
                        break
        except CorruptJournal:
            if not entries:
                raise
        return entries

    def _records(
        self, view: View, segment: Segment, following: Segment | None, after: int
    ) -> Iterator[Record]:
        """Yield a segment's records after a sequence number; raise `CorruptJournal` where one is missing."""
        if segment.first > after + 1:
            raise damage_error(segment, 0, segment.first - 1)
        limit = view.last if following is None else min(view.last, following.first - 1)
        with _opened(segment, limit) as descriptor:
            size = view.end if following is None else os.fstat(descriptor).st_size
            first, expected, offset = self._position
            if first != segment.first or expected > after + 1:
                expected, offset = segment.first, HEADER_BYTES
            for found in segments.walk(descriptor, offset=offset, end=size, expected=expected):
                if isinstance(found, Damage):
                    resume_after = limit if found.found is None else min(limit, found.found.sequence - 1)
                    if resume_after > after:
                        raise damage_error(segment, found.offset, resume_after)
                elif found.sequence > limit:
                    break
                elif found.sequence > after:
                    yield found
                    after = found.sequence
            if after < limit:
                raise damage_error(segment, size, limit)


def first_of(name: str) -> int | None:
    """Return the sequence number that a segment of this file name begins with, None for another file."""
    matched = _NAME.match(name)
    return int(matched[1]) if matched else None


def segments_of(directory: Path) -> tuple[Segment, ...]:
    """Return the segments of a directory in order."""
    found = ((_NAME.match(path.name), path) for path in directory.iterdir())
    known = (Segment(int(name[1]), path) for name, path in found if name and not path.is_symlink())
    return tuple(sorted(known, key=lambda segment: segment.first))


@contextmanager
def _opened(segment: Segment, limit: int) -> Iterator[int]:
    try:
        descriptor = os.open(segment.path, os.O_RDONLY | OPEN_FLAGS)
    except FileNotFoundError as error:
        raise damage_error(segment, 0, limit) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def damage_error(segment: Segment, offset: int, resume_after: int) -> CorruptJournal:
    """Return the error for bytes of a segment that are no record."""
    return CorruptJournal(
        f"{segment.path}: no valid record at offset {offset}",
        resume_after=resume_after,
        hint=f"the changes up to sequence {resume_after} are lost here; a scan finds what they changed",
        path=str(segment.path),
        offset=offset,
    )


def _entry_of(record: Record, segment: Segment) -> Entry:
    try:
        return Entry(record.sequence, _decoder.decode(record.payload))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptJournal(
            f"{segment.path}: the record at offset {record.offset} is no change: {error}",
            resume_after=record.sequence,
            path=str(segment.path),
            offset=record.offset,
        ) from error
