"""`python -m tests.bench.small_files --messages N`: what a file per history and per blob costs on ext4.

Prints JSON. Run as root: the files lie on a file system of their own, in a sparse image that is mounted
through a loop device and removed afterwards. Messages are those of the open corpus, again and again with a
header line that differs, so that each has a content of its own. Nothing is synced on the way, because space
is what is asked. Packs are made of the same bytes, one for each folder: of its histories together, of
its blobs as a tar.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import zstandard

from backupd.appservers.headers import photograph_headers
from backupd.clock import moment
from backupd.items import ItemKey, Kind
from backupd.states import ChangeType, Origin, State
from backupd.store.blobs import Blobs
from backupd.store.history import Histories
from backupd.volumes.local import LocalVolume
from tests.world.corpus import corpus_files

MESSAGES_PER_ACCOUNT = 2_000
STATES = (1, 1, 1, 1, 2, 2, 2, 2, 3, 5)
"""How many states the histories of ten messages have: most are read once and never touched again."""
COMMIT_ITEMS = 1_000
IMAGE_BYTES = 8 << 30
FRAME_BYTES = 128 << 10


class Kept(msgspec.Struct):
    """What one kind of file came to; bytes unless the name says otherwise."""

    files: int = 0
    stored: int = 0
    blocks: int = 0
    under_a_block: int = 0

    def add(self, facts: os.stat_result, block_bytes: int) -> None:
        """Count a file."""
        self.files += 1
        self.stored += facts.st_size
        self.blocks += facts.st_blocks * 512
        self.under_a_block += facts.st_size < block_bytes


@contextmanager
def file_system(*, options: list[str]) -> Iterator[Path]:
    """Yield an empty ext4 of our own, mounted through a loop device."""
    with tempfile.TemporaryDirectory(prefix="backupd-small-files-", dir="/tmp") as place:
        image, mounted = Path(place, "image"), Path(place, "mounted")
        mounted.mkdir()
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", *options, image], check=True)
        subprocess.run(["mount", "-o", "loop,noatime", image, mounted], check=True)
        try:
            yield mounted
        finally:
            subprocess.run(["umount", mounted], check=True)


def messages(count: int) -> Iterator[bytes]:
    """Yield so many different messages."""
    corpus = [path.read_bytes() for path in corpus_files("mail")]
    if not corpus:
        sys.exit("the open corpus is not here")
    for number in range(count):
        content = corpus[number % len(corpus)]
        yield content if number < len(corpus) else b"X-Copy: %d\r\n" % number + content


def fill(root: Path, count: int) -> None:
    """Write blobs and histories as the daemon does, but for the syncs."""
    blobs, histories, chance = Blobs(LocalVolume(root)), Histories(root), random.Random(1)
    staged = []
    for number, content in enumerate(messages(count)):
        blob = blobs.stage(content)
        staged.append(blob)
        if len(staged) >= COMMIT_ITEMS:
            blobs.commit(staged)
            staged.clear()
        account = f"00000000-0000-4000-8000-{number // MESSAGES_PER_ACCOUNT:012d}"
        item = f"{1_600_000_000 + number}.M{number % 1_000_000}P{chance.randrange(99_999)}.mail"
        metadata = {"folder": "INBOX", "flags": [], "tags": [], **photograph_headers(content)}
        states = [
            State(
                transaction=number * 8 + place,
                kind=Kind.MESSAGE,
                start=moment(1_600_000_000_000_000 + number * 1_000_000) + timedelta(hours=place),
                change=ChangeType.MODIFIED if place else ChangeType.CREATED,
                origin=Origin.REALTIME,
                digest=blob.digest,
                size=blob.size,
                metadata={**metadata, "flags": ["seen", "answered", "flagged"][:place]},
                events=(f"/appservers/mail#{chance.getrandbits(128):032x}",),
            )
            for place in range(chance.choice(STATES))
        ]
        histories.append(ItemKey(account, Kind.MESSAGE, item), states)
    blobs.commit(staged)


def measure(root: Path) -> dict[str, object]:
    """Walk what was written, read it all, and estimate packs of it."""
    block_bytes = os.statvfs(root).f_frsize
    kinds = {"histories": Kept(), "blobs": Kept()}
    directories, directory_bytes = 0, 0
    paths: dict[str, list[str]] = defaultdict(list)
    began = time.monotonic()
    for place, _, names in os.walk(root):
        directories, directory_bytes = directories + 1, directory_bytes + Path(place).stat().st_blocks * 512
        kind = "histories" if "/accounts/" in place else "blobs" if place.startswith(f"{root}/items") else ""
        for name in names if kind else ():
            kinds[kind].add(Path(place, name).stat(), block_bytes)
            paths[kind].append(f"{place}/{name}")
    walk_seconds = time.monotonic() - began
    read_seconds, packs = {}, {}
    for kind, found in paths.items():
        drop_caches()
        began = time.monotonic()
        for path in found:
            Path(path).read_bytes()
        read_seconds[kind] = round(time.monotonic() - began, 2)
        packs[kind] = pack(root / "packed" / kind, kind, found, block_bytes)
    return {
        "block_bytes": block_bytes,
        "kinds": {kind: msgspec.to_builtins(kept) for kind, kept in kinds.items()},
        "directories": directories,
        "directory_bytes": directory_bytes,
        "walk_seconds": round(walk_seconds, 2),
        "read_cold_seconds": read_seconds,
        "packs": packs,
    }


def pack(place: Path, kind: str, paths: list[str], block_bytes: int) -> dict[str, object]:
    """Write one pack for each folder, and measure them: blobs as a tar, histories as frames of lines."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folders[path.rpartition("/")[0]].append(path)
    place.mkdir(parents=True)
    kept, written = Kept(), []
    for number, found in enumerate(folders.values()):
        written.append(place / str(number))
        if kind == "blobs":
            with tarfile.open(written[-1], "w", format=tarfile.USTAR_FORMAT, copybufsize=1 << 20) as archive:
                for path in found:
                    archive.add(path, arcname=path.rpartition("/")[2])
        else:
            written[-1].write_bytes(b"".join(frames(found)))
    for path in written:
        kept.add(path.stat(), block_bytes)
    drop_caches()
    began = time.monotonic()
    for path in written:
        path.read_bytes()
    return {**msgspec.to_builtins(kept), "read_cold_seconds": round(time.monotonic() - began, 2)}


