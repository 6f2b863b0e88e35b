"""Metadata outside: what was sent comes back as it was, whatever was lost, cut short or damaged."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd import durable
from backupd.errors import BackupPathRefused, VolumeError
from backupd.items import ItemKey, Kind
from backupd.jobs.archive.configuration import ConfigurationDump
from backupd.jobs.metadata import MetadataUpload, Retrieval, names
from backupd.operations import Run, Verdict
from backupd.states import ChangeType, State
from backupd.store import purging
from backupd.store.history import Histories
from backupd.store.store import Store
from backupd.volumes.base import Volume
from backupd.volumes.failures import AccessRefused, RetainedObject
from backupd.volumes.memory import MemoryVolume
from tests.unit.jobs.worlds import ALICE, SERVER, BackupWorld, change

STEPS = (
    "metadata.send",
    "metadata.states_sent",
    "metadata.sent",
    "metadata.archive",
    "metadata.archived",
    "metadata.summarised",
    "metadata.remove",
)
FORMATS = Path(__file__).parents[3] / "docs" / "formats.md"
Everything = dict[ItemKey, list[State]]


class SendingWorld(BackupWorld):
    """A backup whose metadata goes to a volume, one in memory unless another is given."""

    def __init__(self, path: Path, volume: Volume | None = None) -> None:
        self.volume: Volume = volume or MemoryVolume()
        super().__init__(path)

    def open(self) -> None:
        super().open()
        self.upload = MetadataUpload(
            self.store,
            self.volume,
            volume_id="v1",
            clock=self.clock,
            recorded_through=lambda: self.recorder.durable_cursor,
        )

    async def receive(self, *items: str, folder: str = "INBOX") -> None:
        """Record new messages."""
        for item in items:
            self.journal(change(item, ChangeType.CREATED, event=f"new-{item}", folder=folder))
        await self.record()

    def everything(self) -> Everything:
        """Return every history."""
        return {found.key: found.states for found in self.store.histories.walk()}

    def run(self) -> Run:
        return Run(self.clock)

    def retrieve(self, path: Path, run: Run | None = None) -> Verdict:
        retrieval = Retrieval(self.volume, path, clock=self.clock, rebuild_catalog=lambda *_: 0)
        return retrieval.run(run or self.run())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SendingWorld]:
    async with SendingWorld(tmp_path / "backup") as made:
        for account in (ALICE, "bob"):
            await made.account(account)
        await made.scan_all()
        yield made


def histories_in(path: Path) -> Everything:
    return {found.key: found.states for found in Histories(path).walk()}


async def test_a_pass_alone_brings_everything_back(world: SendingWorld, tmp_path: Path) -> None:
    """Every history, byte for byte, with map file and statistics; contents are not part of it."""
    await world.receive("1", "2")
    done = world.upload.archive(world.run())
    assert done.failed == 0
    verdict = world.retrieve(tmp_path / "back")
    assert verdict.successful, verdict.sentence
    assert histories_in(tmp_path / "back") == world.everything()
    key = ItemKey(ALICE, Kind.MESSAGE, "1")
    there = world.store.layout.history(key).read_bytes()
    assert (tmp_path / "back" / world.store.layout.history(key).relative_to(world.path)).read_bytes() == there


async def test_what_rests_outside_can_be_read_by_hand(world: SendingWorld, tmp_path: Path) -> None:
    """The example of the page on formats, on copied objects, brings every archived history."""
    missing = [tool for tool in ("jq", "zstd") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"install {' '.join(missing)} to run the example")
    await world.receive("1", "2")
    world.upload.archive(world.run())
    await world.receive("3")
    world.upload.send_changes()
    outside, by_hand = tmp_path / "outside", tmp_path / "by-hand"
    by_hand.mkdir()
    for name in list(world.volume.names("")):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_bytes(world.volume.get(name).read())
    examples = re.findall(r"^```sh\n(.*?)^```", FORMATS.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (example,) = [one for one in examples if "$OUTSIDE" in one]
    ended = await asyncio.to_thread(
        subprocess.run,
        ["/bin/sh", "-euc", example],
        env={**os.environ, "OUTSIDE": str(outside), "BY_HAND": str(by_hand)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert not ended.stderr, ended.stderr
    assert ended.returncode == 0
    for item in ("1", "2"):
        history = world.store.layout.history(ItemKey(ALICE, Kind.MESSAGE, item))
        assert [one for one in by_hand.rglob(history.name) if one.read_bytes() == history.read_bytes()]
    assert f'["{ALICE}","3",1]' in ended.stdout


async def test_changes_since_the_pass_come_back_from_parcels(world: SendingWorld, tmp_path: Path) -> None:
    """What was recorded after the archives and sent within the minute is there; what was not sent is not."""
    await world.receive("1")
    world.upload.archive(world.run())
    await world.receive("2")
    world.journal(change("1", ChangeType.DELETED, event="gone", at=5))
    await world.record()
    assert world.upload.send_changes() == 2
    sent = world.everything()
    await world.receive("3")
    verdict = world.retrieve(tmp_path / "back")
    assert verdict.successful, verdict.sentence
    assert histories_in(tmp_path / "back") == sent


async def test_what_came_back_opens_as_a_backup_path_and_goes_on(world: SendingWorld, tmp_path: Path) -> None:
    """The store opens with the same identity and attributes, the index is built, the journal replayed."""
    await world.receive("1")
    world.store.ledger.set_attribute("global", "", "ZxBackup_DataRetentionDays", 99)
    copied = tmp_path / "copy.sqlite"
    world.store.ledger.copy_to(copied)
    dump = ConfigurationDump(world.store.layout, lambda: [("backupd/state.sqlite", copied)])
    dump.write(world.clock.now())
    world.upload.archive(world.run())
    await world.receive("2")
    world.upload.send_changes()
    assert world.retrieve(tmp_path / "back").successful
    with Store.open(tmp_path / "back", server_id=SERVER, server_name="mail", clock=world.clock) as store:
        assert store.identity == world.store.identity
        assert store.ledger.attributes() == world.store.ledger.attributes()
        assert store.damaged == []
        assert sorted(item.item for item in store.index.items(ALICE)) == sorted(
            item.item for item in world.store.index.items(ALICE)
        )
        assert store.journal.last_sequence == world.store.journal.last_sequence


async def test_unchanged_accounts_are_not_sent_again(world: SendingWorld) -> None:
    """A second pass sends only the account that changed, and keeps two archives of it."""
    await world.receive("1")
    first = world.upload.archive(world.run())
    again = world.upload.archive(world.run())
    assert (again.archived, again.unchanged) == (0, first.archived)
    for item in ("2", "3", "4"):
        await world.clock.advance(86_400)
        await world.receive(item)
        assert world.upload.archive(world.run()).archived == 1
    folder = names.account_folder(ALICE)
    assert len(list(world.volume.names(folder))) == 2
    assert not list(world.volume.names(names.STATES))[:-1]


async def test_an_unreadable_archive_is_replaced_by_the_one_before(
    world: SendingWorld, tmp_path: Path
) -> None:
    """The older archive and the parcels since give the same, and the damage is told."""
    await world.receive("1")
    world.upload.archive(world.run())
    await world.clock.advance(60)
    await world.receive("2")
    world.upload.archive(world.run())
    newest = list(world.volume.names(names.account_folder(ALICE)))[-1]
    content = world.volume.get(newest).read()
    world.volume.delete(newest)
    world.volume.put(newest, content[: len(content) // 2])
    verdict = world.retrieve(tmp_path / "back")
    assert histories_in(tmp_path / "back") == world.everything()
    assert not verdict.successful


async def test_a_retrieval_cut_short_goes_on(world: SendingWorld, tmp_path: Path) -> None:
    """Given again it completes what is there, also histories that were being written."""
    await world.receive(*map(str, range(1, 20)))
    world.upload.archive(world.run())
    await world.receive("20")
    world.upload.send_changes()
    back = tmp_path / "back"
    world.retrieve(back)
    for number, path in enumerate(sorted((back / "accounts").rglob("items/*/*"))):
        content = path.read_bytes()
        path.write_bytes((content[: len(content) // 3], content, b"")[number % 3])
    assert world.retrieve(back).successful
    assert histories_in(back) == world.everything()


async def test_a_killed_upload_goes_on_where_it_was(world: SendingWorld, tmp_path: Path) -> None:
    """Whatever step ends a round or a pass, the next ones complete it."""
    world.upload.sent_through()
    for wanted in STEPS:

        def stop(step: str, wanted: str = wanted) -> None:
            if step == wanted:
                raise OSError(5, step)

        await world.clock.advance(60)
        await world.receive(wanted)
        durable.observe_steps(stop)
        try:
            with pytest.raises(OSError, match=wanted):
                world.upload.archive(world.run())
        finally:
            durable.observe_steps(None)
        world.crash()
    for _ in range(3):
        await world.clock.advance(60)
        await world.receive(str(_))
        world.upload.archive(world.run())
    assert world.retrieve(tmp_path / "back").successful
    assert histories_in(tmp_path / "back") == world.everything()


async def test_what_waited_for_its_photograph_is_in_a_later_parcel(
    world: SendingWorld, tmp_path: Path
) -> None:
    """A state that is recorded long after its event is sent all the same."""
    world.upload.archive(world.run())
    item = await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"Subject: late\r\n\r\n")
    world.server.unavailable = "it is down"
    world.journal(change(item, ChangeType.CREATED, event="late", folder=None))
    await world.receive("2")
    world.upload.send_changes()
    world.server.unavailable = ""
    await world.clock.advance(30)
    await world.recorder.waiting.retry()
    await world.record()
    assert world.history(item)
    world.upload.send_changes()
    assert world.retrieve(tmp_path / "back").successful
    assert histories_in(tmp_path / "back") == world.everything()


async def test_other_volumes_and_paths_are_refused(world: SendingWorld, tmp_path: Path) -> None:
    """A volume without a summary, another server's directory, and one in use are refused; nothing is made."""
    with pytest.raises(BackupPathRefused, match="no summary"):
        world.retrieve(tmp_path / "back")
    assert not (tmp_path / "back").exists()
    world.upload.archive(world.run())
    with pytest.raises(BackupPathRefused, match="in use"):
        world.retrieve(world.path)
    other = tmp_path / "other"
    Store.open(other, server_id="another", server_name="x", clock=world.clock).close()
    with pytest.raises(BackupPathRefused, match="another server"):
        world.retrieve(other)


