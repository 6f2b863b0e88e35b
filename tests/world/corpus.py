"""The open corpus: real messages, calendars, vCards and files, where this machine has it.

It is found through the environment variable `BACKUPD_CORPUS` (the archive, or its unpacked folder), else
beside the repository. It is unpacked once per process into a temporary folder, which is removed at exit.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

CLASSES = ("mail", "ics", "vcf", "ldif", "files")
_BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "corpus" / "open.tar.xz"
WHERE = "set BACKUPD_CORPUS to open.tar.xz or its unpacked folder"


@functools.cache
def corpus_root() -> Path | None:
    """Return the folder with `mail/`, `ics/`, `vcf/`, `ldif/`, `files/`, or None where there is no corpus."""
    named = os.environ.get("BACKUPD_CORPUS")
    place = Path(named) if named else _BESIDE
    if place.is_dir():
        inside = place / "open"
        return inside if inside.is_dir() else place
    if not place.is_file():
        return None
    target = Path(tempfile.mkdtemp(prefix="backupd-corpus-"))
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    with tarfile.open(place) as archive:
        archive.extractall(target, filter="data")
    return target / "open"


def corpus_files(kind: str) -> list[Path]:
    """Return the files of one of `CLASSES`, sorted; none where there is no corpus."""
    root = corpus_root()
    if root is None:
        return []
    return sorted(path for path in (root / kind).rglob("*") if path.is_file() and not path.is_symlink())
