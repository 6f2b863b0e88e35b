"""The quarantine: bounded, durable, readable with jq."""

from __future__ import annotations

import base64
import errno
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd import durable
from daemon.quarantine import PAYLOAD_BYTES_MAX, Quarantine, Refused

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def refused(number: int = 1, payload: bytes = b"\x00\xff", topic: str = "backupd/v1/x") -> Refused:
    return Refused(
        time=NOON, topic=topic, reason="not_json", message=f"bad {number}", payload=payload, size=len(payload)
    )


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_line_holds_what_an_admin_needs(tmp_path: Path) -> None:
    """Time, topic, reason, message, size and the payload are there, and only the owner may read."""
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    quarantine.add([refused()])
    assert lines(quarantine.path) == [
        {
            "time": "2026-11-23T12:00:00.000000Z",
            "topic": "backupd/v1/x",
            "reason": "not_json",
            "message": "bad 1",
            "size": 2,
            "payload": base64.b64encode(b"\x00\xff").decode(),
        }
    ]
    assert stat.S_IMODE(quarantine.path.stat().st_mode) == 0o600


def test_long_payloads_are_cut_and_odd_topics_written(tmp_path: Path) -> None:
    """A payload's beginning is kept; a topic that is no UTF-8 does not stop the line from being JSON."""
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    quarantine.add([refused(payload=b"x" * 100_000, topic="a/\udcff\n")])
    (line,) = lines(quarantine.path)
    assert len(base64.b64decode(str(line["payload"]))) == PAYLOAD_BYTES_MAX
    assert line["size"] == 100_000
    assert line["topic"] == "a/\\udcff\n"


def test_the_file_turns_over_once_and_stays_within_twice_its_bound(tmp_path: Path) -> None:
    """The newest messages are kept, in the file or its predecessor, and the bound holds for any batch."""
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", file_bytes_max=2000)
    for first in range(0, 100, 25):
        quarantine.add([refused(number) for number in range(first, first + 25)])
    before = tmp_path / "quarantine.jsonl.1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quarantine.jsonl", "quarantine.jsonl.1"]
    assert max(quarantine.path.stat().st_size, before.stat().st_size) <= 2000
    kept = [line["message"] for line in lines(before) + lines(quarantine.path)]
    assert kept == [f"bad {number}" for number in range(100 - len(kept), 100)]
    assert len(kept) > 10


def test_one_line_above_the_bound_is_still_kept(tmp_path: Path) -> None:
    """A message that alone is longer than the bound is written rather than lost."""
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", file_bytes_max=100)
    quarantine.add([refused(1, b"x" * 500), refused(2, b"y" * 500)])
    assert [line["message"] for line in lines(quarantine.path)] == ["bad 2"]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """What can't be written raises, so that nothing of it is acknowledged."""

    def full(step: str) -> None:
        if step == "quarantine.write":
            raise OSError(errno.ENOSPC, "No space left on device")

    durable.observe_steps(full)
    with pytest.raises(OSError, match="No space left"):
        Quarantine(tmp_path / "quarantine.jsonl").add([refused()])


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link in the quarantine's place is refused."""
    (tmp_path / "quarantine.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        Quarantine(tmp_path / "quarantine.jsonl").add([refused()])
    assert not (tmp_path / "elsewhere").exists()
