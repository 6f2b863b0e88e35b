"""A part of a file as a file: reads that begin at an offset and end after a length."""

from __future__ import annotations

import io
from typing import BinaryIO


class RangeReader(io.RawIOBase):
    """Reads `length` bytes (None: all) of an open file from `offset`; closing it closes the file."""

    def __init__(self, file: BinaryIO, offset: int, length: int | None) -> None:
        super().__init__()
        self._file = file
        self._rest = length
        file.seek(offset)

    @classmethod
    def over(cls, file: BinaryIO, offset: int, length: int | None) -> BinaryIO:
        """Return the range as a buffered file."""
        return io.BufferedReader(cls(file, offset, length))

    def readable(self) -> bool:
        """Tell that this can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: WriteableBuffer
        """Fill a buffer, at most to the end of the range; 0 at its end."""
        wanted = len(buffer) if self._rest is None else min(len(buffer), self._rest)
        content = self._file.read(wanted)
        buffer[: len(content)] = content
        if self._rest is not None:
            self._rest -= len(content)
        return len(content)

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()
