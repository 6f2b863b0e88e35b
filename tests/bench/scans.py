"""SmartScans of whole trees: the first one beside restic and borg, the one that finds nothing, and growth.

A scan is timed from the submission of its operation to its end, when everything it found is recorded and
synced; the start of the daemon, a service, is not part of it. All programs find the tree in the page cache.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import rivals
from tests.bench.figures import Measurement, Target
from tests.bench.gauges import MemoryWatch, OpenedFiles, resident_bytes
from tests.bench.rivals import Borg, Restic, Rival
from tests.bench.subject import Subject, seconds_of
from tests.world.corpus import corpus_files
from tests.world.mailtree import MailTree, build

UNDISTURBED_SECONDS = 0.5
"""How long a daemon at work is left alone between two questions; its operations tell when they ended."""
STANDS_STILL_SECONDS = 2.2
"""So old a tree must be that its folders count as unchanged: the survey distrusts younger ones."""
MILLION = 1_000_000


def measure_first_scan(place: Path, *, quick: bool) -> Measurement:
    """Compare a first SmartScan with what restic and borg take for the same tree, turn by turn."""
    messages, accounts, rounds = (2_000, 4, 1) if quick else (8_000, 8, 3)
    corpus = corpus_files("mail")[:messages]
    tree = build(
        place / "vmail",
        accounts=accounts,
        corpus=corpus,
        messages=(messages - len(corpus)) // accounts,
    )
    present = [kind for kind in (Restic, Borg) if not rivals.missing(kind.name)]
    seconds: dict[str, list[float]] = {"ours": [], **{kind.name: [] for kind in present}}
    for turn in range(rounds):
        with _daemon(place / f"d{turn}", tree) as daemon:
            seconds["ours"].append(seconds_of(daemon.wait_until_scanned(pause=UNDISTURBED_SECONDS)))
        for kind in present:
            rival: Rival = kind(place / f"{kind.name}{turn}")
            seconds[rival.name].append(rival.backup(tree.root))
    ours = statistics.median(seconds["ours"])
    return Measurement(
        name="first_scan",
        figures={
            "messages": messages,
            "of_the_corpus": len(corpus),
            "tree_bytes": sum(map(len, tree.contents.values())),
            **{f"{name}_seconds": round(statistics.median(each), 3) for name, each in seconds.items()},
            **{f"{name}_each": [round(one, 3) for one in each] for name, each in seconds.items()},
        },
        targets=[
            Target.at_most_of(f"of {kind.name}'s time", ours / statistics.median(seconds[kind.name]), 0.5)
            for kind in present
        ],
        limited_by="processor time: to read, hash and compress a message (150 us), to record it (80 us);"
        " a file for each content and each history",
        skipped=_nobody_else(),
    )


def measure_unchanged_scan(place: Path, *, quick: bool) -> Measurement:
    """Time a SmartScan of 1,000 accounts in which nothing changed, beside restic's second run."""
    accounts = 200 if quick else 1_000
    tree = build(place / "vmail", accounts=accounts, messages=3, size=600)
    time.sleep(STANDS_STILL_SECONDS)
    with _daemon(place / "d", tree) as daemon:
        daemon.wait_until_scanned()
        daemon.scan()
        with OpenedFiles(_message_directories(tree)) as opened:
            scans = [seconds_of(daemon.scan()) for _ in range(3)]
            messages_opened = opened.count()
    ours = statistics.median(scans)
    figures: dict[str, float | str | list[float]] = {
        "accounts": accounts,
        "scan_seconds": round(ours, 3),
        "scan_each": [round(one, 3) for one in scans],
        "messages_opened": messages_opened,
    }
    targets = [
        Target.at_most_of("seconds for 1,000 accounts", ours * 1000 / accounts, 1.0),
        Target.at_most_of("messages opened", messages_opened, 0),
    ]
    if not rivals.missing("restic"):
        restic = Restic(place / "restic")
        restic.backup(tree.root)
        second = restic.backup(tree.root)
        figures["restic_second_seconds"] = round(second, 3)
        targets.append(Target.at_least_of("times as fast as restic's second run", second / ours, 5.0))
    return Measurement(
        name="unchanged_scan",
        figures=figures,
        targets=targets,
        limited_by="a look at every folder of every account: three stat calls per mail folder",
        skipped="" if len(targets) > 2 else rivals.missing("restic"),
    )


