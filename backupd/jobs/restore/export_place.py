"""The place of an export: which directory may become one, and what an export keeps there for going on.

An empty directory may, and one that an export of the same server and moment began. What an export needs to
be given again lies in `.backupd-export` there: whose it is and of which moment, which items were put already,
and the ids of files. Names with a leading dot are passed over by whoever reads the layout; the folder can be
removed once the export is whole.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from backupd import durable
from backupd.clock import written
from backupd.decoding import decoded
from backupd.errors import BackupdError, UsageError

KEPT = ".backupd-export"
MARKER = "export.json"
MARKER_BYTES_MAX = 1 << 16
FORMAT = 1


class ExportRefused(BackupdError):
    """The directory must not become an export; the message says why."""

    exit_status = 73


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """What an export says of itself: the server, the moment it shows, and how it went."""

    format: int = FORMAT
    server: str
    name: str = ""
    moment: datetime
    begun: datetime
    ended: datetime | None = None
    verdict: str = ""


class ExportPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that may take an export; `marker` is that of an earlier one."""

    root: Path
    marker: Marker | None

    @property
    def kept(self) -> Path:
        """Where the export keeps what it needs to go on."""
        return self.root / KEPT

    def moment(self, wanted: datetime | None, now: datetime, server: str) -> datetime:
        """Return the moment to export: that of an export begun before.

        Raises `ExportRefused`, `UsageError`.
        """
        if wanted is not None and wanted > now:
            raise UsageError(f"{written(wanted)} is in the future", hint="give a moment that has been")
        if self.marker is None:
            return now if wanted is None else wanted
        if self.marker.server != server:
            raise ExportRefused(
                f"{self.root} holds an export of another server ({self.marker.server})",
                hint="export into an empty directory",
            )
        if wanted is not None and wanted != self.marker.moment:
            raise ExportRefused(
                f"{self.root} holds an export of another moment ({written(self.marker.moment)})",
                hint="leave date out to go on with that one, or export into an empty directory",
            )
        return self.marker.moment

    def keep(self, marker: Marker) -> None:
        """Keep what the export says of itself, durably."""
        self.kept.mkdir(mode=0o700, exist_ok=True)
        durable.replace_file(self.kept / MARKER, msgspec.json.format(msgspec.json.encode(marker)) + b"\n")
        durable.sync_directory(self.root)


def export_place(destination: Path, forbidden: Sequence[Path]) -> ExportPlace:
    """Return the place that a directory is or may become; changes nothing. Raises `ExportRefused`.

    `forbidden` are directories that an export must neither lie in nor hold: the Backup Path, the mail.
    """
    if not destination.is_absolute():
        raise ExportRefused(f"{destination} is no absolute path", hint="write the whole path")
    if destination.is_symlink():
        raise ExportRefused(f"{destination} is a link", hint="give the directory itself")
    root = destination.resolve()
    for place in forbidden:
        taken = place.resolve()
        if root.is_relative_to(taken) or taken.is_relative_to(root):
            raise ExportRefused(f"{root} and {taken} lie in each other", hint="export to a place apart")
    try:
        with os.scandir(root) as entries:
            is_empty = next(entries, None) is None
    except FileNotFoundError:
        return ExportPlace(root=root, marker=None)
    except OSError as error:
        raise ExportRefused(f"{root} can't be used: {error.strerror}") from error
    return ExportPlace(root=root, marker=None if is_empty else _marker(root))


def make_place(place: ExportPlace) -> None:
    """Make the directory and its parents where they are missing. Raises `ExportRefused`."""
    try:
        place.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.kept.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ExportRefused(
            f"{place.root} can't be made: {error.strerror}",
            hint="the service must be allowed to write there: see docs/restoring.md",
        ) from error


def _marker(root: Path) -> Marker:
    file = root / KEPT / MARKER
    try:
        if (root / KEPT).is_symlink():
            raise ExportRefused(f"{root / KEPT} is a link")
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            marker = decoded(opened.read(MARKER_BYTES_MAX), Marker)
    except FileNotFoundError as error:
        raise ExportRefused(
            f"{root} is not empty, and no export began it", hint="export into an empty directory"
        ) from error
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ExportRefused(f"{file} can't be read: {error}") from error
    if marker.format != FORMAT:
        raise ExportRefused(f"{root} holds an export of format {marker.format}, {FORMAT} is known here")
    return marker
