"""Renaming without overwriting: each way keeps what is there, and a missing one is made up for."""

from __future__ import annotations

import errno
import os

import pytest

from backupd.volumes.renaming import WAYS, Way, by_link, rename_new


def unable(*_: object) -> bool:
    """Fail as a file system does that does not have this way."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_gives_a_new_name_and_keeps_an_old_one(tmp_path, way: Way):
    """A free name is taken and the old one is gone; a taken name keeps its content."""
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        (tmp_path / "a").write_text("new")
        assert way(directory, "a", directory, "b") is True
        assert [path.name for path in tmp_path.iterdir()] == ["b"]
        (tmp_path / "c").write_text("newer")
        assert way(directory, "c", directory, "b") is False
        assert (tmp_path / "b").read_text() == "new"
    finally:
        os.close(directory)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_file_system_without_the_better_ways(tmp_path, missing):
    """With the first ways missing the next is taken; with none left the error is told."""
    ways = [unable] * missing + list(WAYS[missing:])
    (tmp_path / "a").write_text("x")
    assert rename_new(str(tmp_path / "a"), str(tmp_path / "b"), ways=ways)
    assert (tmp_path / "b").read_text() == "x"
    with pytest.raises(OSError, match="not supported"):
        rename_new(str(tmp_path / "b"), str(tmp_path / "c"), ways=[unable, unable, unable])


def test_an_error_that_is_no_lack_is_told_at_once(tmp_path):
    """A source that is gone is not tried in other ways."""
    with pytest.raises(FileNotFoundError):
        rename_new(str(tmp_path / "none"), str(tmp_path / "b"), ways=[WAYS[0], unable])


def test_a_link_whose_answer_was_lost(tmp_path):
    """Both names are the same file already: the rename is finished, and is told as done."""
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert by_link(directory, "a", directory, "b") is True
    finally:
        os.close(directory)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
