"""Processes that are forked to do one thing, and killed while they do it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

from backupd import durable


def forked(work: Callable[[], object], observer: Callable[[str], None] | None = None) -> int:
    """Start work in a process of its own, with an observer of its durable steps; return its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        durable.observe_steps(observer)
        work()
        code = 0
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a process; return how it ended, as `waitstatus_to_exitcode` does."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killer(step: str, occurrence: int) -> Callable[[str], None]:
    """Return an observer that kills its process at a step."""
    counts: Counter[str] = Counter()

    def observe(name: str) -> None:
        counts[name] += 1
        if name == step and counts[name] == occurrence:
            os.kill(os.getpid(), signal.SIGKILL)

    return observe


def counted(work: Callable[[], object]) -> Counter[str]:
    """Do work in this process; return how often it passes each step."""
    counts: Counter[str] = Counter()
    durable.observe_steps(lambda name: counts.update([name]))
    try:
        work()
    finally:
        durable.observe_steps(None)
    return counts


def occurrences(count: int) -> list[int]:
    """Return the first time a step is passed, one in the midst, and the last."""
    return sorted({1, (count + 1) // 2, count})
