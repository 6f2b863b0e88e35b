"""The encrypted volume: only the keys open contents and names, and nothing is believed that was changed."""

from __future__ import annotations

import base64
import io
import os
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.errors import ConfigError, VolumeError
from backupd.volumes.base import NameRefused
from backupd.volumes.encrypting import SEALED_AT_ONCE_BYTES_MAX, EncryptingVolume
from backupd.volumes.key_folder import KEYS_FOLDER, is_encrypted
from backupd.volumes.keyring import KeyMissing, Keyring, MasterKey, parse_keys
from backupd.volumes.memory import MemoryVolume
from backupd.volumes.ownership import NAME as OWNER_NAME
from backupd.volumes.ownership import claim, require
from backupd.volumes.sealed_names import NameTooLong, in_order
from backupd.volumes.sealing import (
    CHUNK_BYTES,
    HEADER_BYTES,
    SEALED_CHUNK_BYTES,
    ContentTampered,
    opened_size,
    sealed_size,
)

OLD, NEW, OTHER = MasterKey(b"o" * 32), MasterKey(b"n" * 32), MasterKey(b"x" * 32)
NAME = "items/aA/0123456789+,ABCDEFGHIJKLMNOPQRSTUVWXYZabcd="
PLAIN = os.urandom(3 * CHUNK_BYTES + 100)
BORDERS = [
    0,
    1,
    15,
    16,
    17,
    CHUNK_BYTES - 1,
    CHUNK_BYTES,
    CHUNK_BYTES + 1,
    2 * CHUNK_BYTES,
    3 * CHUNK_BYTES + 7,
]
AROUND = st.one_of(
    st.integers(0, 3 * CHUNK_BYTES + 200),
    st.builds(
        lambda chunks, more: max(0, chunks * CHUNK_BYTES + more), st.integers(0, 3), st.integers(-2, 2)
    ),
)


def volume(inner: MemoryVolume, *keys: MasterKey) -> EncryptingVolume:
    return EncryptingVolume(inner, Keyring(keys or (OLD,)))


def read(one: EncryptingVolume, name: str, **part: int) -> bytes:
    with one.get(name, **part) as file:
        return file.read()


def sealed_of(inner: MemoryVolume, folder: str = "items/") -> tuple[str, bytes]:
    """Return the only name in a folder beneath, and what rests under it."""
    (name,) = inner.names(folder)
    with inner.get(name) as file:
        return name, file.read()


def replaced(inner: MemoryVolume, name: str, content: bytes) -> None:
    inner.delete(name)
    inner.put(name, content)


class Dripping:
    """A source that gives few bytes at a time, as a pipe may."""

    def __init__(self, content: bytes, size: int) -> None:
        self._file = io.BytesIO(content)
        self._size = size

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._size))


@pytest.mark.parametrize("size", BORDERS)
def test_contents_around_the_borders_of_chunks(size):
    """From bytes and from any source the content comes back, and both sizes are as computed."""
    inner = MemoryVolume()
    one = volume(inner)
    assert one.put("items/a/bytes", PLAIN[:size])
    assert one.put("items/b/source", Dripping(PLAIN[:size], 40_000))
    for name in ("items/a/bytes", "items/b/source"):
        assert read(one, name) == PLAIN[:size]
        assert one.size(name) == size
    assert {inner.size(name) for name in inner.names("items/")} == {sealed_size(size)}
    assert opened_size(sealed_size(size), "") == size


def test_a_content_that_is_sealed_while_it_is_sent():
    """Bytes too large to be sealed in memory take the other way, and come back."""
    one = volume(MemoryVolume())
    large = bytes(SEALED_AT_ONCE_BYTES_MAX + 1)
    one.put(NAME, large)
    assert read(one, NAME) == large


