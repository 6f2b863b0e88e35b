"""Many daemons one after the other, each a process of its own that is there in a tenth of a second.

`Nursery` is the test's side of `tests.world.faulty_daemon --nursery`; `shared` is the one of this process,
made when somebody first asks. Any thread may ask for daemons. `close` ends every one that is left.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

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
        """End every daemon and the nursery; more than once does nothing."""
        if self._process.poll() is not None:
            return
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


@functools.cache
def shared() -> Nursery:
    """Return the nursery of this process, which ends with it."""
    made = Nursery()
    atexit.register(made.close)
    return made


def close_shared() -> None:
    """End the nursery of this process, if there is one, and every daemon that it made."""
    if shared.cache_info().currsize:
        shared().close()
        shared.cache_clear()
