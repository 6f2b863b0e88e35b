"""Restores of whole accounts: what an account held at a moment, and bringing it back beside restic.

A restore is timed from the submission of its operation to its end, when everything is durable, read back and
compared; restic neither syncs nor compares. All programs find their repository in the page cache.
"""

from __future__ import annotations

import gc
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

from backupd.clock import SystemClock
from backupd.jobs.restore.past import account_at
from backupd.store.store import Store
from daemon.process import COLLECTED_OBJECTS
from tests.bench import rivals
from tests.bench.figures import Measurement, Target
from tests.bench.rivals import Restic
from tests.bench.subject import Subject, seconds_of
from tests.world.corpus import corpus_files
from tests.world.mailtree import MailTree, build


def measure_account_at(place: Path, *, quick: bool) -> Measurement:
    """Time what an account of 20,000 items, half of them changed since, held at a moment."""
    messages = 2_000 if quick else 20_000
    tree = build(place / "vmail", accounts=1, messages=messages, size=300)
    (address,) = tree.addresses
    with _daemon(place / "d", tree) as daemon:
        daemon.wait_until_scanned(600)
        when = datetime.now(UTC)
        _flag_half(tree, address)
        assert daemon.scan()["status"] == "successful"
    store = Store.open(
        place / "d" / "backup", server_id="", server_name="", clock=SystemClock(), writable=False
    )
    # Collected as seldom as in the daemon, where this is done.
    gc.set_threshold(*COLLECTED_OBJECTS)
    with store:
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            then = account_at(store, address, when)
            seconds.append(time.perf_counter() - began)
        assert len(then.items) == messages
        assert not any(item.metadata["flags"] == ["answered"] for item in then.items)
    return Measurement(
        name="account_at",
        figures={"items": messages, "seconds_each": [round(one, 3) for one in seconds]},
        targets=[
            Target.at_most_of("seconds for 20,000 items", statistics.median(seconds) * 20_000 / messages, 0.3)
        ],
        limited_by="decoding an item's photograph and applying differences, in one interpreter",
    )


def measure_restore(place: Path, *, quick: bool) -> Measurement:
    """Compare the restore of an account on a new one with `restic restore` of the same messages."""
    messages, rounds = (2_000, 1) if quick else (20_000, 3)
    corpus = corpus_files("mail")[:messages]
    tree = build(place / "vmail", accounts=1, corpus=corpus, messages=messages - len(corpus))
    (address,) = tree.addresses
    restic = None if rivals.missing("restic") else Restic(place / "restic")
    seconds: dict[str, list[float]] = {"ours": []}
    if restic is not None:
        seconds["restic"] = []
        restic.backup(tree.account(address))
    with _daemon(place / "d", tree) as daemon:
        daemon.wait_until_scanned(600)
        for turn in range(rounds):
            operation = daemon.run(
                "backup/doRestoreOnNewAccount",
                source_account=address,
                destination_account=f"copy{turn}@example.test",
                date="last",
            )
            assert operation["status"] == "successful", operation
            assert f"{messages:,} restored and read back as equal" in operation["verdict"], operation
            seconds["ours"].append(seconds_of(operation))
            if restic is not None:
                seconds["restic"].append(restic.restore(place / f"restored{turn}"))
    ours = statistics.median(seconds["ours"])
    return Measurement(
        name="restore",
        figures={
            "messages": messages,
            "of_the_corpus": len(corpus),
            "tree_bytes": sum(map(len, tree.contents.values())),
            "messages_per_second": round(messages / ours),
            **{f"{name}_seconds": round(statistics.median(each), 3) for name, each in seconds.items()},
            **{f"{name}_each": [round(one, 3) for one in each] for name, each in seconds.items()},
        },
        targets=[Target.at_most_of("of restic's time", ours / statistics.median(seconds["restic"]), 1.0)]
        if restic is not None
        else [],
        limited_by="one interpreter: a message is decompressed, written, read back, hashed and photographed",
        skipped=rivals.missing("restic"),
    )


def _daemon(place: Path, tree: MailTree) -> Subject:
    return Subject(place, tree.root, watch=False, module="daemon")


def _flag_half(tree: MailTree, address: str) -> None:
    """Let every second message be answered, and so have a past."""
    paths = sorted(tree.account(address).glob("Maildir/**/cur/*"))
    for path in paths[::2]:
        path.rename(path.with_name(f"{path.name.partition(':2,')[0]}:2,R"))
