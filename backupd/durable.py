"""Durable primitives: the few ways in which bytes reach the disk and stay there.

Every durable step calls `step(name)`: nothing in service, and the place where the crash tests kill the
process or make the disk fail. A file is replaced atomically (written aside, synced, renamed, directory
synced); many files become durable by one `sync_file_system`. All functions block: call them off the event
loop.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_observer: Callable[[str], None] | None = None


def observe_steps(observer: Callable[[str], None] | None) -> None:
    """Call `observer` with the name of each durable step; it may raise `OSError` or end the process."""
    global _observer  # noqa: PLW0603 - one switch for the whole process, set by the crash tests only
    _observer = observer


def step(name: str) -> None:
    """Mark a durable step: `<what>.<about to happen or done>`."""
    if _observer is not None:
        _observer(name)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Make everything written so far to the file system that holds `path` durable (Linux syncfs(2)).

    Raises `OSError`, also for write-back errors since the last call (Linux 5.8 and newer).
    """
    step("file_system.sync")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a small file so that readers and a crash see the old content or the new, never a part."""
    aside = path.with_name(f".{path.name}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    step("replace_file.written")
    aside.replace(path)
    step("replace_file.renamed")
    sync_directory(path.parent)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write all bytes, whatever the kernel takes at a time. Raises `OSError`."""
    rest = memoryview(content)
    while rest:
        written = os.write(descriptor, rest)
        if written == 0:
            raise OSError(errno.EIO, "write returned 0")
        rest = rest[written:]


def total_bytes(path: Path) -> int:
    """Return the size of the file system that holds `path`."""
    statistics = os.statvfs(path)
    return statistics.f_blocks * statistics.f_frsize


def free_bytes(path: Path) -> int:
    """Return the bytes an ordinary process may still write on the file system that holds `path`."""
    statistics = os.statvfs(path)
    return statistics.f_bavail * statistics.f_frsize
