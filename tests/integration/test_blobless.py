"""Blobless mode of a real daemon beside a real Dovecot: what a mail client deletes comes back."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.dovecot import Dovecot, require_dovecot, running_dovecot
from tests.world.daemons import Daemon
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
