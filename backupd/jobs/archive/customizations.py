"""Customizations: the server's own files and folders that the configuration names, as one archive.

Regular files go in with owner, mode and time, symbolic links as links, folders by what is in them; nothing
else does. A file that can't be read or is too large is told as the operation's error and left out: the rest
is worth keeping. The Backup Path itself never goes into its own archive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from backupd.errors import ConfigError
from backupd.operations import Run, Verdict
from backupd.store import archives
from backupd.store.archives import ArchiveType, ArchiveWriter
from backupd.store.layout import Layout

ENTRIES_MAX = 1_000_000
"""More files than this are no configuration: a folder was named that holds something else."""


class Customizations:
    """Archives files; `paths` are absolute, `file_bytes_max` bounds a single one."""

    def __init__(self, layout: Layout, paths: Sequence[Path], *, file_bytes_max: int) -> None:
        self._layout = layout
        self._paths = paths
        self._file_bytes_max = file_bytes_max

    @property
    def is_configured(self) -> bool:
        """Whether there is anything to archive."""
        return bool(self._paths)

    def is_due(self, moment: datetime) -> bool:
        """Tell whether there is something to archive and no archive of today yet; blocks."""
        today = archives.is_of_today(self._layout, ArchiveType.CUSTOMIZATIONS, moment)
        return self.is_configured and not today

    def run(self, run: Run, moment: datetime) -> Verdict:
        """Write the archive; blocks. Raises `ConfigError` where nothing is configured, `SpaceExhausted`."""
        if not self.is_configured:
            raise ConfigError(
                "no files are named to archive", hint="set customizations.paths in backupd.toml, then reload"
            )

        def fill(writer: ArchiveWriter) -> None:
            for number, path in enumerate(self._files(run)):
                run.check()
                if number >= ENTRIES_MAX:
                    raise ConfigError(f"customizations.paths hold more than {ENTRIES_MAX:,} files")
                name = str(path).lstrip("/")
                if path.is_symlink():
                    writer.add_link(name, path)
                else:
                    writer.add_file(name, path, bytes_max=self._file_bytes_max)
                run.report(writer.entries, unit="files")

        path = archives.write(self._layout, ArchiveType.CUSTOMIZATIONS, fill, moment, unread=run.note_error)
        archived = run.progress.done
        return Verdict(
            sentence=f"{archived:,} files archived in {path.name}, {run.errors_total:,} could not be read",
            counts={"archived": archived, "unreadable": run.errors_total},
        )

    def _files(self, run: Run) -> Iterator[Path]:
        """Yield files and links in a fixed order; folders that can't be listed are told."""
        inside = self._layout.root
        for path in self._paths:
            if path.is_symlink() or not path.is_dir():
                yield path
                continue
            for directory, names, files in os.walk(
                path,
                onerror=lambda error: run.note_error(str(error.filename), error.strerror or "unreadable"),
            ):
                here = Path(directory)
                names[:] = sorted(name for name in names if here / name != inside)
                # os.walk lists links to folders among the folders, and does not follow them.
                links = [name for name in names if (here / name).is_symlink()]
                for name in sorted([*files, *links]):
                    yield here / name
