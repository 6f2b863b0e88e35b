"""Archives: what is kept of the server itself, below `servers/`, as `.tar.gz` files that any tool reads.

Named `configuration_dd_MM_yy#HH_mm_ss.tar.gz` and `customizations_…` (UTC), as admins of this kind of product
know them. Written aside, synced, renamed: an archive is complete or absent, and what a crash left aside goes
with the next one. Reading is tolerant: a file whose name says nothing is passed over.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from backupd.durable import step, sync_directory
from backupd.errors import BackupdError, UsageError
from backupd.store.layout import Layout
from backupd.volumes.disk import full_disk_told

FILE_BYTES_MAX = 64 << 20
_MOMENT = "%d_%m_%y#%H_%M_%S"
_NAME = re.compile(r"(configuration|customizations)_(\d\d_\d\d_\d\d#\d\d_\d\d_\d\d)\.tar\.gz\Z")


class CorruptArchive(BackupdError):
    """An archive can't be read."""

    exit_status = 74


class NoArchive(BackupdError):
    """There is no archive of this kind and time."""

    exit_status = 66


class ArchiveType(StrEnum):
    """What an archive holds: the configuration as data, or the server's own files as they are."""

    CONFIGURATION = "configuration"
    CUSTOMIZATIONS = "customizations"


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """One archive; `date` is when it was made, `size` its bytes."""

    path: Path
    type: ArchiveType
    date: datetime
    size: int


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an archive. `content` is None where it was not asked for, or is none; `link` a target."""

    name: str
    size: int
    content: bytes | None = None
    link: str = ""


def archives(layout: Layout, type_: ArchiveType) -> list[Archive]:
    """Return the archives of a kind, newest first."""
    found = []
    try:
        with os.scandir(layout.servers) as entries:
            for entry in entries:
                archive = _archive_of(Path(entry.path), entry)
                if archive is not None and archive.type is type_:
                    found.append(archive)
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda archive: archive.date, reverse=True)


def is_archive_name(name: str) -> bool:
    """Tell whether a file name is one of an archive."""
    return _NAME.match(name) is not None


def archive_at(path: Path) -> Archive:
    """Return the archive at a path; its name must be one. Raises `UsageError`, `NoArchive`."""
    if not _NAME.match(path.name):
        raise UsageError(
            f"{path.name[:80]!r} is no archive's name",
            hint="valid: configuration_dd_MM_yy#HH_mm_ss.tar.gz, customizations_dd_MM_yy#HH_mm_ss.tar.gz",
        )
    archive = _archive_of(path, path)
    if archive is None:
        raise NoArchive(f"there is no archive {path}", hint="getServerConfig standard date all lists them")
    return archive


def chosen(found: Sequence[Archive], when: datetime | None) -> Archive:
    """Return the newest archive, or the newest that was there at a moment. Raises `NoArchive`."""
    for archive in found:
        if when is None or archive.date <= when:
            return archive
    oldest = f"the oldest is of {found[-1].date:%Y-%m-%d %H:%M:%S} UTC" if found else "none was made yet"
    raise NoArchive(
        "there is no such archive" + ("" if when is None else " of that time"),
        hint=f"{oldest}; doBackupCluster and doBackupServerCustomizations make one",
    )


def members(archive: Archive, *, wanted: Callable[[str], bool], bytes_max: int) -> Iterator[Member]:
    """Yield an archive's entries, the contents of the wanted ones up to a size. Raises `CorruptArchive`."""
    try:
        with tarfile.open(archive.path, "r:gz") as opened:
            for entry in opened:
                content = None
                if entry.isreg() and wanted(entry.name) and entry.size <= bytes_max:
                    file = opened.extractfile(entry)
                    content = file.read() if file is not None else None
                link = entry.linkname if entry.issym() else ""
                yield Member(name=entry.name, size=entry.size, content=content, link=link)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CorruptArchive(f"{archive.path} can't be read: {error}", hint="read another one") from error


class ArchiveWriter:
    """An archive being written; entries that can't be read are told to `unread` and left out."""

    def __init__(
        self, archive: tarfile.TarFile, moment: datetime, unread: Callable[[str, str], None]
    ) -> None:
        self._archive = archive
        self._moment = moment
        self._unread = unread
        self.entries = 0

    def add_bytes(self, name: str, content: bytes) -> None:
        """Add an entry of these bytes."""
        member = tarfile.TarInfo(name)
        member.size = len(content)
        member.mtime = int(self._moment.timestamp())
        member.mode = 0o600
        self._archive.addfile(member, io.BytesIO(content))
        self.entries += 1

    def add_file(self, name: str, path: Path, *, bytes_max: int = FILE_BYTES_MAX) -> None:
        """Add a regular file with its owner, mode and time; no link is followed."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(path, flags), "rb") as file:
                member = self._archive.gettarinfo(arcname=name, fileobj=file)
                if not member.isreg():
                    self._unread(str(path), "it is no regular file")
                    return
                if member.size > bytes_max:
                    self._unread(str(path), f"it is larger than {bytes_max} bytes")
                    return
                content = file.read(member.size)
        except OSError as error:
            self._unread(str(path), error.strerror or str(error))
            return
        # A file that grew or shrank meanwhile must not break the archive around it.
        member.size = len(content)
        self._archive.addfile(member, io.BytesIO(content))
        self.entries += 1

    def add_link(self, name: str, path: Path) -> None:
        """Add a symbolic link as such."""
        try:
            member = tarfile.TarInfo(name)
            member.type = tarfile.SYMTYPE
            member.linkname = os.readlink(path)  # noqa: PTH115 - a link's own text, as it is
        except OSError as error:
            self._unread(str(path), error.strerror or str(error))
            return
        self._archive.addfile(member)
        self.entries += 1


def is_of_today(layout: Layout, type_: ArchiveType, moment: datetime) -> bool:
    """Tell whether there is an archive of this day (UTC)."""
    day = moment.astimezone(UTC).date()
    return any(archive.date.date() == day for archive in archives(layout, type_))


def write(
    layout: Layout,
    type_: ArchiveType,
    fill: Callable[[ArchiveWriter], None],
    moment: datetime,
    *,
    unread: Callable[[str, str], None] = lambda _name, _reason: None,
) -> Path:
    """Write an archive durably; return its path. Raises `SpaceExhausted`, `OSError`, what `fill` raises."""
    directory = layout.servers
    for left in directory.glob(f".{type_}_*.new"):
        left.unlink(missing_ok=True)
    target = directory / f"{type_}_{moment.astimezone(UTC):{_MOMENT}}.tar.gz"
    aside = directory / f".{target.name}.new"
    try:
        with full_disk_told(layout.root), aside.open("wb") as file:
            aside.chmod(0o600)
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                fill(ArchiveWriter(archive, moment, unread))
            file.flush()
            os.fsync(file.fileno())
        step("archive.written")
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(directory)
    return target


def add_entries(writer: ArchiveWriter, entries: Iterable[tuple[str, Path | bytes]]) -> None:
    """Add named bytes and files."""
    for name, source in entries:
        if isinstance(source, bytes):
            writer.add_bytes(name, source)
        else:
            writer.add_file(name, source)


def _archive_of(path: Path, entry: os.DirEntry[str] | Path) -> Archive | None:
    named = _NAME.match(path.name)
    if named is None:
        return None
    try:
        date = datetime.strptime(named[2], _MOMENT).replace(tzinfo=UTC)
        if not entry.is_file() or entry.is_symlink():
            return None
        size = entry.stat().st_size
    except (ValueError, OSError):
        return None
    return Archive(path=path, type=ArchiveType(named[1]), date=date, size=size)
