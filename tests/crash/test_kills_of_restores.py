"""The daemon is killed while it restores accounts and undeletes; given again, the result is as without.

Zero duplicates: what the killed run had made is found and kept. Faults of the disk at the durable steps of a
restore make it wait and go on, or fail resumable, never restore twice.
"""

from __future__ import annotations

import http.client
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from backupd.clock import SystemClock, written
from backupd.items import digest_of
from tests.crash import steps
from tests.crash.conftest import CRASHES, SEED
from tests.crash.scenes import Mailboxes
from tests.crash.victim import Victim
from tests.world.brokers import Mosquitto
from tests.world.faults import KILL, Fault
from tests.world.nursery import Nursery

THOROUGH_CRASHES = 500
KILLS = CRASHES // 20 if CRASHES >= THOROUGH_CRASHES else 3
"""At random moments, of each kind of restore; 50 of 1,000 crashes."""
MESSAGES = 300
"""More than one chunk."""
KILLED_AT = (
    *((name, 1) for name in steps.ACCOUNT_RESTORE),
    ("ledger.committed", 4),
    *((name, 2) for name in steps.ACCOUNT_RESTORE if CRASHES >= THOROUGH_CRASHES),
    *(
        (name, count)
        for name in ("ledger.begin", "ledger.committed")
        for count in range(1, 9)
        if CRASHES >= THOROUGH_CRASHES
    ),
)
"""Steps with the occurrence after the command was given."""
ERRORS = ("ENOSPC", "EIO")

pytestmark = [pytest.mark.server("mosquitto"), pytest.mark.timeout(1200)]


class Life:
    """One account with a past, restored again and again by a daemon that is killed."""

    def __init__(self, place: Path, nursery: Nursery, broker: Mosquitto, seed: str) -> None:
        self.victim = Victim(place, nursery, broker, seed=seed)
        self.mailboxes = Mailboxes(self.victim.root, accounts=1, messages=MESSAGES)
        (self.address,) = self.mailboxes.host.addresses
        self.dice = random.Random(seed)
        self.victim.begin()
        self.before = self.seen_in(self.address)
        self.when = written(SystemClock().now())

    def seen_in(self, address: str) -> Counter[tuple[str, str, str, int]]:
        """Return folder, flags, content and date of every message in an account's files."""
        maildir = self.mailboxes.tree.account(address) / "Maildir"
        return Counter(
            (
                path.parents[1].name if path.parents[1] != maildir else "INBOX",
                path.name.partition(":2,")[2],
                digest_of(path.read_bytes()),
                path.stat().st_mtime_ns,
            )
            for path in maildir.glob("**/cur/*")
        )

    def ask(self, to: str) -> str:
        """Give the command to restore on a new account; return the operation's UUID."""
        reply = self.victim.daemon.command("backup/doRestoreOnNewAccount", **self.asked(to))
        return str(reply["operation"]["uuid"])

    def asked(self, to: str) -> dict[str, str]:
        return {"source_account": self.address, "destination_account": to, "date": self.when}

    def dies_after(self, seconds: float) -> None:
        """Let the daemon live on for so long, then kill it."""
        time.sleep(seconds)
        self.victim.daemon.kill()
        self.victim.kills += 1
        self.victim.daemon.start()

    def dies_at(self, name: str, occurrence: int, to: str) -> None:
        """Restore until a step is passed for so many times more than by now, and die there."""
        faults, daemon = self.victim.faults, self.victim.daemon
        faults.arm(Fault(name, KILL, faults.seen()[name] + occurrence))
        with suppress(OSError, http.client.HTTPException):
            daemon.wait_for_operation(self.ask(to), 20)
            # It came to its end before.
        assert daemon.process is not None
        faults.disarm()
        daemon.kill()
        self.victim.kills += 1
        faults.forget_seen()
        daemon.start()

    def is_whole(self, to: str) -> None:
        """Give the command again: the account is as it was, nothing is there twice."""
        again = self.victim.daemon.run("backup/doRestoreOnNewAccount", **self.asked(to))
        assert again["status"] == "successful", self.victim.told(str(again))
        there = self.seen_in(to)
        told = f"twice or other: {there - self.before}, missing: {self.before - there}"
        assert there == self.before, self.victim.told(told)
        assert not list(self.mailboxes.tree.account(to).glob("Maildir/**/tmp/*")), "left aside"


