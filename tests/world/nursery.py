"""Many daemons one after the other, each a process of its own that is there in a tenth of a second.

`Nursery` is the test's side of `tests.world.faulty_daemon --nursery`; `NurseryDaemon` is a `Daemon` that it
starts. Any thread may ask for daemons. `close` ends every one that is left.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from tests.world.daemons import Daemon
from tests.world.faulty_daemon import Request, Said

START_SECONDS_MAX = 20.0


class Life:
    """One process of the nursery; the part of `subprocess.Popen` that `Daemon` needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("backupd", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self, status: int) -> None:
        self.returncode = os.waitstatus_to_exitcode(status)
        self._ended.set()


class Nursery:
    """The process that makes daemons."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.world.faulty_daemon", "--nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )
        self._asking = threading.Lock()
        self._born: queue.Queue[Life] = queue.Queue()
        self._lives: dict[int, Life] = {}
        self._reader = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._reader.start()

    def start(self, request: Request) -> Life:
        """Make a daemon."""
        assert self._process.stdin is not None
        with self._asking:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.flush()
            return self._born.get(timeout=START_SECONDS_MAX)

    def close(self) -> None:
        """End every daemon and the nursery."""
        for life in list(self._lives.values()):
            if life.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(life.pid, signal.SIGKILL)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._reader.join(10)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = msgspec.json.decode(line, type=Said)
            if said.status is None:
                life = self._lives[said.pid] = Life(said.pid)
                self._born.put(life)
            else:
                self._lives.pop(said.pid).end(said.status)


class NurseryDaemon(Daemon):
    """A daemon that a nursery starts; everything else as in `Daemon`."""

    def __init__(self, nursery: Nursery, place: Path, root: Path, **arguments: Any) -> None:
        super().__init__(place, root, **arguments)
        self._nursery = nursery

    def start(self, *, wait: bool = True) -> None:
        request = Request(str(self.config), str(self.log_path), self.environment)
        self.process = self._nursery.start(request)  # type: ignore[assignment]
        if wait:
            self.wait_until_answering()
