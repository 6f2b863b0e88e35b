"""The whole daemon: legal holds as printed, a mailbox emptied live, an account that is not backed up."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.patience import eventually

NO_INPUT = 66


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, MailHost]]:
    """Return a daemon on the embedded broker after its first scan, and the host it follows."""
    place = tmp_path_factory.mktemp("protection")
    tree = mailtree.build(place / "vmail", accounts=3, messages=30, size=300)
    with Daemon(place / "b", tree.root) as daemon:
        daemon.wait_until_scanned()
        eventually("live", lambda: daemon.status()["realtime"]["active"])
        yield daemon, MailHost(tree)


def printed(daemon: Daemon, *words: str) -> list[list[str]]:
    lines = daemon.console("backup", *words).stdout.decode().splitlines()
    return [line.split()[:3] for line in lines]


def test_a_legal_hold_is_printed_as_address_id_and_set_or_unset(world):
    """The lines are as printed; an unknown account is refused by name, and nothing is half set."""
    daemon, host = world
    one, two, three = host.addresses
    ids = {line[0]: line[1] for line in printed(daemon, "legalHold", "get", "all")}
    assert printed(daemon, "legalHold", "set", f"{one},{ids[two]}") == [
        [one, ids[one], "set"],
        [two, ids[two], "set"],
    ]
    refused = daemon.console("backup", "legalHold", "set", f"{three},nobody@example.test", check=False)
    assert refused.returncode == NO_INPUT
    assert b"nobody@example.test" in refused.stderr
    assert [line[2] for line in printed(daemon, "legalHold", "get", "all")] == ["set", "set", "unset"]
    assert printed(daemon, "legalhold", "unset", f"{one},{two}") == [
        [one, ids[one], "unset"],
        [two, ids[two], "unset"],
    ]
    told = json.loads(daemon.console("core", "getNotification", "--json").stdout)["notifications"]
    assert any("legal hold set" in one["subject"] for one in told)


def test_a_mailbox_that_is_emptied_live_is_told_until_an_admin_lifts_it(world):
    """Events alone are enough: status and a notification say so; one command ends it."""
    daemon, host = world
    address = host.addresses[0]
    eventually("live", lambda: daemon.status()["realtime"]["active"], 30)
    daemon.console("config", "set", "account", address, "backupMassDeletionMinimum", "20")
    for path in [one for one in host.tree.account(address).rglob("cur/*") if one.is_file()]:
        path.unlink()

    def problem() -> str:
        return next((one["message"] for one in daemon.status()["problems"] if address in one["message"]), "")

    eventually("suspended", problem, 30)
    assert "items" in problem()
    assert daemon.status()["retention_suspended"] == 1
    eventually(
        "told", lambda: address in daemon.console("core", "getNotification", "--json").stdout.decode(), 30
    )
    daemon.console("backup", "doResumeRetention", address)
    status = daemon.status()
    assert (problem(), status["retention_suspended"]) == ("", 0)
    lifted = daemon.command("backup/getSuspendedRetention", lifted=True)["accounts"]
    assert [one["name"] for one in lifted] == [address]


def test_an_account_that_is_not_backed_up_is_left_as_it_is(world):
    """What comes while it is off is not recorded; on again, a scan that starts by itself finds it."""
    daemon, host = world
    address, other = host.addresses[1], host.addresses[2]
    eventually("live", lambda: daemon.status()["realtime"]["active"], 30)
    daemon.console("config", "set", "cos", "default", "backupEnabled", "false")
    daemon.console("config", "set", "account", other, "backupEnabled", "true")
    host.deliver_text(address, "Unseen")
    host.deliver_text(other, "Seen")
    eventually("the other's mail", lambda: daemon.find(other, "Seen"), 30)
    scan = daemon.scan()
    assert "that are not backed up" in scan["verdict"]
    assert daemon.find(address, "Unseen") is None
    daemon.console("config", "set", "account", address, "backupEnabled", "true")
    eventually("found", lambda: daemon.find(address, "Unseen"), 30)
    eventually("healed", lambda: not daemon.status()["gaps"], 30)
