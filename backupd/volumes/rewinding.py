"""Content that can be read again from its beginning, whatever it was given as.

Sending a second time, and a checksum before sending, both need this. Small content is held in memory, a file
that can be wound back is used as it is, and only a long stream that can't is kept in a temporary file.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from backupd.volumes.base import ByteSource
from backupd.volumes.disk import full_disk_told

COPY_BYTES = 1 << 20


class Rewindable:
    """Content to be read once or more often: `whole` if it is small, else `file` from `start`."""

    def __init__(self, whole: bytes | None, file: Any, start: int, size: int) -> None:
        self.whole = whole
        self.file = file
        self.start = start
        self.size = size

    def rewound(self) -> bytes | ByteSource:
        """Return the content from its beginning. Raises what the file raises."""
        if self.whole is not None:
            return self.whole
        self.file.seek(self.start)
        source: ByteSource = self.file
        return source


@contextmanager
def rewindable(content: bytes | ByteSource, whole_bytes_max: int) -> Iterator[Rewindable]:
    """Give content that can be wound back; `whole` if it is not longer than `whole_bytes_max`.

    Raises what reading `content` raises, and `SpaceExhausted` without room for a temporary file.
    """
    if isinstance(content, bytes):
        if len(content) <= whole_bytes_max:
            yield Rewindable(content, None, 0, len(content))
        else:
            yield Rewindable(None, io.BytesIO(content), 0, len(content))
        return
    head = _read_up_to(content, whole_bytes_max + 1)
    if len(head) <= whole_bytes_max:
        yield Rewindable(head, None, 0, len(head))
    elif (file := _seekable(content)) is not None:
        start = file.tell() - len(head)
        yield Rewindable(None, file, start, file.seek(0, io.SEEK_END) - start)
    else:
        with tempfile.TemporaryFile(prefix="backupd-") as kept:
            yield Rewindable(None, kept, 0, _copy(head, content, kept))


def _read_up_to(source: ByteSource, size: int) -> bytes:
    chunks: list[bytes] = []
    missing = size
    while missing > 0 and (chunk := source.read(min(missing, COPY_BYTES))):
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)


def _seekable(source: ByteSource) -> Any:
    seekable = getattr(source, "seekable", None)
    return source if seekable is not None and seekable() else None


def _copy(head: bytes, source: ByteSource, kept: BinaryIO) -> int:
    size = 0
    chunk = head
    while chunk:
        with full_disk_told(tempfile.gettempdir()):
            kept.write(chunk)
        size += len(chunk)
        chunk = source.read(COPY_BYTES)
    with full_disk_told(tempfile.gettempdir()):
        kept.flush()
    return size
