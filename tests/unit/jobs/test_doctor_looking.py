"""The doctor at real files: what it sees, also as a user who may not, and that it leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.clock import SystemClock
from backupd.jobs.doctor import disk, mail, place, settings
from backupd.store.store import Store
from backupd.views import Outcome
from tests.world import mailtree
from tests.world.nobody import as_nobody

SERVER = "11111111-2222-4333-8444-555555555555"
CLOSED = 0


@pytest.fixture
def reachable() -> Iterator[Path]:
    """Return a directory that another user may enter; those of pytest are for their owner alone."""
    place_ = Path(tempfile.mkdtemp(prefix="backupd-doctor-"))
    place_.chmod(0o755)
    yield place_
    for directory, _, _ in os.walk(place_):
        Path(directory).chmod(0o700)
        for entry in Path(directory).iterdir():
            entry.chmod(0o700)
    shutil.rmtree(place_)


def photographed(root: Path) -> dict[str, tuple[int, int, int, int, int]]:
    """Return what stat(2) says of every file and directory, times of access included."""
    found = {}
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        found[str(path)] = (
            facts.st_size,
            facts.st_mtime_ns,
            facts.st_ctime_ns,
            facts.st_mode,
            facts.st_atime_ns if path.is_file() else 0,
        )
    return found


def open_up(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_readable_tree_is_seen_and_not_touched(tmp_path: Path):
    """Accounts, messages and folders are counted; no file, time of access or directory changes."""
    tree = mailtree.build(tmp_path / "vmail", accounts=3, messages=30, size=200)
    before = photographed(tree.root)
    facts = mail.look_at_mail(tree.root)
    assert photographed(tree.root) == before
    assert (facts.failure, facts.accounts, facts.sampled, facts.unreadable_total) == ("", 3, 3, 0)
    assert facts.messages >= 3
    directories = sum(path.is_dir() for path in tree.root.rglob("*")) + 1
    assert (facts.folders, facts.counted_all) == (directories, True)


def test_mail_that_this_user_may_not_read_is_named(reachable: Path):
    """A message, a folder and an account that are closed are each named, and the others still looked at.

    Root may read everything, so the look is made by a child process that is nobody.
    """
    tree = mailtree.build(reachable / "vmail", accounts=3, messages=30, size=200)
    open_up(tree.root)
    first, second, _ = (tree.account(address) for address in tree.addresses)
    messages = [path for part in ("cur", "new") for path in (first / "Maildir" / part).iterdir()]
    for message in messages:
        message.chmod(CLOSED)
    folder = next(path for path in (second / "Maildir").iterdir() if path.name.startswith("."))
    (folder / "cur").chmod(CLOSED)
    facts = as_nobody(lambda: mail.look_at_mail(tree.root))
    named = " ".join(facts.unreadable)
    assert "Permission denied" in named
    assert any(str(message) in named for message in messages)
    assert str(folder / "cur") in named
    assert facts.read_only_total > 0
    assert facts.messages > 0
    check = mail.judge_mail(facts, watch=True, user="nobody")[0]
    assert check.outcome is Outcome.CRITICAL


def test_a_closed_domain_and_a_missing_root_are_told(reachable: Path):
    """A domain that can't be listed is named; a root that can't be is the failure."""
    tree = mailtree.build(reachable / "vmail", accounts=1, messages=1, size=200)
    open_up(tree.root)
    domain = tree.root / mailtree.DOMAIN
    domain.chmod(CLOSED)
    facts = as_nobody(lambda: mail.look_at_mail(tree.root))
    assert str(domain) in facts.unreadable[0]
    assert mail.look_at_mail(reachable / "nowhere").failure == "No such file or directory"


def test_the_probe_of_the_disk_is_removed(tmp_path: Path):
    """A sync is measured, case is told, and nothing is left; a directory that is gone is a failure."""
    facts = disk.measure_disk(tmp_path)
    assert facts.failure == ""
    assert facts.sync_seconds is not None
    assert facts.sync_seconds >= 0
    assert facts.tells_case
    assert list(tmp_path.iterdir()) == []
    assert disk.measure_disk(tmp_path / "gone").failure == "it does not answer: No such file or directory"
    assert disk.measure_disk(tmp_path, write=False).sync_seconds is None


def test_a_disk_that_can_not_be_written_is_told(reachable: Path):
    """Where no probe can be written, the failure says why, and nothing stays there."""
    reachable.chmod(0o555)
    facts = as_nobody(lambda: disk.measure_disk(reachable))
    assert "Permission denied" in facts.failure
    assert list(reachable.iterdir()) == []


def test_a_path_is_looked_at_beside_its_holder(tmp_path: Path):
    """Owner, identity and the process that holds the lock are told; the lock stays whose it was."""
    backup = tmp_path / "backup"
    with Store.open(backup, server_id=SERVER, server_name="mail", clock=SystemClock()):
        held = place.look_at_path(backup, SERVER, tmp_path)
        assert (held.holder, held.refused) == (os.getpid(), "")
        assert held.same_file_system
        assert held.since is not None
        backup.chmod(0o755)
        assert place.look_at_path(backup, SERVER, None).open_to == ("mode 0755",)
        backup.chmod(0o700)
    assert place.look_at_path(backup, SERVER, None).holder is None
    assert "another server" in place.look_at_path(backup, "another", None).refused
    new = place.look_at_path(tmp_path / "new", SERVER, None)
    assert (new.exists, new.since, new.refused) == (False, None, "")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_files_of_somebody_else_are_told(tmp_path: Path):
    """A Backup Path in which root left files of its own is told with the file."""
    with Store.open(tmp_path / "b", server_id=SERVER, server_name="mail", clock=SystemClock()) as store:
        os.chown(store.layout.ledger, 65534, 65534)
        assert "state.sqlite belongs to" in place.look_at_path(tmp_path / "b", SERVER, None).stray


def test_the_configuration_is_compared_with_the_one_in_force(tmp_path: Path):
    """The file unchanged is well, changed it is a warning naming the key, broken it is critical."""
    file = tmp_path / "backupd.toml"
    file.write_text('[appserver]\nroot = "mail"\n')
    in_force = settings.read_configuration(file).config
    assert in_force is not None
    assert settings.judge_configuration(settings.read_configuration(file), in_force).outcome is Outcome.OK
    file.write_text('[appserver]\nroot = "mail"\nwatch = false\n')
    changed = settings.judge_configuration(settings.read_configuration(file), in_force)
    assert changed.outcome is Outcome.WARNING
    assert "[appserver] watch" in changed.found
    assert changed.cure == "systemctl reload backupd"
    file.write_text('[appserver]\nrot = "mail"\n')
    broken = settings.judge_configuration(settings.read_configuration(file), in_force)
    assert broken.outcome is Outcome.CRITICAL
    assert "the next start fails" in broken.found
    assert "did you mean root" in broken.cure


def test_looking_takes_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the time is up nothing more is looked at, and the count says that it is not all."""
    tree = mailtree.build(tmp_path / "vmail", accounts=4, messages=20, size=200)
    monkeypatch.setattr(mail, "LOOK_SECONDS", -1.0)
    monkeypatch.setattr(mail, "COUNT_SECONDS", -1.0)
    began = time.process_time()
    facts = mail.look_at_mail(tree.root)
    assert time.process_time() - began < 1
    assert (facts.accounts, facts.sampled, facts.counted_all) == (4, 0, False)
