"""Archives of the server itself: complete or absent, one a day by themselves, whenever asked besides."""

from __future__ import annotations

import os
import tarfile
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.errors import AppServerUnavailable, ConfigError, OperationStopped
from backupd.jobs.archive.configuration import ConfigurationDump
from backupd.jobs.archive.customizations import Customizations
from backupd.operations import Run
from backupd.store import archives
from backupd.store.archives import ArchiveType, CorruptArchive, NoArchive
from backupd.store.layout import Layout
from tests.world.clocks import START, FakeClock


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "backup")
    made.servers.mkdir(parents=True)
    return made


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive if one.isreg()}  # type: ignore[union-attr]


def test_a_dump_a_day_holds_what_was_given(layout: Layout, tmp_path: Path) -> None:
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
    dump = ConfigurationDump(layout, lambda: entries)
    path = dump.write_daily(START)
    assert path is not None
    assert path.name == "configuration_23_11_26#20_55_00.tar.gz"
    assert path.stat().st_mode & 0o777 == 0o600
    assert contents(path) == {"a.json": b"{}", "b.toml": b"id = 1\n"}
    assert dump.write_daily(START + timedelta(hours=1)) is None
    assert dump.write(START + timedelta(hours=1)) != path
    assert dump.write_daily(START + timedelta(days=1)) is not None
    dates = [one.date for one in archives.archives(layout, ArchiveType.CONFIGURATION)]
    assert dates == [START + timedelta(days=1), START + timedelta(hours=1), START]


def test_a_dump_that_fails_leaves_nothing_and_is_made_later(layout: Layout) -> None:
    """An error in the middle leaves no archive and no part of one; the next try makes it."""

    def failing() -> object:
        yield "a", b"1"
        raise AppServerUnavailable("it is down")

    with pytest.raises(AppServerUnavailable):
        ConfigurationDump(layout, failing).write_daily(START)  # type: ignore[arg-type]
    assert list(layout.servers.iterdir()) == []
    assert ConfigurationDump(layout, lambda: [("a", b"1")]).write_daily(START) is not None


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Return a folder as a server's settings are: files, folders, links, a pipe, something too large."""
    place = tmp_path / "etc"
    (place / "postfix" / "maps").mkdir(parents=True)
    (place / "postfix" / "main.cf").write_text("myhostname = mail.example.com\n")
    (place / "postfix" / "maps" / "virtual").write_bytes(b"\xff\x00")
    (place / "postfix" / "master.cf").symlink_to("main.cf")
    (place / "postfix" / "elsewhere").symlink_to("/usr")
    (place / "crontab").write_text("0 4 * * * root true\n")
    (place / "huge").write_bytes(bytes(5000))
    os.mkfifo(place / "postfix" / "pipe")
    return place


def test_customizations_are_archived_as_they_are(layout: Layout, etc: Path) -> None:
    """Files with their bytes, links as links, and each thing that can't go in is told with its reason."""
    run = Run(FakeClock())
    paths = [etc / "postfix", etc / "crontab", etc / "huge", etc / "missing"]
    verdict = Customizations(layout, paths, file_bytes_max=4096).run(run, START)
    (archive,) = archives.archives(layout, ArchiveType.CUSTOMIZATIONS)
    assert archive.path.name == "customizations_23_11_26#20_55_00.tar.gz"
    base = str(etc).lstrip("/")
    assert contents(archive.path) == {
        f"{base}/postfix/main.cf": b"myhostname = mail.example.com\n",
        f"{base}/postfix/maps/virtual": b"\xff\x00",
        f"{base}/crontab": b"0 4 * * * root true\n",
    }
    with tarfile.open(archive.path) as opened:
        links = {one.name: one.linkname for one in opened if one.issym()}
    assert links == {f"{base}/postfix/master.cf": "main.cf", f"{base}/postfix/elsewhere": "/usr"}
    reasons = {Path(error.item).name: error.reason for error in run.errors}
    assert reasons.keys() == {"pipe", "huge", "missing"}
    assert "no regular file" in reasons["pipe"]
    assert "larger than 4096" in reasons["huge"]
    assert verdict.sentence == f"5 files archived in {archive.path.name}, 3 could not be read"
    assert verdict.counts == {"archived": 5, "unreadable": 3}


def test_customizations_leave_out_the_backup_itself(layout: Layout, tmp_path: Path) -> None:
    """A folder that holds the Backup Path is archived without it."""
    (tmp_path / "settings").write_text("x")
    Customizations(layout, [tmp_path], file_bytes_max=4096).run(Run(FakeClock()), START)
    (archive,) = archives.archives(layout, ArchiveType.CUSTOMIZATIONS)
    assert list(contents(archive.path)) == [f"{str(tmp_path).lstrip('/')}/settings"]


def test_customizations_without_paths_are_refused_and_never_due(layout: Layout) -> None:
    """Where nothing is configured the command says what to set, and no scan tries."""
    nothing = Customizations(layout, [], file_bytes_max=4096)
    assert not nothing.is_due(START)
    with pytest.raises(ConfigError, match=r"no files are named") as refused:
        nothing.run(Run(FakeClock()), START)
    assert "customizations.paths" in refused.value.hint


def test_customizations_are_due_once_a_day(layout: Layout, etc: Path) -> None:
    """After an archive of today the next is due tomorrow."""
    some = Customizations(layout, [etc / "crontab"], file_bytes_max=4096)
    assert some.is_due(START)
    some.run(Run(FakeClock()), START)
    assert not some.is_due(START + timedelta(hours=2))
    assert some.is_due(START + timedelta(hours=4))


def test_customizations_stop_when_asked(layout: Layout, etc: Path) -> None:
    """A stop leaves no part of an archive behind."""
    run = Run(FakeClock())
    run.request_stop()
    with pytest.raises(OperationStopped):
        Customizations(layout, [etc / "crontab"], file_bytes_max=4096).run(run, START)
    assert list(layout.servers.iterdir()) == []


def test_the_archive_of_a_moment_is_the_newest_until_then(layout: Layout) -> None:
    """Each moment has the archive made before it; before the first there is none, and that is said."""
    dump = ConfigurationDump(layout, lambda: [("a", b"1")])
    made = [dump.write(START + timedelta(days=day)) for day in range(3)]
    found = archives.archives(layout, ArchiveType.CONFIGURATION)
    assert archives.chosen(found, None).path == made[2]
    assert archives.chosen(found, START + timedelta(days=1, hours=5)).path == made[1]
    with pytest.raises(NoArchive) as missing:
        archives.chosen(found, START - timedelta(seconds=1))
    assert "2026-11-23 20:55:00" in missing.value.hint
    assert archives.archives(layout, ArchiveType.CUSTOMIZATIONS) == []


def test_a_broken_archive_is_told_by_name(layout: Layout) -> None:
    """A cut archive raises an error that names it, and does not look like an empty one."""
    path = ConfigurationDump(layout, lambda: [("a", b"x" * 100_000)]).write(START)
    path.write_bytes(path.read_bytes()[:60])
    archive = archives.archive_at(path)
    with pytest.raises(CorruptArchive, match="configuration_23_11_26"):
        list(archives.members(archive, wanted=lambda _name: True, bytes_max=1 << 20))