async def test_a_failing_volume_fails_the_round_and_loses_nothing(
    world: SendingWorld, tmp_path: Path
) -> None:
    """The error is told; once the volume is back, the same changes are sent."""
    world.upload.archive(world.run())
    await world.receive("1")
    put = world.volume.put

    def refuse(name: str, content: object) -> bool:
        raise VolumeError("it is away")

    world.volume.put = refuse  # type: ignore[method-assign]
    with pytest.raises(VolumeError, match="away"):
        world.upload.send_changes()
    world.volume.put = put  # type: ignore[method-assign]
    assert world.upload.send_changes() == 1
    assert world.retrieve(tmp_path / "back").successful
    assert histories_in(tmp_path / "back") == world.everything()


@pytest.mark.parametrize(
    ("refusal", "removed"),
    [(AccessRefused("access denied"), 0), (RetainedObject("an object", datetime(2027, 1, 1, tzinfo=UTC)), 0)],
)
async def test_what_may_not_be_deleted_stays_and_fails_nothing(
    world: SendingWorld, refusal: VolumeError, removed: int
) -> None:
    """A writer without the right to delete ends its passes; a later one that may removes what is left."""
    delete = world.volume.delete

    def refuse(name: str) -> bool:
        raise refusal

    world.volume.delete = refuse  # type: ignore[method-assign]
    for number in range(4):
        await world.receive(f"mail {number}")
        world.clock.tick(60)
        done = world.upload.archive(world.run())
        assert (done.failed, done.removed) == (0, removed)
    assert len(names.summary_objects(world.volume.names(names.SUMMARIES))) == 4
    world.volume.delete = delete  # type: ignore[method-assign]
    await world.receive("the last")
    world.clock.tick(60)
    assert world.upload.archive(world.run()).removed > 4
    assert len(names.summary_objects(world.volume.names(names.SUMMARIES))) == 3


