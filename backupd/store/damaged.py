"""Moving aside: how a repair takes a file out of the way of the backup, and puts one in its place.

Nothing is removed: a file keeps its relative path below `damaged/<moment>/`. A damaged history gets a second
name there before the mended one takes its place, so that a crash at any moment leaves either of them in
place and loses neither. Only whoever may write to the Backup Path calls this, and no link is followed.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from backupd import durable
from backupd.store.layout import DAMAGED
from backupd.volumes.disk import Directories, full_disk_told, sync_directory
from backupd.volumes.local import STAGED, LocalVolume
from backupd.volumes.renaming import rename_new

_MOMENT = "%Y%m%dT%H%M%SZ"


class Aside:
    """One repair's folder below `damaged/`, made when the first file comes."""

    def __init__(self, root: Path, now: datetime) -> None:
        self._root = root
        self._directories = Directories(root)
        self._volume = LocalVolume(root)
        name = f"{now:{_MOMENT}}"
        number = 1
        while os.path.lexists(root / DAMAGED / name):
            number += 1
            name = f"{now:{_MOMENT}}-{number}"
        self.folder = f"{DAMAGED}/{name}"
        """Relative to the Backup Path."""

    def move(self, relative: str) -> str:
        """Move a file, link or folder aside; return where it is now, relative. Raises `OSError`."""
        target = self._made(relative)
        durable.step("coherency.move")
        os.rename(self._path(relative), self._path(target))  # noqa: PTH104 - strings, as in volumes
        self._sync(target, relative)
        durable.step("coherency.moved")
        return target

    def replace(self, relative: str, content: bytes) -> str:
        """Put other content in a file's place and the file aside; return where it is now, relative."""
        target = self._made(relative)
        token = self._staged(content)
        os.link(self._path(relative), self._path(target), follow_symlinks=False)
        sync_directory(self._path(target.rpartition("/")[0]))
        durable.step("coherency.kept_aside")
        os.replace(f"{self._root}/{STAGED}/{token}", self._path(relative))  # noqa: PTH105 - strings
        self._sync(relative)
        durable.step("coherency.replaced")
        return target

    def put_new(self, relative: str, content: bytes) -> bool:
        """Write a file where there is none; False where there is one. Raises `OSError`."""
        self._directories.make(relative.rpartition("/")[0])
        token = self._staged(content)
        is_new = rename_new(f"{self._root}/{STAGED}/{token}", self._path(relative))
        if not is_new:
            self._volume.discard([token])
        self._sync(relative)
        durable.step("coherency.written_anew")
        return is_new

    def put_in_place(self, relative: str, place: str) -> bool:
        """Move a file to its place where nothing is there, else aside; tell which. Raises `OSError`."""
        if not self._directories.exists(relative.rpartition("/")[0]):
            raise FileNotFoundError(relative)
        self._directories.make(place.rpartition("/")[0])
        durable.step("coherency.move")
        if not rename_new(self._path(relative), self._path(place)):
            self.move(relative)
            return False
        self._sync(place, relative)
        durable.step("coherency.moved")
        return True

    def _made(self, relative: str) -> str:
        """Make the folder that a file goes to. Raises `OSError` where the way to the file is no folder."""
        if not self._directories.exists(relative.rpartition("/")[0]):
            raise FileNotFoundError(relative)
        target = f"{self.folder}/{relative}"
        number = 1
        while os.path.lexists(self._path(target)):
            number += 1
            target = f"{self.folder}/{relative}~{number}"
        with full_disk_told(self._root):
            for changed in self._directories.make(target.rpartition("/")[0]):
                sync_directory(changed)
        return target

    def _staged(self, content: bytes) -> str:
        token = self._volume.stage(content)
        descriptor = os.open(f"{self._root}/{STAGED}/{token}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return token

    def _sync(self, *relatives: str) -> None:
        for folder in {one.rpartition("/")[0] for one in relatives}:
            sync_directory(self._path(folder))

    def _path(self, relative: str) -> str:
        return f"{self._root}/{relative}" if relative else str(self._root)
