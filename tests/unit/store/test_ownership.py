"""Ownership and lock: a path that must not be used is refused, with reason and cure, and left as it is."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys

import msgspec
import pytest

from backupd import durable
from backupd.errors import BackupPathRefused
from backupd.store import ownership
from backupd.store.store import Store
from tests.unit.store.making import failing, opened


@pytest.fixture
def path(tmp_path):
    return tmp_path / "backup" / "path"


def test_a_new_path(path):
    """A path is made with tight modes and says whose it is."""
    with opened(path) as store:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for entry in path.iterdir():
            assert stat.S_IMODE(entry.stat().st_mode) == (0o700 if entry.is_dir() else 0o600), entry
        said = msgspec.json.decode((path / "map_one").read_bytes())
        assert (said.pop("format"), said.pop("server"), said.pop("name")) == (1, "one", "mail")
        assert said == {"since": "2026-11-23T20:55:00Z", "imported_from": None}
        assert store.index.cursor() == 0
        assert store.journal.last_sequence == 0
        assert store.damaged == []
    with opened(path) as again:
        assert again.identity == store.identity
        assert not again.index_was_built


@pytest.mark.skipif(os.geteuid() == 0, reason="root may make a directory anywhere")
def test_a_path_that_may_not_be_made(path):
    """A folder above that this user may not write is told as the Backup Path's, with a cure."""
    path.parent.mkdir(mode=0o500)
    refused(path, "can't be made: Permission denied")


def refused(path, pattern: str, *, server: str = "one", writable: bool = True) -> None:
    with pytest.raises(BackupPathRefused, match=pattern) as told:
        opened(path, server, writable=writable)
    assert told.value.hint
    assert str(path) in told.value.message


def test_another_servers_path_is_refused(path):
    """Another server's path is refused, with its map file named, and nothing in it is touched."""
    opened(path).close()
    before = sorted((entry.name, entry.stat().st_mtime_ns) for entry in path.iterdir())
    refused(path, "another server: map_one", server="two")
    refused(path, "another server: map_one", server="two", writable=False)
    assert sorted((entry.name, entry.stat().st_mtime_ns) for entry in path.iterdir()) == before


def test_a_second_map_file_is_refused(path):
    """A path that bears two names is nobody's."""
    opened(path).close()
    (path / "map_two").write_bytes((path / "map_one").read_bytes())
    refused(path, "another server: map_two")


def test_map_files_that_say_otherwise(path):
    """A map file of a newer format, of another server inside, or unreadable, is refused."""
    opened(path).close()
    good = (path / "map_one").read_bytes()
    for content, pattern in (
        (good.replace(b'"format": 1', b'"format": 99'), "format version is 99"),
        (good.replace(b'"server": "one"', b'"server": "two"'), "server 'two'"),
        (good[:20], "can't be read"),
        (b"[]", "can't be read"),
    ):
        (path / "map_one").write_bytes(content)
        refused(path, pattern)


def test_directories_that_are_no_backup_path(path):
    """A directory with other things in it is refused, an empty mount point is taken."""
    path.mkdir(parents=True)
    (path / "lost+found").mkdir()
    (path / "photos").mkdir()
    refused(path, "not empty and no Backup Path: it holds photos")
    (path / "photos").rename(path / "accounts")
    (path / "items").mkdir()
    refused(path, "without a map file")
    (path / "accounts").rmdir()
    (path / "items").rmdir()
    opened(path).close()


def test_a_first_start_that_was_interrupted(path):
    """Wherever a first start died, the next one goes on."""
    steps: list[str] = []
    durable.observe_steps(steps.append)
    opened(path / "model").close()
    durable.observe_steps(None)
    assert len(steps) >= 8
    for place, name in enumerate(dict.fromkeys(steps)):
        here = path / f"at-{place}"
        with failing(name, errno.EIO), pytest.raises((OSError, BackupPathRefused)):
            opened(here)
        opened(here).close()


def test_what_is_no_directory(tmp_path):
    """A file, or nothing where only reading was asked for, is refused."""
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file", "no directory")
    refused(tmp_path / "none", "no directory", writable=False)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no backup in it yet", writable=False)


def test_links_inside(path, tmp_path):
    """A link in place of one of the path's own directories or files is refused."""
    opened(path).close()
    for name in ("journal", "accounts", "index.sqlite", "state.sqlite", ".lock"):
        (path / name).rename(tmp_path / "elsewhere")
        (path / name).symlink_to(tmp_path / "elsewhere")
        refused(path, f"{re.escape(name)} is a link")
        (path / name).unlink()
        (tmp_path / "elsewhere").rename(path / name)


def test_a_case_insensitive_file_system(path, monkeypatch):
    """Where `a` and `A` are the same file, the path is refused, and the probe is removed."""
    opened(path).close()
    monkeypatch.setattr(ownership, "PROBE", ".0123456-")
    monkeypatch.setattr(ownership.secrets, "token_hex", lambda size: "0123")
    refused(path, "upper from lower case")
    assert not list(path.glob(".0123456-*"))


def test_a_path_that_can_not_be_written(path, monkeypatch):
    """A path without the rights, or on a read-only file system, is refused."""
    opened(path).close()
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        refused(path, "not readable and writable")
        opened(path, writable=False).close()
    make = os.open

    def read_only(name, flags, *more, **named):
        if ownership.PROBE in str(name):
            raise OSError(errno.EROFS, "Read-only file system")
        return make(name, flags, *more, **named)

    monkeypatch.setattr(os, "open", read_only)
    refused(path, "can't be written: Read-only")


def test_locked(path):
    """A second writer is refused with the holder's name, a reader is not; a stale file is no obstacle."""
    with opened(path):
        refused(path, rf"in use by process {os.getpid()} on \S+ since 2026-11-23T20:55:00.000000Z")
        opened(path, writable=False).close()
    opened(path).close()
    (path / ".lock").write_text("garbage")
    opened(path).close()


def test_the_lock_dies_with_its_process(path):
    """A killed daemon's lock is free at once, also while a forked child of it lives on."""
    program = (
        "import os, sys, time, pathlib\n"
        "from backupd.store.store import Store\n"
        "from backupd.clock import SystemClock\n"
        "path, clock = pathlib.Path(sys.argv[1]), SystemClock()\n"
        "s = Store.open(path, server_id='one', server_name='mail', clock=clock)\n"
        "if os.fork() == 0:\n"
        "    print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        refused(path, f"in use by process {holder.pid} ")
        holder.kill()
        holder.wait()
        opened(path).close()
    finally:
        os.killpg(holder.pid, 9)
        holder.stdout.close()


def test_anyones_path_may_be_read_without_naming_the_server(tmp_path, clock):
    """Looking into a Backup Path needs no server id; writing to it does."""
    Store.open(tmp_path / "backup", server_id="some-server", server_name="s", clock=clock).close()
    with Store.open(tmp_path / "backup", server_id="", server_name="", clock=clock, writable=False) as store:
        assert store.identity.server == "some-server"
    with pytest.raises(BackupPathRefused):
        Store.open(tmp_path / "backup", server_id="another", server_name="", clock=clock, writable=False)
