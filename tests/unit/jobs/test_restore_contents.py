"""Contents that the AppServer lost: what counts as damage, what never does, and what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.appservers.base import Examined
from backupd.errors import ItemVanished, UnknownAccount, UsageError
from backupd.items import Area, ItemKey, Kind, digest_of
from backupd.jobs.restore.contents import ContentRestore, ContentsWanted
from backupd.jobs.restore.lost_content import Condition, content_wanted, judge, volume_of
from backupd.operations import Run, Verdict
from backupd.states import ChangeType, Origin, State
from tests.unit.jobs.worlds import ALICE, BackupWorld
from tests.world.clocks import FakeClock
from tests.world.mailtree import generated_contact, generated_message

MAIL = generated_message(1)
CONTACT = generated_contact(1)
NOW = FakeClock().now()
LONG_AGO = (NOW - timedelta(days=1)).isoformat()


def state(content: bytes | None, kind: Kind = Kind.MESSAGE, transaction: int = 1, **more: Any) -> State:
    told = {"digest": digest_of(content), "size": len(content)} if content is not None else {}
    return State(
        transaction=transaction,
        kind=kind,
        start=NOW,
        change=ChangeType.MODIFIED,
        origin=Origin.REALTIME,
        metadata={"modified": LONG_AGO},
        **told | more,
    )


def held(content: bytes | None, changed: str = LONG_AGO, size: int | None = None) -> Examined:
    return Examined(
        size=len(content or b"") if size is None else size,
        digest=None if content is None else digest_of(content),
        changed=changed,
        version="",
    )


@pytest.mark.parametrize(
    ("kind", "found", "condition", "reason"),
    [
        (Kind.MESSAGE, held(MAIL), Condition.WHOLE, ""),
        (Kind.MESSAGE, held(b""), Condition.LOST, "empty"),
        (Kind.MESSAGE, held(MAIL[:10]), Condition.LOST, "has 10 of"),
        (Kind.MESSAGE, held(b"x" * len(MAIL)), Condition.LOST, "not those recorded"),
        (Kind.MESSAGE, held(None, size=3), Condition.LOST, "can't be read"),
        (Kind.CONTACT, held(b""), Condition.LOST, "empty"),
        (Kind.DOCUMENT, held(b"", NOW.isoformat()), Condition.UNCLEAR, "middle of an edit"),
        (Kind.CONTACT, held(MAIL[:10]), Condition.EDITED, ""),
        (Kind.DOCUMENT, held(b"x" * len(MAIL)), Condition.EDITED, ""),
        (Kind.CONTACT, held(None, size=len(MAIL)), Condition.LOST, "can't be read"),
        (Kind.CONTACT, held(None, size=5), Condition.UNCLEAR, "was changed since"),
    ],
)
def test_damage_and_edits_are_told_apart(
    kind: Kind, found: Examined, condition: Condition, reason: str
) -> None:
    """A message that is otherwise is damaged; what is edited in place only if empty or unreadable."""
    judged = judge(state(MAIL, kind), found, NOW)
    assert judged.condition is condition
    assert reason in judged.reason
    assert bool(reason) == bool(judged.reason)


@pytest.mark.parametrize(
    ("kind", "contents", "wanted", "doubtful"),
    [
        (Kind.MESSAGE, [MAIL], MAIL, False),
        (Kind.MESSAGE, [MAIL, MAIL], MAIL, False),
        (Kind.MESSAGE, [MAIL, b""], MAIL, False),
        (Kind.MESSAGE, [MAIL, MAIL[:10], b""], MAIL, False),
        (Kind.MESSAGE, [MAIL, b"", MAIL], MAIL, False),
        (Kind.MESSAGE, [MAIL, b"other"], b"other", True),
        (Kind.CONTACT, [CONTACT, b""], CONTACT, False),
        (Kind.CONTACT, [CONTACT, CONTACT[:10]], CONTACT[:10], False),
        (Kind.DOCUMENT, [MAIL, b""], b"", False),
        (Kind.MESSAGE, [None], None, False),
        (Kind.MESSAGE, [MAIL, None], MAIL, False),
    ],
)
def test_recorded_damage_is_not_believed(
    kind: Kind, contents: list[bytes | None], wanted: bytes | None, *, doubtful: bool
) -> None:
    """An empty state, or the mere beginning of a message, is passed over; a recorded edit is the truth."""
    by_digest = {digest_of(content): content for content in contents if content is not None}

    def is_beginning(later: State, earlier: State) -> bool:
        return by_digest[str(earlier.digest)].startswith(by_digest[str(later.digest)])

    history = [state(content, kind, number) for number, content in enumerate(contents, 1)]
    found = content_wanted(history, is_beginning)
    if wanted is None:
        assert found is None
    else:
        assert found is not None
        assert (found.state.digest, found.doubtful) == (digest_of(wanted), doubtful)


def test_what_was_before_a_deletion_is_another_life() -> None:
    """The content of a contact that was deleted and came back empty is not that of its former life."""
    gone = state(CONTACT, Kind.CONTACT, 2, deleted=True)
    found = content_wanted(
        [state(CONTACT, Kind.CONTACT), gone, state(b"", Kind.CONTACT, 3)], lambda *_: False
    )
    assert found is not None
    assert found.state.size == 0


def test_volumes_are_areas_and_their_folders() -> None:
    """`all`, an area, or a folder with those below it, but none that only begins alike; else a hint."""
    assert volume_of("ALL").holds(Kind.DOCUMENT, "")
    assert volume_of("mail").holds(Kind.MESSAGE, "Sent")
    assert not volume_of("mail").holds(Kind.CONTACT, "Sent")
    inbox = volume_of("mail/INBOX")
    assert inbox.area is Area.MAIL
    assert [inbox.holds(Kind.MESSAGE, name) for name in ("INBOX", "INBOX/a", "INBOXES")] == [
        True,
        True,
        False,
    ]
    with pytest.raises(UsageError, match="message1"):
        volume_of("message1")


class ContentsWorld(BackupWorld):
    """Alice with a message, a contact and a document in the backup."""

    async def fill(self) -> None:
        await self.account()
        self.message = await self.server.add(ALICE, Kind.MESSAGE, "INBOX", MAIL, flags=["seen"])
        self.contact = await self.server.add(ALICE, Kind.CONTACT, "Personal", CONTACT)
        self.document = await self.server.add(ALICE, Kind.DOCUMENT, "", b"text", name="a.txt")
        await self.scan_all()
        await self.clock.advance(3600)

    async def put_back(self, *, dry_run: bool = False, **wanted: Any) -> Verdict:
        self.run = Run(self.clock)
        restore = ContentRestore(self.store, self.server, clock=self.clock)
        return await restore.run(self.run, ContentsWanted(dry_run=dry_run, **wanted))

    async def content(self, item: str, kind: Kind = Kind.MESSAGE) -> bytes:
        reading = await self.server.read(ItemKey(ALICE, kind, item))
        assert reading.content is not None
        return reading.content.open().read()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ContentsWorld]:
    async with ContentsWorld(tmp_path) as made:
        await made.fill()
        yield made


async def test_a_dry_run_lists_and_changes_nothing_and_a_second_run_finds_nothing(
    world: ContentsWorld,
) -> None:
    """The dry run names item and reason; the run puts back; run again, there is nothing to do."""
    world.server.edit(ALICE, world.message, b"")
    told = await world.put_back(dry_run=True)
    assert (told.counts["lost"], told.counts["looked"], told.successful) == (1, 3, True)
    assert "1 would be put back" in told.sentence
    (listed,) = world.run.errors
    assert world.message in listed.item
    assert "alice@example.com INBOX" in listed.item
    assert "empty" in listed.reason
    assert await world.content(world.message) == b""
    done = await world.put_back()
    assert (done.counts["restored"], done.successful) == (1, True)
    assert await world.content(world.message) == MAIL
    again = await world.put_back()
    assert (again.counts["lost"], again.counts["restored"]) == (0, 0)


async def test_recorded_damage_comes_back_and_history_is_left_alone(world: ContentsWorld) -> None:
    """Damage that a scan recorded is undone all the same, and the restore itself writes no history."""
    world.server.edit(ALICE, world.message, MAIL[:40])
    world.server.edit(ALICE, world.contact, b"")
    await world.scan_all(deep=True)
    await world.clock.advance(3600)
    before = world.history(world.message)
    assert before[-1].size == 40
    done = await world.put_back()
    assert done.counts["restored"] == 2
    assert await world.content(world.message) == MAIL
    assert await world.content(world.contact, Kind.CONTACT) == CONTACT
    assert world.history(world.message) == before


async def test_an_edit_that_no_scan_saw_is_never_undone(world: ContentsWorld) -> None:
    """Edited contacts and documents stay as they are and are counted; so does what was emptied just now."""
    world.server.edit(ALICE, world.contact, CONTACT + b"NOTE:new\r\n")
    world.server.edit(ALICE, world.document, b"")
    done = await world.put_back()
    assert (done.counts["edited"], done.counts["unclear"], done.counts["restored"]) == (1, 1, 0)
    assert await world.content(world.contact, Kind.CONTACT) == CONTACT + b"NOTE:new\r\n"
    assert await world.content(world.document, Kind.DOCUMENT) == b""
    await world.clock.advance(3600)
    assert (await world.put_back()).counts["restored"] == 1
    assert await world.content(world.document, Kind.DOCUMENT) == b"text"


async def test_what_is_gone_is_no_business_of_it(world: ContentsWorld) -> None:
    """A message that is not listed any more, or vanishes meanwhile, is counted and points to doUndelete."""
    world.server.remove(ALICE, world.message)
    world.server.vanished.add(world.contact)
    done = await world.put_back()
    assert (done.counts["gone"], done.counts["restored"], done.successful) == (2, 0, True)
    assert "doUndelete" in done.sentence


async def test_filters_choose_what_is_looked_at(world: ContentsWorld) -> None:
    """Volume, items and accounts leave the rest alone; unknown ones are refused."""
    for item in (world.message, world.contact, world.document):
        world.server.edit(ALICE, item, b"")
    await world.clock.advance(3600)
    for wanted, lost in (
        ({"volume": "mail"}, 1),
        ({"volume": "mail/Sent"}, 0),
        ({"items": "drive"}, 1),
        ({"items": "zimbra"}, 2),
        ({"accounts": ("alice@example.com",)}, 3),
    ):
        assert (await world.put_back(dry_run=True, **wanted)).counts["lost"] == lost, wanted
    with pytest.raises(UnknownAccount):
        await world.put_back(accounts=("bob@example.com",))
    with pytest.raises(UsageError):
        await world.put_back(volume="elsewhere")


async def test_one_content_that_can_not_be_had_stops_no_other(world: ContentsWorld) -> None:
    """A missing blob is an unrestored item with its reason; the next one comes back; the verdict fails."""
    world.server.edit(ALICE, world.message, b"")
    world.server.edit(ALICE, world.contact, b"")
    await world.clock.advance(3600)
    (blob,) = world.path.rglob(f"items/*/{digest_of(MAIL)}")
    blob.unlink()
    done = await world.put_back()
    assert (done.counts["restored"], done.counts["unrestored"], done.successful) == (1, 1, False)
    assert world.message in world.run.errors[0].item
    assert await world.content(world.contact, Kind.CONTACT) == CONTACT


async def test_contents_may_come_from_another_backup_path(world: ContentsWorld, tmp_path: Path) -> None:
    """With `backup_path` the blobs of that path are taken; a path that is none is refused by its reader."""
    other = tmp_path.with_name(f"{tmp_path.name}-other")
    async with BackupWorld(other) as theirs:
        await theirs.account()
        await theirs.server.add(ALICE, Kind.MESSAGE, "INBOX", MAIL)
        await theirs.scan_all()
    (blob,) = world.path.rglob(f"items/*/{digest_of(MAIL)}")
    blob.unlink()
    world.server.edit(ALICE, world.message, b"")
    assert (await world.put_back(backup_path=str(other))).counts["restored"] == 1
    assert await world.content(world.message) == MAIL


async def test_what_changes_while_it_is_judged_is_judged_again(
    world: ContentsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A contact that is written between judgement and replacement keeps what was written."""
    world.server.edit(ALICE, world.contact, b"")
    await world.clock.advance(3600)
    replace = world.server.replace_content

    async def meddled(key: ItemKey, *more: Any) -> None:
        if await world.content(world.contact, Kind.CONTACT) == b"":
            world.server.edit(ALICE, world.contact, CONTACT + b"NOTE:mine\r\n")
        await replace(key, *more)

    monkeypatch.setattr(world.server, "replace_content", meddled)
    done = await world.put_back()
    assert (done.counts["edited"], done.counts["restored"]) == (1, 0)
    assert await world.content(world.contact, Kind.CONTACT) == CONTACT + b"NOTE:mine\r\n"


async def test_an_item_that_vanished_can_not_be_examined(world: ContentsWorld) -> None:
    """What `examine` finds gone is ItemVanished, never an empty content."""
    world.server.remove(ALICE, world.message)
    with pytest.raises(ItemVanished):
        await world.server.examine(ItemKey(ALICE, Kind.MESSAGE, world.message))
