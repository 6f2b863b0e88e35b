"""The restore drill: what is drawn from a seed, and that what differs from its history is found and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pytest

from backupd.appservers.base import Listing
from backupd.appservers.memory import MemoryServer
from backupd.errors import OperationStopped, SpaceExhausted, UnknownAccount, UsageError
from backupd.items import ItemKey, Kind
from backupd.jobs.restore import drill_place
from backupd.jobs.restore.drill import DrillWanted, RestoreDrill
from backupd.jobs.restore.drill_choice import draw_state, moment_of_account, ranked
from backupd.jobs.restore.drill_place import DrillPlace
from backupd.jobs.restore.export import MakeTarget, Target
from backupd.operations import Run, Verdict
from backupd.states import ChangeType, Origin, Photograph, State, state_at
from backupd.store.layout import blob_name
from daemon.wiring import export_target_maker
from tests.unit.jobs.worlds import ALICE, SERVER, BackupWorld

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEYS = [ItemKey(account, Kind.MESSAGE, str(item)) for account in "abc" for item in range(200)]


class DrillWorld(BackupWorld):
    """Alice's account with six messages, each with a past; drills go into a server that a test may bend."""

    @property
    def parent(self) -> Path:
        """Where scratch servers are put."""
        return self.path.with_name("drills")

    async def fill(self) -> None:
        """Give Alice messages, change them, and record both."""
        await self.account()
        self.messages = [
            await self.server.add(ALICE, Kind.MESSAGE, "INBOX", b"Subject: %d\r\n\r\nText\r\n" % number)
            for number in range(6)
        ]
        await self.scan_all()
        await self.clock.advance(3_600)
        for number, item in enumerate(self.messages):
            self.server.flag(ALICE, item, ["seen"], ["work"] if number % 2 else [])
        await self.server.move(ALICE, self.messages[0], "Archive/Old")
        self.server.remove(ALICE, self.messages[1])
        await self.scan_all()
        await self.clock.advance(3_600)

    async def drill(self, make_target: MakeTarget | None = None, **wanted: Any) -> Verdict:
        """Drill."""
        self.run = Run(self.clock, uuid="0192")
        drilling = RestoreDrill(
            self.store,
            clock=self.clock,
            make_target=make_target or export_target_maker(self.clock),
            parent=self.parent,
            forbidden=(self.path.with_name("mail"),),
            new_seed=lambda: 4711,
        )
        return await drilling.run(self.run, DrillWanted(**wanted))

    def bent(self, bend: Callable[[Photograph], Photograph]) -> MakeTarget:
        """Return what makes a server in memory that stores something else than it was given."""

        class Bent(MemoryServer):
            async def put(self, account: str, kind: Kind, photograph: Photograph, content: BinaryIO) -> str:
                return await super().put(account, kind, bend(photograph), content)

        return lambda _root, _kept: Target(appserver=Bent(self.clock), close=lambda: None)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[DrillWorld]:
    async with DrillWorld(tmp_path / "backup") as made:
        await made.fill()
        yield made


# ------------------------------------------------------------------------ drawing


def test_each_key_is_as_likely_and_a_seed_draws_the_same_again():
    """Over many seeds no key is drawn far more often than others; order of the keys makes no difference."""
    counts: Counter[ItemKey] = Counter()
    for seed in range(300):
        drawn = ranked(seed, KEYS, 20, purpose="item")
        assert drawn == ranked(seed, reversed(KEYS), 20, purpose="item")
        assert drawn != ranked(seed, KEYS, 20, purpose="moment")
        counts.update(drawn)
    assert len(counts) == len(KEYS)
    assert max(counts.values()) < 30


def _state(number: int, *, deleted: bool = False, lacking: tuple[str, ...] = ()) -> State:
    return State(
        transaction=number,
        kind=Kind.MESSAGE,
        start=NOON + timedelta(hours=number),
        change=ChangeType.DELETED if deleted else ChangeType.MODIFIED,
        deleted=deleted,
        origin=Origin.SMARTSCAN,
        digest="digest",
        lacking=lacking,
    )