async def test_a_directory_that_can_not_be_listed_fails_its_archive(
    world: SendingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that lacks histories is none: the account is named, and archived by the next pass."""
    await world.receive("1", "2")
    place = str(world.store.layout.history(ItemKey(ALICE, Kind.MESSAGE, "1")).parent)
    listed = os.scandir

    def failing(path: str) -> object:
        if os.fspath(path) == place:
            raise OSError(errno.EIO, os.strerror(errno.EIO), place)
        return listed(path)

    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", failing)
        run = world.run()
        assert world.upload.archive(run).failed == 1
        assert [error.reason for error in run.errors] == [os.strerror(errno.EIO)]
    assert world.upload.archive(world.run()).archived == 1


async def test_what_was_purged_does_not_come_back_from_parcels(world: SendingWorld, tmp_path: Path) -> None:
    """A parcel brings no history that an archive made behind it does not hold: that was purged."""
    await world.receive("1", "2")
    world.upload.archive(world.run())
    world.journal(change("1", ChangeType.DELETED, event="gone", at=5), change("2", event="other", at=6))
    await world.record()
    world.upload.send_changes()
    purging.remove_histories(world.store, [ItemKey(ALICE, Kind.MESSAGE, "1")])
    await world.clock.advance(60)
    world.upload.archive(world.run())
    verdict = world.retrieve(tmp_path / "back")
    assert verdict.successful, verdict.sentence
    assert histories_in(tmp_path / "back") == world.everything()


async def test_what_another_volume_was_sent_meanwhile_is_not_taken_for_sent(world: SendingWorld) -> None:
    """A migration that is not completed sends to its volume too; the one in use gets what it lacks."""
    await world.receive("1")
    for _ in range(4):
        world.upload.archive(world.run())
        await world.clock.advance(60)
    assert not names.range_objects(world.volume.names(names.STATES))
    through = world.upload.sent_through()
    await world.receive("2")
    other = MetadataUpload(
        world.store,
        MemoryVolume(),
        volume_id="v2",
        clock=world.clock,
        recorded_through=lambda: world.recorder.durable_cursor,
    )
    other.archive(world.run())
    assert world.upload.sent_through() == through
    assert world.upload.send_changes() == 1
