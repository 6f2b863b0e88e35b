"""What tests of the console share: a small daemon in a process of its own, one for all of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def service_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a daemon in another process; yield its socket."""
    place = tmp_path_factory.mktemp("run") / "control.sock"
    daemon = subprocess.Popen(
        [sys.executable, "-m", "tests.world.service", str(place)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert daemon.stdout is not None
    while b'{"socket"' not in daemon.stdout.readline():
        assert daemon.poll() is None
    yield str(place)
    daemon.terminate()
    daemon.wait()
    daemon.stdout.close()
