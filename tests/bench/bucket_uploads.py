"""Uploads into a bucket: what the client can do, and what a backup of messages costs in requests and bytes.

The store is moto in a process of its own on the same machine, which answers no faster than a real one nearby
and keeps everything in memory: the figures say what the client can do, and no store is to blame for them.
Messages go in packs and one by one; what they take is held against restic's repository of the same messages.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backupd.volumes.retrying import Retrying
from backupd.volumes.s3 import S3Volume
from tests.bench.figures import Measurement, Target
from tests.bench.uploads import REQUESTS_MAX, messages_of, stored_by_restic, upload
from tests.world.stores import Store, running_moto

SMALL_BYTES = 5_000
PACK_BYTES = 8 << 20
THREADS = 8


def measure_bucket_uploads(place: Path, *, quick: bool) -> Measurement:
    """Time uploads of small objects, of pack-sized ones and of messages, and count the HTTP requests."""
    place.mkdir(parents=True, exist_ok=True)
    contents = messages_of(300 if quick else 2_000)
    with running_moto(place) as store:
        figures = _objects(store, quick=quick)
        packs = _messages(store, place / "packs", contents, is_remote=True)
        singles = _messages(store, place / "singles", contents, is_remote=False)
    figures |= {f"messages_in_packs_{name}": value for name, value in packs.items()}
    figures |= {f"messages_singly_{name}": value for name, value in singles.items()}
    figures["messages"] = len(contents)
    targets = [
        Target.at_most_of("HTTP requests per 1,000 messages", packs["http_requests_per_1000"], REQUESTS_MAX)
    ]
    if rival := stored_by_restic(place / "rival", contents):
        figures["restic_stored_bytes"] = rival
        targets.append(
            Target.at_most_of("of the bytes that restic stores", packs["stored_bytes"] / rival, 1.1)
        )
    return Measurement(
        name="bucket_uploads",
        figures=figures,
        targets=targets,
        limited_by="signing and sending in one interpreter, and moto",
    )


def _objects(store: Store, *, quick: bool) -> dict[str, float | str | list[float]]:
    """Put objects of two sizes, several at a time."""
    small, packs = (200, 8) if quick else (2_000, 32)
    figures: dict[str, float | str | list[float]] = {"threads": THREADS}
    bucket = S3Volume(store.settings(prefix="bench"))
    try:
        bucket.conditional_puts()
        for kind, count, size in (("small", small, SMALL_BYTES), ("large", packs, PACK_BYTES)):
            before = bucket.counts().requests_total
            seconds = _timed(Retrying(bucket), kind, count, size)
            figures[f"{kind}_objects_per_second"] = round(count / seconds, 1)
            figures[f"{kind}_bytes_per_second"] = round(count * size / seconds)
            figures[f"{kind}_requests_per_object"] = (bucket.counts().requests_total - before) / count
    finally:
        bucket.close()
    return figures


def _messages(store: Store, place: Path, contents: list[bytes], *, is_remote: bool) -> dict[str, float]:
    """Send messages as the daemon does; `http_requests_per_1000` is what reached the store for them."""
    bucket = S3Volume(store.settings(prefix=place.name))
    try:
        bucket.conditional_puts()
        before = bucket.counts().requests_total
        asked = [0]

        def note_sent() -> None:
            asked[0] = bucket.counts().requests_total - before

        found = upload(place, contents, is_remote=is_remote, volume=Retrying(bucket), sent=note_sent)
        return {**found, "http_requests_per_1000": round(1000 * asked[0] / len(set(contents)), 1)}
    finally:
        bucket.close()


def _timed(volume: Retrying, kind: str, count: int, size: int) -> float:
    content = random.Random(1).randbytes(size)

    def put(number: int) -> bool:
        return volume.put(f"{kind}/{number}", b"%08d" % number + content[8:])

    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        stored = list(threads.map(put, range(count)))
    seconds = time.perf_counter() - began
    assert all(stored)
    return seconds