def frames(paths: list[str]) -> Iterator[bytes]:
    """Yield zstd frames of at least `FRAME_BYTES` of histories each, but for the last."""
    compressor = zstandard.ZstdCompressor(level=3)
    frame: list[bytes] = []
    for path in paths:
        frame.append(Path(path).read_bytes())
        if sum(map(len, frame)) >= FRAME_BYTES:
            yield compressor.compress(b"".join(frame))
            frame.clear()
    if frame:
        yield compressor.compress(b"".join(frame))


def drop_caches() -> None:
    """Let the kernel forget what it holds of files."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def main() -> None:
    """Measure one file system."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=8_000)
    parser.add_argument(
        "--mkfs", nargs="*", default=[], help="options of mkfs.ext4, without the dash: b=1024"
    )
    given = parser.parse_args()
    options = [f"-{each[0]}{each[2:]}" for each in given.mkfs]
    with file_system(options=options) as root:
        os.fsync = lambda _descriptor: None  # type: ignore[assignment]
        before = os.statvfs(root)
        began = time.monotonic()
        fill(root, given.messages)
        seconds = time.monotonic() - began
        subprocess.run(["sync", "-f", root], check=True)
        after = os.statvfs(root)
        drop_caches()
        told = {
            "messages": given.messages,
            "mkfs": options,
            "fill_seconds": round(seconds, 1),
            "file_system_used_bytes": (before.f_bfree - after.f_bfree) * after.f_frsize,
            "inodes_used": before.f_ffree - after.f_ffree,
            "inodes_there": before.f_files,
            **measure(root),
        }
    print(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())


if __name__ == "__main__":
    main()
