"""Packs: many small contents as one object for a remote volume, which tells at its end what it holds.

A pack is a header, blocks, an index and a footer (docs/formats.md). A *block* is one zstd frame over several
contents laid end to end, so that contents are compressed together and one of them is read by the range of
its block. The index says where each content lies; the footer, of a fixed size, where the index begins. So a
pack describes itself: what packs hold is known again from packs alone.

Pure: bytes in, bytes out. Nothing in a pack is believed: lengths are bounded before they are used, checksums
are compared, a frame may give no more than its row tells, and a content must have its digest. Every
deviation is `CorruptPack`.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Sequence

import google_crc32c
import msgspec
import zstandard

from backupd.errors import CorruptBlob
from backupd.items import digest_text

MAGIC = b"bkdpack\n"
VERSION = 1
PACK_BYTES = 8 << 20
"""A pack is full once its blocks have so many bytes."""
BLOCK_CONTENT_BYTES = 512 << 10
"""A block is closed once its contents have so many bytes."""
PACKED_BYTES_MAX = 1 << 20
"""A larger content is an object of its own."""
BLOCK_CONTENT_BYTES_MAX = BLOCK_CONTENT_BYTES + PACKED_BYTES_MAX
CONTENTS_MAX = 1 << 16
INDEX_BYTES_MAX = 8 << 20
WINDOW_BYTES_MAX = 8 << 20
_FOOTER = struct.Struct("<IIIHHII8s")
"""Bytes of the index, blocks, contents, version, zero, CRC-32C of the index, of the footer so far, magic."""
_FOOTER_CHECKED = struct.Struct("<IIIHHI")
FOOTER_BYTES = _FOOTER.size
_BLOCK = struct.Struct("<II")
"""Stored bytes of a block, bytes of its contents."""
_CONTENT = struct.Struct("<32sIII")
"""SHA-256, number of the block, offset among the block's contents, bytes."""


class CorruptPack(CorruptBlob):
    """A pack that does not check; the message says where."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a content lies: the range of its block in the pack, and its own in the block's contents."""

    digest: str
    block_offset: int
    block_bytes: int
    offset: int
    size: int


class Packed(msgspec.Struct, frozen=True):
    """A whole pack and what it holds."""

    content: bytes
    places: tuple[Place, ...]

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the whole pack."""
        return hashlib.sha256(self.content).digest()


class IndexSpan(msgspec.Struct, frozen=True):
    """Where a pack's index lies and what it must be, as the footer tells."""

    offset: int
    length: int
    blocks: int
    contents: int
    check: int


