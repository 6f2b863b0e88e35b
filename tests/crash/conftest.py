"""What the crash tests share: one broker, and how much is to be done.

`BACKUPD_CRASHES` is the number of kills (`make crash` sets it), `BACKUPD_CRASH_SEED` replays a run that
failed; each failure names its seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.brokers import Mosquitto

CRASHES = int(os.environ.get("BACKUPD_CRASHES", "150"))
"""So many kills the tests of this folder make in all, at least."""
SEED = os.environ["BACKUPD_CRASH_SEED"]


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """Return a mosquitto that outlives every daemon here: it keeps their sessions in memory."""
    mosquitto = Mosquitto(tmp_path_factory.mktemp("mosquitto"), persistent=False)
    mosquitto.start()
    yield mosquitto
    mosquitto.kill()


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a path short enough for a socket below it."""
    return tmp_path_factory.mktemp("c")
