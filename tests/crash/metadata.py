"""Metadata for the crash tests: processes that send it, and that retrieve it, until they are killed.

The story is a Backup Path with a past that grows between rounds and passes. Whatever ends a sending or a
retrieval, the same given again completes it.
"""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

from backupd.clock import SystemClock
from backupd.events import Change, encode_change
from backupd.items import ItemKey, Kind
from backupd.jobs.metadata import MetadataUpload, Retrieval
from backupd.operations import Run, Verdict
from backupd.states import ChangeType, Origin, State
from backupd.store.history import Histories
from backupd.store.store import Store
from backupd.volumes.local import LocalVolume
from tests.crash.purging_process import SERVER, fill, opened
from tests.world.clocks import FakeClock

ITEMS, ROUNDS = 12, 5


class Place:
    """The directories of one story."""

    def __init__(self, root: Path) -> None:
        self.path, self.outside, self.back = root / "path", root / "outside", root / "back"
        self.outside.mkdir(parents=True, exist_ok=True)

    def copied_to(self, root: Path) -> Place:
        """Return a story that begins as this one stands."""
        shutil.copytree(self.path, root / "path")
        shutil.copytree(self.outside, root / "outside")
        return Place(root)

    def volume(self) -> LocalVolume:
        return LocalVolume(self.outside)

    def histories(self, path: Path | None = None) -> dict[ItemKey, list[State]]:
        return {found.key: found.states for found in Histories(path or self.path).walk()}


def record(store: Store, *items: str) -> None:
    """Let items be created: journal, history, index, as one checkpoint."""
    now = SystemClock().now()
    changes = [
        Change(
            account="anna",
            kind=Kind.MESSAGE,
            item=item,
            type=ChangeType.CREATED,
            time=now,
            origin=Origin.REALTIME,
            metadata={"folder": "INBOX"},
        )
        for item in items
    ]
    store.journal.append([encode_change(change) for change in changes])
    first = store.journal.last_sequence - len(items) + 1
    for sequence, change in enumerate(changes, first):
        state = State(
            transaction=sequence,
            kind=change.kind,
            start=now + timedelta(microseconds=sequence),
            change=change.type,
            origin=change.origin,
            metadata={"folder": "INBOX"},
        )
        store.record(change.key, [state])
    store.checkpoint(store.journal.last_sequence)


def upload_of(store: Store, volume: LocalVolume, clock: FakeClock) -> MetadataUpload:
    return MetadataUpload(store, volume, volume_id="v1", clock=clock, recorded_through=store.index.cursor)


def send(place: Place) -> None:
    """Send rounds and passes while the backup grows; what an earlier process recorded is found recorded."""
    clock = FakeClock()
    if not place.path.exists():
        fill(place.path, ITEMS)
    with opened(place.path) as store:
        begun = len([key for key in place.histories() if key.item.startswith("fresh")])
        for number in range(begun, begun + ROUNDS):
            clock.tick(60 * (number + 1))
            record(store, f"fresh-{number}", f"fresh-{number}-too")
            upload = upload_of(store, place.volume(), clock)
            upload.send_changes()
            if number % 2:
                assert not upload.archive(Run(clock)).failed


def retrieve(place: Place) -> Verdict:
    retrieval = Retrieval(
        place.volume(), place.back, clock=SystemClock(), rebuild_catalog=lambda *_: 0, threads=2
    )
    return retrieval.run(Run(SystemClock()))


def check_back(place: Place) -> None:
    """Assert that what comes back is what was sent, opens, and goes on numbering behind everything."""
    verdict = retrieve(place)
    assert verdict.successful, verdict.sentence
    assert place.histories(place.back) == place.histories()
    with opened(place.path) as store:
        last = store.journal.last_sequence
    with Store.open(place.back, server_id=SERVER, server_name="mail", clock=SystemClock()) as store:
        assert store.damaged == []
        assert store.journal.last_sequence == last
        pages = store.journal.stretches(store.journal.first_sequence - 1)
        entries = [entry.sequence for page in pages for entry in page]
        assert entries == list(range(entries[0], last + 1)), "the journal is not whole"
