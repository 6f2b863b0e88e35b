"""What the tests of blobs outside share: messages, a run, and which packs are on the volume."""

from __future__ import annotations

from backupd.operations import Run
from backupd.store.layout import PACKS
from tests.world.clocks import FakeClock


def mails(count: int, start: int = 0) -> list[bytes]:
    return [
        b"From: someone@example.com\r\nSubject: number %d\r\n\r\n" % n + b"Hello again. " * 40
        for n in range(start, start + count)
    ]


def a_run() -> Run:
    return Run(FakeClock())


def packs_on(world) -> list[str]:
    return list(world.memory.names(f"{PACKS}/"))
