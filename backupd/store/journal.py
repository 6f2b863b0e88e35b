"""Journal: changes in the order they became durable, numbered without reuse, in segments of bounded size.

`append` returns once its group is synced; readers in other threads see only what is. Files are named for
their first sequence number; what a segment holds at or beyond the next one's first number does not count
(it was never acknowledged). A torn tail is cut at open. Damage is never cut: reading raises `CorruptJournal`
that names file and offset and says, as `resume_after`, where to go on; `damaged` lists what was seen at open.

After a failed write the segment is cut back to its last good end; after a failed sync the file is never
trusted again and the next append begins a new segment.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from backupd import durable
from backupd.coalescing import Entry
from backupd.errors import BackupPathRefused, CorruptJournal
from backupd.store import segments
from backupd.store.journal_reader import OPEN_FLAGS, JournalReader, Segment, View, damage_error, segments_of
from backupd.store.segments import HEADER_BYTES, Record
from backupd.volumes.disk import full_disk_told, sync_directory

SEGMENT_BYTES_MAX = 64 << 20
"""A segment is closed before it would grow beyond this (a single group may)."""


class Journal:
    """The segments of one directory. One process appends, any thread; any thread reads."""

    def __init__(
        self, directory: Path, *, writable: bool = True, segment_bytes_max: int = SEGMENT_BYTES_MAX
    ) -> None:
        """Open or begin a journal.

        Raises `BackupPathRefused` for a newer format, `SpaceExhausted`, `OSError`.
        """
        self.directory = directory
        self.damaged: list[CorruptJournal] = []
        self._segment_bytes_max = segment_bytes_max
        self._writable = writable
        self._lock = threading.Lock()
        self._descriptor = -1
        self._end = 0
        self._last = 0
        self._is_stray = False
        self._must_roll = False
        self._segments = segments_of(directory)
        self._reader = JournalReader()
        with full_disk_told(directory):
            self._open()
        self._show()

    @property
    def last_sequence(self) -> int:
        """The highest sequence number given out; 0 before the first."""
        return self._reader.view.last

    @property
    def first_sequence(self) -> int:
        """The sequence number the oldest segment begins with."""
        view = self._reader.view
        return view.segments[0].first if view.segments else view.last + 1

    def append(self, payloads: Sequence[bytes]) -> int:
        """Append encoded changes as one group, durably; return the first one's sequence number.

        Raises `SpaceExhausted` or `OSError`; then none of the group is in the journal, and the next append
        may succeed. Raises `ValueError` for what is no JSON object.
        """
        with self._lock, full_disk_told(self.directory):
            first = self._last + 1
            group = segments.encode_records(first, payloads)
            if not group:
                return first
            self._make_room(first, len(group))
            durable.step("journal.append")
            self._is_stray = True
            try:
                _write_at(self._descriptor, group, self._end)
                durable.step("journal.append_written")
            except OSError:
                self._cut_stray()
                raise
            try:
                os.fdatasync(self._descriptor)
                durable.step("journal.append_synced")
            except OSError:
                # The kernel may have dropped the pages and would report success next time.
                self._must_roll = True
                raise
            self._is_stray = False
            self._end += len(group)
            self._last = first + len(payloads) - 1
            self._show()
            return first

    def read(self, after: int, *, entries_max: int = 10_000, bytes_max: int = 16 << 20) -> list[Entry]:
        """Return entries after a sequence number, in order; none if there are none, else at least one.

        Stops at the entry that passes one of the bounds. Raises `CorruptJournal` if the very next record is
        damaged or missing: `read(error.resume_after)` goes on behind the damage.
        """
        return self._reader.read(after, entries_max, bytes_max)

    def stretches(self, after: int, *, entries_max: int = 5_000) -> Iterator[list[Entry]]:
        """Yield all entries after a sequence number, in order, by stretches; what is damaged is left out."""
        while True:
            try:
                entries = self.read(after, entries_max=entries_max)
            except CorruptJournal as error:
                after = error.resume_after
                continue
            if not entries:
                return
            after = entries[-1].sequence
            yield entries

    def begin_after(self, sequence: int) -> None:
        """Never give out a number up to this one: begin a new segment if the journal lags behind it."""
        with self._lock, full_disk_told(self.directory):
            if sequence > self._last:
                self._last = sequence
                self._must_roll = True
                self._make_room(sequence + 1, 0)
                self._show()

    def trim(self, through: int, keep_bytes: int, *, written_before: datetime | None = None) -> list[Path]:
        """Remove whole segments, oldest first, that hold nothing after `through`; return them.

        At least `keep_bytes` of the newest records stay, what was written to later than `written_before`, and
        always the segment that is appended to.
        """
        removed: list[Path] = []
        with self._lock:
            sizes = [segment.path.stat().st_size for segment in self._segments]
            kept = sum(sizes)
            while len(self._segments) > 1 and self._segments[1].first <= through + 1:
                kept -= sizes.pop(0)
                written = self._segments[0].path.stat().st_mtime
                if kept < keep_bytes or (written_before and written >= written_before.timestamp()):
                    break
                durable.step("journal.trim")
                self._segments[0].path.unlink()
                removed.append(self._segments[0].path)
                self._segments = self._segments[1:]
            self._show()
            if removed:
                sync_directory(str(self.directory))
        return removed

    def size_bytes(self) -> int:
        """Return the bytes of all segments."""
        return sum(segment.path.stat().st_size for segment in self._segments)

    def close(self) -> None:
        """Close the file; everything appended is durable already."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _open(self) -> None:
        headerless = [segment for segment in self._segments if not _has_header(segment)]
        self.damaged += [
            _header_damage(segment, following.first - 1)
            for segment, following in pairwise(self._segments)
            if segment in headerless
        ]
        if not self._segments:
            if self._writable:
                self._begin(1)
            return
        newest = self._segments[-1]
        self._last = newest.first - 1
        self._descriptor = os.open(newest.path, (os.O_RDWR if self._writable else os.O_RDONLY) | OPEN_FLAGS)
        size = os.fstat(self._descriptor).st_size
        self._end = min(size, HEADER_BYTES)
        self._walk_newest(newest, size)
        if newest in headerless and self._last < newest.first:
            self._must_roll = True  # a crash while the segment began: nothing in it was acknowledged
            return
        if newest in headerless:
            self.damaged.append(_header_damage(newest, self._last))
        if self._writable:
            # What a process that died had not synced yet is handed out from here on.
            os.fdatasync(self._descriptor)

    def _walk_newest(self, newest: Segment, size: int) -> None:
        """Find the last record, note damage before it, treat what stands behind it."""
        for found in segments.walk(self._descriptor, offset=HEADER_BYTES, end=size, expected=self._last + 1):
            if isinstance(found, Record):
                self._end, self._last = found.end, found.sequence
            elif found.found is None:
                self._treat_tail(newest, found.offset, size)
            else:
                self.damaged.append(damage_error(newest, found.offset, found.found.sequence - 1))

    def _treat_tail(self, newest: Segment, offset: int, size: int) -> None:
        if segments.is_torn(self._descriptor, offset, size):
            if self._writable:
                durable.step("journal.cut_tail")
                os.ftruncate(self._descriptor, offset)
            return
        # It was whole once, perhaps acknowledged: it stays, and the numbers it may have had stay unused.
        self._last += (size - offset) // segments.RECORD_HEADER_BYTES + 1
        self._end = size
        self._must_roll = True
        self.damaged.append(damage_error(newest, offset, self._last))

    def _make_room(self, first: int, group_bytes: int) -> None:
        """Make the open segment ready for a group: cut what failed before, or begin a new one."""
        if not self._writable or (self._descriptor < 0 and self._segments):
            raise ValueError("the journal is not open for writing")
        is_full = self._end > HEADER_BYTES and self._end + group_bytes > self._segment_bytes_max
        if self._must_roll or is_full:
            self._begin(first)
        elif self._is_stray:
            os.ftruncate(self._descriptor, self._end)
            self._is_stray = False

    def _cut_stray(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._end)
            self._is_stray = False
        except OSError:
            return  # tried again before the next append

    def _begin(self, first: int) -> None:
        segment = Segment(first, self.directory / f"{first:020d}.journal")
        durable.step("journal.begin_segment")
        if self._segments and self._segments[-1].first == first:
            # Nothing in it was ever acknowledged: a file whose sync failed is replaced by a new one.
            segment.path.unlink(missing_ok=True)
        descriptor = os.open(segment.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o600)
        try:
            durable.write_all(descriptor, segments.encode_header(first))
            durable.step("journal.segment_written")
            os.fdatasync(descriptor)
            sync_directory(str(self.directory))
            durable.step("journal.segment_begun")
        except OSError:
            os.close(descriptor)
            segment.path.unlink(missing_ok=True)
            raise
        if self._descriptor >= 0:
            os.close(self._descriptor)
        kept = tuple(old for old in self._segments if old.first < first)
        self._descriptor, self._end = descriptor, HEADER_BYTES
        self._is_stray = self._must_roll = False
        self._segments = (*kept, segment)
        self._show()

    def _show(self) -> None:
        self._reader.view = View(self._segments, self._last, self._end)


def _has_header(segment: Segment) -> bool:
    """Tell whether a segment's header checks. Raises `BackupPathRefused` for a newer version."""
    with segment.path.open("rb") as file:
        header = segments.decode_header(file.read(HEADER_BYTES))
    if header is not None and header.version > segments.VERSION:
        raise BackupPathRefused(
            f"{segment.path} has format version {header.version}, this backupd knows {segments.VERSION}",
            hint="use the newer backupd that wrote it",
            path=str(segment.path),
        )
    return header is not None and header.first == segment.first


def _header_damage(segment: Segment, last: int) -> CorruptJournal:
    message = f"{segment.path}: the header does not check (at offset 0)"
    return CorruptJournal(message, resume_after=last, path=str(segment.path), offset=0)


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
