"""The daily configuration dump: one archive a day under `servers/`, to set a server up again by.

Named `configuration_dd_MM_yy#HH_mm_ss.tar.gz` (UTC), as admins of this kind of product know it. Written
aside, synced, renamed; what a crash left aside goes with the next one.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from backupd.durable import step, sync_directory
from backupd.store.layout import Layout

FILE_BYTES_MAX = 64 << 20


def write_configuration(
    layout: Layout, entries: Iterable[tuple[str, Path | bytes]], moment: datetime
) -> Path | None:
    """Write today's archive unless there is one; return its path. Vanished files are left out."""
    directory = layout.servers
    for left in directory.glob(".configuration_*.new"):
        left.unlink(missing_ok=True)
    day = moment.strftime("configuration_%d_%m_%y#")
    if any(path.name.startswith(day) for path in directory.iterdir()):
        return None
    target = directory / f"{day}{moment:%H_%M_%S}.tar.gz"
    aside = directory / f".{target.name}.new"
    try:
        _write(aside, entries, moment)
        step("configuration.written")
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(directory)
    return target


def _write(path: Path, entries: Iterable[tuple[str, Path | bytes]], moment: datetime) -> None:
    with path.open("wb") as file:
        path.chmod(0o600)
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, source in entries:
                content = source if isinstance(source, bytes) else _content_of(source)
                if content is None:
                    continue
                member = tarfile.TarInfo(name)
                member.size = len(content)
                member.mtime = int(moment.timestamp())
                member.mode = 0o600
                archive.addfile(member, io.BytesIO(content))
        file.flush()
        os.fsync(file.fileno())


def _content_of(path: Path) -> bytes | None:
    try:
        if not path.is_file() or path.is_symlink() or path.stat().st_size > FILE_BYTES_MAX:
            return None
        return path.read_bytes()
    except OSError:
        return None
