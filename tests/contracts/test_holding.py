"""What holds contents on an AppServer: one suite, over the reference and the files of a mail host."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.appservers.base import BytesContent, ContentHolder
from backupd.appservers.holding import HoldingArea
from backupd.appservers.memory_holding import MemoryHolder
from backupd.items import digest_of

LATER = timedelta(hours=1)


def area(path: Path) -> HoldingArea:
    return HoldingArea(os.path.realpath(path))


@pytest.fixture(params=[lambda _path: MemoryHolder(), area], ids=["memory", "directory"])
def holder(request: pytest.FixtureRequest, tmp_path: Path) -> ContentHolder:
    make: Callable[[Path], ContentHolder] = request.param
    return make(tmp_path)


def read(holder: ContentHolder, digest: str) -> bytes | None:
    file = holder.open(digest)
    if file is None:
        return None
    with file:
        return file.read()


@pytest.mark.parametrize("content", [b"", b"one", b"\x28\xb5\x2f\xfd like a frame", os.urandom(3 << 20)])
def test_what_is_held_is_read_by_its_digest(holder: ContentHolder, content: bytes) -> None:
    """Any content comes back as it was, under the digest and with the size that `hold` told."""
    holder.check()
    held = holder.hold(BytesContent(content))
    holder.make_durable()
    assert (held.digest, held.size) == (digest_of(content), len(content))
    assert holder.contains(held.digest)
    assert read(holder, held.digest) == content
    assert list(holder.digests()) == [held.digest]


def test_what_is_not_held_is_not_there(holder: ContentHolder) -> None:
    """An unknown digest, or what is none, is neither contained nor opened, and nothing is listed."""
    for digest in (digest_of(b"unknown"), "../../etc/passwd", ""):
        assert not holder.contains(digest)
        assert holder.open(digest) is None
    assert list(holder.digests()) == []


def test_holding_again_changes_nothing(holder: ContentHolder) -> None:
    """The same content from two items is held once."""
    held = [holder.hold(BytesContent(b"same")) for _ in range(2)]
    assert held[0] == held[1]
    assert list(holder.digests()) == [held[0].digest]


def test_only_what_is_not_needed_and_old_is_released(holder: ContentHolder) -> None:
    """Release spares the needed and what was held since the moment given, and says what it let go."""
    needed, gone = (holder.hold(BytesContent(one)) for one in (b"needed", b"gone!"))
    began = datetime.now(UTC)
    assert holder.release(lambda _: False, before=began - LATER).contents == 0
    released = holder.release(lambda digest: digest == needed.digest, before=began + LATER)
    assert (released.contents, released.bytes) == (1, 5)
    assert list(holder.digests()) == [needed.digest]
    assert read(holder, gone.digest) is None


def test_the_area_can_be_given_to_a_worker_process(tmp_path: Path) -> None:
    """What a pickled area holds, the first one reads."""
    first = area(tmp_path)
    held = pickle.loads(pickle.dumps(first)).hold(BytesContent(b"elsewhere"))
    assert read(first, held.digest) == b"elsewhere"
