"""The daemon, with marks in time: when batches were synced, acknowledged and recorded.

`python -m tests.bench.timed_daemon --config FILE` is `backupd` that writes the marks as JSON to the file
named in `BENCH_MARKS` when it ends. The i-th acknowledgement belongs to the i-th append as long as only the
intake appends. Times are monotonic nanoseconds, which all processes of a machine share.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec

from backupd import durable
from backupd.jobs.record import Recorded, Recorder
from daemon.__main__ import main
from daemon.intake import Intake


class Marks(msgspec.Struct):
    """`acknowledged`: (time, events journaled so far); `recorded`: (time, recorder's cursor)."""

    acknowledged: list[tuple[int, int]] = []
    recorded: list[tuple[int, int]] = []


marks = Marks()


class MarkedIntake(Intake):
    """The intake, known to the marks."""

    latest: Intake | None = None

    def __init__(self, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        MarkedIntake.latest = self


def note_step(name: str) -> None:
    if name == "intake.acknowledged" and MarkedIntake.latest is not None:
        marks.acknowledged.append((time.monotonic_ns(), MarkedIntake.latest.journaled))


_record_next = Recorder.record_next


async def record_and_note(self: Recorder, ripe_through: int) -> Recorded:
    recorded = await _record_next(self, ripe_through)
    marks.recorded.append((time.monotonic_ns(), self.cursor))
    return recorded


if __name__ == "__main__":
    import daemon.subscription

    daemon.subscription.Intake = MarkedIntake  # type: ignore[misc]
    Recorder.record_next = record_and_note  # type: ignore[method-assign]
    durable.observe_steps(note_step)
    status = main()
    Path(os.environ["BENCH_MARKS"]).write_bytes(msgspec.json.encode(marks))
    sys.exit(status)
