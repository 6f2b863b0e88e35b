"""Durable primitives: files replaced whole or not at all, and the steps where crash tests interfere."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from backupd import durable


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """The new content is there, for the owner alone, and nothing is left beside it."""
    file = tmp_path / "map"
    durable.replace_file(file, b"old")
    durable.replace_file(file, b"new content")
    assert file.read_bytes() == b"new content"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["map"]


@pytest.mark.parametrize(
    ("step", "left"), [("replace_file.written", b"old"), ("replace_file.renamed", b"new")]
)
def test_an_interrupted_replacement_leaves_one_of_both(tmp_path: Path, step: str, left: bytes) -> None:
    """Whatever the step that fails, readers see the old content or the new, and the next try succeeds."""
    file = tmp_path / "map"
    durable.replace_file(file, b"old")

    def fail(name: str) -> None:
        if name == step:
            raise OSError(errno.EIO, "injected")

    durable.observe_steps(fail)
    with pytest.raises(OSError, match="injected"):
        durable.replace_file(file, b"new")
    assert file.read_bytes() == left
    durable.observe_steps(None)
    durable.replace_file(file, b"newer")
    assert file.read_bytes() == b"newer"
    assert [path.name for path in tmp_path.iterdir()] == ["map"]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """A link planted under the temporary name is refused instead of written through."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".map.new").symlink_to(victim)
    with pytest.raises(OSError, match=r"\[Errno 40\]|symbolic"):
        durable.replace_file(tmp_path / "map", b"new")
    assert victim.read_bytes() == b"precious"


def test_everything_is_written_however_little_the_kernel_takes() -> None:
    """Many more bytes than a pipe holds arrive in order; a closed end is an error."""
    reader, writer = os.pipe()
    content = bytes(range(256)) * 4096
    child = os.fork()
    if child == 0:
        os.close(reader)
        durable.write_all(writer, content)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == content
    assert os.waitpid(child, 0)[1] == 0
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space"):
            durable.write_all(full, b"x")
    finally:
        os.close(full)


def test_syncing_works_and_names_what_is_missing(tmp_path: Path) -> None:
    """A directory and its file system can be synced; a missing one is an error."""
    durable.sync_directory(tmp_path)
    durable.sync_file_system(tmp_path)
    with pytest.raises(FileNotFoundError):
        durable.sync_file_system(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        durable.sync_directory(tmp_path / "file")


def test_steps_are_seen_while_observed(tmp_path: Path) -> None:
    """Observers hear each step in order, and nothing any more once removed."""
    heard: list[str] = []
    durable.observe_steps(heard.append)
    durable.replace_file(tmp_path / "x", b"")
    durable.sync_file_system(tmp_path)
    durable.observe_steps(None)
    durable.step("unheard.step")
    assert heard == ["replace_file.written", "replace_file.renamed", "file_system.sync"]


def test_free_bytes_is_what_the_file_system_says(tmp_path: Path) -> None:
    """Free space is that for ordinary processes, without the reserve for root."""
    statistics = os.statvfs(tmp_path)
    assert 0 < durable.free_bytes(tmp_path) <= statistics.f_blocks * statistics.f_frsize
