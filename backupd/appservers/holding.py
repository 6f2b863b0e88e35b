# PTH: names are given relative to descriptors of directories here; Path has no calls for them.
# ruff: noqa: PTH115, PTH116
"""The holding area of a mail host: contents by digest, readable after their files were deleted or changed.

It lies at `<root>/.backupd-held/<X>/<digest>`, X being the digest's first character, mode 0700, on the file
system of the mail. A message is never rewritten under its name (Maildir), so a further hard link to its file
is enough: it costs no space, and the content stays when a mail client deletes the message. Other files may be
rewritten in place by their software: of them a copy is held, one that shares its blocks where the file system
can (FICLONE). What can't be linked after all (too many links, a file of another user) is copied too.

Every content is hashed from the very file that is linked. Whoever reads compares the digest again: what other
software rewrote in place all the same shows up there. `hold` renews the change time of what is held already,
so that `release` can spare what somebody is about to refer to.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from backupd import durable
from backupd.appservers.base import Content, Held, Released
from backupd.appservers.delivery import unique_name
from backupd.appservers.directory_reader import FileContent, ReadFile, open_current
from backupd.appservers.file_trees import COS_DIRECTORY, DIRECTORY_OF_AREA, LISTS_DIRECTORY
from backupd.appservers.opening import opened
from backupd.errors import AppServerRefused, AppServerUnavailable
from backupd.items import Area, digest_text, is_digest

AREA = ".backupd-held"
TRIED_MAX = 200
"""In so many accounts a message is looked for that can be linked."""
_ASIDE = ".new-"
_COPY_BYTES = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h
_NO_LINK = frozenset(
    {errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV, errno.ENOENT, errno.EOPNOTSUPP, errno.ENOSYS}
)
"""Where a file can't be linked: copied instead. ENOENT: it has no name any more, and is still open."""
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW


