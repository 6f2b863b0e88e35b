"""Encrypting: a volume around a volume, on which neither contents nor names can be read without the keys.

Contents are sealed (`volumes.sealing`) under a key of their own, that is wrapped by the newest master key;
names are encrypted (`volumes.sealed_names`) under one key of the volume (`volumes.volume_key`). So a new
master key counts for what is put from then on, what is there is read by the old one, nothing is rewritten.

Parts of a content are read by their chunks alone: what `get` gives has been verified up to there, and its end
is believed only where the last chunk says so. The size is computed, not verified.

Failure: `ContentTampered`, `KeyMissing` and `NameTooLong` (permanent), besides those of the volume beneath.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import BinaryIO

import structlog

from backupd.volumes.base import ByteSource, NameMissing, NameRefused, Volume, check_name
from backupd.volumes.key_folder import is_reserved
from backupd.volumes.keyring import Keyring
from backupd.volumes.opening import OpeningReader
from backupd.volumes.sealed_names import NameTooLong, NotOurs, SealedNames, in_order
from backupd.volumes.sealing import (
    CHUNK_BYTES,
    HEADER_BYTES,
    SEALED_CHUNK_BYTES,
    ContentTampered,
    Seal,
    SealingSource,
    new_seal,
    opened_size,
    read_seal,
)
from backupd.volumes.volume_key import find_key, keep_key

log = structlog.get_logger(__name__)

SEALED_AT_ONCE_BYTES_MAX = 8 << 20
"""Contents given as bytes are sealed in memory up to this size, larger ones while they are sent."""
SEALS_REMEMBERED_MAX = 1_000
"""Of so many contents the header is not read again for each part."""


class EncryptingVolume:
    """A volume whose contents and names rest encrypted on `inner`; any thread may call."""

    def __init__(self, inner: Volume, keyring: Keyring) -> None:
        self._inner = inner
        self._keyring = keyring
        self._names: SealedNames | None = None
        self._kept = False
        self._opening = threading.Lock()
        self._seals: dict[str, Seal] = {}
        self._remembering = threading.Lock()

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content encrypted; see `Volume.put`. Raises `NameTooLong`, `KeyMissing` besides."""
        sealed_name = self._sealed(name, writing=True)
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        sealing = SealingSource(source, new_seal(self._keyring, name))
        self._forget(name)
        if isinstance(content, bytes) and len(content) <= SEALED_AT_ONCE_BYTES_MAX:
            return self._inner.put(sealed_name, sealing.read())
        return self._inner.put(sealed_name, sealing)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open content for reading; see `Volume.get`. It and its `read` raise `ContentTampered` besides."""
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"offset {offset} or length {length} is negative")
        sealed_name = self._sealed(name)
        if not offset and length is None:
            file = self._inner_get(name, sealed_name)
            try:
                seal = read_seal(self._keyring, name, _exactly(file, HEADER_BYTES))
            except BaseException:
                file.close()
                raise
            return OpeningReader.over(file, seal)
        return self._part(name, sealed_name, offset, length)

    def exists(self, name: str) -> bool:
        """Tell whether content rests under a name; see `Volume.exists`."""
        return self._inner.exists(self._sealed(name))

    def size(self, name: str) -> int:
        """Return the bytes of a content, as it is when opened; see `Volume.size`."""
        try:
            return opened_size(self._inner.size(self._sealed(name)), name)
        except NameMissing:
            raise NameMissing(name) from None

    def delete(self, name: str) -> bool:
        """Remove content; see `Volume.delete`."""
        self._forget(name)
        return self._inner.delete(self._sealed(name))

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield names in order; see `Volume.names`. What is there and not ours is logged, not given."""
        folder, _, begun = prefix.rpartition("/")
        try:
            sealed_folder = self._folder(folder)
        except (NameRefused, NameTooLong):
            return
        inner_prefix = f"{sealed_folder}/" if sealed_folder else begun
        yield from in_order(name for name in self._opened_names(inner_prefix) if name.startswith(prefix))

    # ------------------------------------------------------------------- names

    def _sealed(self, name: str, *, writing: bool = False) -> str:
        check_name(name)
        if is_reserved(f"{name}/") or is_reserved(name):
            raise NameRefused(name)
        return self._sealed_names(writing=writing).sealed(name)

    def _folder(self, folder: str) -> str:
        return self._sealed(folder) if folder else ""

    def _opened_names(self, inner_prefix: str) -> Iterator[str]:
        names = self._sealed_names()
        strangers = 0
        for sealed in self._inner.names(inner_prefix):
            if is_reserved(sealed):
                continue
            try:
                yield names.opened(sealed)
            except NotOurs:
                strangers += 1
        if strangers:
            log.warning("volume_holds_strangers", names=strangers, prefix=inner_prefix)

    def _sealed_names(self, *, writing: bool = False) -> SealedNames:
        if self._names is None or (writing and not self._kept):
            with self._opening:
                found = (keep_key if writing else find_key)(self._inner, self._keyring)
                self._kept = self._kept or found.kept
                names = SealedNames(found.key)
                # Of a volume that is new somebody else may still begin it under another key.
                self._names = names if found.settled else None
                return names
        return self._names

    # ---------------------------------------------------------------- contents

    def _part(self, name: str, sealed_name: str, offset: int, length: int | None) -> BinaryIO:
        seal, is_fresh = self._seal(name, sealed_name)
        try:
            return self._verified_part(seal, sealed_name, offset, length)
        except ContentTampered:
            if is_fresh:
                raise
        # The content may have been deleted and put anew by somebody else since its header was read.
        self._forget(name)
        seal, _ = self._seal(name, sealed_name)
        return self._verified_part(seal, sealed_name, offset, length)

    def _verified_part(self, seal: Seal, sealed_name: str, offset: int, length: int | None) -> BinaryIO:
        """Return a reader of a part whose first chunk has been opened already."""
        number = offset // CHUNK_BYTES
        wanted = None
        if length is not None:
            chunks = -(-(offset % CHUNK_BYTES + length) // CHUNK_BYTES)
            # One byte more than the chunks tells whether the last of them is the content's last.
            wanted = max(1, chunks) * SEALED_CHUNK_BYTES + 1
        start = HEADER_BYTES + number * SEALED_CHUNK_BYTES
        file = self._inner_get(seal.name, sealed_name, offset=start, length=wanted)
        reader = OpeningReader(file, seal, number=number, skipped=offset % CHUNK_BYTES, length=length)
        try:
            if reader.begin():
                return io.BufferedReader(reader)
        except BaseException:
            reader.close()
            raise
        reader.close()
        self._check_end(seal, sealed_name, number)
        return io.BytesIO()

    def _check_end(self, seal: Seal, sealed_name: str, number: int) -> None:
        """Raise `ContentTampered` unless the content ends, as its last chunk vouches, before a chunk."""
        size = opened_size(self._inner.size(sealed_name), seal.name)
        last = max(0, (size - 1) // CHUNK_BYTES)
        if last >= number:
            raise ContentTampered(seal.name, f"chunk {number} is missing")
        with self._inner.get(sealed_name, offset=HEADER_BYTES + last * SEALED_CHUNK_BYTES) as file:
            seal.opened(last, _exactly(file, SEALED_CHUNK_BYTES), last=True)

    def _seal(self, name: str, sealed_name: str) -> tuple[Seal, bool]:
        with self._remembering:
            remembered = self._seals.get(name)
        if remembered is not None:
            return remembered, False
        with self._inner_get(name, sealed_name, length=HEADER_BYTES) as file:
            seal = read_seal(self._keyring, name, _exactly(file, HEADER_BYTES))
        with self._remembering:
            if len(self._seals) >= SEALS_REMEMBERED_MAX:
                del self._seals[next(iter(self._seals))]
            self._seals[name] = seal
        return seal, True

    def _inner_get(
        self, name: str, sealed_name: str, *, offset: int = 0, length: int | None = None
    ) -> BinaryIO:
        try:
            return self._inner.get(sealed_name, offset=offset, length=length)
        except NameMissing:
            raise NameMissing(name) from None

    def _forget(self, name: str) -> None:
        with self._remembering:
            self._seals.pop(name, None)


def _exactly(file: BinaryIO, size: int) -> bytes:
    """Return so many bytes of a file, or fewer where it ends."""
    taken = b""
    while len(taken) < size and (more := file.read(size - len(taken))):
        taken += more
    return taken
