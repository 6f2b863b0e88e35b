"""Volume on a mounted path (NFS, FUSE, another disk): a mount that is gone is noticed, never written beneath.

The marker at the root (`volumes.marker`) says whose volume this is. It is looked for at each call, through a
descriptor of the root that the whole call then works with: what is written goes to the file system that bears
the marker or nowhere, also when it is unmounted or replaced in between. Between calls no descriptor is held,
but by files that `get` opened and listings under way: the path can be unmounted.

Nothing here relies on locks of the file system, on hard links or on a rename that refuses to replace; the
calls of one object exclude each other, and a volume is written by one object of one daemon.

Failure: all trouble of the place passes once its cause is gone, and work goes on by itself: `NotMounted`, a
full one (`SpaceExhausted`), a read-only one, one that does not answer. Another server's marker, or one of a
newer format, is permanent. A mount that hangs (NFS `hard`) hangs the call: mount it `soft` with a long
`timeo`, or let the caller bound its wait.
"""

from __future__ import annotations

import itertools
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from backupd import durable
from backupd.errors import VolumeError
from backupd.volumes.base import ByteSource, NameMissing, check_name
from backupd.volumes.disk import names_in
from backupd.volumes.marker import (
    CREATE,
    DIRECTORY,
    MARKER,
    READ,
    STAGED,
    Marker,
    check_owner,
    not_mounted,
    read_marker,
    remove_quietly,
    sync_names,
    told,
)
from backupd.volumes.ranges import RangeReader
from backupd.volumes.renaming import rename_new

COPY_BYTES = 1 << 20
_RUN = f"{os.getpid()}-{secrets.token_hex(6)}"
_counter = itertools.count(1)


