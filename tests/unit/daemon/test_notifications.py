"""Notifications: kept before they are sent, sent on every way, tried again for a day, never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from backupd.errors import SpaceExhausted
from backupd.store.ledger import Ledger
from backupd.store.ledger_tables import KeptNotifications
from daemon import delivery, notifications
from daemon.delivery import Notification, Outcome, State, Undelivered
from daemon.messages import Level, Message
from daemon.notifications import INBOX_MAX, KEPT_MAX, MAIL, WEBHOOK, Notifications
from tests.world.clocks import START, FakeClock

ADMIN = "admin@example.com"
YOU = "you@example.com"
DOWN = Undelivered("refused")


class FakeWay:
    """A way that a test breaks and mends; every attempt is noted."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, tuple[str, ...]]] = []
        self.attempts = 0
        self.error: Exception | None = None
        self.outcome = Outcome()
        self.go = asyncio.Event()
        self.go.set()

    async def send(self, notification: Notification, recipients: tuple[str, ...]) -> Outcome:
        self.attempts += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        self.sent.append((notification.subject, recipients))
        return self.outcome


class FullDisk(KeptNotifications):
    """A ledger without room."""

    def add(self, facts: bytes, *, pending: bool) -> int:
        raise SpaceExhausted("full")


class World:
    """Notifications on two ways over a ledger."""

    def __init__(self, path: Path, *, ways: tuple[str, ...] = (MAIL, WEBHOOK), full: bool = False) -> None:
        self.ledger = Ledger(path / "state.sqlite")
        self.kept = FullDisk(self.ledger) if full else KeptNotifications(self.ledger)
        self.clock = FakeClock()
        self.level = Level.INFORMATION
        self.ways = {name: FakeWay() for name in ways}
        self.all = Notifications(
            self.kept, self.ways, clock=self.clock, recipients=(ADMIN,), threshold=lambda: self.level
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let them work meanwhile; the daemon's end follows."""
        await self.all.load()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.all.run())
            yield
            task.cancel()
        await self.all.close()
        self.ledger.close()

    def sent(self, way: str = MAIL) -> list[str]:
        return [subject for subject, _ in self.ways[way].sent]

    def state(self, way: str = MAIL, number: int = 1) -> State:
        return self.notification(number).ways[way].state

    def notification(self, number: int = 1) -> Notification:
        return msgspec.json.decode(self.kept.get(number) or b"", type=Notification)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def until(claim: Callable[[], bool]) -> None:
    """Wait, in real time, for what threads do too."""
    async with asyncio.timeout(30):
        while not claim():  # noqa: ASYNC110 - threads are at work meanwhile
            await asyncio.sleep(0.001)


async def passed(world: World, seconds: float) -> None:
    """Let time pass once every way waits for it, and what was woken come to its next wait."""
    await world.clock.wait_until_asleep(len(world.ways))
    await world.clock.advance(seconds)
    await world.clock.wait_until_asleep(len(world.ways))


def message(subject: str = "one", level: Level = Level.ERROR, **more) -> Message:
    return Message(level=level, subject=subject, text="text\n", **more)


async def test_a_message_goes_on_every_way(world: World) -> None:
    """It reaches the admins by mail and the webhook, and is kept as delivered."""
    async with world.running():
        world.all.tell(message())
        await until(lambda: world.sent(WEBHOOK) == ["one"] and world.state() is State.DELIVERED)
        assert world.ways[MAIL].sent == [("one", (ADMIN,))]
        await until(lambda: not world.kept.pending() and world.all.unsent() == "")


async def test_the_threshold_counts_at_once_and_not_for_own_recipients(world: World) -> None:
    """Below the threshold only an operation's own recipients are told; another threshold counts at once."""
    world.level = Level.ERROR
    async with world.running():
        world.all.tell(message("quiet", Level.WARNING))
        world.all.tell(message("own", Level.INFORMATION, own_recipients=(YOU,)))
        world.all.tell(message("loud", Level.CRITICAL, own_recipients=(YOU, ADMIN)))
        await until(lambda: len(world.ways[MAIL].sent) == 2)
        assert world.ways[MAIL].sent == [("own", (YOU,)), ("loud", (ADMIN, YOU))]
        world.level = Level.INFORMATION
        world.all.tell(message("soft", Level.INFORMATION))
        await until(lambda: world.sent(WEBHOOK) == ["loud", "soft"] and len(world.sent()) == 3)
    assert world.sent() == ["own", "loud", "soft"]


