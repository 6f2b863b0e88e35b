"""Blobs: every content comes back byte for byte or not at all, once per digest, with bounded memory."""

from __future__ import annotations

import errno
import io
import os
import random
import tracemalloc

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backupd.errors import BlobMissing, CorruptBlob, SpaceExhausted, VolumeError
from backupd.items import digest_of
from backupd.store import blobs as blobs_module
from backupd.store.blob_reading import MAGIC
from backupd.store.blobs import Blobs
from backupd.store.layout import blob_name
from tests.unit.store.making import failing

NOISE = random.Random(1).randbytes(5000)


def stored(tmp_path, digest):
    return tmp_path / blob_name(digest)


def kept(blobs: Blobs, content: bytes) -> str:
    staged = blobs.stage(content)
    blobs.commit([staged])
    return staged.digest


@given(st.binary(max_size=300), st.booleans())
@example(b"", False)
@example(MAGIC, False)
@example(MAGIC + NOISE, False)
@example(zstandard.compress(b"inner" * 50), True)
@example(b"\x5a\x2a\x4d\x18" + NOISE, False)
@example(NOISE, True)
@settings(max_examples=60, deadline=None)
def test_any_content(tmp_path_factory, content, as_file):
    """Any content comes back, also none at all and content that itself looks compressed."""
    root = tmp_path_factory.mktemp("b")
    blobs = Blobs.at(root)
    staged = blobs.stage(io.BytesIO(content) if as_file else content)
    assert not blobs.contains(staged.digest)
    blobs.commit([staged])
    assert blobs.contains(staged.digest)
    assert (staged.digest, staged.size) == (digest_of(content), len(content))
    assert blobs.read(staged.digest) == content
    file = root / blob_name(staged.digest)
    assert file.stat().st_size == staged.stored_size == blobs.stored_size(staged.digest) > 0
    assert list(blobs.digests()) == [staged.digest]
    raw = file.read_bytes()
    assert content == (zstandard.decompress(raw) if raw.startswith(MAGIC) else raw)


def test_compressed_where_it_pays(tmp_path):
    """Text is compressed into a frame that any zstd reads; noise is kept as it is."""
    blobs = Blobs.at(tmp_path)
    text = b"the same line again\n" * 500
    path = stored(tmp_path, kept(blobs, text))
    assert path.stat().st_size < len(text) / 10
    assert zstandard.get_frame_parameters(path.read_bytes()).content_size == len(text)
    assert stored(tmp_path, kept(blobs, NOISE)).read_bytes() == NOISE


@pytest.mark.parametrize("content", [b"abc" * 100_000, NOISE * 60, MAGIC + NOISE * 60])
def test_big_content(tmp_path, monkeypatch, content):
    """Content beyond the memory bound is streamed and stored as small content is, with nothing left over."""
    monkeypatch.setattr(blobs_module, "CONTENT_BYTES_MAX_IN_MEMORY", 100_000)
    blobs = Blobs.at(tmp_path)
    staged = blobs.stage(io.BytesIO(content))
    assert (staged.digest, staged.size) == (digest_of(content), len(content))
    blobs.commit([staged])
    assert blobs.read(staged.digest) == content
    assert stored(tmp_path, staged.digest).stat().st_size == staged.stored_size
    assert blobs.stage(io.BytesIO(content)).place == ""
    assert list((tmp_path / ".staged").iterdir()) == []
    frame = stored(tmp_path, staged.digest).read_bytes()
    assert frame == content or zstandard.get_frame_parameters(frame).content_size == len(content)


def test_memory_is_bounded(tmp_path):
    """A content of 48 MiB passes with far less memory than that, in and out."""

    class Zeros(io.RawIOBase):
        left = 48 << 20

        def read(self, size: int = -1) -> bytes:
            part = bytes(min(size, self.left))
            self.left -= len(part)
            return part

    blobs = Blobs.at(tmp_path)
    tracemalloc.start()
    staged = blobs.stage(Zeros())
    blobs.commit([staged])
    size = 0
    with blobs.open(staged.digest) as file:
        while part := file.read(1 << 20):
            size += len(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == staged.size == 48 << 20
    assert peak < 30 << 20


def test_a_file_that_reads_short(tmp_path):
    """A source that gives little at a time is read to its end."""

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 7, 7))

    blobs = Blobs.at(tmp_path)
    assert blobs.stage(Slow(b"0123456789" * 50)).digest == digest_of(b"0123456789" * 50)


def test_what_exists_is_not_written_again(tmp_path):
    """Staging known content writes nothing, and committing it changes nothing."""
    blobs = Blobs.at(tmp_path)
    digest = kept(blobs, b"hello")
    before = stored(tmp_path, digest).stat()
    with failing("volume.stage"):
        again = blobs.stage(b"hello")
    assert again.place == ""
    blobs.commit([again])
    assert stored(tmp_path, digest).stat().st_mtime_ns == before.st_mtime_ns
    twice = [blobs.stage(b"other"), blobs.stage(b"other")]
    blobs.commit(twice)
    assert blobs.read(twice[0].digest) == b"other"
    assert list((tmp_path / ".staged").iterdir()) == []