def test_account_restores_killed_at_any_moment(place: Path, nursery: Nursery, broker: Mosquitto) -> None:
    """Killed once or twice at random moments and given again, the new account equals the source."""
    life = Life(place, nursery, broker, f"{SEED}/accounts")
    with life.victim:
        life.victim.daemon.start()
        began = time.monotonic()
        life.is_whole("first@example.test")
        takes = time.monotonic() - began
        for number in range(KILLS):
            to = f"copy{number}@example.test"
            for _ in range(life.dice.choice((1, 1, 2))):
                life.ask(to)
                life.dies_after(takes * 1.2 * life.dice.random())
            life.is_whole(to)
        assert life.seen_in(life.address) == life.before


def test_account_restores_killed_at_each_step(place: Path, nursery: Nursery, broker: Mosquitto) -> None:
    """Killed between any two durable steps: the same."""
    life = Life(place, nursery, broker, f"{SEED}/steps")
    with life.victim:
        life.victim.faults.forget_seen()
        life.victim.daemon.start()
        for number, (name, occurrence) in enumerate(KILLED_AT):
            to = f"copy{number}@example.test"
            life.dies_at(name, occurrence, to)
            life.is_whole(to)


def test_undeletes_killed_at_any_moment(place: Path, nursery: Nursery, broker: Mosquitto) -> None:
    """What was deleted is back once, in its folder, however often the undelete was killed."""
    life = Life(place, nursery, broker, f"{SEED}/undelete")
    with life.victim:
        daemon = life.victim.daemon
        daemon.start()
        takes = 0.5
        for _ in range(KILLS):
            paths = list(life.mailboxes.tree.account(life.address).glob("Maildir/**/cur/*"))
            gone = life.dice.sample(sorted(paths), MESSAGES // 2)
            start = written(SystemClock().now())
            for path in gone:
                path.unlink()
            life.victim.wait_until("the subscription", lambda: daemon.status()["broker"]["connected"])
            assert daemon.scan(force=True)["status"] == "successful"
            asked = {"account": life.address, "start_date": start, "end_date": "last"}
            daemon.command("backup/doUndelete", **asked)
            life.dies_after(takes * life.dice.random())
            began = time.monotonic()
            again = daemon.run("backup/doUndelete", **asked)
            takes = max(0.1, time.monotonic() - began)
            assert again["status"] == "successful", life.victim.told(str(again))
            assert contents(life.seen_in(life.address)) == contents(life.before)
            life.victim.wait_until("the subscription", lambda: daemon.status()["broker"]["connected"])
            assert daemon.scan()["status"] == "successful"


def contents(seen: Counter[tuple[str, str, str, int]]) -> Counter[tuple[str, str, int]]:
    """Leave the flags out: an undelete adds a tag, which is a letter among them."""
    left: Counter[tuple[str, str, int]] = Counter()
    for (folder, _, digest, date), count in seen.items():
        left[folder, digest, date] += count
    return left


def test_steps_of_a_restore_fail_for_a_while(place: Path, nursery: Nursery, broker: Mosquitto) -> None:
    """The disk of the AppServer fails at a step: the restore waits, goes on when it is over, and is whole."""
    life = Life(place, nursery, broker, f"{SEED}/fails")
    with life.victim:
        daemon, faults = life.victim.daemon, life.victim.faults
        daemon.start()
        for name, error in zip(steps.ACCOUNT_RESTORE, ERRORS, strict=True):
            to = f"{name.partition('.')[2].replace('_', '-')}@example.test"
            faults.arm(Fault(name, error))
            uuid = life.ask(to)
            life.victim.wait_until(f"{error} at {name}", faults.hits)
            time.sleep(0.3)
            faults.disarm()
            ended = daemon.wait_for_operation(uuid, 30)
            assert ended["status"] == "successful", life.victim.told(str(ended))
            life.is_whole(to)
