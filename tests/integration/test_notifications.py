"""The whole daemon tells: a mail server, a webhook and a dead man's switch hear of its scans and problems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.patience import eventually
from tests.world.receivers import PASSWORD, USERNAME, MailServer, Received, WebServer

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH")

ADMIN = "admin@example.com"
YOU = "you@example.com"
TOKEN = "tok-s3cret"
PING = "/5d32b50d"
HOOK = "/hooks/T0P"


class World:
    """A daemon that tells, and whoever listens."""

    def __init__(self, place: Path) -> None:
        self.mail = MailServer(login=True)
        self.web = WebServer()
        for name, text in (("password", PASSWORD), ("token", TOKEN)):
            (place / name).write_text(f"{text}\n")
            (place / name).chmod(0o600)
        self.root = mailtree.build(place / "vmail", accounts=2, messages=5).root
        self.daemon = Daemon(
            place / "d",
            self.root,
            extra=f"""
[notifications]
smtp_host = "localhost"
smtp_port = {self.mail.port}
smtp_security = "none"
smtp_username = "{USERNAME}"
smtp_password_file = "{place}/password"
recipients = ["{ADMIN}"]
webhook_url = "{self.web.url}{HOOK}"
webhook_token_file = "{place}/token"
ping_url = "{self.web.url}{PING}"
""",
        )

    def mails(self, *words: str) -> list[Received]:
        return [one for one in self.mail.received if all(word in one.message["Subject"] for word in words)]

    def mails_of(self, operation: str) -> list[Received]:
        return [one for one in self.mail.received if operation in one.text]

    def pings(self) -> list[str]:
        return [one.path for one in self.web.requests if one.method == "GET"]

    def posts(self) -> list[Any]:
        return [one.json for one in self.web.requests if one.method == "POST"]

    def notifications(self) -> list[Any]:
        return list(self.daemon.command("core/getNotification")["notifications"])

    def log_of(self, operation: str) -> list[Any]:
        return list(self.daemon.command("core/getOperationLog", operation_uuid=operation)["lines"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("telling"))
    with made.mail, made.web, made.daemon:
        made.daemon.wait_until_scanned()
        yield made


def test_a_scan_is_told_at_start_and_end(world: World) -> None:
    """Admins and the address given with a scan get a mail at its start and its end; the webhook too."""
    scan = world.daemon.scan(notifications=YOU)
    both = eventually("two mails", lambda: len(found := world.mails_of(scan["uuid"])) == 2 and found)
    assert [one.recipients for one in both] == [[ADMIN, YOU]] * 2
    assert "started" in both[0].message["Subject"]
    assert "successful" in both[1].message["Subject"]
    assert scan["verdict"] in both[1].text
    posts = eventually(
        "two posts",
        lambda: len(found := [p for p in world.posts() if p["operation"] == scan["uuid"]]) == 2 and found,
    )
    assert [one["facts"]["status"] for one in posts] == ["running", "successful"]
    assert posts[0]["server"]["name"] == "mail.example.com"


def test_each_scan_that_succeeds_pings(world: World) -> None:
    """The dead man's switch hears of a scan that succeeded, without `/start`."""
    before = len(world.pings())
    world.daemon.scan()
    eventually("a ping", lambda: len(world.pings()) > before)
    assert set(world.pings()) == {PING}


def test_the_threshold_counts_at_once_but_for_own_recipients(world: World) -> None:
    """Once errors alone are to be told, a scan tells nobody but the address given with it."""
    world.daemon.command("config/set%20global", attribute="backupNotificationLevel", value="error")
    try:
        quiet = world.daemon.scan()
        own = world.daemon.scan(notifications=YOU)
        mails = eventually("two mails", lambda: len(found := world.mails_of(own["uuid"])) == 2 and found)
        assert [one.recipients for one in mails] == [[YOU]] * 2
        assert YOU not in mails[0].message.as_string()
        assert world.mails_of(quiet["uuid"]) == []
    finally:
        world.daemon.command("config/set%20global", attribute="backupNotificationLevel", value="information")


def test_a_scan_that_fails_is_told(world: World) -> None:
    """A scan of a tree that is gone tells an error with its reason, and pings /fail."""
    aside = world.root.with_name("aside")
    world.root.rename(aside)
    try:
        failed = world.daemon.scan(notifications=YOU)
    finally:
        aside.rename(world.root)
    assert failed["status"] == "failed"
    mail = eventually(
        "a mail of the failure", lambda: [m for m in world.mails("failed") if failed["uuid"] in m.text]
    )[0]
    assert mail.message["X-Backupd-Level"] == "error"
    assert failed["verdict"].split(" (")[0] in mail.text
    eventually("a ping of the failure", lambda: f"{PING}/fail" in world.pings())
    lines = world.log_of(failed["uuid"])
    assert [one["event"] for one in lines][:2] == ["operation_queued", "operation_started"]
    assert any(one["event"] == "operation_failed" for one in lines)
    assert lines[-1]["facts"]["status"] == "failed"


def test_that_no_backup_is_made_is_told_at_once(world: World) -> None:
    """With both scanners off a critical mail goes out within moments, without waiting for the next look."""
    off = '{"cron-enabled":false,"cron-pattern":"0 4 * * *"}'
    world.daemon.command("config/set%20global", attribute="backupSmartScanScheduler", value=off)
    world.daemon.command("config/set%20global", attribute="ZxBackup_RealTimeScanner", value="FALSE")
    try:
        mail = eventually("a critical mail", lambda: world.mails("NO BACKUP IS BEING MADE"), 20)[0]
        assert mail.message["Importance"] == "high"
    finally:
        world.daemon.command("config/unset%20global", attribute="ZxBackup_RealTimeScanner")
        world.daemon.command("config/unset%20global", attribute="backupSmartScanScheduler")


def test_a_mail_server_that_is_down_delays_nothing_and_loses_nothing(world: World) -> None:
    """Scans go on without it, status says so, and a restarted daemon sends what waited."""
    world.daemon.wait_until_scanned()
    world.mail.stop()
    scan = world.daemon.scan(notifications=YOU)
    assert scan["status"] == "successful"
    eventually(
        "a problem in status",
        lambda: [p for p in world.daemon.status()["problems"] if p["name"] == "notifications_unsent"],
    )
    eventually("mail alone waits", lambda: world.notifications()[0]["pending"] == ["mail"])
    logged = world.log_of(scan["uuid"])
    world.daemon.kill()
    world.mail.start()
    world.daemon.start()
    mails = eventually("both mails", lambda: len(found := world.mails_of(scan["uuid"])) >= 2 and found)
    assert {one.message["Subject"].split()[-1] for one in mails} == {"started", "successful"}
    eventually("all is sent", lambda: not any(one["pending"] for one in world.notifications()))
    assert logged[-1]["event"] == "operation_ended"
    assert world.log_of(scan["uuid"]) == logged


def test_a_web_server_that_hangs_delays_no_mail(world: World) -> None:
    """While the webhook hangs, scans run and their mails go out."""
    world.web.hang(on=True)
    try:
        scan = world.daemon.scan(notifications=YOU)
        eventually("two mails", lambda: len(world.mails_of(scan["uuid"])) == 2, 20)
    finally:
        world.web.hang(on=False)


def test_no_secret_is_shown(world: World) -> None:
    """Neither the log nor a reply shows the password, the token, or a URL's path."""
    shown = world.daemon.log_text() + repr(world.daemon.command("core/getOperationLog"))
    shown += repr(world.daemon.status()) + repr(world.notifications())
    for secret in (PASSWORD, TOKEN, PING, HOOK):
        assert secret not in shown
