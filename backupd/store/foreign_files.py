"""Files of a directory that somebody else wrote: read without following, waiting for or believing anything.

Every directory is opened by its name within the one above it, no link is followed, and nothing but regular
files is opened: a link, pipe, socket or device is told by `on_strange` and passed over, so that nothing can
be swapped for a link on the way. Nothing is ever written. Any thread may use a `Tree`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from backupd.errors import BackupPathRefused

ENTRIES_PER_DIRECTORY_MAX = 5_000_000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_STRANGE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EOPNOTSUPP})
_FORMS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
}

OnStrange = Callable[[str, str], None]
"""Is told the relative path, and what is wrong with what is there."""


class NotRegular(OSError):
    """What is there is no regular file."""


class Tree:
    """The files below `root`, which itself may be reached by links: it was named by who may decide that."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            descriptor = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
        except OSError as error:
            raise BackupPathRefused(
                f"{root} can't be read: {error.strerror}",
                hint="name the directory that holds map_<server id>, readable for the daemon's user",
                path=str(root),
            ) from error
        self.facts = os.fstat(descriptor)
        os.close(descriptor)

    @contextmanager
    def directory(self, relative: str) -> Iterator[int]:
        """Open a directory below the root, name by name. Raises `OSError`."""
        descriptor = os.open(self.root, _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            for name in relative.split("/") if relative else ():
                below = os.open(name, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def directories(self, relative: str, on_strange: OnStrange) -> list[str]:
        """Return the names of the directories in one, sorted; none where it is not there."""
        return self._names(relative, stat.S_IFDIR, on_strange)

    def files(self, relative: str, on_strange: OnStrange) -> list[str]:
        """Return the names of the regular files in a directory, sorted; none where it is not there."""
        return self._names(relative, stat.S_IFREG, on_strange)

    def _names(self, relative: str, form: int, on_strange: OnStrange) -> list[str]:
        found: list[str] = []
        try:
            with self.directory(relative) as descriptor, os.scandir(descriptor) as entries:
                for entry in entries:
                    if len(found) >= ENTRIES_PER_DIRECTORY_MAX:
                        on_strange(relative, f"it holds more than {ENTRIES_PER_DIRECTORY_MAX:,} names")
                        break
                    there = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
                    if there == form:
                        found.append(entry.name)
                    elif there not in (stat.S_IFDIR, stat.S_IFREG):
                        what = _FORMS.get(there, "something else")
                        on_strange(f"{relative}/{entry.name}".lstrip("/"), f"it is {what}: passed")
        except FileNotFoundError:
            return sorted(found)
        except OSError as error:
            on_strange(relative, why_unreadable(error))
        return sorted(found)

    def open(self, relative: str) -> BinaryIO:
        """Open a regular file below the root. Raises `NotRegular`, `OSError`; never waits."""
        place, _, name = relative.rpartition("/")
        with self.directory(place) as descriptor:
            # Looked at first, because merely opening a device may do something.
            _check_regular(os.stat(name, dir_fd=descriptor, follow_symlinks=False))
            file = os.open(name, _FILE, dir_fd=descriptor)
        try:
            _check_regular(os.fstat(file))
        except BaseException:
            os.close(file)
            raise
        return os.fdopen(file, "rb")


def why_unreadable(error: OSError) -> str:
    """Return in words why something could not be read."""
    if isinstance(error, NotRegular):
        return str(error)
    if error.errno in _STRANGE:
        return "a link or something else that is not followed stands on the way"
    return f"it can't be read: {error.strerror}"


def _check_regular(facts: os.stat_result) -> None:
    form = stat.S_IFMT(facts.st_mode)
    if form != stat.S_IFREG:
        raise NotRegular(f"it is {_FORMS.get(form, 'something else')}, no file")
