"""The disk fails at every durable step, for a while: the daemon lives on, says so, and heals by itself.

Nothing acknowledged is lost or doubled meanwhile. Errors are injected where the step stands; a small file
system that is really full is in test_full_disk.py.
"""

from __future__ import annotations

import errno
import os
import queue
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from backupd.items import ItemKey, Kind
from backupd.states import ChangeType
from tests.crash import scenes, steps
from tests.crash.conftest import CRASHES, SEED
from tests.crash.scenes import Mailboxes
from tests.crash.victim import Victim
from tests.world.brokers import Mosquitto
from tests.world.faults import KILL, Fault

VICTIMS = 4
THOROUGH_CRASHES = 500
"""From so many kills on, every step fails in every way; else in one of them."""
ERRORS = ("ENOSPC", "EIO")
NOT_WRITING = frozenset(
    {"intake.journaled", "intake.acknowledged", "index.committed", "ledger.committed", "checkpoint.done"}
)
"""Steps behind which nothing of theirs can fail any more: only kills mean something there."""
FAILING = tuple(name for name in steps.STREAM if name not in NOT_WRITING)
TOLD_SECONDS_MAX = 30.0

pytestmark = [pytest.mark.server("mosquitto"), pytest.mark.timeout(900)]


def test_every_step_fails_for_a_while(place: Path, broker: Mosquitto) -> None:
    """An error at any step of intake and recording is shown in the status and heals when it is over."""
    dice = random.Random(SEED)
    todo: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    for name in FAILING:
        for error in ERRORS if CRASHES >= THOROUGH_CRASHES else [dice.choice(ERRORS)]:
            todo.put((name, error))

    def work(number: int) -> None:
        with Victim(place / str(number), broker, seed=f"{SEED}/fails/{number}") as victim:
            victim.begin()
            victim.daemon.start()
            while not todo.empty():
                try:
                    name, error = todo.get_nowait()
                except queue.Empty:
                    break
                _fail_for_a_while(victim, name, error)
            victim.settle_and_stop()
            victim.judge()

    with ThreadPoolExecutor(VICTIMS) as threads:
        list(threads.map(work, range(VICTIMS)))


def _fail_for_a_while(victim: Victim, name: str, error: str) -> None:
    if name == "quarantine.rotated":
        scenes.fill_quarantine(victim)
    victim.faults.arm(Fault(name, error))
    key = ItemKey("anna", Kind.CONTACT, f"{name} {victim.story.count}")
    victim.mouth.say(victim.story.go_on(8))
    victim.mouth.say(victim.story.about(key, [ChangeType.CREATED]))
    if name.startswith("quarantine."):
        scenes.say_nonsense(victim)
    what = f"{error} at {name}"
    victim.wait_until(what, victim.faults.hits, TOLD_SECONDS_MAX)
    victim.wait_until(f"the status telling of {what}", partial(_tells, victim, error), TOLD_SECONDS_MAX)
    victim.mouth.say(victim.story.go_on(3))
    time.sleep(victim.dice.random())
    victim.faults.disarm()
    victim.wait_until_recorded()
    victim.wait_until(f"a status without {what}", lambda: not _tells(victim, error))


def _tells(victim: Victim, error: str) -> bool:
    said = " ".join(problem["message"] for problem in victim.daemon.status()["problems"])
    return os.strerror(getattr(errno, error)) in said or (error == "ENOSPC" and "no space" in said)


def test_crashes_while_the_disk_fails(place: Path, broker: Mosquitto) -> None:
    """Errors at random steps and kills at random moments, in the same lives, lose and double nothing."""
    dice = random.Random(f"{SEED}/both")
    with Victim(place, broker, seed=f"{SEED}/both") as victim:
        victim.begin()
        for _ in range(max(8, CRASHES // 20)):
            victim.mouth.say(victim.story.go_on(8))
            victim.faults.arm(Fault(dice.choice(FAILING), dice.choice(ERRORS), dice.randrange(1, 20)))
            victim.daemon.start(wait=False)
            for _ in range(3):
                victim.mouth.say(victim.story.go_on(4))
                time.sleep(0.2 * dice.random())
            victim.daemon.kill()
        victim.settle()
        victim.judge()


@pytest.mark.parametrize("error", ERRORS)
def test_operations_fail_and_succeed_again(place: Path, broker: Mosquitto, error: str) -> None:
    """A scan that the disk ends says so in its verdict; the next one is whole."""
    with Victim(place, broker, seed=f"{SEED}/operations/{error}") as victim:
        mailboxes = Mailboxes(victim.root, accounts=10, messages=2)
        victim.begin()
        victim.daemon.start()
        victim.wait_until("the subscription", lambda: victim.daemon.status()["broker"]["connected"])
        for name in (
            *steps.SCAN,
            "volume.stage",
            "volume.rename",
            "journal.append_synced",
            "ledger.begin",
        ):
            for archive in (victim.backup_path / "servers").glob("configuration*"):
                archive.unlink()
            mailboxes.deliver(20)
            victim.faults.arm(Fault(name, error))
            ended = victim.daemon.scan()
            assert victim.faults.hits(), name
            if name == "archive.written":
                assert "the configuration could not be dumped" in ended["verdict"], ended
            elif name != "ledger.begin":
                assert ended["status"] == "failed", f"{name}: {ended}"
            victim.faults.disarm()
            ended = victim.daemon.scan()
            assert ended["status"] == "successful", f"{name}: {ended}"
        victim.wait_until_recorded()
        assert victim.daemon.scan()["status"] == "successful"
        assert victim.daemon.stop() == 0
        mailboxes.judge(victim)


def test_a_start_on_a_failing_disk_is_refused(place: Path, broker: Mosquitto) -> None:
    """Where the Backup Path can't be made or opened the daemon ends with one clear line, and starts later."""
    with Victim(place, broker, seed=f"{SEED}/start") as victim:
        for name in (*steps.CREATION, "file_system.sync"):
            for error in ERRORS:
                shutil.rmtree(victim.backup_path, ignore_errors=True)
                victim.faults.arm(Fault(name, error))
                victim.daemon.log_path.write_bytes(b"")
                victim.daemon.start(wait=False)
                assert victim.daemon.process is not None
                status = victim.daemon.process.wait(30)
                said = victim.daemon.log_text()
                assert status in {74, 75, 78}, f"{name} {error}: {status}\n{said}"
                assert "Traceback" not in said
                victim.faults.disarm()
                victim.daemon.start()
                victim.daemon.kill()
        victim.begin()
        assert victim.live(Fault("checkpoint.done", KILL))
        victim.settle()
        victim.judge()