async def test_equal_messages_are_told_once_an_hour(world: World) -> None:
    """Of what repeats one an hour is told, and no more than so many are remembered."""
    async with world.running():
        for subject in ("first", "second"):
            world.all.tell(message(subject, once="scan of alice"))
        world.all.tell(message("other", once="scan of bob"))
        await until(lambda: world.sent() == ["first", "other"])
        world.clock.jump(3_601)
        world.all.tell(message("later", once="scan of alice"))
        await until(lambda: world.sent() == ["first", "other", "later"])
        for number in range(notifications.ONCE_MAX + 10):
            world.all._was_told(f"{number}", START)
        assert len(world.all._told) == notifications.ONCE_MAX


async def test_a_way_that_hangs_holds_no_other(world: World) -> None:
    """While mail hangs the webhook goes on, and telling never waits."""
    world.ways[MAIL].go.clear()
    async with world.running():
        for number in range(3):
            world.all.tell(message(str(number)))
        await until(lambda: world.sent(WEBHOOK) == ["0", "1", "2"] and world.ways[MAIL].attempts == 1)
        world.ways[MAIL].go.set()
        await until(lambda: world.sent() == ["0", "1", "2"])


async def test_a_way_that_is_down_is_tried_again_with_growing_pauses(world: World) -> None:
    """One attempt, then 15, 30, 60 s; once it is back everything goes in order, and the problem is over."""
    world.ways[MAIL].error = DOWN
    async with world.running():
        for subject in ("one", "two"):
            world.all.tell(message(subject))
        await until(lambda: world.ways[MAIL].attempts == 1 and world.sent(WEBHOOK) == ["one", "two"])
        await until(lambda: "2 notifications wait (mail: refused)" in world.all.unsent())
        for pause, attempts in ((14, 1), (1.1, 2), (28, 2), (2.1, 3), (58, 3)):
            await passed(world, pause)
            assert world.ways[MAIL].attempts == attempts
        world.ways[MAIL].error = None
        await passed(world, 3)
        await until(lambda: world.sent() == ["one", "two"])
        await until(lambda: not world.kept.pending() and world.all.unsent() == "")


async def test_after_a_day_it_has_failed(world: World) -> None:
    """What could not be sent within a day fails, with all that waits as long, and shows."""
    world.ways[MAIL].error = DOWN
    async with world.running():
        for subject in ("one", "two"):
            world.all.tell(message(subject))
        await until(lambda: world.sent(WEBHOOK) == ["one", "two"])
        await until(lambda: world.ways[MAIL].attempts == 1)
        await passed(world, delivery.GIVE_UP_SECONDS - 10)
        assert world.state() is State.PENDING
        await passed(world, delivery.RETRY_SECONDS_MAX + 10)
        await until(lambda: (world.state(), world.state(number=2)) == (State.FAILED, State.FAILED))
        assert "2 could not be sent" in world.all.unsent()
        assert world.ways[MAIL].attempts < 80


async def test_a_restart_sends_what_waits(tmp_path: Path) -> None:
    """What could not be sent, and what was told at the very end, is sent by the next process, at once."""
    first = World(tmp_path)
    first.ways[MAIL].error = DOWN
    async with first.running():
        first.all.tell(message("waits"))
        await until(lambda: first.ways[MAIL].attempts == 1 and first.sent(WEBHOOK) == ["waits"])
        await until(lambda: first.state(WEBHOOK) is State.DELIVERED)
        first.all.tell(message("last words"))
    second = World(tmp_path)
    async with second.running():
        await until(lambda: second.sent() == ["waits", "last words"])
        await until(lambda: not second.kept.pending())
        assert "waits" not in second.sent(WEBHOOK)


