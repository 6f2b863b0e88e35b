"""Volume on a local directory: one file per name, placed as the name says (`items/XX/<digest>`).

Staged content is a file in `.staged/`, named for the process that made it, so that the leftovers of dead
processes can be told and removed. Publishing syncs contents, renames them into place, then syncs the names;
few files are synced one by one, many by one syncfs(2). Directories 0700, files 0600; no link below the root
is followed.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from backupd import durable
from backupd.errors import VolumeError
from backupd.volumes.base import ByteSource, NameMissing, check_name
from backupd.volumes.disk import Directories, full_disk, full_disk_told, names_in, sync_directory
from backupd.volumes.ranges import RangeReader
from backupd.volumes.renaming import rename_new

STAGED = ".staged"
COPY_BYTES = 1 << 20
SYNCED_SINGLY_MAX = 12
"""Up to this many files are synced one by one; for more, one sync of the file system is quicker."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENDED = (b"Z", b"X")
"""States of a process in proc_pid_stat(5) that has ended, whether somebody took notice of it or not."""


class LocalVolume:
    """A directory as a volume; any thread may call, and any process `stage`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._directories = Directories(root)
        self._lock = threading.Lock()
        self._unsynced: set[str] = set()
        self._staging = threading.Lock()
        self._maker = ""
        self._maker_process = 0
        self._count = 0

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content durably; see `Volume.put`."""
        if self.exists(name):
            return False
        token = self.stage(content)
        before = self._lstat_staged(token)
        self.publish([(token, name)])
        return os.lstat(self._path(name)).st_ino == before.st_ino

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open content for reading; see `Volume.get`."""
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"offset {offset} or length {length} is negative")
        path = self._place(name)
        try:
            descriptor = os.open(path, _READ)
        except FileNotFoundError:
            raise NameMissing(name) from None
        except OSError as error:
            raise _cannot("read", path, error) from error
        file = os.fdopen(descriptor, "rb")
        if not offset and length is None:
            return file
        return RangeReader.over(file, offset, length)

    def exists(self, name: str) -> bool:
        """Tell whether content rests under a name; see `Volume.exists`."""
        try:
            self.size(name)
        except NameMissing:
            return False
        return True

    def size(self, name: str) -> int:
        """Return the bytes under a name; see `Volume.size`."""
        path = self._place(name)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            raise NameMissing(name) from None
        except OSError as error:
            raise _cannot("read", path, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise VolumeError(f"{path} is no regular file", permanent=True, path=path)
        return found.st_size

    def delete(self, name: str) -> bool:
        """Remove content; see `Volume.delete`."""
        check_name(name)
        path = self._path(name)
        try:
            self._place(name)
            with self._lock:
                os.unlink(path)  # noqa: PTH108 - strings: pathlib costs more than the system call
                self._unsynced.add(path.rpartition("/")[0])
        except (FileNotFoundError, NameMissing):
            return False
        except OSError as error:
            raise _cannot("delete", path, error) from error
        return True

    def sync_deletions(self) -> None:
        """Make what was deleted durably gone. Raises `OSError`."""
        with self._lock:
            self._sync_names()

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield names in order, one directory in memory at a time; see `Volume.names`."""
        start = prefix.rpartition("/")[0]
        if not self._directories.exists(start):
            return
        for name in self._names_below(start):
            if name.startswith(prefix):
                yield name

    def stage(self, content: bytes | ByteSource) -> str:
        """Write content to `.staged/`; see `StagingVolume.stage`. The token is the file's name there."""
        self._directories.make(STAGED)
        durable.step("volume.stage")
        token, descriptor = self._create_staged()
        path = self._staged_path(token)
        try:
            if isinstance(content, bytes):
                durable.write_all(descriptor, content)
            else:
                while chunk := content.read(COPY_BYTES):
                    durable.write_all(descriptor, chunk)
        except BaseException as error:
            os.close(descriptor)
            os.unlink(path)  # noqa: PTH108 - strings: pathlib costs more than the system call
            if isinstance(error, OSError):
                told = full_disk(error, path)
                raise (told if told is not error else _cannot("write", path, error)) from error
            raise
        os.close(descriptor)
        return token

    def publish(self, tokens: Sequence[tuple[str, str]]) -> None:
        """Sync, rename, sync names; see `StagingVolume.publish`."""
        for _, name in tokens:
            check_name(name)
        with self._lock, full_disk_told(self.root):
            try:
                staged = [pair for pair in tokens if self._is_staged(pair)]
                self._sync_contents([token for token, _ in staged])
                durable.step("volume.contents_synced")
                for token, name in staged:
                    self._rename(token, name)
                durable.step("volume.renamed")
                self._sync_names()
            except OSError as error:
                if full_disk(error, self.root) is not error:
                    raise
                raise _cannot("publish to", str(self.root), error) from error
        durable.step("volume.published")

    def discard(self, tokens: Sequence[str]) -> None:
        """Remove staged files; see `StagingVolume.discard`."""
        for token in tokens:
            try:
                os.unlink(self._staged_path(token))  # noqa: PTH108 - strings: pathlib costs more
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _cannot("delete", self._staged_path(token), error) from error

    def remove_leftovers(self) -> int:
        """Remove what dead processes staged and never published; return how many files that were."""
        if not self._directories.exists(STAGED):
            return 0
        removed = 0
        alive: dict[str, bool] = {}
        with os.scandir(self._directories.path(STAGED)) as entries:
            for entry in entries:
                maker = entry.name.rpartition(".")[0]
                if maker not in alive:
                    alive[maker] = is_alive(maker)
                if not alive[maker]:
                    os.unlink(entry.path)  # noqa: PTH108 - strings: pathlib costs more than the system call
                    removed += 1
        return removed

    def staged_file(self, token: str) -> BinaryIO:
        """Open a staged content for reading. Raises `NameMissing`."""
        try:
            return os.fdopen(os.open(self._staged_path(token), _READ), "rb")
        except FileNotFoundError:
            raise NameMissing(token) from None

    def _place(self, name: str) -> str:
        check_name(name)
        if not self._directories.exists(name.rpartition("/")[0]):
            raise NameMissing(name)
        return self._path(name)

    def _path(self, name: str) -> str:
        return f"{self._directories.root}/{name}"

    def _staged_path(self, token: str) -> str:
        if "/" in token or not token:
            raise ValueError(f"{token!r} is no token")
        return f"{self._directories.root}/{STAGED}/{token}"

    def _lstat_staged(self, token: str) -> os.stat_result:
        return os.lstat(self._staged_path(token))

    def _create_staged(self) -> tuple[str, int]:
        process = os.getpid()
        with self._staging:
            if process != self._maker_process:
                self._maker, self._maker_process = f"{process}-{_started(process)}", process
            while True:
                self._count += 1
                token = f"{self._maker}.{self._count}"
                try:
                    return token, os.open(self._staged_path(token), _CREATE, 0o600)
                except FileExistsError:
                    continue  # another volume object of this process took the number
                except OSError as error:
                    told = full_disk(error, self.root)
                    raise (told if told is not error else _cannot("write", str(self.root), error)) from error

    def _is_staged(self, pair: tuple[str, str]) -> bool:
        token, name = pair
        try:
            self._lstat_staged(token)
        except FileNotFoundError:
            if not self.exists(name):
                raise NameMissing(token) from None
            return False
        return True

    def _sync_contents(self, tokens: Sequence[str]) -> None:
        try:
            if len(tokens) > SYNCED_SINGLY_MAX:
                durable.sync_file_system(self.root)
                return
            for token in tokens:
                durable.step("volume.sync_content")
                descriptor = os.open(self._staged_path(token), _READ)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError:
            # The kernel forgets what it failed to write: a second sync would succeed and mean nothing.
            self.discard(tokens)
            raise

    def _rename(self, token: str, name: str) -> None:
        directory = name.rpartition("/")[0]
        self._unsynced.update(self._directories.make(directory))
        self._unsynced.add(self._directories.path(directory))
        durable.step("volume.rename")
        source, target = self._staged_path(token), self._path(name)
        if not rename_new(source, target):
            os.unlink(source)  # noqa: PTH108 - strings: pathlib costs more than the system call

    def _sync_names(self) -> None:
        # Names of an earlier call that failed here are still in the set, and become durable with these.
        if len(self._unsynced) > SYNCED_SINGLY_MAX:
            durable.sync_file_system(self.root)
        else:
            for directory in self._unsynced:
                durable.step("volume.sync_names")
                sync_directory(directory)
        self._unsynced.clear()

    def _names_below(self, relative: str) -> Iterator[str]:
        found = names_in(self._directories.path(relative))
        for entry_name in found:
            name = f"{relative}/{entry_name}" if relative else entry_name
            if name.endswith("/"):
                yield from self._names_below(name[:-1])
            else:
                yield name


def _started(process: int) -> int:
    """Return when a process began, in clock ticks since boot; 0 if there is none, or only its zombie."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123 - one small read
            fields = file.read().rpartition(b")")[2].split()
        return 0 if fields[0] in _ENDED else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def is_alive(maker: str) -> bool:
    """Tell whether the process that made a staged file, as the beginning of its name says, still runs."""
    process, _, started = maker.partition("-")
    return process.isdigit() and started.isdigit() and _started(int(process)) == int(started) != 0


def _cannot(verb: str, path: str, error: OSError) -> VolumeError:
    permanent = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR)
    return VolumeError(f"cannot {verb} {path}: {error.strerror}", permanent=permanent, path=path)
