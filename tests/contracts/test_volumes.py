"""Contract of volumes: one suite over every implementation; what `base` promises, each keeps."""

from __future__ import annotations

import io

import pytest

from backupd.volumes.base import NameMissing, NameRefused, StagingVolume
from backupd.volumes.local import LocalVolume
from backupd.volumes.memory import MemoryVolume

NAME = "items/aA/0123456789+,ABCDEFGHIJKLMNOPQRSTUVWXYZabcd="
REFUSED = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    "../a",
    "a/../b",
    ".hidden",
    "a/.b",
    "a b",
    "a\0b",
    "ä",
    "x" * 256,
    "a\n",
]


@pytest.fixture(params=["memory", "local"])
def volume(request, tmp_path) -> StagingVolume:
    return MemoryVolume() if request.param == "memory" else LocalVolume(tmp_path)


def whole(volume: StagingVolume, name: str) -> bytes:
    with volume.get(name) as file:
        return file.read()


@pytest.mark.parametrize("content", [b"", b"one", bytes(range(256)) * 8192])
def test_put_and_get(volume, content):
    """Content comes back byte for byte, from bytes and from a file alike, and its size is told."""
    assert volume.put(NAME, content) is True
    assert volume.put("b", io.BytesIO(content)) is True
    assert whole(volume, NAME) == whole(volume, "b") == content
    assert volume.size(NAME) == len(content)
    assert volume.exists(NAME)


def test_put_never_overwrites(volume):
    """A second put under a name changes nothing and says so."""
    volume.put("a", b"first")
    assert volume.put("a", b"second") is False
    assert volume.put("a", io.BytesIO(b"third")) is False
    assert whole(volume, "a") == b"first"


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 3, b"012"), (4, None, b"456789"), (4, 0, b""), (8, 99, b"89"), (10, 1, b""), (99, None, b"")],
)
def test_ranges(volume, offset, length, expected):
    """A range is exactly these bytes, fewer at the end."""
    volume.put("a", b"0123456789")
    with volume.get("a", offset=offset, length=length) as file:
        assert file.read() == expected


def test_negative_range(volume):
    """A negative offset or length is a bug of the caller."""
    volume.put("a", b"x")
    for offset, length in ((-1, None), (0, -1)):
        with pytest.raises(ValueError, match="negative"):
            volume.get("a", offset=offset, length=length)


def test_missing(volume):
    """What is not there: not exists, not deleted, and get and size raise a permanent error."""
    assert not volume.exists("none/at/all")
    assert volume.delete("none/at/all") is False
    for ask in (volume.get, volume.size):
        with pytest.raises(NameMissing) as told:
            ask("none/at/all")
        assert told.value.permanent


@pytest.mark.parametrize("name", REFUSED)
def test_refused_names(volume, name):
    """A name that is no safe path is refused by every method, permanently, and nothing is stored."""
    token = volume.stage(b"x")
    for ask in (
        lambda: volume.put(name, b"x"),
        lambda: volume.get(name),
        lambda: volume.exists(name),
        lambda: volume.delete(name),
        lambda: volume.size(name),
        lambda: volume.publish([(token, "fine"), (token, name)]),
    ):
        with pytest.raises(NameRefused) as told:
            ask()
        assert told.value.permanent
    assert list(volume.names()) == []


def test_delete(volume):
    """A deleted name is gone and free again."""
    volume.put("d/a", b"x")
    assert volume.delete("d/a") is True
    assert not volume.exists("d/a")
    assert volume.put("d/a", b"y") is True
    assert whole(volume, "d/a") == b"y"


def test_names(volume):
    """Names are sorted, filtered by any prefix, and staged content has none."""
    for name in ("b/2", "a/1", "b/10", "b2", "c"):
        volume.put(name, b"x")
    volume.stage(b"nameless")
    assert list(volume.names()) == ["a/1", "b/10", "b/2", "b2", "c"]
    assert list(volume.names("b")) == ["b/10", "b/2", "b2"]
    assert list(volume.names("b/1")) == ["b/10"]
    assert list(volume.names("none/")) == []


@pytest.mark.parametrize("count", [1, 3, 40])
def test_publish(volume, count):
    """Staged contents have no name before publish, and theirs after, whether few or many."""
    pairs = [(volume.stage(b"%d" % n), f"d{n % 3}/x{n}") for n in range(count)]
    assert list(volume.names()) == []
    volume.publish(pairs)
    assert all(whole(volume, name) == name.partition("x")[2].encode() for _, name in pairs)
    volume.publish(pairs)


def test_publish_keeps_what_is_there(volume):
    """Publishing under a taken name keeps the old content, also an empty one, and drops the staged."""
    volume.put("a", b"old")
    volume.put("empty", b"")
    pairs = [(volume.stage(b"new"), "a"), (volume.stage(b"new"), "empty")]
    pairs += [(volume.stage(b"one"), "twice"), (volume.stage(b"two"), "twice")]
    volume.publish(pairs)
    assert [whole(volume, name) for name in ("a", "empty", "twice")] == [b"old", b"", b"one"]


def test_publish_unknown_token(volume):
    """A token that was never staged, or was discarded, can't be published."""
    token = volume.stage(b"x")
    volume.discard([token, "unknown"])
    for one in (token, "unknown"):
        with pytest.raises(NameMissing):
            volume.publish([(one, "a")])
    assert not volume.exists("a")
