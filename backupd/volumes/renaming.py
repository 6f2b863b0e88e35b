"""Renaming without overwriting, on any file system: three ways, from the best to the one that always works.

renameat2(2) with RENAME_NOREPLACE is atomic; a hard link and an unlink are where that is missing (NFS, many
FUSE file systems); a look and a plain rename are where there are no links either (FAT, SMB, some FUSE file
systems). The last is safe only while nobody else gives names there, which every user of this module sees to
by a lock: a volume has one process that publishes.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Sequence

AT_FDCWD = -100
"""In place of a directory's descriptor: paths are absolute, or begin at the working directory."""
_RENAME_NOREPLACE = 1
_UNSUPPORTED = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK, errno.EXDEV}
)
_libc = ctypes.CDLL(None, use_errno=True)

Way = Callable[[int, str, int, str], bool]
"""Renames (directory, name) to (directory, name); False where the target was there. Raises `OSError`."""


def _no_renameat2(*_: object) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1


_renameat2: Callable[..., int] = getattr(_libc, "renameat2", _no_renameat2)


def by_renameat2(source_directory: int, source: str, target_directory: int, target: str) -> bool:
    """Rename in one step of the kernel."""
    done = _renameat2(
        source_directory, os.fsencode(source), target_directory, os.fsencode(target), _RENAME_NOREPLACE
    )
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    raise OSError(number, os.strerror(number), target)


def by_link(source_directory: int, source: str, target_directory: int, target: str) -> bool:
    """Give a second name, then take the first."""
    try:
        os.link(
            source, target, src_dir_fd=source_directory, dst_dir_fd=target_directory, follow_symlinks=False
        )
    except FileExistsError:
        # A server over the network may have done it and the answer was lost: then both are the same file.
        ours = os.stat(source, dir_fd=source_directory, follow_symlinks=False)
        theirs = os.stat(target, dir_fd=target_directory, follow_symlinks=False)
        if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino):
            return False
    os.unlink(source, dir_fd=source_directory)
    return True


def by_rename(source_directory: int, source: str, target_directory: int, target: str) -> bool:
    """Look, then rename."""
    try:
        os.stat(target, dir_fd=target_directory, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, target, src_dir_fd=source_directory, dst_dir_fd=target_directory)
        return True
    return False


WAYS: tuple[Way, ...] = (by_renameat2, by_link, by_rename)


def rename_new(
    source: str,
    target: str,
    *,
    source_directory: int = AT_FDCWD,
    target_directory: int = AT_FDCWD,
    ways: Sequence[Way] = WAYS,
) -> bool:
    """Rename unless the target exists; tell whether it was renamed. Raises `OSError`."""
    for way in ways[:-1]:
        try:
            return way(source_directory, source, target_directory, target)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    return ways[-1](source_directory, source, target_directory, target)
