"""The daemon, with faults at its durable steps; and a nursery that makes such daemons quickly.

`python -m tests.world.faulty_daemon --config FILE` is `backupd --config FILE` with `tests.world.faults`
installed, in its worker processes, too. With `--nursery` the process loads the daemon's modules once and then
makes one daemon for each request on its standard input, by fork(2): a process of its own, in a session of
its own, that begins where Python has just finished importing. What it says on its standard output are the
process ids, and how each process ended.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from datetime import timedelta
from typing import NoReturn

import msgspec

from daemon.__main__ import main
from tests.world import faults


class Request(msgspec.Struct, frozen=True):
    """A daemon that is wanted."""

    config: str
    log: str
    environment: dict[str, str]
    """All of it: nothing is inherited from the nursery."""
    impatience: dict[str, float]
    """Constants to change, as `daemon.subscription.RETRY_SECONDS_MAX`, and to how many seconds."""


class Said(msgspec.Struct, frozen=True):
    """What the nursery says: a process began, or ended (`status`: as `os.waitpid` gives it)."""

    pid: int
    status: int | None = None


def keep_nursery() -> None:
    """Make daemons until nobody asks any more."""
    import uvloop  # noqa: F401, PLC0415 - loaded here so that no daemon has to

    import daemon.process  # noqa: F401, PLC0415 - as above

    running: dict[int, int] = {}
    waiting = b""
    while True:
        ready, _, _ = select.select([0, *running], [], [])
        for descriptor in ready:
            if descriptor:
                pid = running.pop(descriptor)
                os.close(descriptor)
                _say(Said(pid, os.waitpid(pid, 0)[1]))
                continue
            received = os.read(0, 1 << 16)
            if not received:
                for pid in running.values():
                    os.killpg(pid, signal.SIGKILL)
                return
            *lines, waiting = (waiting + received).split(b"\n")
            for line in lines:
                pid = os.fork()
                if not pid:
                    _become_daemon(msgspec.json.decode(line, type=Request), list(running))
                # Before anybody hears of it, so that a kill of its group never comes too early.
                os.setpgid(pid, pid)
                running[os.pidfd_open(pid)] = pid
                _say(Said(pid))


def _become_daemon(request: Request, inherited: list[int]) -> NoReturn:
    status = 70
    try:
        os.setpgid(0, 0)
        for descriptor in inherited:
            os.close(descriptor)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(request.environment)
        time.tzset()
        for name, seconds in request.impatience.items():
            path, _, constant = name.rpartition(".")
            module = sys.modules[path]
            given = getattr(module, constant)
            setattr(module, constant, timedelta(seconds=seconds) if isinstance(given, timedelta) else seconds)
        faults.install()
        sys.argv = ["backupd", "--config", request.config]
        status = main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the end of a process that was forked: nothing may go on behind it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _say(said: Said) -> None:
    os.write(1, msgspec.json.encode(said) + b"\n")


if __name__ == "__main__" and "--nursery" in sys.argv:
    keep_nursery()
else:
    # Also where a worker process imports its parent's main module.
    faults.install()
    if __name__ == "__main__":
        sys.exit(main())
