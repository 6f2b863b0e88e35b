"""The lock of a Backup Path: one writing process, by flock(2), with its name inside for people.

The kernel releases the lock when its process ends, however it ends; what stands in the file is only read
when the lock is held by somebody. A forked child does not keep it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import weakref
from datetime import datetime
from pathlib import Path

import msgspec

from backupd import durable
from backupd.clock import written
from backupd.decoding import decoded
from backupd.errors import BackupPathRefused

_CONTENT_BYTES_MAX = 4096
_held: weakref.WeakSet[PathLock] = weakref.WeakSet()


class Holder(msgspec.Struct, frozen=True):
    """Who holds the lock."""

    host: str
    pid: int
    boot: str
    since: str


class PathLock:
    """Holds the lock from construction to `release`."""

    def __init__(self, path: Path, now: datetime) -> None:
        """Take the lock. Raises `BackupPathRefused` with its holder where it is taken, `OSError`."""
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            told = os.pread(self._descriptor, _CONTENT_BYTES_MAX, 0)
            os.close(self._descriptor)
            self._descriptor = -1
            raise _refused(path.parent, told, error) from error
        holder = Holder(socket.gethostname(), os.getpid(), _boot_id(), written(now))
        os.ftruncate(self._descriptor, 0)
        durable.write_all(self._descriptor, msgspec.json.encode(holder) + b"\n")
        _held.add(self)

    def release(self) -> None:
        """Let the next one have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.release()


def _release_in_child() -> None:
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)


def _refused(root: Path, told: bytes, error: OSError) -> BackupPathRefused:
    if not isinstance(error, BlockingIOError):
        return BackupPathRefused(
            f"Backup Path {root} is refused: it can't be locked: {error.strerror}",
            hint="use a file system with flock(2), a local one",
            path=str(root),
        )
    try:
        holder = decoded(told, Holder)
        who = f"process {holder.pid} on {holder.host} since {holder.since}"
    except (msgspec.DecodeError, UnicodeDecodeError):
        who = "another process"
    return BackupPathRefused(
        f"Backup Path {root} is refused: it is in use by {who}",
        hint="one daemon per Backup Path: stop that one, or use another directory",
        path=str(root),
    )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