def test_a_state_is_drawn_with_a_moment_at_which_it_was_the_valid_one():
    """All states come, of the deleted item too unless it shall be alive; none that was never whole."""
    history = [_state(1), _state(2, lacking=("content",)), _state(3), _state(4, deleted=True)]
    now = NOON + timedelta(hours=9)
    for alive, expected in ((False, {1, 3, 4}), (True, {1, 3})):
        drawn = [draw_state(seed, KEYS[0], history, now, alive=alive) for seed in range(100)]
        assert {one.state.transaction for one in drawn if one is not None} == expected
        for one in drawn:
            assert one is not None
            assert state_at(history, one.moment) == one.state
            assert one.moment <= now
    assert draw_state(1, KEYS[0], history[1:2], now) is None


def test_an_account_is_restored_at_a_moment_at_which_it_was_there():
    """Not before its first state, and before its deletion."""
    hour = timedelta(hours=1)
    assert moment_of_account(NOON - hour, first=NOON, deleted_at=None) == NOON
    assert moment_of_account(NOON + hour, first=NOON, deleted_at=None) == NOON + hour
    assert NOON <= moment_of_account(NOON + hour, first=NOON, deleted_at=NOON + hour) < NOON + hour


# ----------------------------------------------------------------------- drilling


async def test_a_whole_backup_passes_and_nothing_is_left_behind(world):
    """All items and the account are proven; no file, memory of restores or change of the server stays."""
    before = await world.server.changes(ALICE, None)
    verdict = await world.drill(items=6)
    assert verdict.successful, (verdict, world.run.errors)
    assert verdict.counts["items"] == 6
    assert verdict.counts["accounts"] == 1
    assert verdict.counts["proven"] == verdict.counts["expected"] > 6
    assert "seed 4711" in verdict.sentence
    assert list(world.parent.iterdir()) == []
    assert await world.server.changes(ALICE, None) == before
    for table in ("restored", "restoring"):
        assert world.store.ledger.rows(f"SELECT count(*) FROM {table}")[0][0] == 0


async def test_what_the_server_stores_otherwise_is_found_and_named(world):
    """Other flags, another folder: the drill fails, with each item and its moment."""
    for bend in (
        lambda one: msgspec.structs.replace(one, metadata={**one.metadata, "flags": ["answered"]}),
        lambda one: msgspec.structs.replace(one, metadata={**one.metadata, "folder": "Elsewhere"}),
    ):
        verdict = await world.drill(world.bent(bend), items=6, account_restores=0)
        assert not verdict.successful
        assert verdict.counts["differing"] == 6
        named = {error.item for error in world.run.errors}
        assert named == {f"{ALICE}/message/{item}" for item in world.messages}
        assert all("as of " in error.reason for error in world.run.errors)


async def test_what_the_server_loses_later_is_found(world):
    """Items that read back right after they were put, and are not listed in the end, are not proven."""

    class Forgetful(MemoryServer):
        async def changes(self, account: str, since: str | None) -> Listing:
            return msgspec.structs.replace(await super().changes(account, since), items=())

    verdict = await world.drill(
        lambda _root, _kept: Target(appserver=Forgetful(world.clock), close=lambda: None), items=6
    )
    assert not verdict.successful
    assert verdict.counts["proven"] == 0
    assert any("not in the scratch account" in error.reason for error in world.run.errors)


async def test_a_lost_and_a_corrupt_blob_fail_the_drill(world):
    """Both items are named, of the items and of the account; all others are proven."""
    for number, item in enumerate(world.messages[2:4]):
        digest = world.history(item)[-1].digest
        path = world.path / blob_name(digest)
        if number:
            path.unlink()
        else:
            path.write_bytes(b"something else")
    verdict = await world.drill(items=6)
    assert not verdict.successful
    assert {error.item for error in world.run.errors} == {
        f"{ALICE}/message/{item}" for item in world.messages[2:4]
    }
    assert verdict.counts["differing"] == 4
    assert verdict.counts["proven"] == verdict.counts["expected"] - 4


async def test_an_index_that_differs_from_the_histories_is_found(world):
    """What the index would restore is compared with the history, not with itself."""
    key = ItemKey(ALICE, Kind.MESSAGE, world.messages[4])
    states = world.store.histories.read(key)
    other = [msgspec.structs.replace(one, metadata={**one.metadata, "flags": ["draft"]}) for one in states]
    world.store.index.forget(key)
    world.store.index.record(key, other)
    world.store.index.commit(world.store.index.cursor())
    verdict = await world.drill(items=0)
    assert not verdict.successful
    (error,) = world.run.errors
    assert error.item == str(key)
    assert "flags" in error.reason


