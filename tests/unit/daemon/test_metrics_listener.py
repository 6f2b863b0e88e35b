"""The metrics' TCP address: what it answers, what it refuses, and that trouble with it ends nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from backupd.errors import SpaceExhausted
from daemon.metrics_listener import FRESH_SECONDS, RETRY_SECONDS, MetricsListener, parsed
from tests.unit.daemon.making import AnsweringWorld
from tests.world.clocks import FakeClock

TEXT = "# TYPE backupd_up gauge\nbackupd_up 1\n"


class Gathering:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.times += 1
        if self.error is not None:
            raise self.error
        return TEXT


async def eventually_true(probe: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not probe():  # noqa: ASYNC110 - a real socket is at work
            await asyncio.sleep(0.005)


@pytest.fixture
def gathering() -> Gathering:
    return Gathering()


@asynccontextmanager
async def listening(
    listen: str, gathering: Gathering, clock: FakeClock
) -> AsyncIterator[tuple[MetricsListener, str]]:
    listener = MetricsListener(listen, clock=clock)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(listener.run(gathering))
        await eventually_true(lambda: listener.port or listener.trouble)
        host = "[::1]" if "::1" in listen else "127.0.0.1"
        yield listener, f"http://{host}:{listener.port}"
        running.cancel()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "[::1]:0", "::1:0"])
async def test_it_answers_metrics_and_nothing_else(listen, gathering, clock) -> None:
    """GET /metrics is answered in Prometheus' format, / tells where it is, all else is refused; IPv6 too."""
    async with listening(listen, gathering, clock) as (_, url), aiohttp.ClientSession() as session:
        async with session.get(f"{url}/metrics") as answer:
            assert (answer.status, await answer.text()) == (200, TEXT)
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        async with session.get(url) as answer:
            assert "/metrics" in await answer.text()
        for method, place, status in (
            ("GET", "/v1/status", 404),
            ("POST", "/metrics", 405),
            ("POST", "/v1/commands/backup/doSmartScan", 404),
        ):
            async with session.request(method, url + place) as answer:
                assert answer.status == status


async def test_many_readers_cost_one_gathering(gathering, clock) -> None:
    """Within a second everybody gets the same text; after it a new one."""
    async with listening("127.0.0.1:0", gathering, clock) as (_, url), aiohttp.ClientSession() as session:

        async def ask() -> None:
            async with session.get(f"{url}/metrics") as answer:
                assert answer.status == 200

        await asyncio.gather(*(ask() for _ in range(10)))
        assert gathering.times == 1
        clock.tick(FRESH_SECONDS)
        await ask()
        assert gathering.times == 2


async def test_what_cannot_be_gathered_is_told(gathering, clock) -> None:
    """A store that can't be read is answered with 503 and its reason; the next request is tried anew."""
    gathering.error = SpaceExhausted("no space to write /b", hint="make room")
    async with listening("127.0.0.1:0", gathering, clock) as (_, url), aiohttp.ClientSession() as session:
        async with session.get(f"{url}/metrics") as answer:
            assert answer.status == 503
            assert "no space" in await answer.text()
        gathering.error = None
        async with session.get(f"{url}/metrics") as answer:
            assert answer.status == 200


async def test_a_port_in_use_is_trouble_until_it_is_free(gathering, clock) -> None:
    """The daemon goes on, says what is wrong, and serves once the port is free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listener = MetricsListener(f"127.0.0.1:{port}", clock=clock)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(listener.run(gathering))
            await eventually_true(lambda: listener.trouble)
            assert str(port) in listener.trouble
            taken.close()
            await clock.wait_until_asleep()
            await clock.advance(RETRY_SECONDS)
            await eventually_true(lambda: listener.port == port)
            assert listener.trouble == ""
            running.cancel()
    assert listener.port == 0


@pytest.mark.parametrize("listen", ["127.0.0.1:99999", "[::1:1", "no.such.host.invalid:9469", "[::1]x:5"])
async def test_a_bad_address_is_trouble(listen, gathering, clock) -> None:
    """What can't be listened on is told with its reason, and ends nothing."""
    async with listening(listen, gathering, clock) as (listener, _):
        assert listener.trouble.startswith(listen)
        assert listener.port == 0


async def test_without_an_address_nothing_listens(gathering, clock) -> None:
    """No address, no listener: `run` is over at once."""
    async with asyncio.timeout(30):
        await MetricsListener(None, clock=clock).run(gathering)


def test_addresses_are_taken_apart() -> None:
    """The last colon ends the host; brackets around an IPv6 address are dropped."""
    assert parsed("127.0.0.1:9469") == ("127.0.0.1", 9469)
    assert parsed("[::1]:9469") == ("::1", 9469)
    assert parsed("metrics.example.com:1") == ("metrics.example.com", 1)


async def test_trouble_is_a_problem_of_the_status(tmp_path) -> None:
    """Whoever asks for the status hears that nobody can scrape."""
    async with AnsweringWorld(tmp_path) as world:
        world.standing._metrics_trouble = lambda: "127.0.0.1:9469: address already in use"
        problems = (await world.standing.status()).problems
        assert any("address already in use" in one.message for one in problems)
