"""Worker processes: how they begin, and what is said where one ends before its work does."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from backupd.errors import BackupdError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class WorkerEnded(BackupdError):
    """A worker process ended before its work did: it was killed, by the kernel for want of memory mostly."""

    exit_status = os.EX_TEMPFAIL


def begin_worker() -> None:
    """Set a worker process up: it ends with its parent, and leaves signals for the service to the daemon."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def worker_end_told() -> Iterator[None]:
    """Raise `WorkerEnded` where a pool can't give or take work any more."""
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerEnded(
            "a worker process ended before its work did",
            hint="give the command again; journalctl -k says whether the kernel ended it for want of memory",
        ) from error
