"""Files on a mail host, written so that its own software may use them, and their errors as what they mean."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from backupd import durable
from backupd.errors import AppServerRefused, AppServerUnavailable

COPY_BYTES = 1 << 20
_OF_THE_ITEM = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP, errno.EFBIG})
"""What is wrong with a name or a content, and will be the next time."""


def write(
    path: str, content: BinaryIO, mtime_ns: int | None, like: os.stat_result, *, durably: bool = True
) -> os.stat_result:
    """Write a new file with the owner of another one and a date; return its facts. A failure leaves nothing.

    Whoever writes many at a time says `durably=False` and syncs them together.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        while piece := content.read(COPY_BYTES):
            durable.write_all(descriptor, piece)
        _own_like(descriptor, os.fstat(descriptor), like)
        if mtime_ns is not None:
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        if durably:
            os.fsync(descriptor)
        return os.fstat(descriptor)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def owned_like(path: Path, account: Path) -> None:
    """Give a file or directory of ours the owner of the account's directory, or at least its group.

    A file gets the group's rights on that directory too: the mail server, another user than ours mostly,
    could not open it otherwise. Where the group is none of ours, the file stays with our own.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _own_like(descriptor, os.fstat(descriptor), account.stat())
    finally:
        os.close(descriptor)


def _own_like(descriptor: int, facts: os.stat_result, like: os.stat_result) -> None:
    mode = 0o600 | like.st_mode & 0o060
    if stat.S_ISREG(facts.st_mode) and stat.S_IMODE(facts.st_mode) != mode:
        os.fchmod(descriptor, mode)
    if (facts.st_uid, facts.st_gid) == (like.st_uid, like.st_gid):
        return
    for owner in (like.st_uid, -1):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, owner, like.st_gid)
            break


@contextlib.contextmanager
def told_apart(account: Path) -> Iterator[None]:
    """Turn an `OSError` into the operating error it is."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise AppServerRefused(f"{error.filename}: {error.strerror}") from error
    except OSError as error:
        if error.errno in _OF_THE_ITEM:
            raise AppServerRefused(f"{error.filename or account}: {error.strerror}") from error
        raise AppServerUnavailable(
            f"can't write to {error.filename or account}: {error.strerror}",
            hint="may the service's user write to the mail storage, and is there space?",
        ) from error
