"""Uploads: what it takes to bring contents outside, in packs and one by one; and what they take there.

The volume is a directory on this machine, so the rates are what this program can do; how many requests a
store is asked, and how many bytes it is given, hold for any store. Where restic is installed it backs up the
same messages in the same run: the bytes of its repository are the yardstick of what is stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from backupd.volumes.base import Volume
from backupd.volumes.local import LocalVolume
from tests.bench import rivals
from tests.bench.figures import Measurement, Target
from tests.bench.rivals import Restic
from tests.world.corpus import corpus_files
from tests.world.outside import OutsideWorld

REQUESTS_MAX = 20.0
"""For 1,000 messages in packs."""


def measure_uploads(place: Path, *, quick: bool) -> Measurement:
    """Upload the same messages in packs and as single objects."""
    messages = 1_000 if quick else 8_000
    contents = messages_of(messages)
    packs = upload(place / "packs", contents, is_remote=True)
    singles = upload(place / "singles", contents, is_remote=False)
    rival = stored_by_restic(place / "rival", contents)
    targets = [
        Target.at_most_of("requests per 1,000 messages", packs["requests_per_1000"], REQUESTS_MAX),
        Target.at_most_of(
            "of the bytes of single objects", packs["stored_bytes"] / singles["stored_bytes"], 1.0
        ),
    ]
    if rival:
        targets.append(
            Target.at_most_of("of the bytes that restic stores", packs["stored_bytes"] / rival, 1.1)
        )
    return Measurement(
        name="uploads",
        figures={
            "messages": messages,
            "content_bytes": sum(map(len, contents)),
            **{f"packs_{name}": value for name, value in packs.items()},
            **{f"singles_{name}": value for name, value in singles.items()},
            "restic_stored_bytes": rival,
        },
        targets=targets,
        limited_by="one thread: each content is read, verified and compressed again for its pack",
        skipped="" if rival else rivals.missing("restic"),
    )


def messages_of(count: int) -> list[bytes]:
    """Return so many messages: those of the corpus first, then made ones."""
    contents = [file.read_bytes() for file in corpus_files("mail")[:count]]
    return contents + [_made(number) for number in range(count - len(contents))]


def stored_by_restic(place: Path, contents: list[bytes]) -> int:
    """Return the bytes of restic's repository of these messages, 0 where restic is missing."""
    if rivals.missing("restic"):
        return 0
    tree = place / "messages"
    tree.mkdir(parents=True)
    for number, content in enumerate(contents):
        (tree / str(number)).write_bytes(content)
    restic = Restic(place / "restic")
    before = _bytes_below(restic.repository)
    restic.backup(tree)
    return _bytes_below(restic.repository) - before


def _bytes_below(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def upload(
    place: Path,
    contents: list[bytes],
    *,
    is_remote: bool,
    volume: Volume | None = None,
    sent: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Commit contents, send them all, and return the figures: rates, requests, bytes outside.

    `sent` is called when the last one is confirmed, before what rests outside is counted.
    """
    world = OutsideWorld(place / "path", volume or LocalVolume(place / "outside"), is_remote=is_remote)
    (place / "outside").mkdir(parents=True, exist_ok=True)
    world.keep(*contents)
    world.upload.tend(1 << 40)
    sent_bytes = world.catalog.backlog().bytes
    began = time.perf_counter()
    confirmed = world.send()
    seconds = time.perf_counter() - began
    sent()
    assert confirmed == len(set(contents)), "not everything was confirmed"
    requests = sum(world.counted.tally.counts().requests.values())
    stored = sum(world.volume.size(name) for name in world.volume.names("items/"))
    objects = sum(1 for _ in world.volume.names("items/"))
    world.close()
    return {
        "objects_per_second": round(confirmed / seconds),
        "bytes_per_second": round(sent_bytes / seconds),
        "requests_per_1000": round(1000 * requests / confirmed, 1),
        "objects": objects,
        "stored_bytes": stored,
    }


def _made(number: int) -> bytes:
    return b"From: someone@example.com\r\nSubject: number %d\r\n\r\n" % number + b"Some words. " * (
        number % 400
    )
