"""Healing: each gap gets its scan, is closed only by one that saw all of it, and never ends the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from backupd.errors import AppServerUnavailable, BackupdError
from backupd.store.ledger import Gap
from backupd.store.store import Store
from daemon.healing import LOOK_SECONDS, RETRY_SECONDS_MIN, Healing, accounts_to_scan, close_gaps
from daemon.operations_queue import QueueFull
from tests.world.clocks import START, FakeClock


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[Store]:
    with Store.open(tmp_path, server_id="s", server_name="mail", clock=clock) as opened:
        yield opened


@asynccontextmanager
async def healing(
    store: Store, clock: FakeClock, heal: Callable[[str], Awaitable[bool]]
) -> AsyncIterator[Healing]:
    made = Healing(store, clock=clock, heal=heal)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(made.run())
        await clock.wait_until_asleep()
        yield made
        task.cancel()


async def pass_time(clock: FakeClock, seconds: float) -> None:
    """Let time pass in steps in which a look at the ledger fits."""
    for _ in range(round(seconds / LOOK_SECONDS)):
        await clock.advance(LOOK_SECONDS)
        await clock.wait_until_asleep()


def gap(account: str, opened: int = 0) -> Gap:
    return Gap(opened, account, "r", "d", START, START, None)


def test_a_gap_of_the_whole_server_is_healed_for_all() -> None:
    """One SmartScan stands for the scans of all accounts; else each account has one, the oldest gap first."""
    assert accounts_to_scan([gap("alice"), gap("")]) == [""]
    assert accounts_to_scan([gap("bob", 1), gap("alice", 2), gap("bob", 3)]) == ["bob", "alice"]
    assert accounts_to_scan([]) == []


def test_only_what_was_seen_and_has_not_grown_is_closed(store: Store) -> None:
    """A gap that opened or grew while the scan ran stays open, whatever the clock says."""
    ledger = store.ledger
    for account in ("alice", "bob", "carol"):
        ledger.open_gap(account, "sequence_hole", "1", START)
    seen = ledger.gaps()
    ledger.open_gap("bob", "sequence_hole", "2", START)
    ledger.open_gap("alice", "folder_emptied", "INBOX", START)
    assert close_gaps(store, seen, "alice", START) == 1
    assert close_gaps(store, seen, "", START) == 1
    assert [(one.account, one.reason) for one in ledger.gaps()] == [
        ("bob", "sequence_hole"),
        ("alice", "folder_emptied"),
    ]


async def test_a_gap_opened_later_is_scanned_for_at_once(store: Store, clock: FakeClock) -> None:
    """Told of a gap, healing does not wait for its next look."""
    healed = asyncio.Event()

    async def heal(account: str) -> bool:
        close_gaps(store, store.ledger.gaps(), account, clock.now())
        healed.set()
        return True

    async with healing(store, clock, heal) as made:
        store.ledger.open_gap("alice", "sequence_hole", "1", clock.now())
        made.gap_opened()
        await asyncio.wait_for(healed.wait(), 30)
    assert store.ledger.gaps() == []


async def test_a_scan_that_fails_is_tried_again_with_back_off(store: Store, clock: FakeClock) -> None:
    """The gap stays open, and the tries get rarer."""
    store.ledger.open_gap("alice", "sequence_hole", "1", clock.now())
    tried: list[float] = []

    async def heal(_account: str) -> bool:
        tried.append(clock.monotonic())
        return False

    async with healing(store, clock, heal):
        await pass_time(clock, RETRY_SECONDS_MIN * 8)
    assert [after - before for before, after in pairwise(tried)] == [15.0, 30.0, 60.0]
    assert len(store.ledger.gaps()) == 1


@pytest.mark.parametrize("error", [QueueFull("1000 operations wait"), BackupdError("anything")])
async def test_a_scan_that_can_not_be_queued_does_not_end_the_daemon(
    store: Store, clock: FakeClock, error: BackupdError
) -> None:
    """A full queue is a failure like any other: tried again later."""
    store.ledger.open_gap("alice", "sequence_hole", "1", clock.now())
    tried = 0

    async def heal(_account: str) -> bool:
        nonlocal tried
        tried += 1
        raise error

    async with healing(store, clock, heal):
        await pass_time(clock, RETRY_SECONDS_MIN * 2)
    assert tried == 2


async def test_a_ledger_that_can_not_be_read_does_not_end_the_daemon(
    store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk is logged; the next look finds the gap."""
    store.ledger.open_gap("alice", "sequence_hole", "1", clock.now())
    gaps, errors, healed = store.ledger.gaps, [OSError(5, "bad disk")], []

    def broken() -> list[Gap]:
        if errors:
            raise errors.pop()
        return gaps()

    async def heal(account: str) -> bool:
        healed.append(account)
        return True

    monkeypatch.setattr(store.ledger, "gaps", broken)
    async with healing(store, clock, heal):
        await pass_time(clock, LOOK_SECONDS * 2)
    assert healed[:1] == ["alice"]


def test_errors_of_the_appserver_are_operating_errors() -> None:
    """What a healing scan may raise is told as a failed scan."""
    assert issubclass(AppServerUnavailable, BackupdError)
