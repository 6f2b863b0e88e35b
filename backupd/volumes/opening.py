"""Opening: a sealed content, or a part of it, as a file that gives only what was verified."""

from __future__ import annotations

import io
from typing import BinaryIO

from backupd.volumes.sealing import SEALED_CHUNK_BYTES, ContentTampered, Seal


class OpeningReader(io.RawIOBase):
    """Reads sealed chunks from `file`, beginning with chunk `number`, and gives what is in them.

    `skipped` bytes of the first chunk are left out, `length` bytes (None: all) are given. `read` raises
    `ContentTampered`. Closing it closes the file.
    """

    def __init__(
        self, file: BinaryIO, seal: Seal, *, number: int = 0, skipped: int = 0, length: int | None = None
    ) -> None:
        super().__init__()
        self._file = file
        self._seal = seal
        self._number = number
        self._skipped = skipped
        self._rest = length
        self._sealed = bytearray()
        self._ready = memoryview(b"")
        self._ended = False

    @classmethod
    def over(cls, file: BinaryIO, seal: Seal) -> BinaryIO:
        """Return the whole content as a buffered file; the header has been read from `file`."""
        return io.BufferedReader(cls(file, seal))

    def begin(self) -> bool:
        """Open the first chunk; False where nothing stands there, which vouches for nothing."""
        return self._open_next()

    def readable(self) -> bool:
        """Tell that this can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: WriteableBuffer
        """Fill a buffer with verified bytes; 0 at the end."""
        while not self._ready and not self._ended and self._rest != 0:
            if not self._open_next():
                raise ContentTampered(self._seal.name, f"it ends before chunk {self._number}")
        taken = self._ready[: len(buffer) if self._rest is None else min(len(buffer), self._rest)]
        buffer[: len(taken)] = taken
        self._ready = self._ready[len(taken) :]
        if self._rest is not None:
            self._rest -= len(taken)
        return len(taken)

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()

    def _open_next(self) -> bool:
        # One byte beyond the chunk tells that it is not the last one.
        while len(self._sealed) <= SEALED_CHUNK_BYTES:
            more = self._file.read(SEALED_CHUNK_BYTES + 1 - len(self._sealed))
            if not more:
                break
            self._sealed += more
        if not self._sealed:
            return False
        chunk = bytes(self._sealed[:SEALED_CHUNK_BYTES])
        del self._sealed[: len(chunk)]
        self._ended = not self._sealed
        opened = self._seal.opened(self._number, chunk, last=self._ended)
        self._ready = memoryview(opened)[self._skipped :]
        self._skipped = 0
        self._number += 1
        return True
