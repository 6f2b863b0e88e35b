"""Standing: the status as a whole, and up to when every change is known to be recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from backupd.attributes import Scopes
from backupd.states import ChangeType
from daemon.publisher import PublisherStatus
from daemon.subscription import SubscriptionStatus
from tests.unit.daemon.making import AnsweringWorld
from tests.unit.jobs.worlds import ALICE, change


class Listening:
    """A subscription that says what a test wants."""

    def __init__(self, **more: object) -> None:
        facts = {"broker": "embedded", "connected": True, **more}
        self.status = msgspec.convert(facts, SubscriptionStatus)


class Watching:
    """A publisher that says what a test wants."""

    def __init__(self, *, watching: bool, last_error: str = "") -> None:
        self.status = PublisherStatus(broker="b", source="s", watching=watching, last_error=last_error)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    async with AnsweringWorld(tmp_path) as made:
        await made.account()
        made.realtime.subscription = Listening()  # type: ignore[assignment]
        made.realtime.publisher = Watching(watching=True)  # type: ignore[assignment]
        yield made


async def test_before_a_first_scan_nothing_is_promised(world: AnsweringWorld) -> None:
    """Without a successful scan there is no moment up to which all is recorded."""
    status = await world.standing.status()
    assert status.recoverable_until is None
    assert any("no SmartScan" in problem.message for problem in status.problems)


async def test_all_well_means_up_to_now(world: AnsweringWorld) -> None:
    """With everything at work the promise goes up to this moment, and nothing is a problem."""
    await world.scan_all()
    await world.clock.advance(100)
    status = await world.standing.status()
    assert status.recoverable_until == status.now
    assert status.problems == ()
    assert status.realtime.active
    assert status.accounts == 1


async def test_a_backup_path_that_is_gone_is_told(world: AnsweringWorld) -> None:
    """An unmounted Backup Path is the first thing that the status says, not a bug of the daemon."""
    await world.scan_all()
    root = world.store.layout.root
    root.rename(root.with_name("away"))
    status = await world.standing.status()
    root.with_name("away").rename(root)
    assert f"the backup is gone from {root}" in status.problems[0].message
    assert "mounted" in status.problems[0].hint
    assert [one for one in status.problems if "threshold" in one.message] == []
    assert (await world.standing.status()).problems == ()


async def test_a_gap_takes_the_promise_back_to_the_scan_before_it(world: AnsweringWorld) -> None:
    """What a gap missed happened before it was found, so the last sure moment is the scan's beginning."""
    await world.clock.advance(50)
    began = world.clock.now()
    await world.scan_all()
    await world.clock.advance(100)
    world.store.ledger.open_gap(ALICE, "sequence_hole", "2", world.clock.now())
    await world.clock.advance(100)
    status = await world.standing.status()
    assert status.recoverable_until == began
    assert status.gaps_total == 1


async def test_a_waiting_photograph_takes_the_promise_back(world: AnsweringWorld) -> None:
    """An item that changed and could not be read ends the promise at the moment of its change."""
    await world.scan_all()
    await world.clock.advance(200)
    world.server.unavailable = "it is down"
    world.journal(change("1", ChangeType.CREATED, event="e1", folder=None, at=100))
    await world.record()
    status = await world.standing.status()
    assert status.waiting_photographs == 1
    assert status.recoverable_until == status.now - timedelta(seconds=100)


async def test_without_a_working_scanner_only_the_scan_counts(world: AnsweringWorld) -> None:
    """A lost broker, a paused intake and an AppServer that is not watched all end the promise."""
    began = world.clock.now()
    await world.scan_all()
    await world.clock.advance(100)
    broken = [
        (Listening(connected=False), Watching(watching=True)),
        (Listening(paused="disk full"), Watching(watching=True)),
        (Listening(), Watching(watching=False, last_error="no more inotify watches")),
    ]
    for subscription, publisher in broken:
        world.realtime.subscription, world.realtime.publisher = subscription, publisher  # type: ignore[assignment]
        status = await world.standing.status()
        assert status.recoverable_until == began
        assert not status.realtime.active
        assert status.problems
    assert "no more inotify watches" in status.problems[0].message


async def test_what_the_recorder_still_has_to_do_is_not_promised(world: AnsweringWorld) -> None:
    """Lag moves the moment back by as much, and is shown in entries and seconds."""
    await world.scan_all()
    await world.clock.advance(100)
    world.journal(change("1", ChangeType.CREATED, event="e1"))
    world.recording.grown()
    await world.clock.advance(90)
    status = await world.standing.status()
    assert status.recorder.lag_entries == 1
    assert status.recoverable_until == status.now - timedelta(seconds=90)


async def test_only_the_last_operation_of_a_type_counts(world: AnsweringWorld) -> None:
    """A failure that a later success mended is no problem; what has not ended is listed."""
    await world.scan_all()

    async def failing(_run: object) -> str:
        raise OSError("no such root")

    async def fine(_run: object) -> str:
        return "fine"

    for work, problems in ((failing, 1), (fine, 0)):
        await world.queue.submit("doSmartScan", {}, started_by="root", work=work)  # type: ignore[arg-type]
        place = next(world.queue._waiting())
        async with _settled(world):
            await world.queue._work_on(place)
        status = await world.standing.status()
        assert len(status.problems) == problems
    waiting = await world.queue.submit("doSmartScan", {}, started_by="root")
    assert [one.uuid for one in (await world.standing.status()).operations] == [waiting.uuid]


class _settled:  # noqa: N801 - read as a word
    """Lets time pass for what waits on the clock."""

    def __init__(self, world: AnsweringWorld) -> None:
        self._world = world

    async def __aenter__(self) -> None:
        return

    async def __aexit__(self, *_: object) -> None:
        await self._world.clock.advance(1)


async def test_accounts_left_out_count_while_they_are_there(world: AnsweringWorld) -> None:
    """With every living account left out no backup is made, and that is said; deleted ones do not count."""
    await world.account("bob")
    await world.scan_all()
    for one in (ALICE, "bob"):
        world.settings.set("backupEnabled", Scopes(account=one), False)
    status = await world.standing.status()
    assert status.accounts_not_enabled == 2
    assert any("every account is left out" in problem.message for problem in status.problems)
    world.settings.set("backupEnabled", Scopes(account="bob"), True)
    world.server.remove_account(ALICE)
    await world.scan_all(force=True)
    status = await world.standing.status()
    assert (status.accounts, status.accounts_not_enabled) == (1, 0)
    assert not any("left out" in problem.message for problem in status.problems)
