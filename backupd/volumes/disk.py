"""The local disk under volumes and store: directories that are what they seem, and what a full disk raises.

Below a root no link is followed: every directory on the way is looked at once (and remembered, up to a
bound), files are opened with O_NOFOLLOW by those who use this. Directories are made with mode 0700. A root
is owned by one user who alone may write there, so a directory looked at once stays what it was.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backupd.errors import SpaceExhausted, VolumeError

DIRECTORIES_REMEMBERED_MAX = 100_000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def full_disk_told(path: str | Path) -> Iterator[None]:
    """Raise `SpaceExhausted` in place of an `OSError` that tells of a full disk, quota or file size limit."""
    try:
        yield
    except OSError as error:
        told = full_disk(error, path)
        if told is error:
            raise
        raise told from error


def full_disk(error: OSError, path: str | Path) -> SpaceExhausted | OSError:
    """Return `SpaceExhausted` for an `OSError` that tells of a full disk, else the error itself."""
    if error.errno not in _FULL:
        return error
    return SpaceExhausted(
        f"no space to write {path}: {os.strerror(error.errno or 0)}",
        hint="free space on its file system or raise the quota; work goes on by itself",
        path=str(path),
    )


def names_in(directory: str | int) -> list[str]:
    """Return the names in a directory (path or descriptor), sorted, those of directories with a slash.

    Sorted so, a walk yields whole names in their order. Hidden names and links are left out.
    """
    with os.scandir(directory) as entries:
        return sorted(
            f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
            for entry in entries
            if not entry.name.startswith(".") and not entry.is_symlink()
        )


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Directories:
    """The directories below a root, each looked at or made once."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._real: set[str] = {""}

    def path(self, relative: str) -> str:
        """Return the path of a relative directory, whether it exists or not."""
        return f"{self.root}/{relative}" if relative else self.root

    def exists(self, relative: str) -> bool:
        """Tell whether a directory exists; raise `VolumeError` where a link or a file stands on the way."""
        if relative in self._real:
            return True
        parent = relative.rpartition("/")[0]
        if not self.exists(parent):
            return False
        path = self.path(relative)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            raise _no_directory(path)
        self._remember(relative)
        return True

    def make(self, relative: str) -> list[str]:
        """Make sure that a directory exists; return the parents (paths) that got a new name, not yet durable.

        Raises `VolumeError` where a link or a file stands on the way, `OSError`.
        """
        if relative in self._real:
            return []
        parent = relative.rpartition("/")[0]
        changed = self.make(parent)
        path = self.path(relative)
        try:
            os.mkdir(path, 0o700)  # noqa: PTH102 - strings: pathlib costs more than the system call
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise _no_directory(path) from None
        else:
            changed.append(self.path(parent))
        self._remember(relative)
        return changed

    def forget(self) -> None:
        """Look at every directory anew; for when one was removed."""
        self._real = {""}

    def _remember(self, relative: str) -> None:
        if len(self._real) >= DIRECTORIES_REMEMBERED_MAX:
            self._real = {""}
        self._real.add(relative)


def _no_directory(path: str) -> VolumeError:
    return VolumeError(
        f"{path} is no directory of its own; links are not followed here",
        permanent=True,
        hint="put the real directory in its place",
        path=path,
    )
