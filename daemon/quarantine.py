"""Quarantine: what came from the broker and is no event, kept for inspection within a bound.

A file of JSON lines: `time`, `topic`, `reason`, `message`, `size` and the payload's beginning in Base64.
When it has reached its bound it becomes `<name>.1`, whose predecessor goes: at most twice the bound is
used. Lines are durable when `add` returns, because the broker forgets a message once it is acknowledged.
Fails with `OSError` only; the intake treats that as it treats a journal that can't write.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from backupd import durable
from backupd.clock import written

FILE_BYTES_MAX = 8 << 20
PAYLOAD_BYTES_MAX = 16 << 10
TOPIC_CHARACTERS_MAX = 1024


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is no event, and why. `payload` is the beginning of it, `size` counts all its bytes."""

    time: datetime
    topic: str
    reason: str
    message: str
    payload: bytes
    size: int


class Quarantine:
    """The bounded file. Blocks; one writer."""

    def __init__(self, path: Path, *, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self.path = path
        self._file_bytes_max = file_bytes_max

    def add(self, refused: Sequence[Refused]) -> None:
        """Append messages, durable on return. Raises `OSError`; then some may have been written already."""
        lines = b"".join(_line(one) for one in refused)
        if not lines:
            return
        place = 0
        while place < len(lines):
            # A batch that would overshoot the bound is cut at a line's end, so that the bound holds.
            room = max(self._file_bytes_max - self._size(), 0)
            end = len(lines) if len(lines) - place <= room else lines.rfind(b"\n", place, place + room) + 1
            if end <= place:
                if self._size():
                    self._rotate()
                    continue
                end = lines.index(b"\n", place) + 1
            self._append(lines[place:end])
            place = end

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def _append(self, lines: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        is_new = not self.path.exists()
        descriptor = os.open(self.path, flags, 0o600)
        try:
            durable.step("quarantine.write")
            durable.write_all(descriptor, lines)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            durable.sync_directory(self.path.parent)
        durable.step("quarantine.written")

    def _rotate(self) -> None:
        with suppress(FileNotFoundError):
            self.path.replace(self.path.with_name(self.path.name + ".1"))
        durable.step("quarantine.rotated")


def _line(refused: Refused) -> bytes:
    facts = {
        "time": written(refused.time),
        "topic": _printable(refused.topic[:TOPIC_CHARACTERS_MAX]),
        "reason": refused.reason,
        "message": _printable(refused.message),
        "size": refused.size,
        "payload": base64.b64encode(refused.payload[:PAYLOAD_BYTES_MAX]).decode("ascii"),
    }
    return msgspec.json.encode(facts) + b"\n"


def _printable(text: str) -> str:
    """Return text that JSON can hold: lone surrogates (bytes that were no UTF-8) are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
