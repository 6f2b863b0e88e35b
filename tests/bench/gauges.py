"""Gauges: the memory of a process and its children, and which message files anybody opens.

Memory is read from `/proc`; openings are counted by inotify(7), which slows nobody down.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

_IN_OPEN = 0x20
_IN_ISDIR = 0x40000000
_IN_NONBLOCK = os.O_NONBLOCK
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


def resident_bytes(process: int, field: str = "VmRSS") -> int:
    """Return the resident memory of a process, `VmHWM` for its highest so far; 0 if it is gone."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def children_of(process: int) -> list[int]:
    """Return all descendants of a process."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{process}/task").iterdir():
            found += [int(one) for one in (task / "children").read_text().split()]
    except OSError:
        return []
    return found + [deeper for one in found for deeper in children_of(one)]


class MemoryWatch:
    """Samples a process with its children while open. `peak_bytes` is the highest sum seen."""

    def __init__(self, process: int, *, every_seconds: float = 0.05) -> None:
        self._process = process
        self._every_seconds = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(self._every_seconds):
            everybody = [self._process, *children_of(self._process)]
            self.peak_bytes = max(self.peak_bytes, sum(map(resident_bytes, everybody)))


class OpenedFiles:
    """Counts openings of files (not of directories) in directories, while open."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._directories = list(directories)
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = _libc.inotify_init1(_IN_NONBLOCK)
        for directory in self._directories:
            if _libc.inotify_add_watch(self._descriptor, os.fsencode(directory), _IN_OPEN) < 0:
                number = ctypes.get_errno()
                os.close(self._descriptor)
                raise OSError(number, os.strerror(number), str(directory))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def count(self) -> int:
        """Return how many files were opened since the last call."""
        time.sleep(0.05)
        opened = 0
        while True:
            try:
                read = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return opened
            place = 0
            while place < len(read):
                _, mask, _, length = _EVENT.unpack_from(read, place)
                place += _EVENT.size + length
                opened += not mask & _IN_ISDIR
