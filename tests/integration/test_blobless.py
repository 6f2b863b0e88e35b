"""Blobless mode of a real daemon: what mail clients delete comes back, through kills, and off again all is fetched."""

from __future__ import annotations

import contextlib
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backupd.items import digest_of
from tests.integration.dovecot import Dovecot, require_dovecot, running_dovecot
from tests.world.daemons import Daemon
from tests.world.faults import KILL, Fault, Faults
from tests.world.mailhost import MailHost
from tests.world.mailtree import build
from tests.world.patience import eventually

ALICE = "alice@example.test"
MODE = "backupBloblessMode"
MESSAGE = b"From: a@example.org\r\nTo: alice@example.test\r\nSubject: Kept nowhere else\r\n\r\nText\r\n"


def set_mode(daemon: Daemon, value: str) -> Any:
    return daemon.command("config/set/global", attribute=MODE, value=value)


def blobs(daemon: Daemon) -> list[Path]:
    return [one for one in (daemon.backup_path / "items").rglob("*") if one.is_file()]


def held(root: Path) -> set[str]:
    return {one.name for one in (root / ".backupd-held").rglob("*") if one.is_file()}


def problems(daemon: Daemon) -> set[str]:
    return {one["name"] for one in daemon.status()["problems"]}


def check(daemon: Daemon) -> Any:
    answer = daemon.command("backup/doctor")
    return next(one for one in answer["checks"] if one["name"] == "blobless mode")


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    require_dovecot()
    with contextlib.ExitStack() as stack:
        here = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backupd-bl-")))
        here.chmod(0o755)
        yield stack.enter_context(running_dovecot(here, here / "vmail"))


def bodies(dovecot: Dovecot) -> list[bytes]:
    """Return all messages of the INBOX, as IMAP gives them."""
    with dovecot.imap(ALICE) as client:
        client.select("INBOX", readonly=True)
        parts = client.fetch("1:*", "(BODY.PEEK[])")[1]
    return [part[1] for part in parts if isinstance(part, tuple)]


def expunge(dovecot: Dovecot) -> None:
    with dovecot.imap(ALICE) as client:
        client.select("INBOX")
        client.store("1:*", "+FLAGS", r"(\Seen \Deleted)")
        client.expunge()


@pytest.mark.server("dovecot-imapd", "dovecot-lmtpd")
def test_what_a_mail_client_deletes_comes_back_though_no_blob_was_kept(dovecot: Dovecot) -> None:
    """Delivered, deleted, restored byte for byte; turned off, a deep scan fetches it and lets go of it."""
    dovecot.deliver(ALICE, b"Subject: first\r\n\r\n")
    with Daemon(dovecot.root.parent / "b", dovecot.root) as daemon:
        assert set_mode(daemon, "true")["reply"] == "done"
        daemon.wait_until_scanned()
        stored = len(blobs(daemon))
        dovecot.deliver(ALICE, MESSAGE)
        (original,) = [one for one in bodies(dovecot) if b"nowhere else" in one]

        def found(state: str) -> list[dict[str, Any]]:
            words = {"account": ALICE, "search_filter": state, "subject": "nowhere", "type": "message"}
            return list(daemon.command("backup/doItemSearch", **words)["items"])

        (hit,) = eventually("the message is recorded", lambda: found("not_deleted"))
        expunge(dovecot)
        eventually("its deletion is recorded", lambda: found("deleted"))
        item = daemon.command("backup/getItem", account=ALICE, item=hit["id"], date="all")
        assert [(one["held"], one["blob_path"]) for one in item["states"]] == [(True, "")] * len(
            item["states"]
        )
        assert len(blobs(daemon)) == stored
        assert check(daemon)["outcome"] == "ok", check(daemon)
        assert daemon.command("backup/getBackupInfo")["blobless"]["active"]
        restored = daemon.run("backup/doItemRestore", account=ALICE, item_id=hit["id"])
        assert restored["status"] == "successful", restored
        assert [one for one in bodies(dovecot) if b"nowhere else" in one] == [original]
        drill = daemon.run("backup/doRestoreDrill", items=5, account_restores=1)
        assert drill["status"] == "successful", drill

        assert set_mode(daemon, "false")["reply"] == "done"
        eventually("it is told what is missing", lambda: "contents_not_fetched" in problems(daemon))
        assert daemon.scan(deep=True)["status"] == "successful"
        assert "contents_not_fetched" not in problems(daemon)
        assert len(blobs(daemon)) > stored
        assert daemon.scan(deep=True)["status"] == "successful"
        assert held(dovecot.root) == set()


KILLS = ("holding.linked", "holding.named", "holding.sync", "holding.synced")


def test_killed_at_any_step_nothing_held_is_lost(tmp_path: Path) -> None:
    """Each kill is followed by a start, a deletion and a look: the content is there, and stored nowhere else."""
    tree = build(tmp_path / "vmail", accounts=1, messages=2)
    host, faults = MailHost(tree), Faults(tmp_path / "faults")
    with Daemon(
        tmp_path / "d",
        tree.root,
        watch=False,
        module="tests.world.faulty_daemon",
        environment=faults.environment,
    ) as daemon:
        daemon.wait_until_scanned()
        stored = len(blobs(daemon))
        set_mode(daemon, "true")
        for number, step in enumerate(KILLS):
            path = host.deliver_text(host.addresses[0], f"message {number}.")
            content = path.read_bytes()
            faults.arm(Fault(step, KILL))
            with contextlib.suppress(OSError, ValueError):
                daemon.command("backup/doSmartScan", action="start")
            assert daemon.process is not None
            daemon.process.wait(20)
            assert faults.hits(), step
            faults.disarm()
            daemon.start()
            assert daemon.scan()["status"] == "successful"
            path.unlink()
            assert daemon.scan()["status"] == "successful"
            assert contents_of(daemon, digest_of(content)) == content
        assert len(blobs(daemon)) == stored

        # Fetched, then killed while it is let go: fetched it is all the same.
        set_mode(daemon, "false")
        faults.arm(Fault("holding.release", KILL, 2))
        with contextlib.suppress(OSError, ValueError):
            daemon.scan(deep=True)
        assert faults.hits()
        faults.disarm()
        daemon.start()
        assert daemon.scan(deep=True)["status"] == "successful"
        assert held(tree.root) == set()
        assert len(blobs(daemon)) >= stored + len(KILLS)


def contents_of(daemon: Daemon, digest: str) -> bytes:
    """Return a content as the control socket gives it."""
    from tests.world.daemons import _UnixConnection

    connection = _UnixConnection(daemon.socket)
    try:
        connection.request("GET", f"/v1/blobs/{urllib.parse.quote(digest)}")
        return connection.getresponse().read()
    finally:
        connection.close()


def test_a_mail_storage_that_can_not_hold_refuses_the_mode(tmp_path: Path) -> None:
    """The reason and the cure are told, nothing is set, and contents are stored as before."""
    tree = build(tmp_path / "vmail", accounts=1, messages=2)
    (tmp_path / "elsewhere" / "0").mkdir(parents=True)
    (tree.root / ".backupd-held").symlink_to(tmp_path / "elsewhere")
    with Daemon(tmp_path / "d", tree.root) as daemon:
        printed = daemon.console("config", "global", "set", "attribute", MODE, "value", "true", check=False)
        assert printed.returncode == 1
        assert b"can't hold what is deleted" in printed.stderr
        daemon.wait_until_scanned()
        assert not daemon.status()["blobless"]["active"]
        assert len(blobs(daemon)) == 2