def test_an_empty_file_is_no_blob(tmp_path):
    """A file of no bytes, as a crash may leave it, is not taken for the blob, and is replaced by it."""
    blobs = Blobs.at(tmp_path)
    digest = kept(blobs, b"hello")
    stored(tmp_path, digest).write_bytes(b"")
    assert not blobs.contains(digest)
    with pytest.raises(BlobMissing):
        blobs.stored_size(digest)
    with pytest.raises(CorruptBlob, match="empty"):
        blobs.read(digest)
    assert kept(blobs, b"hello") == digest
    assert blobs.read(digest) == b"hello"


def test_gone_between_stage_and_commit(tmp_path):
    """If a blob that was there is removed before commit, commit says so."""
    blobs = Blobs.at(tmp_path)
    digest = kept(blobs, b"hello")
    staged = blobs.stage(b"hello")
    stored(tmp_path, digest).unlink()
    with pytest.raises(BlobMissing):
        blobs.commit([staged])


def test_missing_and_malformed(tmp_path):
    """A digest nobody stored is missing; what is no digest is refused before it becomes a path."""
    blobs = Blobs.at(tmp_path)
    for ask in (blobs.read, blobs.open, blobs.stored_size):
        with pytest.raises(BlobMissing):
            ask(digest_of(b"never"))
        with pytest.raises(CorruptBlob, match="no digest"):
            ask("../../etc/passwd")


@pytest.mark.parametrize("content", [b"hello " * 20, NOISE[:90]])
def test_every_bit_flipped(tmp_path, content):
    """No flipped bit of a blob file goes unnoticed, and the error names the file."""
    blobs = Blobs.at(tmp_path)
    path = stored(tmp_path, kept(blobs, content))
    good = path.read_bytes()
    for place in range(len(good) * 8):
        flipped = bytearray(good)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            found = blobs.read(digest_of(content))
        except CorruptBlob as error:
            assert str(path) in error.message  # noqa: PT017 - some bits of a frame carry nothing
        else:
            assert found == content, place
    for cut in range(len(good)):
        path.write_bytes(good[:cut])
        with pytest.raises(CorruptBlob):
            blobs.read(digest_of(content))
    path.write_bytes(good + b"more")
    with pytest.raises(CorruptBlob):
        blobs.read(digest_of(content))


def test_bombs(tmp_path):
    """A forged frame gives no more bytes than it tells, and is refused where it tells too many or nothing."""
    blobs = Blobs.at(tmp_path)
    digest = kept(blobs, b"small")
    path = stored(tmp_path, digest)
    zeros = bytes(64 << 20)
    path.write_bytes(zstandard.ZstdCompressor(write_content_size=False).compress(zeros))
    with pytest.raises(CorruptBlob, match="tells no size"):
        blobs.open(digest)
    path.write_bytes(zstandard.compress(zeros))
    with pytest.raises(CorruptBlob, match="at most 5 are expected"):
        blobs.read(digest, bytes_max=5)
    path.write_bytes(zstandard.compress(b"small") + zstandard.compress(zeros))
    tracemalloc.start()
    with pytest.raises(CorruptBlob):
        blobs.read(digest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    params = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    long = zstandard.ZstdCompressor(compression_params=params)
    path.write_bytes(long.compress(os.urandom(1 << 10) + bytes(300 << 20))[:200_000])
    with pytest.raises(CorruptBlob):
        blobs.read(digest)


@pytest.mark.parametrize("step", ["volume.stage", "blobs.commit", "volume.sync_content", "volume.rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails(tmp_path, step, number):
    """A failure is typed, no blob is half there, and the same content can be stored afterwards."""
    blobs = Blobs.at(tmp_path)
    with failing(step, number), pytest.raises((SpaceExhausted, VolumeError, OSError)):
        kept(blobs, b"hello")
    assert not blobs.contains(digest_of(b"hello"))
    blobs.read(kept(blobs, b"hello"))


def test_after_a_failed_sync_staged_content_is_not_trusted(tmp_path, monkeypatch):
    """Content whose sync failed must be staged again: a second sync would lie."""
    blobs = Blobs.at(tmp_path)
    staged = blobs.stage(b"hello")

    def fail(descriptor):
        raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(VolumeError, match="injected"):
            blobs.commit([staged])
    with pytest.raises(BlobMissing, match="gone"):
        blobs.commit([staged])
    assert not blobs.contains(staged.digest)


def test_leftovers_of_dead_processes(tmp_path):
    """What a dead process staged is removed, what a living one did stays."""
    blobs = Blobs.at(tmp_path)
    mine = blobs.stage(b"mine")
    child = os.fork()
    if child == 0:
        Blobs.at(tmp_path).stage(b"the child's")
        os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / ".staged" / "nonsense").write_bytes(b"x")
    assert len(list((tmp_path / ".staged").iterdir())) == 3
    assert blobs.remove_leftovers() == 2
    blobs.commit([mine])
    assert blobs.read(mine.digest) == b"mine"


def test_discard(tmp_path):
    """Discarded contents leave nothing."""
    blobs = Blobs.at(tmp_path)
    blobs.discard([blobs.stage(b"a"), blobs.stage(b"b")])
    assert list((tmp_path / ".staged").iterdir()) == []
