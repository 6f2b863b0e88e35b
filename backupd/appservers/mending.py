# PTH: descriptors of directories are what names are given to here; Path has no calls for them.
"""Puts content back into a file of a mail host that lost it, without a race with its software.

The new file is written aside, with owner, modes and the date as photographed, and then changes places with
the old one in one step (renameat2(2), RENAME_EXCHANGE): a message that was renamed meanwhile, since somebody
read it, has no file of that name any more, so nothing happens, and nothing appears twice. Only then the old
one is looked at once more: is it not the one that was judged, they change places again. A file system that
can't exchange (NFS) gets a plain rename right after a last look, and where that left two files, ours goes.

A crash leaves the old file or the new one under the name, and at most a file aside that no listing shows.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from backupd import durable
from backupd.appservers.base import Examined
from backupd.appservers.delivery import unique_name
from backupd.appservers.directory_reader import open_regular, renamed_message
from backupd.appservers.file_trees import ASIDE_PREFIX
from backupd.appservers.maildir import received_of
from backupd.appservers.naming import shown
from backupd.errors import AppServerRefused, AppServerUnavailable, ContentChanged, ItemVanished
from backupd.items import digest_text

COPY_BYTES = 1 << 20
_SPOOL = "tmp"
_RENAME_EXCHANGE = 2
_CAN_NOT_EXCHANGE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_UNREADABLE = frozenset({errno.EACCES, errno.EPERM, errno.EIO, errno.EUCLEAN, errno.EBADMSG})
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW
_libc = ctypes.CDLL(None, use_errno=True)


class Old(NamedTuple):
    """The file that was judged: its path below the root and what it was like."""

    path: str
    facts: os.stat_result


def examine(root: str, path: str) -> Examined:
    """Read a file to its digest, wherever a change of flags has renamed it to. Raises `ItemVanished`.

    A file that its owner may not read counts as one that can't be read, even where we are root: the mail
    server is not.
    """
    old = _look(root, path)
    digest = None
    if old.facts.st_mode & stat.S_IRUSR:
        try:
            digest = _digest(root, old.path)
        except AppServerUnavailable as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in _UNREADABLE:
                raise
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise AppServerUnavailable(f"{shown(old.path)} can't be read: {error.strerror}") from error
    return Examined(
        size=old.facts.st_size,
        digest=digest,
        changed=received_of(old.facts.st_mtime_ns),
        version=_version(old),
    )


def replace(root: str, path: str, version: str, mtime_ns: int | None, content: BinaryIO) -> None:
    """Put content into the file that was examined. Raises `ContentChanged`, `AppServerRefused`."""
    old = _look(root, path)
    if _version(old) != version:
        raise ContentChanged(f"{shown(old.path)} was changed meanwhile", path=shown(old.path))
    directory, _, name = old.path.rpartition("/")
    try:
        with _opened(root, directory) as place, _aside_directory(root, directory, place) as aside_place:
            aside = f"{ASIDE_PREFIX}{unique_name()}"
            try:
                ours = _write(aside_place, aside, old.facts, mtime_ns, content)
                durable.step("mending.content_written")
                _exchange(aside_place, aside, place, name, _Pair(old.facts, ours))
                durable.step("mending.content_placed")
                os.fsync(place)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(aside, dir_fd=aside_place)
    except OSError as error:
        raise AppServerUnavailable(
            f"can't put the content of {shown(old.path)} back: {error.strerror}",
            hint="may the service's user write to the mail storage, and is there space?",
        ) from error


class _Pair(NamedTuple):
    """The old file and the new one."""

    old: os.stat_result
    new: os.stat_result


def _look(root: str, path: str) -> Old:
    """Return the regular file of a path, or the message that it became; its directory must be no link."""
    try:
        return Old(path, _facts(root, path))
    except FileNotFoundError:
        found = renamed_message(root, path)
    if found is not None:
        with contextlib.suppress(FileNotFoundError):
            return Old(found, _facts(root, found))
    raise ItemVanished(f"{shown(path)} is gone", path=shown(path))


def _facts(root: str, path: str) -> os.stat_result:
    directory, _, name = path.rpartition("/")
    try:
        with _opened(root, directory) as place:
            facts = os.stat(name, dir_fd=place, follow_symlinks=False)
    except (NotADirectoryError, FileNotFoundError) as error:
        raise FileNotFoundError(path) from error
    except OSError as error:
        raise AppServerUnavailable(f"{shown(path)} can't be looked at: {error.strerror}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise ItemVanished(f"{shown(path)} is no regular file of its folder", path=shown(path))
    return facts


@contextlib.contextmanager
def _opened(root: str, directory: str) -> Iterator[int]:
    """Yield a descriptor of a directory that is reached by no link."""
    descriptor = os.open(f"{root}/{directory}", os.O_RDONLY | os.O_DIRECTORY | _OPEN)
    try:
        if os.readlink(f"/proc/self/fd/{descriptor}") != f"{root}/{directory}":  # noqa: PTH115 - see above
            raise ItemVanished(f"{shown(directory)} is reached by a link", path=shown(directory))
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _aside_directory(root: str, directory: str, place: int) -> Iterator[int]:
    """Yield where a file is written aside: a Maildir's `tmp`, which its server clears; else its own place."""
    folder, _, last = directory.rpartition("/")
    with contextlib.ExitStack() as stack:
        aside = place
        if last in ("cur", "new"):
            with contextlib.suppress(OSError, ItemVanished):
                aside = stack.enter_context(_opened(root, f"{folder}/{_SPOOL}"))
        yield aside