def measure_growth(place: Path, *, quick: bool) -> Measurement:
    """Time and memory of first scans as the items grow, in accounts of the same size."""
    small, large = (500, 5_000) if quick else (2_000, 20_000)
    per_account = small // 2
    seconds, resting, peaks, together = {}, {}, {}, {}
    for items in (small, large):
        tree = build(place / f"vmail{items}", accounts=items // per_account, messages=per_account, size=600)
        tree.contents.clear()
        with _daemon(place / f"d{items}", tree) as daemon, MemoryWatch(daemon.pid) as memory:
            seconds[items] = seconds_of(daemon.wait_until_scanned(pause=UNDISTURBED_SECONDS))
            time.sleep(0.3)
            resting[items] = resident_bytes(daemon.pid)
            peaks[items] = resident_bytes(daemon.pid, "VmHWM")
        together[items] = memory.peak_bytes
    per_item = max(0.0, (resting[large] - resting[small]) / (large - small))
    million = resting[large] + per_item * (MILLION - large)
    return Measurement(
        name="growth",
        figures={
            "items": [small, large],
            "seconds": [round(one, 3) for one in seconds.values()],
            "resting_megabytes": [round(one / 1e6, 1) for one in resting.values()],
            "peak_megabytes": [round(one / 1e6, 1) for one in peaks.values()],
            "peak_with_workers_megabytes": [round(one / 1e6, 1) for one in together.values()],
            "resting_bytes_per_further_item": round(per_item, 1),
            "extrapolated_megabytes_at_a_million": round(million / 1e6, 1),
        },
        targets=[
            Target.at_most_of("times the time for 10 times the items", seconds[large] / seconds[small], 11.0),
            Target.at_most_of("resting megabytes with the larger tree", resting[large] / 1e6, 200.0),
            Target.at_most_of("peak megabytes with the larger tree", peaks[large] / 1e6, 200.0),
        ],
        limited_by="bounded caches that fill: the extrapolation counts them as if they grew for ever",
    )


def measure_status(place: Path, *, quick: bool) -> Measurement:
    """How long `backupctl status` takes, as a process, and how long the daemon takes to answer it."""
    items = 1_000 if quick else 5_000
    tree = build(place / "vmail", accounts=5, messages=items // 5, size=600)
    with _daemon(place / "d", tree) as daemon:
        daemon.wait_until_scanned()
        answers = [_seconds(daemon.status) for _ in range(10)]
        console = [_seconds(lambda: daemon.console("status", check=False)) for _ in range(5)]
    return Measurement(
        name="status",
        figures={
            "items": items,
            "daemon_answers_seconds": round(statistics.median(answers), 4),
            "console_seconds": round(statistics.median(console), 3),
            "console_each": [round(one, 3) for one in console],
        },
        targets=[Target.at_most_of("seconds of backupctl status", statistics.median(console), 0.2)],
        limited_by="the start of a Python process and its imports",
    )


def _nobody_else() -> str:
    return "; ".join(reason for name in ("restic", "borg") if (reason := rivals.missing(name)))


def _daemon(place: Path, tree: MailTree) -> Subject:
    subprocess.run(["sync", "--file-system", str(tree.root)], check=True)
    return Subject(place, tree.root, watch=False, module="daemon")


def _message_directories(tree: MailTree) -> Sequence[Path]:
    return [Path(directory) for directory, _, _ in os.walk(tree.root) if directory.endswith(("/cur", "/new"))]


def _seconds(work: object) -> float:
    assert callable(work)
    began = time.monotonic()
    work()
    return time.monotonic() - began