class HoldingArea:
    """The `ContentHolder` of a directory AppServer; `root` must hold no link itself."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._area = f"{root}/{AREA}"

    def __reduce__(self) -> tuple[type[HoldingArea], tuple[str]]:
        return HoldingArea, (self._root,)

    def check(self) -> None:
        """Try it out with a file of our own and with one of the mail. Raises `AppServerRefused`."""
        try:
            device = os.stat(self._root, follow_symlinks=False).st_dev
            with self._shard("0") as place:
                if os.fstat(place).st_dev != device:
                    raise _refused(f"{self._area} lies on another file system than the mail")
                self._try_link(place)
        except OSError as error:
            raise _refused(f"{self._area} can't be used: {error.strerror}") from error
        for directory in self._mail_directories():
            if os.stat(directory, follow_symlinks=False).st_dev != device:
                raise _refused(f"{directory} lies on another file system than {self._area}")
        self._try_message()

    def hold(self, content: Content) -> Held:
        """Make sure that a content stays (`ContentHolder.hold`)."""
        try:
            if isinstance(content, FileContent | ReadFile):
                with os.fdopen(open_current(content.root, content.path), "rb") as file:
                    return self._hold_file(file, may_link=content.is_fixed)
            with opened(content) as source:
                return self._hold_copy(_Source(source.read))
        except OSError as error:
            raise AppServerUnavailable(
                f"a content can't be held in {self._area}: {error.strerror}",
                hint="is there space on the mail storage, and may the service's user write there?",
            ) from error

    def make_durable(self) -> None:
        """Sync the area's file system (`ContentHolder.make_durable`)."""
        durable.step("holding.sync")
        try:
            durable.sync_file_system(Path(self._area))
        except OSError as error:
            raise AppServerUnavailable(f"{self._area} can't be synced: {error.strerror}") from error
        durable.step("holding.synced")

    def open(self, digest: str) -> BinaryIO | None:
        """Open a held content, None where it is not held. Raises `AppServerUnavailable`."""
        if not is_digest(digest):
            return None
        try:
            descriptor = os.open(self._path(digest), os.O_RDONLY | _OPEN | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise AppServerUnavailable(f"{self._path(digest)} can't be read: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return os.fdopen(descriptor, "rb")

    def contains(self, digest: str) -> bool:
        """Tell whether a content is held; it is not read."""
        try:
            return is_digest(digest) and stat.S_ISREG(
                os.stat(self._path(digest), follow_symlinks=False).st_mode
            )
        except OSError:
            return False

    def digests(self) -> Iterator[str]:
        """Yield the digest of every held content. Raises `AppServerUnavailable`."""
        for shard in self._shards():
            yield from (name for name in self._names(shard) if is_digest(name) and name[0] == shard)

    def release(self, is_needed: Callable[[str], bool], *, before: datetime) -> Released:
        """Let go of what is not needed (`ContentHolder.release`)."""
        files, size = 0, 0
        for shard in self._shards():
            with self._shard(shard) as place:
                # All are looked at first: removing one name of a file renews the change time of its others.
                looked = [(name, _facts(name, place)) for name in self._names(shard)]
                for name, facts in looked:
                    if facts is None or facts.st_ctime >= before.timestamp():
                        continue
                    if name.startswith(_ASIDE):
                        _dropped(name, place)
                    elif is_digest(name) and not is_needed(name):
                        durable.step("holding.release")
                        _dropped(name, place)
                        files += 1
                        size += facts.st_size if facts.st_nlink == 1 else 0
        return Released(contents=files, bytes=size)

    # ------------------------------------------------------------------ holding

    def _hold_file(self, file: BinaryIO, *, may_link: bool) -> Held:
        sha256 = hashlib.sha256()
        size = 0
        while piece := file.read(_COPY_BYTES):
            sha256.update(piece)
            size += len(piece)
        held = Held(digest=digest_text(sha256.digest()), size=size)
        with self._shard(held.digest[0]) as place:
            if not may_link and _renewed(place, held):
                return held
            aside = f"{_ASIDE}{unique_name()}"
            try:
                if may_link and _linked(file.fileno(), aside, place):
                    _named(aside, held, place)
                    return held
            except BaseException:
                _dropped(aside, place)
                raise
        file.seek(0)
        copied = self._hold_copy(_Source(file.read, file.fileno()))
        if copied != held:
            # The copy is true to its own digest; this one was changed between two readings.
            raise AppServerUnavailable("the content changes while it is read")
        return held

    def _hold_copy(self, source: _Source) -> Held:
        with self._shard("0") as place:
            aside = f"{_ASIDE}{unique_name()}"
            descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=place)
            try:
                with os.fdopen(descriptor, "r+b") as file:
                    held = _copied(source, file)
                with self._shard(held.digest[0]) as target:
                    if not _renewed(target, held):
                        os.rename(aside, held.digest, src_dir_fd=place, dst_dir_fd=target)
            finally:
                _dropped(aside, place)
        return held

    # ------------------------------------------------------------------- trying

    def _try_link(self, place: int) -> None:
        """Make a file, link it, remove it, and find it by its link."""
        first, second = f"{_ASIDE}{unique_name()}", f"{_ASIDE}{unique_name()}"
        descriptor = os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=place)
        try:
            _link(descriptor, second, place)
            os.unlink(first, dir_fd=place)
            os.stat(second, dir_fd=place, follow_symlinks=False)
        except OSError as error:
            raise _refused(
                f"the file system of {self._area} makes no hard links: {error.strerror}"
            ) from error
        finally:
            os.close(descriptor)
            _dropped(first, place)
            _dropped(second, place)

    def _try_message(self) -> None:
        """Link one message, if there is one: the kernel may refuse that for files of other users."""
        for directory in itertools.islice(self._mail_directories(), TRIED_MAX):
            for folder in ("cur", "new"):
                with contextlib.suppress(OSError), os.scandir(f"{directory}/{folder}") as entries:
                    found = next((one.path for one in entries if one.is_file(follow_symlinks=False)), None)
                    if found is not None:
                        self._try_linking(found)
                        return

    def _try_linking(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | _OPEN)
        except FileNotFoundError:
            return  # A mail client was quicker.
        aside = f"{_ASIDE}{unique_name()}"
        with os.fdopen(descriptor, "rb"), self._shard("0") as place:
            try:
                _link(descriptor, aside, place)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise _refused(
                        f"{path} can't be linked: {error.strerror}",
                        hint="run the daemon as the user who owns the mail, or give it CAP_FOWNER"
                        " (fs.protected_hardlinks)",
                    ) from error
            finally:
                _dropped(aside, place)

    def _mail_directories(self) -> Iterator[str]:
        """Yield the Maildir of each account, or the account's directory where it has none."""
        for domain in _directories(self._root):
            if domain.rpartition("/")[2] in (COS_DIRECTORY, LISTS_DIRECTORY):
                continue
            for account in _directories(domain):
                maildir = f"{account}/{DIRECTORY_OF_AREA[Area.MAIL]}"
                yield maildir if os.path.isdir(maildir) else account  # noqa: PTH112 - as above

    # ------------------------------------------------------------------- places

    def _path(self, digest: str) -> str:
        return f"{self._area}/{digest[0]}/{digest}"

    @contextlib.contextmanager
    def _shard(self, name: str) -> Iterator[int]:
        """Yield the descriptor of a shard's directory, which is made where it is not there."""
        path = f"{self._area}/{name}"
        flags = os.O_RDONLY | os.O_DIRECTORY | _OPEN
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            for each in (self._area, path):
                Path(each).mkdir(0o700, exist_ok=True)
            descriptor = os.open(path, flags)
        try:
            if os.readlink(f"/proc/self/fd/{descriptor}") != path:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            yield descriptor
        finally:
            os.close(descriptor)

    def _shards(self) -> list[str]:
        try:
            with os.scandir(self._area) as entries:
                return sorted(
                    entry.name
                    for entry in entries
                    if len(entry.name) == 1 and entry.is_dir(follow_symlinks=False)
                )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise AppServerUnavailable(f"{self._area} can't be listed: {error.strerror}") from error

    def _names(self, shard: str) -> list[str]:
        try:
            return sorted(os.listdir(f"{self._area}/{shard}"))  # noqa: PTH208 - names alone
        except OSError as error:
            raise AppServerUnavailable(f"{self._area}/{shard} can't be listed: {error.strerror}") from error


