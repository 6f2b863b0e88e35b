"""Purge: how many histories a second are planned, and how many are judged and removed, all durable.

The Backup Path lies where the measurements are asked to lie, so that syncs cost what they cost there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from datetime import timedelta
from pathlib import Path

import structlog

from backupd.clock import SystemClock
from backupd.items import ItemKey, Kind, digest_of
from backupd.jobs.purge import Alone, NothingKept, Purge, PurgeWanted, Rules
from backupd.operations import Run, Verdict
from backupd.retention import Retention
from backupd.states import ChangeType, Origin, State
from backupd.store.store import Store
from tests.bench.figures import Measurement, Target
from tests.bench.gauges import resident_bytes

ITEMS_PER_SECOND_MIN = 500
BLOBS_AT_ONCE = 500
ACCOUNTS = 10


def measure_purge(place: Path, *, quick: bool) -> Measurement:
    """Purge half of all items, each with a content of its own, and time the plan alone before."""
    # What the purge logs must not stand between the figures.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    items = 2_000 if quick else 40_000
    clock = SystemClock()
    with Store.open(place / "backup", server_id="bench", server_name="bench", clock=clock) as store:
        _fill(store, items)
        began = time.perf_counter()
        planned = _purge(store, PurgeWanted(dry_run=True))
        plan_seconds = time.perf_counter() - began
        began = time.perf_counter()
        done = _purge(store, PurgeWanted(force=True))
        seconds = time.perf_counter() - began
    assert planned.counts["histories"] == done.counts["histories"] == done.counts["blobs"] == items // 2
    rate = items / 2 / seconds
    return Measurement(
        name="purge",
        figures={
            "items": items,
            "planned_items_per_second": round(items / plan_seconds),
            "removed_items_per_second": round(rate),
            "seconds": round(seconds, 2),
            "resident_bytes": resident_bytes(os.getpid()),
        },
        targets=[Target.at_least_of("histories with contents removed a second", rate, ITEMS_PER_SECOND_MIN)],
        limited_by="reading each history again, and the syncs of each step",
    )


def _purge(store: Store, wanted: PurgeWanted) -> Verdict:
    purge = Purge(
        store,
        Alone(store),
        clock=SystemClock(),
        rules=lambda: Rules(
            retention=Retention(data_days=30, account_days=30, archive_days=30), grace=timedelta()
        ),
        keeping=NothingKept,
        clock_doubt=str,
    )
    return asyncio.run(purge.run(Run(SystemClock()), wanted))


def _fill(store: Store, items: int) -> None:
    """Let every other item have been deleted long ago."""
    now = SystemClock().now()
    staged = []
    for number in range(items):
        content = b"Subject: %d\r\n\r\n%s\r\n" % (number, b"text " * 100)
        staged.append(store.blobs.stage(content))
        if len(staged) >= BLOBS_AT_ONCE:
            store.blobs.commit(staged)
            staged.clear()
        key = ItemKey(f"account-{number % ACCOUNTS}", Kind.MESSAGE, str(number))
        days = [90, 60] if number % 2 else [90]
        store.record(
            key,
            [
                State(
                    transaction=2 * number + place + 1,
                    kind=key.kind,
                    start=now - timedelta(days=age),
                    change=ChangeType.DELETED if place else ChangeType.CREATED,
                    deleted=bool(place),
                    origin=Origin.REALTIME,
                    digest=digest_of(content),
                    size=len(content),
                    metadata={"folder": "INBOX", "flags": ["seen"], "received": "2026-01-01T00:00:00Z"},
                )
                for place, age in enumerate(days)
            ],
        )
    store.blobs.commit(staged)
    store.checkpoint(2 * items)