async def test_a_restart_repeats_nothing_within_the_hour(tmp_path: Path) -> None:
    """What was told before a restart is not told again after it."""
    for _ in range(2):
        world = World(tmp_path)
        async with world.running():
            world.all.tell(message("same", once="x"))
            world.all.tell(message("mark"))
            await until(lambda world=world: "mark" in world.sent() and not world.kept.pending())
    assert world.sent() == ["mark"]


async def test_a_way_that_is_gone_fails(tmp_path: Path) -> None:
    """Without mail in the configuration an operation's own recipients can't be told: kept as failed."""
    world = World(tmp_path, ways=(WEBHOOK,))
    async with world.running():
        world.all.tell(message(own_recipients=(YOU,)))
        await until(lambda: world.kept.get(1) is not None and world.state(WEBHOOK) is State.DELIVERED)
        view = delivery.view(1, world.notification(), with_text=True)
    assert (view.delivered, view.failed) == (("webhook",), ("mail",))
    assert "mail is not configured" in view.text


async def test_a_full_disk_stops_no_message(tmp_path: Path) -> None:
    """What can't be kept is sent all the same."""
    world = World(tmp_path, full=True)
    async with world.running():
        world.all.tell(message())
        await until(lambda: world.sent() == ["one"] and world.sent(WEBHOOK) == ["one"])


async def test_refused_recipients_are_told_and_the_others_reached(world: World) -> None:
    """One refused for good is listed; one refused for now is tried again alone."""
    world.ways[MAIL].outcome = Outcome(refused={"bad@x.org": "550 no"}, later={YOU: "450 later"})
    async with world.running():
        world.all.tell(message(own_recipients=("bad@x.org", YOU)))
        await until(lambda: world.ways[MAIL].sent == [("one", (ADMIN, "bad@x.org", YOU))])
        world.ways[MAIL].outcome = Outcome()
        await passed(world, 16)
        await until(lambda: {world.state(), world.state(WEBHOOK)} == {State.DELIVERED})
        assert world.ways[MAIL].sent[1:] == [("one", (YOU,))]
        view = delivery.view(1, world.notification(), with_text=False)
    assert (view.delivered, view.failed) == (("mail", "webhook"), ("mail to bad@x.org",))


async def test_a_bug_in_a_way_ends_nothing(world: World) -> None:
    """An unexpected error counts as a failed attempt; its text, which may hold a secret, is shown nowhere."""
    world.ways[WEBHOOK].error = ValueError("https://example.com/secret")
    async with world.running():
        world.all.tell(message())
        await until(lambda: world.ways[WEBHOOK].attempts == 1 and world.sent() == ["one"])
        await until(lambda: world.notification().ways[WEBHOOK].reason == "unexpected ValueError")
        assert "secret" not in world.all.unsent()


async def test_everything_is_bounded(world: World) -> None:
    """The inbox drops what does not fit and counts it; at most so many notifications are kept."""
    for number in range(INBOX_MAX + 3):
        world.all.tell(message(str(number)))
    assert world.all.dropped == 3
    for _ in range(5):
        world.kept.add(b"{}", pending=False)
    world.ledger.write("UPDATE notifications SET id = id + ?", (KEPT_MAX,))
    await world.all._take(message("new"))
    assert len(world.kept.newest(KEPT_MAX + 10)) <= KEPT_MAX
    world.ledger.close()


def test_a_permanent_refusal_is_not_tried_again() -> None:
    """What a way will never take fails at once, and the way is not down for others."""
    error = Undelivered("too large", permanent=True)
    after = delivery.after_failure(delivery.Delivery(), error, START, START)
    assert (after.state, error.way_is_down) == (State.FAILED, False)


def test_pauses_double_up_to_a_bound() -> None:
    """The pause after each failure doubles and never exceeds half an hour."""
    pauses = [delivery.back_off_seconds(failures) for failures in range(1, 12)]
    assert pauses[:4] == [15, 30, 60, 120]
    assert max(pauses) == delivery.RETRY_SECONDS_MAX
    assert delivery.is_too_old(START, START + timedelta(days=1))
