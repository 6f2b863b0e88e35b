"""What another user sees: a function run in a child process that is nobody, where the tests run as root.

The interpreter itself may lie where nobody else can go, so the child is a fork of this process and not a new
program; the function must not import anything.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

NOBODY = 65534

T = TypeVar("T")


def as_nobody(look: Callable[[], T]) -> T:
    """Return what a function returns to a user without rights; to this one, if that is not root already."""
    if os.geteuid() != 0:
        return look()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(look(), pipe)
            status = 0
        except BaseException:  # noqa: BLE001 - told, and the child ends in any case
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, ended = os.waitpid(child, 0)
    assert ended == 0, "the child failed, see its traceback"
    return pickle.loads(told)
