"""Sealing: how an encrypted content looks, byte for byte, and the arithmetic of its chunks.

A sealed content is a header and chunks. The content is cut every 64 KiB; each chunk is encrypted by
AES-256-GCM under a key that is this content's alone, and is 16 bytes (the tag) longer than what is in it. The
nonce is the header's prefix, the chunk's number and whether it is the last one, and each chunk vouches for
the header and for the name that the content rests under. So a byte that was changed, chunks that were
reordered, left out, appended or taken from elsewhere, and a content under another's name do not open. The
last chunk has at least one byte, but for a content that is empty.

    header (64 bytes): "bksealed" · format (1) · log2 of the chunk's bytes (1) · id of the master key (8)
                       · nonce prefix (6) · the content's key, wrapped by the master key (40)
    nonce (12 bytes):  prefix (6) · number of the chunk (5, big-endian) · 1 for the last chunk, else 0

Everything here is pure but for the randomness of keys and prefixes. docs/formats.md has this for readers.
"""

from __future__ import annotations

import os
import struct

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backupd.volumes.base import ByteSource, ObjectDamaged
from backupd.volumes.keyring import KEY_BYTES, KEY_ID_BYTES, WRAPPED_MORE_BYTES, Keyring, WrongUnwrap

MAGIC = b"bksealed"
FORMAT = 1
CHUNK_BYTES = 64 * 1024
TAG_BYTES = 16
SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES
_PREFIX_BYTES = 6
_HEADER = struct.Struct(f">8sBB{KEY_ID_BYTES}s{_PREFIX_BYTES}s{KEY_BYTES + WRAPPED_MORE_BYTES}s")
HEADER_BYTES = _HEADER.size
_CHUNK_BITS = CHUNK_BYTES.bit_length() - 1


class ContentTampered(ObjectDamaged):
    """What rests on the volume is not what was put there: it was changed, or damaged, or is another's."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__(
            f"{name} was changed or damaged on the volume: {found}",
            permanent=True,
            hint="nothing of it is believed; the store's own versions may have it as it was, and a deep scan "
            "stores it again where the AppServer still has it",
            name=name,
        )


class Seal(msgspec.Struct, frozen=True):
    """What opens one content: its header, and the cipher under its key. `name` is the one it must bear."""

    header: bytes
    cipher: AESGCM
    name: str

    def sealed(self, number: int, chunk: bytes, *, last: bool) -> bytes:
        """Return a chunk encrypted."""
        return self.cipher.encrypt(self._nonce(number, last=last), chunk, self._vouched())

    def opened(self, number: int, sealed: bytes, *, last: bool) -> bytes:
        """Return what is in a chunk. Raises `ContentTampered`."""
        if len(sealed) < TAG_BYTES + (number > 0):
            raise ContentTampered(self.name, f"chunk {number} is cut short")
        try:
            return self.cipher.decrypt(self._nonce(number, last=last), sealed, self._vouched())
        except InvalidTag:
            raise ContentTampered(self.name, f"chunk {number} does not open") from None

    def _nonce(self, number: int, *, last: bool) -> bytes:
        return self.header[18 : 18 + _PREFIX_BYTES] + number.to_bytes(5, "big") + bytes([last])

    def _vouched(self) -> bytes:
        return self.header + self.name.encode()


def new_seal(keyring: Keyring, name: str) -> Seal:
    """Return the seal of a new content, its key wrapped by the newest master key."""
    key = os.urandom(KEY_BYTES)
    master = keyring.newest
    header = _HEADER.pack(MAGIC, FORMAT, _CHUNK_BITS, master.id, os.urandom(_PREFIX_BYTES), master.wrap(key))
    return Seal(header, AESGCM(key), name)


def read_seal(keyring: Keyring, name: str, header: bytes) -> Seal:
    """Return the seal that a header tells. Raises `ContentTampered`, `KeyMissing`."""
    if len(header) != HEADER_BYTES:
        raise ContentTampered(name, f"it has {len(header)} bytes in place of a header")
    magic, version, bits, key_id, _, wrapped = _HEADER.unpack(header)
    if magic != MAGIC:
        raise ContentTampered(name, "it does not begin as encrypted content does")
    if version != FORMAT or bits != _CHUNK_BITS:
        raise ContentTampered(
            name, f"its format is {version}.{bits}, this version knows {FORMAT}.{_CHUNK_BITS}"
        )
    try:
        return Seal(header, AESGCM(keyring.key(key_id).unwrap(wrapped)), name)
    except WrongUnwrap:
        raise ContentTampered(name, "its key does not unwrap") from None


def sealed_size(size: int) -> int:
    """Return the bytes that a content of so many bytes takes on the volume."""
    chunks = max(1, -(-size // CHUNK_BYTES))
    return HEADER_BYTES + size + chunks * TAG_BYTES


def opened_size(sealed: int, name: str) -> int:
    """Return the bytes of a content that takes so many on the volume. Raises `ContentTampered`."""
    body = sealed - HEADER_BYTES
    chunks = max(1, -(-body // SEALED_CHUNK_BYTES))
    size = body - chunks * TAG_BYTES
    if size < 0 or sealed_size(size) != sealed:
        raise ContentTampered(name, f"no encrypted content has {sealed} bytes")
    return size


class SealingSource:
    """Content that is encrypted while it is read: the header first, then chunk by chunk."""

    def __init__(self, content: ByteSource, seal: Seal) -> None:
        self._content = content
        self._seal = seal
        self._ready = bytearray(seal.header)
        self._plain = bytearray()
        self._number = 0
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many of the next sealed bytes, all of them where negative; none at the end."""
        while not self._ended and (size < 0 or len(self._ready) < size):
            self._seal_next()
        taken = bytes(self._ready if size < 0 else self._ready[:size])
        del self._ready[: len(taken)]
        return taken

    def _seal_next(self) -> None:
        # One byte more than a chunk tells that a chunk is not the last one.
        while len(self._plain) <= CHUNK_BYTES:
            more = self._content.read(CHUNK_BYTES)
            if not more:
                self._ended = True
                break
            self._plain += more
        while len(self._plain) > CHUNK_BYTES or self._ended:
            chunk = bytes(self._plain[:CHUNK_BYTES])
            del self._plain[: len(chunk)]
            last = self._ended and not self._plain
            self._ready += self._seal.sealed(self._number, chunk, last=last)
            self._number += 1
            if last:
                return
