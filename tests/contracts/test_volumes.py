"""Contract of volumes: one suite over every implementation; what `base` promises, each keeps."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.volumes.base import NameMissing, NameRefused, StagingVolume, Volume
from backupd.volumes.encrypting import EncryptingVolume
from backupd.volumes.keyring import Keyring, MasterKey
from backupd.volumes.local import LocalVolume
from backupd.volumes.marker import prepare
from backupd.volumes.memory import MemoryVolume
from backupd.volumes.mounted import MountedVolume

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


def a_mounted_path(root: Path) -> MountedVolume:
    prepare(root, server_id="server", server_name="mail", now=datetime(2026, 11, 24, tzinfo=UTC))
    return MountedVolume(root, server_id="server")


def encrypting(inner: Volume) -> EncryptingVolume:
    return EncryptingVolume(inner, Keyring([MasterKey(bytes(32))]))


STAGING: dict[str, Callable[[Path], StagingVolume]] = {
    "memory": lambda _: MemoryVolume(),
    "local": LocalVolume,
}
VOLUMES: dict[str, Callable[[Path], Volume]] = {
    **STAGING,
    "mounted": a_mounted_path,
    "encrypted memory": lambda _: encrypting(MemoryVolume()),
    "encrypted mounted": lambda root: encrypting(a_mounted_path(root)),
}


@pytest.fixture(params=VOLUMES)
def volume(request, tmp_path) -> Volume:
    return VOLUMES[request.param](tmp_path)


@pytest.fixture(params=STAGING)
def staging(request, tmp_path) -> StagingVolume:
    return STAGING[request.param](tmp_path)


def whole(volume: Volume, name: str) -> bytes:
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
    for ask in (
        lambda: volume.put(name, b"x"),
        lambda: volume.get(name),
        lambda: volume.exists(name),
        lambda: volume.delete(name),
        lambda: volume.size(name),
    ):
        with pytest.raises(NameRefused) as told:
            ask()
        assert told.value.permanent
    assert list(volume.names()) == []


@pytest.mark.parametrize("name", REFUSED)
def test_refused_names_are_not_published(staging, name):
    """Among names that could be published, one that is no safe path keeps all of them back."""
    token = staging.stage(b"x")
    with pytest.raises(NameRefused):
        staging.publish([(token, "fine"), (token, name)])
    assert list(staging.names()) == []


def test_delete(volume):
    """A deleted name is gone and free again."""
    volume.put("d/a", b"x")
    assert volume.delete("d/a") is True
    assert not volume.exists("d/a")
    assert volume.put("d/a", b"y") is True
    assert whole(volume, "d/a") == b"y"


def test_names(volume):
    """Names are sorted and filtered by any prefix."""
    for name in ("b/2", "a/1", "b/10", "b2", "c"):
        volume.put(name, b"x")
    assert list(volume.names()) == ["a/1", "b/10", "b/2", "b2", "c"]
    assert list(volume.names("b")) == ["b/10", "b/2", "b2"]
    assert list(volume.names("b/1")) == ["b/10"]
    assert list(volume.names("none/")) == []


@pytest.mark.parametrize("count", [1, 3, 40])
def test_publish(staging, count):
    """Staged contents have no name before publish, and theirs after, whether few or many."""
    pairs = [(staging.stage(b"%d" % n), f"d{n % 3}/x{n}") for n in range(count)]
    assert list(staging.names()) == []
    staging.publish(pairs)
    assert all(whole(staging, name) == name.partition("x")[2].encode() for _, name in pairs)
    staging.publish(pairs)


def test_publish_keeps_what_is_there(staging):
    """Publishing under a taken name keeps the old content, also an empty one, and drops the staged."""
    staging.put("a", b"old")
    staging.put("empty", b"")
    pairs = [(staging.stage(b"new"), "a"), (staging.stage(b"new"), "empty")]
    pairs += [(staging.stage(b"one"), "twice"), (staging.stage(b"two"), "twice")]
    staging.publish(pairs)
    assert [whole(staging, name) for name in ("a", "empty", "twice")] == [b"old", b"", b"one"]


def test_publish_unknown_token(staging):
    """A token that was never staged, or was discarded, can't be published."""
    token = staging.stage(b"x")
    staging.discard([token, "unknown"])
    for one in (token, "unknown"):
        with pytest.raises(NameMissing):
            staging.publish([(one, "a")])
    assert not staging.exists("a")
