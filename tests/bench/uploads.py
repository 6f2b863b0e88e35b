"""Uploads into a bucket: objects and bytes a second, small objects and pack-sized ones, from several threads.

The store is moto in a process of its own on the same machine, which answers no faster than a real one nearby
and keeps everything in memory: the figures say what the client can do, and no store is to blame for them.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backupd.volumes.retrying import Retrying
from backupd.volumes.s3 import S3Volume
from tests.bench.figures import Measurement
from tests.world.stores import running_moto

SMALL_BYTES = 5_000
PACK_BYTES = 8 << 20
THREADS = 8


def measure_uploads(place: Path, *, quick: bool) -> Measurement:
    """Time uploads of message-sized objects and of packs, and count the requests they took."""
    place.mkdir(parents=True, exist_ok=True)
    small, packs = (200, 8) if quick else (2_000, 32)
    figures: dict[str, float | str | list[float]] = {"threads": THREADS}
    with running_moto(place) as store:
        bucket = S3Volume(store.settings(prefix="bench"))
        try:
            bucket.conditional_puts()
            for kind, count, size in (("small", small, SMALL_BYTES), ("packs", packs, PACK_BYTES)):
                before = bucket.counts().requests_total
                seconds = _timed(Retrying(bucket), kind, count, size)
                figures[f"{kind}_objects_per_second"] = round(count / seconds, 1)
                figures[f"{kind}_bytes_per_second"] = round(count * size / seconds)
                figures[f"{kind}_requests_per_object"] = (bucket.counts().requests_total - before) / count
        finally:
            bucket.close()
    return Measurement(
        name="uploads", figures=figures, limited_by="signing and sending in one interpreter, and moto"
    )


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
