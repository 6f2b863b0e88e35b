"""A place for big trees and Backup Paths whose syncs cost nothing, where the machine has one.

A sync of a disk waits for whatever else the machine writes; tests that are about something else than what
survives a crash need not wait with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

MEMORY = Path("/dev/shm")
FREE_BYTES_MIN = 2 << 30


@contextlib.contextmanager
def quick_directory() -> Iterator[Path]:
    """Make a directory in memory, or among the temporary files where there is too little; remove it."""
    is_roomy = (
        MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > FREE_BYTES_MIN
    )
    with tempfile.TemporaryDirectory(prefix="backupd-", dir=MEMORY if is_roomy else None) as name:
        yield Path(name)
