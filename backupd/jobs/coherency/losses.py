"""What a repair found to be lost for good, kept in the Backup Path: `damaged/lost.jsonl`.

One JSON object per line: the digest of a content, since when it is known to be lost, and which items have
states that need it. Lines are appended and synced, never changed; a content that came back makes its line
mean nothing. A last line that was cut short is none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from backupd import durable
from backupd.decoding import decoded
from backupd.items import is_digest
from backupd.store import layout
from backupd.store.foreign_files import Tree

LOST = "lost.jsonl"
BYTES_MAX = 256 << 20


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a content that is lost."""

    digest: str
    since: datetime
    items: tuple[str, ...] = ()


def known(tree: Tree) -> set[str]:
    """Return the digests of all contents that are known to be lost."""
    try:
        with tree.open(f"{layout.DAMAGED}/{LOST}") as file:
            content = file.read(BYTES_MAX)
    except OSError:
        return set()
    found = set()
    for line in content.splitlines():
        try:
            loss = decoded(line, Loss)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if is_digest(loss.digest):
            found.add(loss.digest)
    return found


def note(root: Path, losses: Iterable[Loss]) -> None:
    """Note contents as lost, durably. Raises `OSError`."""
    lines = b"".join(msgspec.json.encode(loss) + b"\n" for loss in losses)
    if not lines:
        return
    folder = root / layout.DAMAGED
    folder.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder / LOST, flags, 0o600)
    try:
        durable.write_all(descriptor, b"\n" + lines)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    durable.sync_directory(folder)
    durable.step("coherency.losses_noted")