@given(size=AROUND, offset=AROUND, length=st.one_of(st.none(), AROUND))
def test_any_part_of_any_size(size: int, offset: int, length: int | None) -> None:
    """A part is exactly what it is of the content itself, wherever chunks begin and end."""
    size = min(size, len(PLAIN))
    one = volume(MemoryVolume())
    one.put(NAME, PLAIN[:size])
    end = size if length is None else offset + length
    with one.get(NAME, offset=offset, length=length) as file:
        assert file.read() == PLAIN[offset : min(end, size)]


@given(size=AROUND, at=st.integers(0, 2**30), bit=st.integers(0, 7), offset=AROUND)
def test_any_byte_that_was_changed_is_detected(size: int, at: int, bit: int, offset: int) -> None:
    """A flipped bit fails the whole; a part fails, or is right because the bit lies elsewhere."""
    size = min(size, len(PLAIN))
    inner = MemoryVolume()
    one = volume(inner)
    one.put(NAME, PLAIN[:size])
    name, sealed = sealed_of(inner)
    changed = bytearray(sealed)
    changed[at % len(sealed)] ^= 1 << bit
    replaced(inner, name, bytes(changed))
    with pytest.raises((ContentTampered, KeyMissing)):
        read(one, NAME)
    try:
        part = read(volume(inner), NAME, offset=offset, length=1000)
    except (ContentTampered, KeyMissing):
        return
    assert part == PLAIN[:size][offset : offset + 1000]


