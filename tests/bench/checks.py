"""The coherency check beside the disk's own speed: the same files, merely read, in the same run.

Both find the files in the page cache or neither does: what is dropped from it before the one is dropped
before the other. Merely reading means one process that opens each file in the order of its name, reads it
and closes it, as `cat` would.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from backupd.clock import SystemClock
from backupd.jobs.coherency.check import Check, Wanted
from backupd.jobs.coherency.rotation import Position
from backupd.operations import Run
from tests.bench.figures import Measurement, Target
from tests.bench.subject import Subject
from tests.world.corpus import corpus_files
from tests.world.mailtree import build

SHARE_OF_DISK_MIN = 0.1
"""Of the speed at which small files come from the disk: each is parsed and compared with the index, too."""


def measure_coherency(place: Path, *, quick: bool) -> Measurement:
    """Check a Backup Path that no daemon has open, and read the same files, in turn."""
    messages, rounds = (2_000, 1) if quick else (8_000, 3)
    corpus = corpus_files("mail")[:messages]
    tree = build(place / "vmail", accounts=4, corpus=corpus, messages=(messages - len(corpus)) // 4)
    with Subject(place / "d", tree.root, watch=False) as daemon:
        daemon.wait_until_scanned()
        path = daemon.backup_path
    clock = SystemClock()
    ours, merely, found, bytes_ = [], [], 0, 0
    for _ in range(rounds):
        bytes_ = drop_from_cache(path)
        began = time.monotonic()
        read_all(path)
        merely.append(time.monotonic() - began)
        drop_from_cache(path)
        checked = Check(path, clock=clock).run(Run(clock), Wanted(), Position())
        ours.append(checked.seconds)
        found += checked.findings.counts.total()
    speed, disk = bytes_ / statistics.median(ours), bytes_ / statistics.median(merely)
    return Measurement(
        name="coherency",
        figures={
            "files": checked.files,
            "bytes": bytes_,
            "check_seconds": round(statistics.median(ours), 3),
            "check_bytes_per_second": round(speed),
            "check_files_per_second": round(checked.files / statistics.median(ours)),
            "disk_seconds": round(statistics.median(merely), 3),
            "disk_bytes_per_second": round(disk),
            "findings": found,
        },
        targets=[
            Target.at_most_of("findings in a healthy path", found, 0),
            Target.at_least_of("of the disk's own speed", speed / disk, SHARE_OF_DISK_MIN),
        ],
        limited_by="small files: to parse a history and compare it with the index costs more than to read it",
    )


def read_all(path: Path) -> None:
    """Read what a check reads: histories and blobs."""
    for top in ("accounts", "items"):
        for one in sorted((path / top).rglob("*")):
            if one.is_file():
                one.read_bytes()


def drop_from_cache(path: Path) -> int:
    """Drop histories and blobs from the page cache as far as the kernel lets go; return their bytes."""
    bytes_ = 0
    for top in ("accounts", "items"):
        for one in (path / top).rglob("*"):
            if one.is_file():
                descriptor = os.open(one, os.O_RDONLY)
                try:
                    os.fdatasync(descriptor)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    bytes_ += os.fstat(descriptor).st_size
                finally:
                    os.close(descriptor)
    return bytes_