class _SourceFailed(Exception):
    """Reading what was to be stored failed: no fault of the volume."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class MountedVolume:
    """A mounted path as a volume; any thread may call.

    `server_id` is whose volume it must be; None takes anybody's, for reading alone. `volume_id`, where it is
    given, is the one of the marker that was made when the volume was set.
    """

    def __init__(self, root: Path, *, server_id: str | None, volume_id: str = "") -> None:
        self.root = root
        self._server_id = server_id
        self._volume_id = volume_id
        self._naming = threading.Lock()

    def marker(self) -> Marker:
        """Return whose volume it is. Raises `NotMounted`, `VolumeError`."""
        with self._open("read") as directory:
            found = read_marker(directory, self.root)
            assert found is not None
            return found

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content durably; see `Volume.put`."""
        check_name(name)
        try:
            with self._open("write") as root:
                if _lstat(root, name) is not None:
                    return False
                token = self._stage(root, content)
                named = False
                try:
                    named = self._name(root, token, name)
                finally:
                    if not named:
                        remove_quietly(root, f"{STAGED}/{token}")
                return named
        except _SourceFailed as failure:
            raise failure.error from None

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open content for reading; see `Volume.get`."""
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"offset {offset} or length {length} is negative")
        check_name(name)
        with self._open("read") as root, _parent(root, name) as parent:
            if parent is None:
                raise NameMissing(name)
            try:
                descriptor = os.open(name.rpartition("/")[2], READ, dir_fd=parent)
            except FileNotFoundError:
                raise NameMissing(name) from None
        file = os.fdopen(descriptor, "rb")
        return RangeReader.over(file, offset, length) if offset or length is not None else file

    def exists(self, name: str) -> bool:
        """Tell whether content rests under a name; see `Volume.exists`."""
        check_name(name)
        with self._open("read") as root:
            return _lstat(root, name) is not None

    def size(self, name: str) -> int:
        """Return the bytes under a name; see `Volume.size`."""
        check_name(name)
        with self._open("read") as root:
            found = _lstat(root, name)
        if found is None:
            raise NameMissing(name)
        return found.st_size

    def delete(self, name: str) -> bool:
        """Remove content; see `Volume.delete`."""
        check_name(name)
        with self._open("delete from") as root, _parent(root, name) as parent:
            if parent is None:
                return False
            try:
                with self._naming:
                    os.unlink(name.rpartition("/")[2], dir_fd=parent)
            except FileNotFoundError:
                return False
            return True

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield names in order, one directory in memory at a time; see `Volume.names`."""
        start = prefix.rpartition("/")[0]
        with self._open("list") as root:
            for name in _names_below(root, start):
                if name.startswith(prefix):
                    yield name

    def remove_leftovers(self) -> int:
        """Remove what earlier runs of the daemon wrote and never named; return how many files that were."""
        removed = 0
        with self._open("delete from") as root, _directory(root, STAGED) as staged:
            for name in os.listdir(staged) if staged is not None else ():  # noqa: PTH208 - a descriptor
                if not name.startswith(f"{_RUN}."):
                    os.unlink(name, dir_fd=staged)
                    removed += 1
        return removed

    @contextmanager
    def _open(self, verb: str) -> Iterator[int]:
        """Open the root and check its marker; whatever the system says within is told as an error of ours."""
        if self._server_id is None and verb not in ("read", "list"):
            raise VolumeError(f"{self.root} is opened for reading alone", permanent=True)
        with told(self.root, verb):
            try:
                root = os.open(self.root, DIRECTORY)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise not_mounted(self.root, "there is no such directory") from error
            try:
                found = read_marker(root, self.root)
                if found is None:
                    raise not_mounted(self.root, f"it has no {MARKER}")
                check_owner(found, self._server_id, self._volume_id, self.root)
                yield root
            finally:
                os.close(root)

    def _stage(self, root: int, content: bytes | ByteSource) -> str:
        """Write content durably to a file without a name of its own; nothing is left after an error."""
        token = f"{_RUN}.{os.getpid()}.{next(_counter)}"
        with _directory(root, STAGED, make=True) as staged:
            assert staged is not None
            durable.step("mounted.write")
            descriptor = os.open(token, CREATE, 0o600, dir_fd=staged)
            try:
                try:
                    if isinstance(content, bytes):
                        durable.write_all(descriptor, content)
                    else:
                        while chunk := _read(content):
                            durable.write_all(descriptor, chunk)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)  # a network file system may tell only here that it is full
            except BaseException:
                remove_quietly(staged, token)
                raise
        durable.step("mounted.written")
        return token

    def _name(self, root: int, token: str, name: str) -> bool:
        with (
            _directory(root, name.rpartition("/")[0], make=True) as parent,
            _directory(root, STAGED) as staged,
        ):
            assert parent is not None
            assert staged is not None
            with self._naming:
                done = rename_new(
                    token, name.rpartition("/")[2], source_directory=staged, target_directory=parent
                )
            durable.step("mounted.named")
            sync_names(parent)
            return done


def _read(content: ByteSource) -> bytes:
    try:
        return content.read(COPY_BYTES)
    except OSError as error:
        raise _SourceFailed(error) from error


# --- below the root, by descriptors ----------------------------------------------------------------------


@contextmanager
def _directory(root: int, relative: str, *, make: bool = False) -> Iterator[int | None]:
    """Open a directory below the root, level by level and without links; None where there is none."""
    current = os.dup(root)
    try:
        for level in relative.split("/") if relative else ():
            try:
                below = os.open(level, DIRECTORY, dir_fd=current)
            except FileNotFoundError:
                if not make:
                    yield None
                    return
                _make_directory(current, level)
                below = os.open(level, DIRECTORY, dir_fd=current)
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


def _parent(root: int, name: str) -> AbstractContextManager[int | None]:
    return _directory(root, name.rpartition("/")[0])


def _make_directory(parent: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return
    sync_names(parent)


def _lstat(root: int, name: str) -> os.stat_result | None:
    with _directory(root, name.rpartition("/")[0]) as parent:
        if parent is None:
            return None
        try:
            found = os.stat(name.rpartition("/")[2], dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
    if not stat.S_ISREG(found.st_mode):
        raise VolumeError(f"{name} is no regular file on the volume", permanent=True, name=name)
    return found


def _names_below(root: int, relative: str) -> Iterator[str]:
    with _directory(root, relative) as directory:
        if directory is None:
            return
        found = names_in(directory)
    for entry_name in found:
        name = f"{relative}/{entry_name}" if relative else entry_name
        if name.endswith("/"):
            yield from _names_below(root, name[:-1])
        elif name != "lost+found":
            yield name
