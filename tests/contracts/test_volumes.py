"""Contract of volumes: one suite over every implementation; what `base` promises, each keeps."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.volumes.base import NameMissing, NameRefused, StagingVolume, Volume
from backupd.volumes.counting import Counting
from backupd.volumes.encrypting import EncryptingVolume
from backupd.volumes.keyring import Keyring, MasterKey
from backupd.volumes.limiting import Limiting, Limits
from backupd.volumes.listing import names_after
from backupd.volumes.local import LocalVolume
from backupd.volumes.marker import prepare
from backupd.volumes.memory import MemoryVolume
from backupd.volumes.mounted import MountedVolume
from backupd.volumes.prefixed import Prefixed
from backupd.volumes.retrying import Retrying
from backupd.volumes.s3 import S3Volume
from tests.world.swift import SWIFT

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


ON_DISK: dict[str, Callable[[Path], Volume]] = {
    "local": LocalVolume,
    "mounted": a_mounted_path,
    "encrypted mounted": lambda root: encrypting(a_mounted_path(root)),
}
WRAPPED: dict[str, Callable[[], Volume]] = {
    "retrying": lambda: Retrying(MemoryVolume()),
    "limiting": lambda: Limiting(MemoryVolume(), Limits(bytes_per_second=1e9, requests_per_second=1e6)),
    "counting": lambda: Counting(MemoryVolume()),
    "prefixed": lambda: Prefixed(MemoryVolume(), "server/one"),
    "encrypting": lambda: encrypting(MemoryVolume()),
    "all wrappers": lambda: encrypting(Retrying(Counting(Limiting(Prefixed(MemoryVolume(), "p"), Limits())))),
}
KINDS = ["memory", *ON_DISK, "moto", pytest.param("swift", marks=SWIFT), *WRAPPED]
BUCKETS: dict[str, S3Volume] = {}
"""The volumes on object stores, each made once: a client takes longer to make than most tests."""


@pytest.fixture(params=KINDS)
def volume(request, tmp_path) -> Volume:
    if request.param in WRAPPED:
        return WRAPPED[request.param]()
    if request.param in ("moto", "swift"):
        return empty_bucket(request.param, request)
    return MemoryVolume() if request.param == "memory" else ON_DISK[request.param](tmp_path)


@pytest.fixture(params=["memory", "local"])
def staging(request, tmp_path) -> StagingVolume:
    return MemoryVolume() if request.param == "memory" else LocalVolume(tmp_path)


def empty_bucket(kind: str, request) -> S3Volume:
    if kind not in BUCKETS:
        store = request.getfixturevalue(kind)
        BUCKETS[kind] = S3Volume(store.settings(prefix="contract"))
    for name in list(BUCKETS[kind].names()):
        BUCKETS[kind].delete(name)
    return BUCKETS[kind]


@pytest.fixture(scope="module", autouse=True)
def _close_buckets():
    yield
    while BUCKETS:
        BUCKETS.popitem()[1].close()


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
def test_nothing_is_published_beside_a_refused_name(staging, name):
    """A refused name among others is told before anything gets its name."""
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
    """Names are sorted, filtered by any prefix, and staged content has none."""
    for name in ("b/2", "a/1", "b/10", "b2", "c"):
        volume.put(name, b"x")
    assert list(volume.names()) == ["a/1", "b/10", "b/2", "b2", "c"]
    assert list(volume.names("b")) == ["b/10", "b/2", "b2"]
    assert list(volume.names("b/1")) == ["b/10"]
    assert list(volume.names("none/")) == []


def test_a_stream_that_can_not_be_wound_back(volume):
    """Content from a pipe is stored like any other."""

    class Pipe:
        def __init__(self) -> None:
            self._rest = [b"three", b"bits", b"of it"]

        def read(self, size: int, /) -> bytes:
            return self._rest.pop(0) if self._rest else b""

    assert volume.put("a", Pipe()) is True
    assert whole(volume, "a") == b"threebitsof it"


def test_a_source_that_fails_stores_nothing(volume):
    """What reading the content raises comes through, and the name stays free."""

    class Broken:
        def read(self, size: int, /) -> bytes:
            raise RuntimeError("the sender hung up")

    with pytest.raises(RuntimeError, match="the sender hung up"):
        volume.put("a", Broken())
    assert not volume.exists("a")


def test_threads_that_put_one_name(volume):
    """Of many puts of one name at a time one stores, and the others are told that it was there."""
    with ThreadPoolExecutor(8) as threads:
        stored = list(threads.map(lambda n: volume.put("a", b"%d" % n), range(8)))
    assert sorted(stored) == [False] * 7 + [True]
    assert whole(volume, "a") == b"%d" % stored.index(True)


def test_listing_from_the_middle(volume):
    """A listing can go on behind a name, whether the volume can do that itself or not."""
    for name in ("a/1", "b/1", "b/2", "b/3", "c"):
        volume.put(name, b"x")
    assert list(names_after(volume, "b/", "b/1")) == ["b/2", "b/3"]
    assert list(names_after(volume, "b/", "a/9")) == ["b/1", "b/2", "b/3"]
    assert list(names_after(volume, "", "b/3")) == ["c"]
    assert list(names_after(volume, "b/", "b/3")) == []


def test_staged_content_is_not_listed(staging):
    """What is staged has no name yet."""
    staging.put("a", b"x")
    staging.stage(b"nameless")
    assert list(staging.names()) == ["a"]


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
