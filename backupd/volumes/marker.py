"""The marker of a mounted volume: whose it is, and how trouble of the place is told.

It is made once, when the volume is set, in a directory that is empty; it is a small JSON file that stands
beside the names of the volume and is none of them. A directory without it is taken for the one beneath a
mount that is gone. Everything works below a descriptor of the root. All functions block.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from backupd import durable
from backupd.decoding import decoded
from backupd.errors import VolumeError
from backupd.volumes.disk import full_disk

MARKER = ".backupd-volume"
MARKER_FORMAT = 1
MARKER_BYTES_MAX = 64 * 1024
STAGED = ".staged"
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AWAY = frozenset({errno.ENOTCONN, errno.ESTALE, errno.EHOSTDOWN, errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN})
"""What a mount answers whose server or FUSE process is gone."""
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What file systems answer whose directories can't be synced."""
_IGNORED = frozenset({"lost+found", STAGED, ".snapshot", ".snapshots"})
"""What an empty file system may have at its root."""


class NotMounted(VolumeError):
    """The path is there but not what should be mounted on it, or it does not answer; passes by itself."""


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """Whose volume it is. `volume_id` is made with it, and tells two volumes of one server apart."""

    format: int = MARKER_FORMAT
    server_id: str
    server_name: str = ""
    volume_id: str
    since: datetime


def prepare(root: Path, *, server_id: str, server_name: str, now: datetime) -> Marker:
    """Make a directory a volume of this server, or find that it is one; blocks.

    The directory must be empty, or marked as this server's. Raises `VolumeError`, `SpaceExhausted`.
    """
    with told(root, "use"):
        directory = os.open(root, DIRECTORY)
        try:
            found = read_marker(directory, root)
            if found is not None:
                check_owner(found, server_id, "", root)
                return found
            others = sorted(set(os.listdir(directory)) - _IGNORED)  # noqa: PTH208 - a descriptor
            if others:
                raise VolumeError(
                    f"{root} is not empty: it holds {others[0][:80]!r}"
                    + (f" and {len(others) - 1} more" if len(others) > 1 else ""),
                    permanent=True,
                    hint="give a directory that this server has for itself",
                    path=str(root),
                )
            marker = Marker(
                server_id=server_id, server_name=server_name, volume_id=secrets.token_hex(16), since=now
            )
            _write_marker(directory, marker)
            return marker
        finally:
            os.close(directory)


def has_own_file_system(root: Path) -> bool:
    """Tell whether a path lies on another file system than `/`: an unmounted one does not."""
    try:
        return root.stat().st_dev != Path("/").stat().st_dev
    except OSError:
        return False


def read_marker(root: int, path: Path) -> Marker | None:
    """Return the marker of an open root, None where there is none. Raises `OSError`, `VolumeError`."""
    try:
        descriptor = os.open(MARKER, READ, dir_fd=root)
    except FileNotFoundError:
        return None
    try:
        content = os.read(descriptor, MARKER_BYTES_MAX)
    finally:
        os.close(descriptor)
    try:
        return decoded(content, Marker)
    except msgspec.DecodeError as error:
        raise VolumeError(
            f"the marker {path / MARKER} can't be read: {error}",
            permanent=True,
            hint="bring it back from a copy, or set the volume anew on an empty directory",
            path=str(path),
        ) from error


def _write_marker(root: int, marker: Marker) -> None:
    aside = f"{MARKER}.new"
    remove_quietly(root, aside)
    descriptor = os.open(aside, CREATE, 0o600, dir_fd=root)
    try:
        durable.write_all(descriptor, msgspec.json.format(msgspec.json.encode(marker)) + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    durable.step("mounted.marker_written")
    os.rename(aside, MARKER, src_dir_fd=root, dst_dir_fd=root)
    sync_names(root)


def check_owner(marker: Marker, server_id: str | None, volume_id: str, path: Path) -> None:
    """Raise unless a marker is of this server and, where one is named, this volume."""
    if marker.format > MARKER_FORMAT:
        raise VolumeError(
            f"{path} has the format {marker.format}, this version knows {MARKER_FORMAT}",
            permanent=True,
            hint="install the newer version that made it",
            path=str(path),
        )
    if server_id is not None and marker.server_id != server_id:
        raise VolumeError(
            f"{path} is the volume of another server: {marker.server_name or marker.server_id}",
            permanent=True,
            hint="give each server a directory of its own",
            path=str(path),
            server=marker.server_id,
        )
    if volume_id and marker.volume_id != volume_id:
        raise not_mounted(path, "another volume of this server is there")


def not_mounted(path: Path, found: str) -> NotMounted:
    """Return the error for a path that does not have what should be there."""
    return NotMounted(
        f"{path} is not mounted: {found}",
        hint=f"mount it (mount {path}; findmnt {path} shows what is there); work goes on by itself",
        path=str(path),
    )


@contextmanager
def told(path: Path, verb: str) -> Iterator[None]:
    """Raise an error of ours, with the way out, in place of one of the system."""
    try:
        yield
    except OSError as error:
        full = full_disk(error, path)
        if full is not error:
            raise full from error
        reason = os.strerror(error.errno or errno.EIO)
        if error.errno in _AWAY:
            raise not_mounted(path, reason) from error
        raise VolumeError(
            f"cannot {verb} {path}: {reason}",
            permanent=error.errno in (errno.ELOOP, errno.ENOTDIR),
            hint=_HINTS.get(
                error.errno or 0, "the system's log (dmesg) may tell more; work goes on by itself"
            ),
            path=str(path),
        ) from error


_HINTS = {
    errno.EROFS: "it is mounted read-only, often after an error of its disk: see dmesg, repair, then "
    "mount -o remount,rw; work goes on by itself",
    errno.EACCES: "it must be readable and writable for the daemon's user; work goes on by itself",
    errno.EPERM: "it must be readable and writable for the daemon's user; work goes on by itself",
    errno.ELOOP: "put the real directory in place of the link",
    errno.ENOTDIR: "put a real directory in place of the link or file",
    errno.ENOENT: "the directory does not exist: make it, or mount what should be there",
}


def sync_names(directory: int) -> None:
    """Make the names in a directory durable, where the file system can. Raises `OSError`."""
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def remove_quietly(directory: int, name: str) -> None:
    """Remove a file that was not meant to stay; another error has led here and is the one that is told."""
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        return
