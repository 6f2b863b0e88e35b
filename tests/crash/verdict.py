"""The verdict over a Backup Path after crashes: nothing lost, nothing doubled, everything readable.

`judge_story` compares the histories with what a `Story` published; `judge_store` needs no story: every
history and blob can be read, every reference leads somewhere, the index equals one built anew from the
histories, and no temporary file is left. Both only read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from backupd.clock import SystemClock
from backupd.errors import BackupdError
from backupd.states import ChangeType, State
from backupd.store import index as index_file
from backupd.store.index import Index
from backupd.store.store import Store
from backupd.volumes.local import STAGED
from tests.crash.stream import Published, Story

ENTRIES_AT_ONCE = 1_000


def opened(path: Path, server_id: str) -> Store:
    """Open a Backup Path for reading, as another program would."""
    return Store.open(path, server_id=server_id, server_name="", clock=SystemClock(), writable=False)


def judge_story(store: Store, story: Story) -> list[str]:
    """Return what is wrong with the histories of a story's items, one sentence each."""
    wrong = []
    for key, told in story.told.items():
        wrong += [f"{key}: {sentence}" for sentence in _judge_item(store.histories.read(key), told)]
        for state in store.histories.read(key):
            if state.digest is None:
                continue
            try:
                if store.blobs.read(state.digest) != story.contents[state.digest]:
                    wrong.append(f"{key}: transaction {state.transaction} has another content")
            except BackupdError as error:
                wrong.append(f"{key}: transaction {state.transaction}: {error}")
    wrong += [f"gap: {gap.reason}: {gap.detail}" for gap in store.ledger.gaps(is_open=None)]
    return wrong


def _judge_item(states: list[State], told: list[Published]) -> Iterator[str]:
    places = {one.identifier: place for place, one in enumerate(told)}
    recorded = [event for state in states for event in state.events]
    if lost := [one.identifier for one in told if one.identifier not in recorded]:
        yield f"lost: {lost}"
    if doubled := sorted({event for event in recorded if recorded.count(event) > 1}):
        yield f"doubled: {doubled}"
    if strange := [event for event in recorded if event not in places]:
        yield f"nobody published: {strange}"
    elif recorded != sorted(recorded, key=places.__getitem__):
        yield f"out of order: {recorded}"
    else:
        for state in states:
            yield from _judge_state(state, [told[places[event]] for event in state.events], told)


def _judge_state(state: State, merged: list[Published], told: list[Published]) -> Iterator[str]:
    changes = [one.change for one in merged]
    deleted = changes[-1].type is ChangeType.DELETED
    before = [one.change for one in told[: told.index(merged[-1]) + 1] if one.change.metadata is not None]
    expected = before[-1]
    if (state.deleted, state.metadata, state.digest, state.size) != (
        deleted,
        expected.metadata,
        expected.digest,
        expected.size,
    ):
        yield f"transaction {state.transaction} is {state}, expected {expected}"
    if (state.observed or state.start) != changes[0].time:
        yield f"transaction {state.transaction} is of {state.observed or state.start}, not {changes[0].time}"


def judge_store(store: Store, place: Path) -> list[str]:
    """Return what is wrong with a Backup Path. `place` is a directory to build an index in."""
    wrong = [f"damaged: {sentence}" for sentence in store.damaged]
    for found in store.histories.walk():
        wrong += [f"damaged: {found.damage}"] if found.damage else []
        for earlier, later in zip(found.states, found.states[1:], strict=False):
            if earlier.start >= later.start or earlier.transaction >= later.transaction:
                wrong.append(f"{found.key}: {later.transaction} does not come after {earlier.transaction}")
        lacking = [one for one in found.states if one.digest and not store.blobs.contains(one.digest)]
        wrong += [f"{found.key}: blob {one.digest} is missing" for one in lacking]
    for digest in store.blobs.digests():
        store.blobs.read(digest)
    entries = 0
    while read := store.journal.read(entries, entries_max=ENTRIES_AT_ONCE):
        entries = read[-1].sequence
    if entries != store.journal.last_sequence:
        wrong.append(f"the journal ends with {entries} instead of {store.journal.last_sequence}")
    rebuilt = place / "rebuilt.sqlite"
    index_file.build(rebuilt, ((one.key, one.states) for one in store.histories.walk()), 0)
    other = Index(rebuilt, writable=False)
    try:
        grown, built = list(store.index.dump()), list(other.dump())
    finally:
        other.close()
    if grown != built:
        wrong.append(f"the index differs: {sorted(set(map(repr, grown)) ^ set(map(repr, built)))[:6]}")
    return wrong + [f"left over: {path}" for path in leftovers(store.layout.root)]


def leftovers(root: Path) -> list[Path]:
    """Return temporary files below a Backup Path."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file()
        and (path.parent.name == STAGED or (path.name.startswith(".") and path.name != ".lock"))
    ]