async def test_a_damaged_history_is_a_finding(world):
    """The item is named; the others are drilled."""
    key = ItemKey(ALICE, Kind.MESSAGE, world.messages[5])
    (path,) = (path for path in world.path.rglob(f"{key.item}*") if path.is_file() and "items" in path.parts)
    path.write_bytes(b"[nothing that could be read]\n")
    verdict = await world.drill(items=6, account_restores=0)
    assert not verdict.successful
    assert verdict.counts["proven"] == 5
    assert [error.item for error in world.run.errors] == [str(key)]


async def test_a_seed_repeats_a_drill(world):
    """The same seed restores the same transactions, another one others."""

    async def places(seed: int) -> list[str]:
        seen: list[str] = []

        def note(one: Photograph) -> Photograph:
            seen.append(str(one))
            return one

        assert (await world.drill(world.bent(note), seed=seed, items=3, account_restores=0)).successful
        return seen

    assert await places(1) == await places(1)
    assert any([await places(1) != await places(seed) for seed in range(2, 6)])


async def test_keep_leaves_the_scratch_server_and_the_next_drill_leaves_it_too(world):
    """A kept one stays where the verdict says, what a killed drill left is removed."""
    left = DrillPlace(world.parent, server=SERVER, operation="killed", keep=False, free_bytes_min=0)
    other = DrillPlace(world.parent, server="another", operation="killed", keep=False, free_bytes_min=0)
    for place in (left, other):
        place.make()
        place.server("items")
    verdict = await world.drill(keep=True, items=3)
    kept = next(world.parent.glob("kept-*"))
    assert str(kept) in verdict.sentence
    assert len(list(kept.rglob("Maildir"))) == 4
    await world.drill(items=1, account_restores=0)
    assert not left.root.exists()
    assert {path.name for path in world.parent.iterdir()} == {kept.name, other.root.name}


async def test_room_is_looked_at_before_anything_is_restored(world, monkeypatch):
    """An account that does not fit is passed over and told, an item that does not fit ends the drill."""
    monkeypatch.setattr(drill_place.durable, "free_bytes", lambda _path: 6_000)
    verdict = await world.drill(items=1)
    assert verdict.successful
    assert verdict.counts["passed_over"] == 1
    assert "no room" in verdict.sentence
    monkeypatch.setattr(drill_place.durable, "free_bytes", lambda _path: 4_000)
    with pytest.raises(SpaceExhausted):
        await world.drill(items=1)
    assert list(world.parent.iterdir()) == []


async def test_an_empty_backup_proves_nothing(tmp_path):
    """Such a drill has not succeeded."""
    async with DrillWorld(tmp_path / "backup") as world:
        verdict = await world.drill()
        assert not verdict.successful
        assert "nothing was proven" in verdict.sentence


async def test_what_makes_no_sense_is_refused(world, tmp_path):
    """Numbers out of range, accounts of nobody, places in the mail, in the Backup Path, or nowhere."""
    (tmp_path / "mail" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path)
    for wanted in (
        {"items": -1},
        {"items": 1_001},
        {"items": 0, "account_restores": 0},
        {"scratch_path": world.path},
        {"scratch_path": tmp_path},
        {"scratch_path": tmp_path / "mail" / "below"},
        {"scratch_path": tmp_path / "missing"},
        {"scratch_path": tmp_path / "link"},
        {"scratch_path": Path("relative")},
    ):
        with pytest.raises(UsageError):
            await world.drill(**wanted)
    with pytest.raises(UnknownAccount):
        await world.drill(accounts=("nobody@example.com",))
    (tmp_path / "apart").mkdir()
    verdict = await world.drill(
        scratch_path=tmp_path / "apart", keep=True, accounts=(f"{ALICE}@example.com",)
    )
    assert verdict.successful
    assert list((tmp_path / "apart").iterdir())


async def test_a_deleted_account_is_drilled_too(world):
    """Retention keeps it, so it must be restorable: at a moment at which it was there."""
    world.server.remove_account(ALICE)
    await world.scan_all(force=True)
    await world.clock.advance(3_600)
    verdict = await world.drill(items=2)
    assert verdict.successful, world.run.errors
    assert verdict.counts["accounts"] == 1


async def test_a_drill_stops_when_asked(world):
    """Between items, and its scratch server is removed."""

    def stop(one: Photograph) -> Photograph:
        world.run.request_stop()
        return one

    with pytest.raises(OperationStopped):
        await world.drill(world.bent(stop), items=6)
    assert list(world.parent.iterdir()) == []
