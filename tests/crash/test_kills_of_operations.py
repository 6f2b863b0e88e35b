"""The daemon is killed while it makes its Backup Path, scans, restores, and waits for photographs.

The same acts on the next life end well: nothing is recorded or restored twice, nothing is missing.
"""

from __future__ import annotations

import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backupd import events
from backupd.clock import SystemClock
from backupd.events import Change
from backupd.items import ItemKey, Kind, digest_of
from backupd.states import ChangeType, Origin
from backupd.store.index_search import Search
from tests.crash import steps, verdict
from tests.crash.conftest import SEED
from tests.crash.scenes import Mailboxes
from tests.crash.victim import Victim
from tests.world.brokers import Mosquitto
from tests.world.faults import KILL, KILL_ALONE, Fault

MANY = 420
"""So many fresh messages that a scan reads them in worker processes."""
MANY_ACCOUNTS = 14
"""So many accounts that their statistics are written as a group."""
AT_ONCE = 4
KILLED_SCANNING = (
    *steps.SCAN,
    "journal.append_written",
    "journal.append_synced",
    "volume.stage",
    "volume.renamed",
    "history.created",
    "index.commit",
    "checkpoint.synced",
    "ledger.commit",
    "ledger.committed",
)
KILLED_RESTORING = (
    *((name, 1) for name in steps.RESTORE),
    *(("ledger.begin", count) for count in range(1, 7)),
    *(("ledger.committed", count) for count in range(1, 7)),
)
"""Steps with the occurrence after the command was given."""

pytestmark = [pytest.mark.server("mosquitto"), pytest.mark.timeout(600)]


def victim_with_mail(
    place: Path, broker: Mosquitto, *, seed: str, accounts: int = 2, messages: int = 8
) -> tuple[Victim, Mailboxes]:
    victim = Victim(place, broker, seed=seed, extra="[scan]\nworkers = 2\n")
    return victim, Mailboxes(victim.root, accounts=accounts, messages=messages)


def test_killed_while_the_backup_path_is_made(place: Path, broker: Mosquitto) -> None:
    """Wherever its making was cut off, the next start makes the Backup Path whole."""
    victim, mailboxes = victim_with_mail(place, broker, seed=f"{SEED}/creation", messages=2)
    with victim:
        victim.begin()
        passed = victim.faults.seen()
        assert set(steps.CREATION) <= set(passed)
        for name in steps.CREATION:
            shutil.rmtree(victim.backup_path)
            assert victim.live(Fault(name, KILL), events=0), name
            assert victim.live(Fault("checkpoint.done", KILL), events=0), name
            victim.begin()
            mailboxes.judge(victim)


def test_killed_while_scanning(place: Path, broker: Mosquitto) -> None:
    """A scan that was cut off at any step loses nothing and records nothing twice."""

    def crash(name: str) -> None:
        _crash_scanning(place / name, broker, name)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(crash, KILLED_SCANNING))


def _crash_scanning(place: Path, broker: Mosquitto, name: str) -> None:
    dice = random.Random(f"{SEED}/{name}")
    accounts = MANY_ACCOUNTS if name.startswith("statistics.") else 2
    victim, mailboxes = victim_with_mail(place, broker, seed=f"{SEED}/scan/{name}", accounts=accounts)
    with victim:
        assert victim.live(Fault(name, KILL), events=0)
        victim.begin()
        for occurrence in (1, 1 if name in steps.SCAN else dice.randrange(2, 5)):
            for archive in (victim.backup_path / "servers").glob("configuration*"):
                archive.unlink()
            mailboxes.deliver(max(12, accounts))
            victim.live(Fault(name, KILL, occurrence), lambda: _ask_for_scan(victim), events=2)
        victim.daemon.start()
        victim.wait_until("the subscription", lambda: victim.daemon.status()["broker"]["connected"])
        assert victim.daemon.scan()["status"] == "successful"
        victim.wait_until_recorded()
        assert victim.daemon.stop() == 0
        victim.judge()
        mailboxes.judge(victim)


def _ask_for_scan(victim: Victim) -> None:
    victim.daemon.wait_until_answering()
    victim.daemon.command("backup/doSmartScan", action="start")


@pytest.mark.parametrize("action", [KILL, KILL_ALONE])
def test_killed_in_a_worker(place: Path, broker: Mosquitto, action: str) -> None:
    """A worker that dies fails the scan, or takes the daemon with it; either way the next scan is whole."""
    victim, mailboxes = victim_with_mail(place, broker, seed=f"{SEED}/worker", accounts=1)
    with victim:
        victim.begin()
        mailboxes.deliver(MANY)
        victim.faults.arm(Fault("volume.stage", action, 30))
        victim.daemon.start()
        reply = victim.daemon.command("backup/doSmartScan", action="start")
        if action == KILL:
            victim.daemon.process.wait(60)
            assert victim.faults.hits()
        else:
            operation = victim.daemon.wait_for_operation(reply["operation"]["uuid"])
            assert operation["status"] == "failed"
            assert "worker" in operation["verdict"]
        victim.faults.disarm()
        victim.daemon.kill()
        victim.daemon.start()
        assert victim.daemon.scan()["status"] == "successful"
        assert victim.daemon.stop() == 0
        mailboxes.judge(victim)


def test_killed_while_restoring(place: Path, broker: Mosquitto) -> None:
    """A restore that was cut off, run again, restores what is missing and nothing twice."""

    def crash(step: tuple[str, int]) -> None:
        name, occurrence = step
        _crash_restoring(place / f"{name}.{occurrence}", broker, name, occurrence)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(crash, KILLED_RESTORING))