@given(size=AROUND, end=st.integers(0, 2**30), offset=AROUND)
def test_a_content_that_was_cut_is_detected(size: int, end: int, offset: int) -> None:
    """Cut anywhere, also between chunks, it fails as a whole, and no part of it is given as shorter."""
    size = min(size, len(PLAIN))
    inner = MemoryVolume()
    one = volume(inner)
    one.put(NAME, PLAIN[:size])
    name, sealed = sealed_of(inner)
    cuts = [HEADER_BYTES + n * SEALED_CHUNK_BYTES for n in range(4)]
    end = cuts[end // 2 % 4] if end % 2 else end
    replaced(inner, name, sealed[: end % len(sealed)])
    with pytest.raises(ContentTampered):
        read(one, NAME)
    for length in (None, 1000):
        try:
            with one.get(NAME, offset=offset, length=length) as file:
                part = file.read()
        except ContentTampered:
            continue
        assert part == PLAIN[:size][offset : size if length is None else offset + length]


def test_reordered_appended_and_foreign_chunks():
    """Chunks in another order, one more, those of another content, or a content under another name: no."""
    inner = MemoryVolume()
    one = volume(inner)
    one.put(NAME, PLAIN)
    name, sealed = sealed_of(inner)
    one.put("items/zZ/other", PLAIN)
    other_name = next(found for found in inner.names("items/") if found != name)
    with inner.get(other_name) as file:
        other = file.read()
    body = [sealed[i : i + SEALED_CHUNK_BYTES] for i in range(HEADER_BYTES, len(sealed), SEALED_CHUNK_BYTES)]
    header = sealed[:HEADER_BYTES]
    foreign = other[HEADER_BYTES : HEADER_BYTES + SEALED_CHUNK_BYTES]
    for forged in (
        header + b"".join([body[1], body[0], *body[2:]]),
        header + b"".join([*body, body[-1]]),
        sealed + b"x",
        header + foreign + b"".join(body[1:]),
        other,
        b"",
        PLAIN,
    ):
        replaced(inner, name, forged)
        with pytest.raises(ContentTampered) as told:
            read(one, NAME)
        assert told.value.permanent
        assert NAME in told.value.message
    replaced(inner, name, sealed)
    assert read(one, NAME) == PLAIN


def test_sizes_that_no_content_has():
    """A size on the volume that can't be is told, not computed with."""
    for sealed in (0, HEADER_BYTES, HEADER_BYTES + 15, HEADER_BYTES + SEALED_CHUNK_BYTES + 16):
        with pytest.raises(ContentTampered):
            opened_size(sealed, NAME)


def test_nothing_on_the_volume_tells_what_it_is():
    """The first levels are readable; no digest, no folder and no byte of content is."""
    inner = MemoryVolume()
    one = volume(inner)
    one.put(NAME, b"From: somebody" * 1000)
    one.put("accounts/12-34/archive", b"x")
    found = list(inner.names())
    assert {name.partition("/")[0] for name in found} == {"accounts", "encryption", "items"}
    assert not [name for name in found if "0123" in name or "aA/" in name or "12-34" in name]
    for name in found:
        with inner.get(name) as file:
            assert b"From: somebody" not in file.read()


@given(st.sets(st.from_regex(r"(items|accounts|x)(/[a-c.=]{0,2}[abc]){0,3}", fullmatch=True), max_size=12))
def test_listings_are_those_of_a_plain_volume(names: set[str]) -> None:
    """For every beginning of a name the listing is what a volume without encryption gives."""
    plain = MemoryVolume()
    one = volume(MemoryVolume())
    for name in names:
        if not any(level.startswith(".") for level in name.split("/")):
            plain.put(name, b"")
            one.put(name, b"")
    for prefix in {name[:end] for name in names for end in range(len(name) + 1)} | {"none/", "items//", "/"}:
        assert list(one.names(prefix)) == list(plain.names(prefix))


def test_a_listing_of_one_folder_asks_for_one_folder():
    """What is not in it is not even listed beneath."""
    inner = MemoryVolume()
    asked: list[str] = []

    class Watched(MemoryVolume):
        def names(self, prefix: str = ""):
            asked.append(prefix)
            return inner.names(prefix)

        put, get = inner.put, inner.get

    one = EncryptingVolume(Watched(), Keyring([OLD]))
    one.put("items/aA/1", b"")
    one.put("items/bB/1", b"")
    asked.clear()
    assert list(one.names("items/bB/")) == ["items/bB/1"]
    assert list(one.names("items/bB/1")) == ["items/bB/1"]
    assert [len(list(inner.names(prefix))) for prefix in asked] == [1, 1]


def test_many_names_are_sorted_with_few_in_memory():
    """Runs of them go through files, and come out merged."""
    names = [f"n{n:03}" for n in range(50)]
    for bound in (1, 7, 50, 51):
        assert list(in_order(reversed(names), in_memory_max=bound)) == names


def test_a_new_master_key():
    """The old key reads what is there, what is new needs the new one, names stay, nothing is rewritten."""
    inner = MemoryVolume()
    volume(inner, OLD).put("items/a/old", b"old")
    before = {name: inner.size(name) for name in inner.names()}
    both = volume(inner, NEW, OLD)
    assert read(both, "items/a/old") == b"old"
    assert both.put("items/a/old", b"again") is False
    both.put("items/a/new", b"new")
    assert before.items() <= {name: inner.size(name) for name in inner.names()}.items()
    later = volume(inner, NEW)
    assert list(later.names()) == ["items/a/new", "items/a/old"]
    assert read(later, "items/a/new") == b"new"
    with pytest.raises(KeyMissing, match=OLD.id.hex()):
        read(later, "items/a/old")
    only_old = volume(inner, OLD)
    assert read(only_old, "items/a/old") == b"old"
    with pytest.raises(KeyMissing, match=NEW.id.hex()) as told:
        read(only_old, "items/a/new")
    assert told.value.permanent
    assert OLD.id.hex() in told.value.hint


def test_the_wrong_key():
    """Without the right master key nothing works, and the error names the key that is needed."""
    inner = MemoryVolume()
    volume(inner).put(NAME, b"x")
    stranger = volume(inner, OTHER)
    for call in (
        lambda: stranger.get(NAME),
        lambda: stranger.exists(NAME),
        lambda: stranger.put("items/a/b", b"x"),
        lambda: list(stranger.names()),
    ):
        with pytest.raises(KeyMissing, match=OLD.id.hex()):
            call()


def test_a_volume_that_is_not_encrypted_is_refused():
    """Contents of both kinds on one volume could not be told from forged ones."""
    inner = MemoryVolume()
    inner.put("items/a/b", b"plain")
    for call in (lambda: volume(inner).put("items/a/c", b"x"), lambda: list(volume(inner).names())):
        with pytest.raises(VolumeError, match="not encrypted") as told:
            call()
        assert told.value.permanent
    assert list(inner.names()) == ["items/a/b"]


def test_the_volumes_key_that_was_lost_or_forged():
    """Lost, it is found by trying the master keys and kept again; forged, nothing is believed."""
    inner = MemoryVolume()
    volume(inner, OLD).put("items/a/b", b"x")
    assert is_encrypted(inner)
    (key_name,) = inner.names(f"{KEYS_FOLDER}/")
    inner.delete(key_name)
    again = volume(inner, NEW, OLD)
    assert read(again, "items/a/b") == b"x"
    again.put("items/a/c", b"y")
    assert list(inner.names(f"{KEYS_FOLDER}/")) == [f"{KEYS_FOLDER}/{NEW.id.hex()}"]
    for forged in (
        b"",
        b"{}",
        msgspec.json.encode({"format": 1, "key": base64.b64encode(bytes(72)).decode()}),
    ):
        replaced(inner, f"{KEYS_FOLDER}/{NEW.id.hex()}", forged)
        with pytest.raises(ContentTampered):
            list(volume(inner, NEW, OLD).names())


def test_reading_writes_nothing():
    """A volume that is only looked at stays as it is, new or not."""
    inner = MemoryVolume()
    one = volume(inner)
    assert not one.exists(NAME)
    assert list(one.names()) == []
    assert not one.delete(NAME)
    assert list(inner.names()) == []
    assert not is_encrypted(inner)


def test_what_is_not_ours_is_left_out_of_listings():
    """A file that somebody put there hides nothing and is not given as a name."""
    inner = MemoryVolume()
    one = volume(inner)
    one.put(NAME, b"x")
    inner.put("items/README", b"hello")
    assert list(one.names()) == [NAME]


def test_a_place_that_was_claimed_before():
    """The object that says whose a place is lies there as it is, and is neither a content nor a name."""
    inner = MemoryVolume()
    claim(inner, "server", datetime(2026, 11, 24, tzinfo=UTC))
    one = volume(inner)
    one.put(NAME, b"x")
    assert list(one.names()) == [NAME]
    assert require(inner, "server").server_id == "server"
    with pytest.raises(NameRefused):
        one.put(OWNER_NAME, b"x")


def test_names_that_can_not_be():
    """The keys' own folder is no place for contents; a level that would become too long is refused."""
    one = volume(MemoryVolume())
    with pytest.raises(NameRefused):
        one.put(f"{KEYS_FOLDER}/{OLD.id.hex()}", b"x")
    assert list(one.names(f"{KEYS_FOLDER}/")) == []
    assert one.put("a/" + "x" * 170, b"x")
    with pytest.raises(NameTooLong):
        one.put("a/" + "x" * 171, b"x")


def test_a_content_that_was_replaced_meanwhile():
    """Parts are right also where the header that was remembered is not the one there any more."""
    inner = MemoryVolume()
    one, other = volume(inner), volume(inner)
    one.put(NAME, b"first")
    assert read(one, NAME, offset=1, length=2) == b"ir"
    other.delete(NAME)
    other.put(NAME, b"second")
    assert read(one, NAME, offset=1, length=2) == b"ec"


def test_a_text_of_keys():
    """One key a line, the newest first, with comments; ids follow from the keys alone."""
    line = base64.b64encode(b"n" * 32).decode()
    ring = parse_keys(f"# newest\n{line}  # since May\n\n{base64.b64encode(b'o' * 32).decode()}\n", "file")
    assert ring.ids == (NEW.id.hex(), OLD.id.hex())
    assert repr(ring.newest) == f"MasterKey({NEW.id.hex()})"
    with pytest.raises(TypeError):
        ring.newest.__reduce__()
    for text in ("", "# none", "c2hvcnQ=", "not base64!", line[:-4]):
        with pytest.raises(ConfigError) as told:
            parse_keys(text, "file")
        assert not text or text not in str(told.value)
