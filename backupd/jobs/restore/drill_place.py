"""Where a restore drill puts its scratch servers: a directory of its own, removed afterwards.

Its name says whose it is, so that what a killed drill left is removed by the next one of the same server, and
nothing else is. One that is to be kept has another name, and is the admin's to remove.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from backupd import durable
from backupd.appservers.base import AppServer
from backupd.errors import BackupdError, SpaceExhausted, UsageError
from backupd.jobs.restore.export import MakeTarget, Target

ITEM_BYTES_MIN = 4_096
"""Room that each item takes on a file system besides its content."""


class DrillPlace:
    """A directory for scratch servers. `free_bytes_min` stays free, `parent` is made where it is missing."""

    def __init__(self, parent: Path, *, server: str, operation: str, keep: bool, free_bytes_min: int) -> None:
        mark = hashlib.sha256(server.encode()).hexdigest()[:12]
        self._parent = parent
        self._left = f"drill-{mark}-"
        self.root = parent / (("kept-" if keep else "") + self._left + operation)
        self._keep = keep
        self._free_bytes_min = free_bytes_min

    def make(self) -> None:
        """Make it, after removing what killed drills left; blocks. Raises `BackupdError`."""
        try:
            self._parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in sorted(self._parent.glob(f"{self._left}*")):
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
            self.root.mkdir(mode=0o700)
        except OSError as error:
            raise BackupdError(
                f"{self.root} can't be made: {error.strerror}",
                hint="the service must be allowed to write there: see docs/restoring.md",
            ) from error

    def room_for(self, contents: int, items: int) -> bool:
        """Tell whether so many bytes in so many items fit; blocks."""
        needed = contents + items * ITEM_BYTES_MIN
        return durable.free_bytes(self.root) - needed >= self._free_bytes_min

    def need_room(self, contents: int) -> None:
        """Raise `SpaceExhausted` where an item of so many bytes does not fit; blocks."""
        if not self.room_for(contents, 1):
            raise SpaceExhausted(
                f"{self.root} has no room for an item of {contents:,} bytes: "
                f"{self._free_bytes_min >> 20:,} MB are to stay free",
                hint="give another place with scratch_path",
            )

    def server(self, name: str) -> tuple[Path, Path]:
        """Make the directories of a scratch server: its files, and what it keeps; blocks."""
        root, kept = self.root / name / "files", self.root / name / "kept"
        for directory in (root, kept):
            directory.mkdir(mode=0o700, parents=True)
        return root, kept

    def drop(self, name: str = "") -> None:
        """Remove a scratch server, or all of it, unless it is to be kept; blocks."""
        place = self.root / name if name else self.root
        if not self._keep and place.exists():
            shutil.rmtree(place)


class Scratch:
    """An AppServer that exists for a drill alone."""

    def __init__(self, place: DrillPlace, name: str, make_target: MakeTarget) -> None:
        self._place = place
        self._name = name
        self._make_target = make_target
        self._target: Target | None = None

    async def __aenter__(self) -> AppServer:
        root, kept = await asyncio.to_thread(self._place.server, self._name)
        self._target = await asyncio.to_thread(self._make_target, root, kept)
        return self._target.appserver

    async def __aexit__(self, *_: object) -> None:
        if self._target is not None:
            await asyncio.to_thread(self._target.close)


def check_parent(parent: Path, forbidden: Sequence[Path]) -> Path:
    """Return the directory that scratch servers may be put below, resolved; blocks. Raises `UsageError`.

    `forbidden` are directories that it must neither lie in nor hold: the Backup Path, the mail.
    """
    if not parent.is_absolute() or parent.is_symlink() or not parent.is_dir():
        raise UsageError(
            f"scratch_path {parent} is no absolute path of a directory", hint="make it first; a link is none"
        )
    root = parent.resolve()
    for place in forbidden:
        taken = place.resolve()
        if root.is_relative_to(taken) or taken.is_relative_to(root):
            raise UsageError(
                f"scratch_path {root} and {taken} lie in each other", hint="choose a place apart"
            )
    return root
