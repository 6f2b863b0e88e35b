"""The configuration dump: whatever a server is set up again by, one archive a day below `servers/`.

It holds the AppServer's own configuration (accounts, domains, COS, lists), the daemon's file, its attributes
and its ledger. Restoring from it is an admin's work: `getServerConfig` shows what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from backupd.store import archives
from backupd.store.archives import ArchiveType, ArchiveWriter
from backupd.store.layout import Layout

ATTRIBUTES_MEMBER = "backupd/attributes.json"
CONFIGURATION_MEMBER = "backupd/backupd.toml"
"""Names of what the daemon itself puts in."""

Sources = Callable[[], Iterable[tuple[str, Path | bytes]]]
"""Names, and bytes or files; what has vanished is left out. Blocks, raises `BackupdError`, `OSError`."""


class ConfigurationDump:
    """Writes the archives."""

    def __init__(self, layout: Layout, sources: Sources) -> None:
        self._layout = layout
        self._sources = sources

    def write_daily(self, moment: datetime) -> Path | None:
        """Write today's archive unless there is one; return its path. Blocks."""
        if archives.is_of_today(self._layout, ArchiveType.CONFIGURATION, moment):
            return None
        return self.write(moment)

    def write(self, moment: datetime) -> Path:
        """Write an archive now. Raises `SpaceExhausted`, `OSError`, what the sources raise; blocks."""

        def fill(writer: ArchiveWriter) -> None:
            archives.add_entries(writer, self._sources())

        return archives.write(self._layout, ArchiveType.CONFIGURATION, fill, moment)