def _digest(root: str, path: str) -> str:
    descriptor, _ = open_regular(root, path)
    sha256 = hashlib.sha256()
    with os.fdopen(descriptor, "rb") as file:
        while piece := file.read(COPY_BYTES):
            sha256.update(piece)
    return digest_text(sha256.digest())


def _version(old: Old) -> str:
    facts = old.facts
    numbers = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    return f"{shown(old.path)}\0{'/'.join(map(str, numbers))}"


def _write(
    place: int, name: str, old: os.stat_result, mtime_ns: int | None, content: BinaryIO
) -> os.stat_result:
    """Write the new file with the owner and the modes of the old one; its owner may read and write it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN
    descriptor = os.open(name, flags, 0o600, dir_fd=place)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file, COPY_BYTES)
        file.flush()
        made = os.fstat(descriptor)
        if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
            try:
                os.fchown(descriptor, old.st_uid, old.st_gid)
            except PermissionError as error:
                raise AppServerRefused(
                    f"the file is of user {old.st_uid} and group {old.st_gid}, and would become another's",
                    hint="run the daemon as root, or as the user who owns the mail",
                ) from error
        mode = stat.S_IMODE(old.st_mode)
        os.fchmod(descriptor, mode if mode & stat.S_IRUSR else mode | stat.S_IRUSR | stat.S_IWUSR)
        when = old.st_mtime_ns if mtime_ns is None else mtime_ns
        os.utime(descriptor, ns=(when, when))
        os.fsync(descriptor)
        return os.fstat(descriptor)


def _exchange(aside_place: int, aside: str, place: int, name: str, pair: _Pair) -> None:
    """Let the new file and the old one change places. Raises `ContentChanged` where that can't be."""
    moved = ContentChanged(f"{shown(name)} was renamed or removed meanwhile", path=shown(name))
    number = _swap(aside_place, aside, place, name)
    if number == errno.ENOENT:
        raise moved
    if number in _CAN_NOT_EXCHANGE:
        _rename(aside_place, aside, place, name, pair)
        return
    if number:
        raise OSError(number, os.strerror(number), name)
    if _is_same(os.stat(aside, dir_fd=aside_place, follow_symlinks=False), pair.old):
        return
    # Somebody wrote in the last moment. Theirs gets its name back; the file aside is ours again then.
    if _swap(aside_place, aside, place, name) != 0:
        with contextlib.suppress(FileExistsError):
            os.link(aside, name, src_dir_fd=aside_place, dst_dir_fd=place, follow_symlinks=False)
    raise ContentChanged(f"{shown(name)} was changed meanwhile", path=shown(name))


def _rename(aside_place: int, aside: str, place: int, name: str, pair: _Pair) -> None:
    try:
        latest = os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        latest = None
    if latest is None or not _is_same(latest, pair.old):
        raise ContentChanged(f"{shown(name)} was changed meanwhile", path=shown(name))
    os.rename(aside, name, src_dir_fd=aside_place, dst_dir_fd=place)
    if not _is_left(place, pair.old.st_ino):
        return
    # The old one got another name between look and rename, and is there under that: ours would be a second.
    with contextlib.suppress(FileNotFoundError):
        if os.stat(name, dir_fd=place, follow_symlinks=False).st_ino == pair.new.st_ino:
            os.unlink(name, dir_fd=place)
    raise ContentChanged(f"{shown(name)} was renamed meanwhile", path=shown(name))


def _is_left(place: int, inode: int) -> bool:
    with os.scandir(place) as entries:
        return any(entry.inode() == inode for entry in entries)


def _is_same(found: os.stat_result, old: os.stat_result) -> bool:
    """Tell whether a file is the one that was judged; its change time is not asked: renames change it."""
    return (found.st_ino, found.st_size, found.st_mtime_ns) == (old.st_ino, old.st_size, old.st_mtime_ns)


def _no_renameat2(*_: object) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1


_renameat2: Callable[..., int] = getattr(_libc, "renameat2", _no_renameat2)


def _swap(aside_place: int, aside: str, place: int, name: str) -> int:
    """Exchange two names; return 0, or the number of the error."""
    done = _renameat2(aside_place, os.fsencode(aside), place, os.fsencode(name), _RENAME_EXCHANGE)
    return 0 if done == 0 else ctypes.get_errno()
