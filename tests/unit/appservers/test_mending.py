"""Claims about putting content back into a mail host's files beside software that works on them."""

from __future__ import annotations

import errno
import io
import os
import stat

import pytest

from backupd.appservers import mending
from backupd.errors import AppServerRefused, AppServerUnavailable, ContentChanged, ItemVanished
from backupd.items import digest_of

NAME = "1600000000.M1P1.host,S=7:2,FS"
CONTENT = b"content"
WHEN = 1_500_000_000_123_456_000


@pytest.fixture
def cur(tmp_path):
    for name in ("cur", "new", "tmp"):
        (tmp_path / "Maildir" / name).mkdir(parents=True)
    path = tmp_path / "Maildir" / "cur"
    (path / NAME).write_bytes(b"")
    (path / NAME).chmod(0o640)
    return path


def examined(cur, name=NAME):
    return mending.examine(str(cur.parents[1]), f"Maildir/cur/{name}")


def replaced(cur, version, content=CONTENT):
    mending.replace(str(cur.parents[1]), f"Maildir/cur/{NAME}", version, WHEN, io.BytesIO(content))


def files(cur):
    return {
        str(path.relative_to(cur.parent)): path.read_bytes()
        for path in cur.parent.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_name_mode_owner_and_date_are_as_they_shall_be(cur):
    """The file keeps its name, mode and owner, gets the photographed date, and nothing stays aside."""
    if os.geteuid() == 0:
        os.chown(cur / NAME, 12345, 23456)
    before = (cur / NAME).stat()
    replaced(cur, examined(cur).version)
    after = (cur / NAME).stat()
    assert files(cur) == {f"cur/{NAME}": CONTENT}
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_mtime_ns == WHEN


def test_an_unreadable_file_comes_back_readable_for_its_owner(cur):
    """A file of mode 0 has no digest, for root neither; its replacement is its owner's to read and write."""
    (cur / NAME).write_bytes(CONTENT)
    (cur / NAME).chmod(0)
    found = examined(cur)
    assert (found.digest, found.size) == (None, 7)
    replaced(cur, found.version)
    assert examined(cur).digest == digest_of(CONTENT)
    assert stat.S_IMODE((cur / NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_message_that_is_renamed_meanwhile_never_appears_twice(cur, monkeypatch, exchanges):
    """Between the last look and the exchange its flags change: refused, one file, under its new name."""
    if not exchanges:
        monkeypatch.setattr(mending, "_swap", lambda *_: errno.EINVAL)
    version = examined(cur).version
    renamed = NAME.replace(":2,FS", ":2,S")
    act = mending._exchange if exchanges else mending._rename

    def beside(*given):
        (cur / NAME).rename(cur / renamed)
        act(*given)

    monkeypatch.setattr(mending, act.__name__, beside)
    with pytest.raises(ContentChanged):
        replaced(cur, version)
    assert files(cur) == {f"cur/{renamed}": b""}
    found = examined(cur)
    assert found.digest == digest_of(b"")
    assert renamed in found.version


def test_without_an_exchange_a_rename_in_the_last_moment_leaves_one_file(cur, monkeypatch):
    """The plain rename of a file system that can't exchange takes ours back if the other got a new name."""
    monkeypatch.setattr(mending, "_swap", lambda *_: errno.EINVAL)
    version = examined(cur).version
    replaced(cur, version)
    assert files(cur) == {f"cur/{NAME}": CONTENT}
    version = examined(cur).version
    rename = os.rename

    def beside(*given, **more):
        (cur / NAME).replace(cur / "renamed:2,")
        monkeypatch.setattr(os, "rename", rename)
        rename(*given, **more)

    monkeypatch.setattr(os, "rename", beside)
    with pytest.raises(ContentChanged):
        replaced(cur, version, b"again")
    assert files(cur) == {"cur/renamed:2,": CONTENT}


def test_what_is_written_in_the_last_moment_gets_its_place_back(cur, monkeypatch):
    """A file that was written after the last look is exchanged back, and the write is kept."""
    version = examined(cur).version
    swap = mending._swap
    calls = []

    def beside(*given):
        if not calls:
            (cur / NAME).write_bytes(b"somebody's")
        calls.append(given)
        return swap(*given)

    monkeypatch.setattr(mending, "_swap", beside)
    with pytest.raises(ContentChanged):
        replaced(cur, version)
    assert files(cur) == {f"cur/{NAME}": b"somebody's"}
    assert len(calls) == 2


def test_links_and_other_files_are_neither_read_nor_replaced(cur, tmp_path):
    """A link in the file's or the folder's place counts as gone; what it points to stays as it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"theirs")
    (cur / "link").symlink_to(outside / "a")
    (cur.parent / ".Linked").symlink_to(outside)
    root = str(tmp_path)
    for path in ("Maildir/cur/link", "Maildir/.Linked/a", "Maildir/cur/none", "Maildir/none/a"):
        with pytest.raises(ItemVanished):
            mending.examine(root, path)
        with pytest.raises(ItemVanished):
            mending.replace(root, path, "", None, io.BytesIO(b"ours"))
    assert (outside / "a").read_bytes() == b"theirs"


def test_a_full_disk_leaves_the_old_file_and_nothing_aside(cur):
    """An error while the content is written is told as unavailable; everything is as before."""

    class Full(io.BytesIO):
        def read(self, *_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    version = examined(cur).version
    with pytest.raises(AppServerUnavailable, match="space"):
        mending.replace(str(cur.parents[1]), f"Maildir/cur/{NAME}", version, WHEN, Full())
    assert files(cur) == {f"cur/{NAME}": b""}


def test_a_file_that_would_get_another_owner_is_refused(cur, monkeypatch):
    """Who may not give files away leaves those of others alone."""
    version = examined(cur).version
    strange = os.fstat

    def foreign(descriptor):
        facts = list(strange(descriptor))
        facts[4] += 1
        return os.stat_result(facts)

    def refused(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(mending.os, "fstat", foreign)
    monkeypatch.setattr(mending.os, "fchown", refused)
    with pytest.raises(AppServerRefused, match="another's"):
        replaced(cur, version)
    assert files(cur) == {f"cur/{NAME}": b""}
