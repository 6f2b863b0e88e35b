"""Faults at durable steps of a real process: it is killed there, or the disk fails there.

The process under test calls `install`, which looks at one directory named by the environment variable
`BACKUPD_FAULTS`; without it nothing happens. The test writes the file `fault` there (`arm`), also while the
process runs, and takes it away again (`disarm`). The process appends to `seen` the name of every durable step
it passes, and to `hits` those where a fault struck: both survive the kill. Worker processes that inherit the
environment take part, each counting for itself.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from backupd import durable

VARIABLE = "BACKUPD_FAULTS"
KILL = "kill"
"""Everything ends: the daemon and its workers, as in a crash of the service."""
KILL_ALONE = "kill alone"
"""Only the process that came to the step ends: a worker, say."""


class Fault(msgspec.Struct, frozen=True):
    """What happens at a step, from its `occurrence` on: an action above, or the name of an errno.

    `step` may be a pattern; occurrences count the matching steps of one process since its start.
    """

    step: str
    action: str
    occurrence: int = 1


class Faults:
    """The test's side of a directory of faults."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.environment = {VARIABLE: str(directory)}

    def arm(self, fault: Fault) -> None:
        """Let a fault strike from now on, in place of an earlier one."""
        self.forget_hits()
        aside = self.directory / "aside"
        aside.write_bytes(msgspec.json.encode(fault))
        aside.replace(self.directory / "fault")

    def disarm(self) -> None:
        (self.directory / "fault").unlink(missing_ok=True)

    def hits(self) -> list[str]:
        """Return the steps where the fault struck since it was armed."""
        return self._lines("hits")

    def forget_hits(self) -> None:
        (self.directory / "hits").unlink(missing_ok=True)

    def seen(self) -> Counter[str]:
        """Return how often each step was passed since the last `forget_seen`."""
        return Counter(self._lines("seen"))

    def forget_seen(self) -> None:
        (self.directory / "seen").unlink(missing_ok=True)

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.directory / name).read_text().split("\n")[:-1]
        except FileNotFoundError:
            return []


def install() -> None:
    """Take part: called once in each process that faults may strike."""
    directory = os.environ.get(VARIABLE)
    if directory:
        durable.observe_steps(_Observer(directory))


class _Observer:
    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._plan = Path(directory, "fault")
        self._counts: Counter[str] = Counter()

    def __call__(self, name: str) -> None:
        self._note("seen", name)
        self._counts[name] += 1
        try:
            fault = msgspec.json.decode(self._plan.read_bytes(), type=Fault)
        except FileNotFoundError:
            return
        if not fnmatchcase(name, fault.step):
            return
        if (
            sum(count for one, count in self._counts.items() if fnmatchcase(one, fault.step))
            < fault.occurrence
        ):
            return
        self._note("hits", name)
        if fault.action == KILL:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        if fault.action == KILL_ALONE:
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, fault.action)
        raise OSError(number, os.strerror(number), name)

    def _note(self, file: str, name: str) -> None:
        descriptor = os.open(f"{self._directory}/{file}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{name}\n".encode())
        finally:
            os.close(descriptor)
