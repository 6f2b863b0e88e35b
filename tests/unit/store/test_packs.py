"""Packs: what goes in comes out, one content by one range; whatever is not as it was written is refused."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.items import digest_of
from backupd.store import packs
from backupd.store.packs import CorruptPack, PackBuilder

CONTENTS = st.lists(
    st.one_of(
        st.binary(max_size=300), st.builds(lambda b, n: b * n, st.binary(max_size=9), st.integers(0, 90_000))
    ),
    min_size=1,
    max_size=20,
)


def packed(contents: list[bytes]) -> packs.Packed:
    builder = PackBuilder()
    for content in contents:
        builder.add(digest_of(content), content)
    return builder.finish()


@given(CONTENTS)
@settings(max_examples=40, deadline=None)
def test_round_trip(contents):
    """Every content comes back from the range of its block, and a pack's index says what its maker does."""
    pack = packed(contents)
    assert packs.places_of(pack.content) == pack.places
    assert {place.digest for place in pack.places} == {digest_of(content) for content in contents}
    wanted = {digest_of(content): content for content in contents}
    for place in pack.places:
        block = pack.content[place.block_offset : place.block_offset + place.block_bytes]
        assert packs.content_of(packs.open_block(block), place) == wanted[place.digest]


PACK = packed([b"hello" * 100, b"", os.urandom(3000), b"x" * 600_000, b"y" * 10])


@given(st.integers(0, len(PACK.content) - 1), st.integers(1, 255))
@settings(max_examples=80, deadline=None)
def test_any_changed_byte_is_noticed(position, change):
    """A pack with one byte changed never gives a wrong content: each is right, or reading it is refused."""
    broken = bytearray(PACK.content)
    broken[position] ^= change
    read_all(bytes(broken))


@given(st.integers(0, len(PACK.content) - 1), st.binary(max_size=20))
@settings(max_examples=50, deadline=None)
def test_cut_and_glued_packs_are_refused(length, more):
    """A pack that is cut short, or goes on with something else, gives nothing wrong."""
    read_all(PACK.content[:length] + more)


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_noise_is_refused(noise):
    """Bytes that are no pack raise `CorruptPack` and nothing else."""
    for content in (noise, packs.MAGIC + noise + PACK.content[-packs.FOOTER_BYTES :]):
        with pytest.raises(CorruptPack):
            packs.places_of(content)
    with pytest.raises(CorruptPack):
        packs.open_block(b"\x00" + noise)


def read_all(content: bytes) -> None:
    try:
        places = packs.places_of(content)
    except CorruptPack:
        return
    assert places == PACK.places
    for place in places:
        block = content[place.block_offset : place.block_offset + place.block_bytes]
        try:
            assert digest_of(packs.content_of(packs.open_block(block), place)) == place.digest
        except CorruptPack:
            continue


def test_a_block_gives_no_more_than_it_may():
    """A frame that would fill memory is refused before it is opened, and so is one that tells no size."""
    bomb = zstandard.ZstdCompressor().compress(b"\0" * (packs.BLOCK_CONTENT_BYTES_MAX + 1))
    untold = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000)
    for block in (bomb, untold, b""):
        with pytest.raises(CorruptPack):
            packs.open_block(block)


def test_blocks_and_packs_are_bounded():
    """Blocks close at their size, a big content has one for itself, and a pack says when it is full."""
    builder = PackBuilder()
    big = os.urandom(packs.PACKED_BYTES_MAX)
    builder.add(digest_of(big), big)
    count = 0
    while not builder.is_full:
        content = os.urandom(60_000)
        builder.add(digest_of(content), content)
        count += 1
    pack = builder.finish()
    assert packs.PACK_BYTES * 0.9 < len(pack.content) < packs.PACK_BYTES * 1.1
    blocks = packs.by_block(pack.places)
    assert len(blocks[0]) == 1
    assert len(blocks[0]) + sum(len(block) for block in blocks[1:]) == count + 1
    for block in blocks[1:]:
        assert sum(place.size for place in block) <= packs.BLOCK_CONTENT_BYTES + 60_000
    with pytest.raises(ValueError, match="belong"):
        builder.add("x", b"x" * (packs.PACKED_BYTES_MAX + 1))


def test_twice_is_once_and_nothing_is_no_pack():
    """A content is in a pack once; a pack of nothing is not made."""
    assert len(packed([b"a", b"a"]).places) == 1
    with pytest.raises(ValueError, match="nothing"):
        PackBuilder().finish()


def test_together_is_smaller():
    """Contents that resemble each other take less room in a pack than each for itself."""
    contents = [
        b"From: a@example.com\r\nSubject: number %d\r\n\r\nHello %d\r\n" % (n, n) * 5 for n in range(300)
    ]
    alone = sum(len(zstandard.ZstdCompressor().compress(content)) for content in contents)
    assert len(packed(contents).content) < alone


def test_the_line_of_the_documentation_reads_a_content(tmp_path):
    """With what the index says, standard tools find a content in a pack: the example of docs/formats.md."""
    text = (Path(__file__).parents[3] / "docs" / "formats.md").read_text("utf-8")
    (line,) = re.findall(r"(?s)```bash\n(.*?)```", text)
    (tmp_path / "a.pack").write_bytes(PACK.content)
    place = PACK.places[2]
    told = {
        "PACK": str(tmp_path / "a.pack"),
        "BLOCK_OFFSET": str(place.block_offset),
        "BLOCK_BYTES": str(place.block_bytes),
        "OFFSET": str(place.offset),
        "SIZE": str(place.size),
    }
    done = subprocess.run(
        ["bash", "-c", line], env=os.environ | told, capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout.split()[0] == packs.digest_bytes(place.digest).hex()
    assert f"{packs.FOOTER_BYTES} bytes: bytes of the index" in text