def _crash_restoring(place: Path, broker: Mosquitto, name: str, occurrence: int) -> None:
    victim, mailboxes = victim_with_mail(place, broker, seed=f"{SEED}/restore/{name}")
    with victim:
        victim.begin()
        account = mailboxes.host.addresses[0]
        before = mailboxes.contents()
        path = mailboxes.host.messages(account)[0]
        item = _item_of(victim, account, path.read_bytes())
        path.unlink()

        def restore() -> None:
            victim.daemon.wait_until_answering()
            victim.wait_until("the subscription", lambda: victim.daemon.status()["broker"]["connected"])
            victim.faults.arm(Fault(name, KILL, victim.faults.seen()[name] + occurrence))
            victim.daemon.run("backup/doItemRestore", account=account, item_id=item)
            # It came to its end before the fault could strike.
            victim.faults.arm(Fault("*", KILL))
            victim.daemon.command("backup/doSmartScan", action="start")

        victim.faults.forget_seen()
        assert victim.live(Fault("nothing", KILL), restore, events=0)
        victim.daemon.start()
        again = victim.daemon.restore(account, item)
        assert again["status"] == "successful", again
        assert mailboxes.contents() == before
        assert victim.daemon.stop() == 0


def _item_of(victim: Victim, address: str, content: bytes) -> str:
    with verdict.opened(victim.backup_path, victim.server_id) as store:
        account = store.index.find_account(address)
        assert account is not None
        (key,) = store.index.blob_references(digest_of(content))
        return key.item


def test_killed_while_photographs_wait(place: Path, broker: Mosquitto) -> None:
    """Changes that wait for an AppServer out of reach survive crashes, and are recorded once it is back."""
    victim, mailboxes = victim_with_mail(place, broker, seed=f"{SEED}/waiting", accounts=1)
    with victim:
        victim.begin()
        address = mailboxes.host.addresses[0]
        with verdict.opened(victim.backup_path, victim.server_id) as store:
            account = store.index.find_account(address)
            assert account is not None
            hits = store.index.search(account.item, Search(kind=Kind.MESSAGE, limit=20))
            items = [hit.item for hit in hits if hit.metadata["folder"] == "INBOX"][:4]
        away = victim.root.with_name("away")
        victim.root.rename(away)
        told: dict[str, list[str]] = {}
        for number, name in enumerate(
            ("ledger.commit", "ledger.committed", "index.committed", "checkpoint.done")
        ):
            for item in items:
                _tell_of_change(victim, account.item, item, f"{number}", told)
            assert victim.live(Fault(name, KILL), events=2)
        victim.daemon.start()
        victim.wait_until("what waits", lambda: victim.daemon.status()["waiting_photographs"] == len(items))
        victim.daemon.kill()
        away.rename(victim.root)
        for path in mailboxes.host.messages(address):
            mailboxes.host.flag(path, "F")
        for name in ("journal.append_synced", "ledger.begin", "ledger.committed", "index.commit"):
            victim.live(Fault(name, KILL, 2), events=1)
        victim.daemon.start()
        victim.wait_until("nothing waits", lambda: not victim.daemon.status()["waiting_photographs"])
        victim.wait_until_recorded()
        assert victim.daemon.stop() == 0
        victim.judge()
        with verdict.opened(victim.backup_path, victim.server_id) as store:
            for item, identifiers in told.items():
                states = store.histories.read(ItemKey(account.item, Kind.MESSAGE, item))
                recorded = [event for state in states for event in state.events]
                assert sorted(recorded) == sorted(identifiers), victim.told(f"{item}: {states}")
                assert not states[-1].lacking


def _tell_of_change(victim: Victim, account: str, item: str, number: str, told: dict[str, list[str]]) -> None:
    """Publish that a message changed, without a photograph."""
    change = Change(
        account=account,
        kind=Kind.MESSAGE,
        item=item,
        type=ChangeType.MODIFIED,
        time=SystemClock().now(),
        origin=Origin.REALTIME,
    )
    event = events.event_of(change, source="/appservers/mail", event_id=f"{item}.{number}")
    told.setdefault(item, []).append(f"{event.source}#{event.id}")
    victim.mouth.say([(events.topic_of(victim.server_id, change.key), events.encode_event(event))])


def test_killed_while_watching(place: Path, broker: Mosquitto) -> None:
    """On the embedded broker, which forgets with the daemon, the scan after a crash finds what was missed."""
    with Victim(place, broker, seed=f"{SEED}/watching", embedded=True) as victim:
        mailboxes = Mailboxes(victim.root, accounts=2, messages=8)
        victim.begin()
        dice = victim.dice
        for _ in range(12):
            mailboxes.deliver(dice.randrange(4))
            victim.daemon.start(wait=dice.random() < 0.7)
            for _ in range(dice.randrange(5)):
                delivered = mailboxes.deliver(dice.randrange(4))
                time.sleep(0.2 * dice.random())
                if delivered and dice.random() < 0.3:
                    delivered[0].unlink()
            victim.daemon.kill()
            victim.kills += 1
        victim.daemon.start()
        # The crash left a gap of the whole server, which the daemon heals before anybody asks.
        victim.wait_until("the broker", lambda: victim.daemon.status()["broker"]["connected"])
        victim.wait_until("no gap", lambda: not victim.daemon.status()["gaps_total"])
        assert victim.daemon.stop() == 0
        mailboxes.judge(victim)
