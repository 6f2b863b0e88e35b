"""A real daemon drills: its backup passes, and a blob damaged afterwards makes the next one fail."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Daemon, MailHost]]:
    """Return a daemon after its first scan, and the mail host behind it."""
    tree = mailtree.build(
        tmp_path / "vmail", accounts=2, messages=5, contacts=1, appointments=2, documents=1, size=300
    )
    with Daemon(tmp_path / "b", tree.root) as daemon:
        daemon.wait_until_scanned()
        yield daemon, MailHost(tree)


def tree_of(root: Path) -> dict[str, tuple[int, str]]:
    """Return every file with its time and content."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in root.rglob("*")
        if path.is_file()
    }


def test_a_drill_passes_and_finds_a_damaged_blob(world):
    """All is equal, and told by the status; a damaged blob fails the next drill, which names its item."""
    daemon, host = world
    before = tree_of(daemon.root)
    assert daemon.status()["last_proven_restore"] is None
    passed = daemon.run("backup/doRestoreDrill", items=100, account_restores=2)
    assert passed["status"] == "successful", passed
    assert "2 whole accounts" in passed["verdict"]
    assert "0 differ" in passed["verdict"]
    assert tree_of(daemon.root) == before
    assert list((daemon.place / "state" / "drills").iterdir()) == []
    assert daemon.status()["last_proven_restore"] == passed["ended"]
    assert "proven restore" in daemon.console("status").stdout.decode()

    address = host.addresses[0]
    item = host.messages(address)[0].name.partition(":2,")[0]
    state = daemon.last(address, item)
    blob = daemon.backup_path / state["blob_path"]
    blob.chmod(0o600)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 0xFF
    blob.write_bytes(content)
    done = daemon.console(
        "backup", "doRestoreDrill", "items", "100", "account_restores", "0", "--sync", check=False
    )
    assert done.returncode == 1
    told = done.stdout.decode() + done.stderr.decode()
    assert item in told
    assert "1 differ" in told
    assert daemon.status()["last_proven_restore"] == passed["ended"]
    doctor = daemon.console("doctor", check=False).stdout.decode()
    assert "the last restore drill failed" in doctor
