"""Clears away what a killed restore left aside: files and accounts not yet given their names.

Only for a tree that is ours alone, such as an export: in a living one somebody may be writing right now.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from backupd.appservers.file_trees import ASIDE_PREFIX, DIRECTORY_OF_AREA
from backupd.items import Area


def clear_asides(root: Path) -> None:
    """Remove them below the domains of a root; links are neither followed nor removed. Blocks."""
    maildir = DIRECTORY_OF_AREA[Area.MAIL]
    for domain in sorted(root.iterdir()):
        if domain.name.startswith(".") or domain.is_symlink() or not domain.is_dir():
            continue
        for place, directories, files in os.walk(domain, followlinks=False):
            for name in [one for one in directories if one.startswith(ASIDE_PREFIX)]:
                directories.remove(name)
                if not Path(place, name).is_symlink():
                    shutil.rmtree(Path(place, name))
            parts = Path(place).relative_to(domain).parts
            is_spool = parts[1:2] == (maildir,) and parts[-1] == "tmp"
            for name in files:
                path = Path(place, name)
                if (is_spool or name.startswith(ASIDE_PREFIX)) and stat.S_ISREG(path.lstat().st_mode):
                    path.unlink()