class PackBuilder:
    """Takes contents until it is full. Holds the compressed blocks and one open block in memory."""

    def __init__(self, *, level: int = 3) -> None:
        self._compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
        self._blocks: list[bytes] = []
        self._block_rows: list[bytes] = []
        self._rows: list[bytes] = []
        self._open: list[bytes] = []
        self._open_bytes = 0
        self._places: list[tuple[str, int, int, int]] = []
        self._digests: set[str] = set()
        self._stored = len(MAGIC)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be added; what is in the open block counts as if it were stored."""
        return self._stored + self._open_bytes // 2 >= PACK_BYTES or len(self._places) >= CONTENTS_MAX

    def add(self, digest: str, content: bytes) -> None:
        """Add a content; one that is in already is not added again. `ValueError` for one that is too big."""
        if len(content) > PACKED_BYTES_MAX or len(self._places) >= CONTENTS_MAX:
            raise ValueError(f"{len(content)} bytes do not belong into this pack")
        if digest in self._digests:
            return
        self._digests.add(digest)
        self._places.append((digest, len(self._blocks), self._open_bytes, len(content)))
        self._open.append(content)
        self._open_bytes += len(content)
        if self._open_bytes >= BLOCK_CONTENT_BYTES:
            self._close_block()

    def finish(self) -> Packed:
        """Return the pack. `ValueError` if nothing was added."""
        if not self._places:
            raise ValueError("a pack of nothing")
        if self._open:
            self._close_block()
        begins = [len(MAGIC)]
        for block in self._blocks:
            begins.append(begins[-1] + len(block))
        rows = [
            _CONTENT.pack(digest_bytes(digest), block, offset, size)
            for digest, block, offset, size in self._places
        ]
        index = b"".join([*self._block_rows, *rows])
        checked = _FOOTER_CHECKED.pack(
            len(index), len(self._blocks), len(rows), VERSION, 0, google_crc32c.value(index)
        )
        footer = checked + struct.pack("<I8s", google_crc32c.value(checked), MAGIC)
        places = tuple(
            Place(digest, begins[block], len(self._blocks[block]), offset, size)
            for digest, block, offset, size in self._places
        )
        return Packed(b"".join([MAGIC, *self._blocks, index, footer]), places)

    def _close_block(self) -> None:
        block = self._compressor.compress(b"".join(self._open))
        self._blocks.append(block)
        self._block_rows.append(_BLOCK.pack(len(block), self._open_bytes))
        self._stored += len(block)
        self._open, self._open_bytes = [], 0


def read_footer(footer: bytes, pack_bytes: int) -> IndexSpan:
    """Return where the index of a pack lies, from its last `FOOTER_BYTES`. Raises `CorruptPack`."""
    if len(footer) != FOOTER_BYTES or pack_bytes < len(MAGIC) + FOOTER_BYTES:
        raise CorruptPack(f"a pack of {pack_bytes} bytes is cut short")
    length, blocks, contents, version, _, check, own_check, magic = _FOOTER.unpack(footer)
    if magic != MAGIC:
        raise CorruptPack("it does not end as a pack does")
    if own_check != google_crc32c.value(footer[: _FOOTER_CHECKED.size]):
        raise CorruptPack("the checksum of the footer differs")
    if version != VERSION:
        raise CorruptPack(f"the pack has version {version}", hint="use the newer backupd that wrote it")
    if length > INDEX_BYTES_MAX or length != blocks * _BLOCK.size + contents * _CONTENT.size:
        raise CorruptPack(f"an index of {length} bytes does not hold {blocks} blocks and {contents} contents")
    offset = pack_bytes - FOOTER_BYTES - length
    if offset < len(MAGIC) or not contents or contents > CONTENTS_MAX:
        raise CorruptPack(f"an index of {contents} contents at {offset} can't be")
    return IndexSpan(offset, length, blocks, contents, check)


def read_index(index: bytes, span: IndexSpan) -> tuple[Place, ...]:
    """Return the places of all contents from the bytes of an index. Raises `CorruptPack`."""
    if len(index) != span.length or google_crc32c.value(index) != span.check:
        raise CorruptPack("the checksum of the index differs")
    blocks: list[tuple[int, int, int]] = []
    begin = len(MAGIC)
    for stored, content_bytes in _BLOCK.iter_unpack(index[: span.blocks * _BLOCK.size]):
        if not stored or content_bytes > BLOCK_CONTENT_BYTES_MAX or begin + stored > span.offset:
            raise CorruptPack(f"block {len(blocks)} of {stored} bytes at {begin} can't be")
        blocks.append((begin, stored, content_bytes))
        begin += stored
    if begin != span.offset:
        raise CorruptPack(f"the blocks end at {begin}, the index begins at {span.offset}")
    places: list[Place] = []
    for sha256, block, offset, size in _CONTENT.iter_unpack(index[span.blocks * _BLOCK.size :]):
        if block >= len(blocks) or offset + size > blocks[block][2] or size > PACKED_BYTES_MAX:
            raise CorruptPack(f"content {len(places)} lies outside its block")
        places.append(Place(digest_text(sha256), blocks[block][0], blocks[block][1], offset, size))
    if len({place.digest for place in places}) != len(places):
        raise CorruptPack("a content is named twice")
    return tuple(places)


def places_of(pack: bytes) -> tuple[Place, ...]:
    """Return the places of all contents of a whole pack. Raises `CorruptPack`."""
    if not pack.startswith(MAGIC):
        raise CorruptPack("it does not begin as a pack does")
    span = read_footer(pack[-FOOTER_BYTES:], len(pack))
    return read_index(pack[span.offset : span.offset + span.length], span)


def open_block(block: bytes) -> bytes:
    """Return the contents of a block, end to end; at most `BLOCK_CONTENT_BYTES_MAX`. Raises `CorruptPack`."""
    try:
        told = zstandard.get_frame_parameters(block).content_size
        if told in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
            raise CorruptPack("a block tells no size")
        if told > BLOCK_CONTENT_BYTES_MAX:
            raise CorruptPack(f"a block tells {told} bytes, at most {BLOCK_CONTENT_BYTES_MAX} are expected")
        if told == 0:
            return b""
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        # Without further frames: what stands behind the first one would be no part of the block.
        return decompressor.decompress(block, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptPack(f"a block does not decompress: {error}") from error


def content_of(contents: bytes, place: Place) -> bytes:
    """Return one content of a block's contents, verified. Raises `CorruptPack`."""
    content = contents[place.offset : place.offset + place.size]
    if len(content) != place.size:
        raise CorruptPack(f"the block holds {len(content)} of {place.size} bytes", digest=place.digest)
    if digest_text(hashlib.sha256(content).digest()) != place.digest:
        raise CorruptPack("a content in the block has another digest", digest=place.digest)
    return content


def by_block(places: Sequence[Place]) -> list[list[Place]]:
    """Return places by the block they lie in, in the order of the pack."""
    blocks: dict[int, list[Place]] = {}
    for place in sorted(places, key=lambda one: (one.block_offset, one.offset)):
        blocks.setdefault(place.block_offset, []).append(place)
    return list(blocks.values())


def digest_bytes(digest: str) -> bytes:
    """Return the 32 bytes of SHA-256 that a digest stands for."""
    return base64.b64decode(digest, b"+,", validate=True)
