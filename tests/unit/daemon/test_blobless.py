"""Blobless mode in the daemon: whom it is refused to, what is in force, and what `status` says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from backupd.appservers.base import AppServer
from backupd.attributes import Scopes
from backupd.errors import AppServerRefused
from backupd.items import Kind, digest_of
from backupd.jobs.doctor import holding
from backupd.keeping_views import BloblessView
from backupd.views import Outcome
from daemon.blobless import ATTRIBUTE, Blobless
from daemon.condition import problems
from daemon.keeping_condition import NOT_FETCHED, NOT_HELD
from tests.unit.daemon.making import AnsweringWorld, well
from tests.unit.jobs.worlds import ALICE, BODY


class BloblessWorld(AnsweringWorld):
    """An answering world whose AppServer may hold contents."""

    def make(self, server: object) -> Blobless:
        """Make the mode for an AppServer, as a lifetime does."""

        def wanted() -> bool:
            return bool(self.settings.get(ATTRIBUTE).value)

        made = Blobless(self.store, cast("AppServer", server), wanted=wanted, clock=self.clock)
        self.settings.guard(ATTRIBUTE, made.check)
        return made

    def set(self, value: str) -> None:
        self.settings.set(ATTRIBUTE, Scopes(), value)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BloblessWorld]:
    async with BloblessWorld(tmp_path) as made:
        await made.account()
        yield made


class Plain:
    """An AppServer that holds nothing."""


async def test_it_is_refused_without_the_capability(world: BloblessWorld) -> None:
    """Nothing is set, and the reason is told; turning off what is off is no fault."""
    mode = world.make(Plain())
    with pytest.raises(AppServerRefused, match="can't hold what is deleted"):
        world.set("true")
    assert not mode.is_active
    assert world.settings.get(ATTRIBUTE).value is False
    world.set("false")


async def test_it_is_refused_where_trying_it_out_fails(world: BloblessWorld) -> None:
    """An AppServer with the capability on a storage without it refuses too, and takes it once it can."""
    mode = world.make(world.server)
    world.server.held.refused = "another file system"
    with pytest.raises(AppServerRefused, match="another file system"):
        world.set("true")
    assert not mode.is_active
    world.server.held.refused = ""
    world.set("true")
    assert mode.is_active
    assert mode.view() == BloblessView(active=True)


async def test_a_change_counts_for_the_next_content(world: BloblessWorld) -> None:
    """On, nothing more is stored; off, the next content is, with nothing restarted."""
    world.make(world.server)
    world.set("true")
    await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    await world.scan_all()
    assert list(world.store.blobs.digests()) == []
    world.set("false")
    await world.server.add(ALICE, Kind.MESSAGE, "INBOX", b"Subject: next\r\n\r\n")
    await world.scan_all()
    assert list(world.store.blobs.digests()) == [digest_of(b"Subject: next\r\n\r\n")]


async def test_where_holding_broke_contents_are_stored_and_the_problem_is_told(world: BloblessWorld) -> None:
    """A storage that can't hold any more must not lose contents: they are blobs until it can again."""
    mode = world.make(world.server)
    world.set("true")
    world.server.held.refused = "mounted elsewhere"
    mode.look()
    assert not mode.is_active
    await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    await world.scan_all()
    assert world.store.blobs.contains(digest_of(BODY))
    (problem,) = problems(well(world.clock.now(), blobless=mode.view()))
    assert problem.name == NOT_HELD
    assert "mounted elsewhere" in problem.message
    world.server.held.refused = ""
    mode.look()
    assert mode.is_active
    assert problems(well(world.clock.now(), blobless=mode.view())) == []


async def test_what_is_not_fetched_yet_is_told_until_a_deep_scan(world: BloblessWorld) -> None:
    """Off again, `status` counts what is missing and names the cure; after the cure it is silent."""
    mode = world.make(world.server)
    world.set("true")
    await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    await world.scan_all()
    world.set("false")
    mode.look()
    (problem,) = problems(well(world.clock.now(), blobless=mode.view()))
    assert (problem.name, "1 items" in problem.message) == (NOT_FETCHED, True)
    assert "deep true" in problem.hint
    judged = holding.judge_holding(holding.look_at_holding(world.server.held), mode.view())
    assert judged.outcome is Outcome.WARNING
    await world.scan_all(deep=True)
    assert problems(well(world.clock.now(), blobless=mode.view())) == []


@pytest.mark.parametrize(
    ("spoil", "outcome"), [(False, Outcome.OK), (True, Outcome.CRITICAL)], ids=["whole", "rewritten"]
)
async def test_the_doctor_reads_what_is_held(world: BloblessWorld, *, spoil: bool, outcome: Any) -> None:
    """Held contents that other software rewrote are found by reading some of them."""
    mode = world.make(world.server)
    world.set("true")
    await world.server.add(ALICE, Kind.MESSAGE, "INBOX", BODY)
    await world.scan_all()
    if spoil:
        world.server.held.contents[digest_of(BODY)] = b"rewritten"
    judged = holding.judge_holding(holding.look_at_holding(world.server.held), mode.view())
    assert judged.outcome is outcome


async def test_the_doctor_says_where_the_mode_is_off(world: BloblessWorld) -> None:
    """Off and nothing left of it: nothing is looked at, and all is well."""
    assert holding.judge_holding(None, world.make(world.server).view()).outcome is Outcome.OK
