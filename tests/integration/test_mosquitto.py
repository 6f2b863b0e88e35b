"""The subscription against a real mosquitto: what is acknowledged is journaled, whatever is killed."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backupd.appservers.base import Watched
from backupd.clock import SystemClock
from backupd.errors import SpaceExhausted
from daemon.arrivals import ARRIVED_EVENTS_MAX, Arrivals
from tests.unit.daemon.test_publisher import Gaps, Watch, change, journaled, publisher
from tests.world.brokers import PASSWORD, Mosquitto, make_certificates
from tests.world.flood import connect, event_payload, packet, publish, text
from tests.world.subscriber import SERVER_ID, Pipeline, running, until

pytestmark = pytest.mark.server("mosquitto")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "mosquitto")
    broker.start()
    yield broker
    broker.kill()


def message(number: int, payload: bytes | None = None, topic: str = "") -> bytes:
    topic = topic or f"backupd/v1/{SERVER_ID}/alice/message/{number}"
    mid = (number % 60_000 + 1).to_bytes(2, "big")
    return packet(0x32, text(topic) + mid + (event_payload(number) if payload is None else payload))


def publish_events(broker: Mosquitto, numbers: range) -> set[str]:
    """Publish events and return the ids that the broker confirmed: all of them."""
    connection = connect(broker.port)
    with connection:
        assert publish(connection, [message(number) for number in numbers]) == len(numbers)
    return {f"event-{number}" for number in numbers}


@contextmanager
def subscriber(broker: Mosquitto, directory: Path, step: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run a subscriber in a process of its own, which is killed at the end of the block."""
    arguments = [str(broker.port), str(broker.password_file), str(directory), *([step] if step else [])]
    victim = subprocess.Popen(
        [sys.executable, "-m", "tests.world.subscriber", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield victim
    finally:
        victim.kill()
        victim.communicate()


async def make_session(pipeline: Pipeline) -> None:
    """Connect once and leave, so that the broker keeps what comes from now on."""
    async with running(pipeline.subscription.run()):
        await asyncio.wait_for(pipeline.subscription.wait_until_subscribed(), 30)


async def test_what_was_published_is_journaled_in_order_and_once(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """A quiet day: every event arrives once, in its order, and a session begins once."""
    pipeline = Pipeline(mosquitto.address, tmp_path)
    async with running(pipeline.subscription.run()):
        await pipeline.subscription.wait_until_subscribed()
        await asyncio.to_thread(publish_events, mosquitto, range(500))
        await until(lambda: pipeline.subscription.status.journaled == 500)
    assert pipeline.ids == [f"event-{number}" for number in range(500)]
    assert (pipeline.sessions, pipeline.gaps) == (1, [])
    assert not pipeline.subscription.status.connected


@pytest.mark.parametrize("step", ["intake.journaled", "intake.acknowledged"])
async def test_a_kill_between_journal_and_acknowledgement_loses_nothing(
    mosquitto: Mosquitto, tmp_path: Path, step: str
) -> None:
    """Killed after the sync and before the acknowledgement was sent, everything is delivered again."""
    pipeline = Pipeline(mosquitto.address, tmp_path, session_expected=True)
    await make_session(pipeline)
    with subscriber(mosquitto, tmp_path, step) as victim:
        assert await asyncio.to_thread(victim.stdout.readline) == "subscribed\n"
        published = await asyncio.to_thread(publish_events, mosquitto, range(50))
        assert await asyncio.to_thread(victim.wait, 10) == -9
    journaled_before = len(pipeline.ids)
    assert journaled_before
    async with running(pipeline.subscription.run()):
        await until(lambda: set(pipeline.ids) == published)
        await until(lambda: pipeline.subscription.status.received == 50)
    assert len(pipeline.ids) == journaled_before + 50, "what had been journaled came again"


async def test_a_broker_that_is_down_is_tried_until_it_is_there(tmp_path: Path) -> None:
    """Down at the start and later: the status says so, and all goes on by itself."""
    broker = Mosquitto(tmp_path / "mosquitto")
    pipeline = Pipeline(broker.address, tmp_path)
    subscription = pipeline.subscription
    try:
        async with running(subscription.run()):
            await until(lambda: subscription.status.attempts >= 2)
            assert "nobody listens there" in subscription.status.last_error
            await asyncio.to_thread(broker.start)
            await subscription.wait_until_subscribed()
            assert subscription.status.last_error == ""
            await asyncio.to_thread(publish_events, broker, range(10))
            await until(lambda: len(set(pipeline.ids)) == 10)
            await asyncio.to_thread(broker.stop)
            await until(lambda: not subscription.status.connected)
            await asyncio.to_thread(broker.start)
            await subscription.wait_until_subscribed()
            await asyncio.to_thread(publish_events, broker, range(10, 20))
            await until(lambda: len(set(pipeline.ids)) == 20)
            assert subscription.status.session_resumed
    finally:
        broker.kill()
    assert pipeline.gaps == []


async def test_a_killed_broker_with_persistence_keeps_what_it_saved(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Saved events for a subscriber that is away survive SIGKILL of the broker, and no gap is told."""
    pipeline = Pipeline(mosquitto.address, tmp_path)
    await make_session(pipeline)
    published = await asyncio.to_thread(publish_events, mosquitto, range(50))
    await asyncio.to_thread(mosquitto.save)
    await asyncio.to_thread(mosquitto.kill)
    await asyncio.to_thread(mosquitto.start)
    async with running(pipeline.subscription.run()):
        await until(lambda: set(pipeline.ids) == published)
    assert pipeline.gaps == []


async def test_a_broker_that_forgot_the_session_opens_a_gap(tmp_path: Path) -> None:
    """Without persistence a restart loses the session: told as a gap, once, and events flow again."""
    broker = Mosquitto(tmp_path / "mosquitto", persistent=False)
    broker.start()
    pipeline = Pipeline(broker.address, tmp_path)
    try:
        await make_session(pipeline)
        await asyncio.to_thread(publish_events, broker, range(5))
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        async with running(pipeline.subscription.run()):
            await pipeline.subscription.wait_until_subscribed()
            await asyncio.to_thread(publish_events, broker, range(5, 10))
            await until(lambda: len(pipeline.ids) == 5)
    finally:
        broker.kill()
    assert [reason for reason, _ in pipeline.gaps] == ["session_lost"]


async def test_a_gap_that_could_not_be_stored_is_told_again(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Stopped before the lost session was written down, the next connection still finds it lost."""
    pipeline = Pipeline(mosquitto.address, tmp_path, session_expected=True)
    tell, attempts = pipeline.gaps.append, 0

    async def refuse(_reason: str, _detail: str) -> None:
        nonlocal attempts
        attempts += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    async def accept(reason: str, detail: str) -> None:
        tell((reason, detail))

    pipeline.subscription._on_gap = refuse
    async with running(pipeline.subscription.run()):
        await until(lambda: attempts > 0 and bool(pipeline.subscription.status.paused))
        assert not pipeline.subscription.status.connected
    pipeline.subscription._on_gap = accept
    await make_session(pipeline)
    assert [reason for reason, _ in pipeline.gaps] == ["session_lost"]


async def test_a_wrong_password_is_told_and_picked_up_when_corrected(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """The password file is read for each connection: correcting it is enough."""
    mosquitto.password_file.write_text("wrong\n")
    pipeline = Pipeline(mosquitto.address, tmp_path)
    async with running(pipeline.subscription.run()):
        await until(lambda: "does not let us in" in pipeline.subscription.status.last_error)
        mosquitto.password_file.write_text(PASSWORD + "\n")
        await asyncio.wait_for(pipeline.subscription.wait_until_subscribed(), 30)


async def test_tls_with_our_authority_works_and_without_it_is_refused(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of an unknown authority is refused in clear words; with its authority all is well."""
    # A small queue: reading stops and goes on often, with bytes that TLS has decrypted and we have not read.
    monkeypatch.setattr("daemon.subscription.Arrivals", functools.partial(Arrivals, events_max=50))
    broker = Mosquitto(tmp_path / "mosquitto", certificates=certificates)
    broker.start()
    try:
        pipeline = Pipeline(broker.tls_address, tmp_path)
        async with running(pipeline.subscription.run()):
            await asyncio.wait_for(pipeline.subscription.wait_until_subscribed(), 30)
            await asyncio.to_thread(publish_events, broker, range(3000))
            await until(lambda: len(pipeline.ids) == 3000)
        stranger = Pipeline(
            type(broker.tls_address).parse(f"mqtts://localhost:{broker.tls_port}"), tmp_path / "none"
        )
        async with running(stranger.subscription.run()):
            await until(lambda: "certificate is not trusted" in stranger.subscription.status.last_error)
    finally:
        broker.kill()


@pytest.mark.parametrize(
    "trouble", [SpaceExhausted("less than 1 GiB is free"), OSError(errno.ENOSPC, "No space left on device")]
)
async def test_a_full_disk_pauses_the_intake_and_frees_it_again(
    mosquitto: Mosquitto, tmp_path: Path, trouble: Exception
) -> None:
    """Nothing is acknowledged while the disk is full; more waits than the queue holds; nothing is lost."""
    pipeline = Pipeline(mosquitto.address, tmp_path)
    pipeline.trouble = trouble
    count = ARRIVED_EVENTS_MAX + 2000
    async with running(pipeline.subscription.run()):
        await pipeline.subscription.wait_until_subscribed()
        published = await asyncio.to_thread(publish_events, mosquitto, range(count))
        await until(lambda: bool(pipeline.subscription.status.paused))
        assert str(trouble) in pipeline.subscription.status.paused
        assert not pipeline.subscription.takes_events
        assert pipeline.subscription.status.journaled == 0
        pipeline.trouble = None
        await until(lambda: pipeline.subscription.status.journaled == count)
        assert pipeline.subscription.status.paused == ""
    assert set(pipeline.ids) == published
    assert len(pipeline.ids) == count, "nothing was delivered twice: the connection was kept"


async def test_what_was_not_acknowledged_at_a_pause_comes_again(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """A daemon that is stopped while its disk is full has acknowledged nothing; the next one gets it all."""
    pipeline = Pipeline(mosquitto.address, tmp_path)
    pipeline.trouble = SpaceExhausted("full")
    async with running(pipeline.subscription.run()):
        await pipeline.subscription.wait_until_subscribed()
        published = await asyncio.to_thread(publish_events, mosquitto, range(300))
        await until(lambda: bool(pipeline.subscription.status.paused))
    assert pipeline.ids == []
    pipeline.trouble = None
    async with running(pipeline.subscription.run()):
        await until(lambda: set(pipeline.ids) == published)


async def test_a_backlog_greater_than_the_queue_is_taken_on_resuming(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """The broker sends its backlog before it answers the subscription; a full queue must not wait for it."""
    pipeline = Pipeline(mosquitto.address, tmp_path)
    await make_session(pipeline)
    count = 3 * ARRIVED_EVENTS_MAX
    published = await asyncio.to_thread(publish_events, mosquitto, range(count))
    async with running(pipeline.subscription.run()):
        await until(lambda: len(set(pipeline.ids)) == count)
        await asyncio.wait_for(pipeline.subscription.wait_until_subscribed(), 30)
    assert set(pipeline.ids) == published


async def test_a_clean_stop_leaves_nothing_to_deliver_again(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """What was being written when the stop came is acknowledged: the next connection gets only the rest."""
    pipeline = Pipeline(mosquitto.address, tmp_path)
    async with running(pipeline.subscription.run()):
        await pipeline.subscription.wait_until_subscribed()
        published = await asyncio.to_thread(publish_events, mosquitto, range(3000))
        await until(lambda: pipeline.appends > 0)
    journaled = len(pipeline.ids)
    async with running(pipeline.subscription.run()):
        await until(lambda: set(pipeline.ids) == published)
        await SystemClock().sleep(0.1)
    assert len(pipeline.ids) == 3000, f"{len(pipeline.ids) - 3000} came twice, {journaled} before the stop"


async def test_what_is_no_event_is_quarantined_and_does_not_come_again(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Refused messages are acknowledged once they are in the quarantine, beside events that go through."""
    pipeline = Pipeline(mosquitto.address, tmp_path)
    bad = [message(1, b"{"), message(2, topic=f"backupd/v1/{SERVER_ID}/alice"), message(3)]
    async with running(pipeline.subscription.run()):
        await pipeline.subscription.wait_until_subscribed()
        with connect(mosquitto.port) as connection:
            assert await asyncio.to_thread(publish, connection, bad) == 3
        await until(lambda: pipeline.subscription.status.journaled == 1)
    assert pipeline.subscription.status.refused == {"not_json": 1, "topic": 1}
    assert pipeline.quarantine_file.read_bytes().count(b"\n") == 2
    async with running(pipeline.subscription.run()):
        await pipeline.subscription.wait_until_subscribed()
        await SystemClock().sleep(0.1)
        assert pipeline.subscription.status.received == 3


async def test_random_kills_under_load_lose_nothing(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """10,000 events, the subscriber killed again and again: each confirmed publish ends up in the journal."""
    chance = random.Random(20261123)
    pipeline = Pipeline(mosquitto.address, tmp_path, session_expected=True)
    await make_session(pipeline)
    kills = 0
    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(asyncio.to_thread(publish_events, mosquitto, range(10_000)))
        while kills < 5:
            with subscriber(mosquitto, tmp_path) as victim:
                assert await asyncio.to_thread(victim.stdout.readline) == "subscribed\n"
                await SystemClock().sleep(chance.uniform(0.0, 0.15))
            kills += 1
    async with running(pipeline.subscription.run()):
        await until(lambda: publishing.result() <= set(pipeline.ids), 20)


def test_the_configuration_that_we_ship_is_taken_by_mosquitto(tmp_path: Path, repository: Path) -> None:
    """config/mosquitto.conf loads as it is, with places and port of a test put in."""
    broker = Mosquitto(tmp_path)
    shipped = (repository / "config" / "mosquitto.conf").read_text()
    for ours, theirs in (
        ("/var/lib/mosquitto/", f"{tmp_path}/"),
        ("/etc/mosquitto/backupd.passwd", str(tmp_path / "users")),
        ("listener 1883 127.0.0.1", f"listener {broker.port} 127.0.0.1"),
    ):
        assert ours in shipped
        shipped = shipped.replace(ours, theirs)
    owner = "user root\n" if os.geteuid() == 0 else ""
    (tmp_path / "mosquitto.conf").write_text(owner + shipped)
    broker.start()
    try:
        assert publish_events(broker, range(10))
    finally:
        broker.stop()


async def test_the_publisher_loses_nothing_when_the_broker_restarts(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Changes wait while the broker is away; all arrive, numbered without holes, maybe twice."""
    pipeline = Pipeline(mosquitto.address, tmp_path)
    watch, gaps = Watch(), Gaps()
    sender = publisher(mosquitto.address, watch, gaps)
    async with running(pipeline.subscription.run(), sender.run()):
        await pipeline.subscription.wait_until_subscribed()
        for first in range(0, 600, 50):
            watch.batches.put_nowait(Watched(changes=[change(number) for number in range(first, first + 50)]))
            if first == 200:
                await asyncio.to_thread(mosquitto.stop)
                await asyncio.to_thread(mosquitto.start)
        await until(lambda: len({one.item for one in journaled(pipeline)}) == 600)
    assert {one.number for one in journaled(pipeline)} == set(range(1, 601))
    assert len(set(pipeline.ids)) == 600
    assert gaps.told == pipeline.gaps == []
