"""The daily configuration dump: one a day, complete or absent."""

from __future__ import annotations

import tarfile
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.errors import AppServerUnavailable
from backupd.jobs.smartscan import dump
from backupd.store.layout import Layout
from tests.world.clocks import START


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    made.servers.mkdir(parents=True)
    return made


def test_an_archive_a_day_holds_what_was_given(layout: Layout, tmp_path: Path) -> None:
    """Texts and files are in the archive; links, directories and what has vanished are left out."""
    file = tmp_path / "account.toml"
    file.write_bytes(b"id = 1\n")
    (tmp_path / "link").symlink_to("/etc/passwd")
    entries = [
        ("a.json", b"{}"),
        ("b.toml", file),
        ("link", tmp_path / "link"),
        ("gone", tmp_path / "gone"),
        ("dir", tmp_path),
    ]
    path = dump.write_configuration(layout, entries, START)
    assert path is not None
    assert path.name == "configuration_23_11_26#20_55_00.tar.gz"
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        assert {name: archive.extractfile(name).read() for name in archive.getnames()} == {  # type: ignore[union-attr]
            "a.json": b"{}",
            "b.toml": b"id = 1\n",
        }
    assert dump.write_configuration(layout, entries, START + timedelta(hours=1)) is None
    assert dump.write_configuration(layout, entries, START + timedelta(days=1)) is not None


def test_a_dump_that_fails_leaves_nothing_and_is_made_later(layout: Layout) -> None:
    """An error in the middle leaves no archive and no part of one; the next try makes it."""

    def failing() -> object:
        yield "a", b"1"
        raise AppServerUnavailable("it is down")

    with pytest.raises(AppServerUnavailable):
        dump.write_configuration(layout, failing(), START)  # type: ignore[arg-type]
    assert list(layout.servers.iterdir()) == []
    assert dump.write_configuration(layout, [("a", b"1")], START) is not None
