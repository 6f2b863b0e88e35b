"""Rivals: restic and borg on the same tree, with their own defaults of durability and our compression.

Each keeps repository, cache and configuration below the place it is given. Making the repository is not
measured. Only the command itself is timed, from start to end of its process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Protocol


class Rival(Protocol):
    """A backup program with a fresh repository."""

    name: str

    def backup(self, tree: Path) -> float:
        """Back a tree up; return the seconds it took."""
        ...


def missing(program: str) -> str:
    """Return why a program can't be compared with, empty if it can."""
    package = {"borg": "borgbackup"}.get(program, program)
    return "" if shutil.which(program) else f"{program} is missing: apt-get install {package}"


class Restic:
    """restic with a local repository; its encryption can't be turned off."""

    name = "restic"

    def __init__(self, place: Path) -> None:
        place.mkdir(parents=True)
        self.repository = place / "repository"
        (place / "password").write_text("bench")
        self._environment = {
            **os.environ,
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD_FILE": str(place / "password"),
            "RESTIC_CACHE_DIR": str(place / "cache"),
        }
        _timed(["restic", "init", "--quiet"], self._environment)

    def backup(self, tree: Path) -> float:
        return _timed(["restic", "backup", "--quiet", str(tree)], self._environment)

    def restore(self, target: Path) -> float:
        """Restore what was backed up last into an empty directory; return the seconds it took."""
        return _timed(["restic", "restore", "latest", "--quiet", "--target", str(target)], self._environment)


class Borg:
    """borg without encryption."""

    name = "borg"

    def __init__(self, place: Path) -> None:
        place.mkdir(parents=True)
        self._repository = place / "repository"
        self._environment = {
            **os.environ,
            "BORG_BASE_DIR": str(place / "home"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        self._archives = 0
        _timed(["borg", "init", "--encryption", "none", str(self._repository)], self._environment)

    def backup(self, tree: Path) -> float:
        self._archives += 1
        archive = f"{self._repository}::{self._archives}"
        return _timed(["borg", "create", "--compression", "zstd,3", archive, str(tree)], self._environment)


def _timed(command: list[str], environment: dict[str, str]) -> float:
    began = time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - began