class _Source(NamedTuple):
    """What is copied: how it is read, and its descriptor where it is a file."""

    read: Callable[[int], bytes]
    descriptor: int = -1


def _copied(source: _Source, file: BinaryIO) -> Held:
    """Fill a new file, sharing blocks where that can be; return what it holds."""
    is_cloned = False
    if source.descriptor >= 0:
        with contextlib.suppress(OSError):
            fcntl.ioctl(file.fileno(), _FICLONE, source.descriptor)
            is_cloned = True
    sha256, size = hashlib.sha256(), 0
    while piece := file.read(_COPY_BYTES) if is_cloned else source.read(_COPY_BYTES):
        if not is_cloned:
            file.write(piece)
        sha256.update(piece)
        size += len(piece)
    file.flush()
    return Held(digest=digest_text(sha256.digest()), size=size)


def _link(descriptor: int, name: str, place: int) -> None:
    """Give an open file one more name. Raises `OSError`."""
    # With a descriptor of a directory Python calls linkat(2), which follows the link that /proc shows.
    os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=place, follow_symlinks=True)


def _linked(descriptor: int, name: str, place: int) -> bool:
    """Link an open file; return False where it has to be copied instead."""
    try:
        _link(descriptor, name, place)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


def _named(aside: str, held: Held, place: int) -> None:
    """Let a file aside become the held one; where they are one file already, only its change time is new."""
    durable.step("holding.linked")
    os.rename(aside, held.digest, src_dir_fd=place, dst_dir_fd=place)
    _dropped(aside, place)
    durable.step("holding.named")


def _renewed(place: int, held: Held) -> bool:
    """Renew the change time of a content that is held already; return whether it is."""
    aside = f"{_ASIDE}{unique_name()}"
    try:
        facts = os.stat(held.digest, dir_fd=place, follow_symlinks=False)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size != held.size:
            return False
        os.link(held.digest, aside, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return False
    _dropped(aside, place)
    return True


def _dropped(name: str, place: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place)


def _facts(name: str, place: int) -> os.stat_result | None:
    """Return what is known of a file, None where somebody was quicker: a name aside lives briefly."""
    try:
        return os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                one.path for one in entries if one.name[0] != "." and one.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def _refused(reason: str, hint: str = "") -> AppServerRefused:
    return AppServerRefused(
        f"the mail storage can't hold what is deleted: {reason}",
        hint=hint or "the mail must lie on one file system with hard links, writable for the service's user",
    )
