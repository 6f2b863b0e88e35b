"""Contents of metadata objects: parcels of states, stretches of the journal, archives of directories.

A parcel is JSON lines in one zstd frame: a header, then a line per item with the states that were recorded of
it. An archive is a tar file in a zstd frame, with paths as they are below the Backup Path, so that
`zstd -dc … | tar x` rebuilds it without software of ours. Reading believes nothing: names are matched against
the layout, links and devices are refused, and whatever does not fit raises `CorruptArchive`.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import zstandard

from backupd.coalescing import Entry
from backupd.decoding import decoded
from backupd.events import encode_change
from backupd.items import ItemKey, Kind
from backupd.states import State
from backupd.store import segments
from backupd.store.archives import CorruptArchive

FORMAT = 1
LEVEL = 3
PARCEL_BYTES_MAX = 1 << 30
"""An unpacked parcel or stretch, at most."""
_WINDOW_BYTES_MAX = 128 << 20
_NAME = r"[^/\0]{1,255}"
_MEMBER = re.compile(
    rf"(?:accounts/{_NAME}/(?:account_info|account_stat|backupstat|id_mapper\.log"
    rf"|(?:items|drive_items)/[0-9a-z]{{2}}/{_NAME})|servers/(?:domains|coses|mailing-lists)/{_NAME})\Z"
)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a parcel."""

    format: int
    server: str
    first: int
    last: int


class ItemStates(msgspec.Struct, frozen=True, kw_only=True):
    """States of one item, oldest first."""

    account: str
    kind: Kind
    item: str
    states: list[State]

    @property
    def key(self) -> ItemKey:
        """The item."""
        return ItemKey(self.account, self.kind, self.item)


def encode_parcel(header: Header, items: Iterable[ItemStates]) -> bytes:
    """Return a parcel."""
    lines = [msgspec.json.encode(header), *(msgspec.json.encode(one) for one in items), b""]
    return zstandard.ZstdCompressor(level=LEVEL).compress(b"\n".join(lines))


def decode_parcel(content: bytes, name: str, server: str) -> Iterator[ItemStates]:
    """Yield what a parcel of a server holds. Raises `CorruptArchive`."""
    lines = _unpacked(content, name).split(b"\n")
    try:
        header = decoded(lines[0], Header)
        if header.format != FORMAT or header.server != server:
            raise _corrupt(name, f"it is of format {header.format} and of server {header.server!r}")
        for line in lines[1:]:
            if line:
                yield decoded(line, ItemStates)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _corrupt(name, str(error)) from error


def encode_stretch(entries: Sequence[Entry]) -> bytes:
    """Return consecutive journal entries as a segment of their own, packed."""
    first = entries[0].sequence
    payloads = [encode_change(entry.change) for entry in entries]
    content = segments.encode_header(first) + segments.encode_records(first, payloads)
    return zstandard.ZstdCompressor(level=LEVEL).compress(content)


def decode_stretch(content: bytes, name: str, first: int) -> bytes:
    """Return the segment that a stretch holds. Raises `CorruptArchive`."""
    unpacked = _unpacked(content, name)
    header = segments.decode_header(unpacked[: segments.HEADER_BYTES])
    if header is None or header.first != first:
        raise _corrupt(name, "its header does not check")
    return unpacked


def write_archive(
    target: BinaryIO, root: Path, members: Iterable[str], *, unread: Callable[[str, str], None]
) -> int:
    """Write files below `root`, by their relative paths, as an archive; return how many.

    A file that has vanished is left out; one that can't be read is told to `unread`. A history that is just
    being appended to may end in a torn tail, as on the disk.
    """
    count = 0
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    with (
        compressor.stream_writer(target, closefd=False) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for relative in members:
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                with os.fdopen(os.open(root / relative, flags), "rb") as file:
                    facts = os.fstat(file.fileno())
                    content = file.read()
            except FileNotFoundError:
                continue
            except OSError as error:
                unread(relative, error.strerror or str(error))
                continue
            member = tarfile.TarInfo(relative)
            member.size, member.mtime, member.mode = len(content), int(facts.st_mtime), 0o600
            archive.addfile(member, io.BytesIO(content))
            count += 1
    return count


def read_archive(source: BinaryIO, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an archive: relative path, content. Raises `CorruptArchive`."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
    try:
        with (
            decompressor.stream_reader(source, closefd=False) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|") as archive,
        ):
            for member in archive:
                parts = member.name.split("/")
                if not member.isreg() or not _MEMBER.match(member.name) or {".", ".."} & set(parts):
                    raise _corrupt(name, f"{member.name[:120]!r} does not belong into it")
                if member.size > PARCEL_BYTES_MAX:
                    raise _corrupt(name, f"{member.name[:120]!r} has {member.size:,} bytes")
                file = archive.extractfile(member)
                yield member.name, b"" if file is None else file.read()
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise _corrupt(name, str(error)) from error


def _unpacked(content: bytes, name: str) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
    try:
        told = zstandard.get_frame_parameters(content).content_size
        if told in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR) or told > PARCEL_BYTES_MAX:
            raise _corrupt(name, "it does not tell a size that can be")
        return decompressor.decompress(content, max_output_size=PARCEL_BYTES_MAX)
    except zstandard.ZstdError as error:
        raise _corrupt(name, str(error)) from error


def _corrupt(name: str, reason: str) -> CorruptArchive:
    return CorruptArchive(f"{name} on the external volume can't be read: {reason}")
