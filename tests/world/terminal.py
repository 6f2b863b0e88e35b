"""A terminal of its own with a `backupctl` on it: keys go in, and what it shows is waited for."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
WAIT_SECONDS_MAX = 20.0
ROWS, COLUMNS = 40, 120
PROMPT = "\nbackupctl>"
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]")


class Terminal:
    """A `backupctl` on a terminal of its own."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str]) -> None:
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            # The terminal is its controlling one, so that Ctrl-C is a signal.
            ["setsid", "--ctty", sys.executable, "-m", "backupd.cli.main", *words],
            stdin=side,
            stdout=side,
            stderr=side,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environ},
        )
        os.close(side)
        self.seen = b""
        self._read_to = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def wait_for(self, *texts: str) -> None:
        """Wait until the terminal shows these texts, one after the other and after what was waited for."""
        end = time.monotonic() + WAIT_SECONDS_MAX
        for text in texts:
            while (found := ESCAPES.sub(b"", self.seen).find(text.encode(), self._read_to)) < 0:
                assert time.monotonic() < end, (text, self.seen)
                if select.select([self._main], [], [], 0.1)[0]:
                    with suppress(OSError):
                        self.seen += os.read(self._main, 65536)
            self._read_to = found + len(text)

    def answers(self, line: str, *texts: str) -> None:
        """Give a line and wait for its answer, and for the prompt below it."""
        self.type(line + "\r")
        self.wait_for(*texts, PROMPT)

    def ended(self) -> int:
        return self.process.wait(timeout=WAIT_SECONDS_MAX)

    def ended_by(self, key: str) -> int:
        """Press a key until the shell has ended: a prompt may be there a moment before keys are read."""
        for _ in range(40):
            self.type(key)
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=WAIT_SECONDS_MAX / 40)
        return self.ended()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._main)
