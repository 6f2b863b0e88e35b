"""The daemon is killed at every durable step and at random moments while events come in.

Whatever it acknowledged is recorded once, in order; everything is readable; the index equals a rebuilt one.
Several victims crash at the same time, each with a story of its own.
"""

from __future__ import annotations

import queue
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from backupd.items import ItemKey, Kind
from backupd.states import ChangeType
from tests.crash import scenes, steps
from tests.crash.conftest import CRASHES, SEED
from tests.crash.victim import Victim
from tests.world.brokers import Mosquitto
from tests.world.faults import KILL, Fault

VICTIMS = 4
LIVES_PER_VERDICT = 25
RANDOM_SHARE = 0.4
OFTEN = ("history.", "volume.s", "volume.rename")
SELDOM = ("checkpoint.", "file_system.")
"""How often steps are passed in a life: many times, or about once a second; others with each batch."""
Life = Callable[[Victim], None]

pytestmark = [pytest.mark.server("mosquitto"), pytest.mark.timeout(1800)]


def test_every_step_is_known(repository: Path) -> None:
    """Every durable step in the code is in the list that the kills are made from, and the other way round."""
    assert set(steps.steps_in_code(repository)) == steps.ALL


def test_killed_again_and_again(place: Path, broker: Mosquitto) -> None:
    """Nothing acknowledged is lost or doubled, wherever the daemon was killed, and however often."""
    dice = random.Random(SEED)
    struck: Counter[str] = Counter()
    lives = _lives(dice, struck)
    todo: queue.SimpleQueue[Life] = queue.SimpleQueue()
    for life in lives:
        todo.put(life)
    with ThreadPoolExecutor(VICTIMS) as threads:
        run = partial(_crash, broker=broker, todo=todo)
        kills = sum(threads.map(lambda n: run(place / str(n), seed=f"{SEED}/{n}"), range(VICTIMS)))
    never = sorted(
        {*steps.STREAM, *steps.AFTER_DAMAGE, "index.build", "index.built"} - set(struck.elements())
    )
    assert not never, f"seed {SEED}: nothing was killed at {never}"
    print(f"{kills} kills, {struck.total()} of them at {len(struck)} steps")
    assert kills >= CRASHES


def _crash(place: Path, *, broker: Mosquitto, todo: queue.SimpleQueue[Life], seed: str) -> int:
    with Victim(place, broker, seed=seed) as victim:
        victim.begin()
        done = 0
        while True:
            try:
                life = todo.get_nowait()
            except queue.Empty:
                break
            life(victim)
            done += 1
            if done % LIVES_PER_VERDICT == 0:
                victim.settle()
                victim.judge()
        victim.settle()
        victim.judge()
        return victim.kills


def _lives(dice: random.Random, struck: Counter[str]) -> list[Life]:
    """Return the lives of a run: each step at its first and at a later time, then the rest at random."""
    lives: list[Life] = []
    for name in steps.STREAM:
        lives += [partial(_die_at, struck, name, occurrence) for occurrence in (1, _later(dice, name))]
    for name in ("index.build", "index.built"):
        lives.append(partial(_die_rebuilding, struck, name))
    lives += [partial(_die_cutting, struck), partial(_die_repairing, struck)] * 2
    while len(lives) < CRASHES * 1.1:
        if dice.random() < RANDOM_SHARE:
            lives.append(Victim.live_and_die_somewhen)
        else:
            name = dice.choice(steps.STREAM)
            lives.append(partial(_die_at, struck, name, _later(dice, name)))
    dice.shuffle(lives)
    return lives


def _later(dice: random.Random, name: str) -> int:
    """Return a later occurrence of a step, of those that a short life comes to."""
    return dice.randint(2, 10 if name.startswith(OFTEN) else 2 if name.startswith(SELDOM) else 4)


def _die_at(struck: Counter[str], name: str, occurrence: int, victim: Victim) -> None:
    act = None
    if name.startswith("quarantine."):
        occurrence = 1
        if name == "quarantine.rotated":
            scenes.fill_quarantine(victim)
        act = partial(scenes.say_nonsense, victim)
    if name == "history.created":
        occurrence = min(occurrence, 2)
        act = partial(_create_items, victim)
    struck[name] += victim.live(Fault(name, KILL, occurrence), act)


def _create_items(victim: Victim) -> None:
    for number in range(2):
        key = ItemKey("anna", Kind.CONTACT, f"new {victim.kills} {number} {victim.story.count}")
        victim.mouth.say(victim.story.about(key, [ChangeType.CREATED]))


def _die_rebuilding(struck: Counter[str], name: str, victim: Victim) -> None:
    scenes.remove_index(victim)
    struck[name] += victim.live(Fault(name, KILL))


def _die_cutting(struck: Counter[str], victim: Victim) -> None:
    scenes.tear_journal(victim, victim.dice)
    struck["journal.cut_tail"] += victim.live(Fault("journal.cut_tail", KILL))


def _die_repairing(struck: Counter[str], victim: Victim) -> None:
    # The index has the states already, the histories are not synced: a power cut may take their ends.
    for _ in range(4):
        victim.live(Fault("index.committed", KILL))
        if scenes.tear_history(victim):
            struck["history.repair"] += victim.live(Fault("history.repair", KILL))
            return


def test_redelivery_changes_nothing(place: Path, broker: Mosquitto) -> None:
    """Events that come again after a crash before their acknowledgement are recorded once.

    Also more of one item than any tail of a history tells, and those that changed nothing when they came
    first: an old deletion must not delete again what was created since.
    """
    with Victim(place, broker, seed=f"{SEED}/again") as victim:
        victim.begin()
        many, twice = (ItemKey("anna", Kind.FOLDER, name) for name in ("many", "twice"))
        story = victim.story
        messages = story.about(many, [ChangeType.CREATED, *[ChangeType.MODIFIED] * 60])
        messages += story.about(twice, [ChangeType.CREATED, ChangeType.DELETED])
        messages.append(story.repeated(twice))
        messages += story.about(twice, [ChangeType.CREATED])
        silent = story.told[twice].pop(2)
        assert silent.change.type is ChangeType.DELETED
        victim.mouth.say(messages)
        assert victim.live(Fault("intake.journaled", KILL), events=0)
        victim.record_without_broker()
        victim.settle()
        victim.judge()
