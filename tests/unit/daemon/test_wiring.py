"""Wiring: what may become the Backup Path."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupd.errors import ConfigError
from daemon.wiring import check_backup_path
from tests.unit.jobs.worlds import SERVER


def test_a_path_in_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A slip of the pen, or a file system that is not mounted, makes no Backup Path."""
    current = tmp_path / "current"
    with pytest.raises(ConfigError, match="mnt is no directory"):
        check_backup_path(tmp_path / "mnt" / "backup", current, SERVER)
    assert not (tmp_path / "mnt").exists()
    (tmp_path / "mnt").mkdir()
    check_backup_path(tmp_path / "mnt" / "backup", current, SERVER)
    assert (tmp_path / "mnt" / "backup").is_dir()
