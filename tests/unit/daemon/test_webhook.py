"""Webhook and ping: what is posted, what an answer means, and that no URL or token is shown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from backupd.operations import Operation, OperationStatus
from daemon.delivery import Notification, Undelivered
from daemon.messages import Level
from daemon.webhook import PING_RETRY_SECONDS, Ping, Webhook, request, suffix_of, with_suffix
from tests.world.clocks import START, FakeClock
from tests.world.receivers import WebServer

SECRET_PATH = "/hooks/T0P/s3cret"
TOLD = Notification(
    id="0192f3c4",
    time=START,
    level=Level.ERROR,
    subject="scan failed",
    text="text",
    operation="u-1",
    facts={"what": "operation", "counts": {"stored": 7}},
)
SCAN = Operation(uuid="u", order=1, type="doSmartScan", submitted=START, status=OperationStatus.SUCCESSFUL)


def webhook(server: WebServer, token: Path | None = None, *, seconds: float = 5.0) -> Webhook:
    return Webhook(server.url + SECRET_PATH, token, server_id="id", server_name="mail", seconds=seconds)


async def test_a_notification_is_posted_as_json(tmp_path: Path) -> None:
    """The body is the documented object, and the token stands in the Authorization header."""
    token = tmp_path / "token"
    token.write_text("tok-123\n")
    with WebServer() as server:
        await webhook(server, token).send(TOLD, ())
    (got,) = server.requests
    assert (got.method, got.path) == ("POST", SECRET_PATH)
    assert got.headers["Authorization"] == "Bearer tok-123"
    assert got.headers["Content-Type"] == "application/json"
    assert got.json == {
        "version": 1,
        "id": "0192f3c4",
        "time": "2026-11-23T20:55:00Z",
        "level": "error",
        "subject": "scan failed",
        "text": "text",
        "server": {"id": "id", "name": "mail"},
        "operation": "u-1",
        "facts": {"what": "operation", "counts": {"stored": 7}},
    }


@pytest.mark.parametrize(
    ("status", "permanent"),
    [(500, False), (503, False), (401, False), (404, False), (400, True), (413, True), (422, True)],
)
async def test_other_answers_are_failures(status: int, permanent: bool) -> None:
    """What will never be taken fails for good; anything else is worth another attempt."""
    with WebServer() as server:
        server.status = status
        with pytest.raises(Undelivered, match=str(status)) as caught:
            await webhook(server).send(TOLD, ())
    assert caught.value.permanent is permanent
    assert "s3cret" not in str(caught.value)


async def test_redirects_are_not_followed(tmp_path: Path) -> None:
    """A redirect is a failure: the token is not carried to another place."""
    token = tmp_path / "token"
    token.write_text("tok-123\n")
    with WebServer() as server, WebServer() as other:
        server.status, server.location = 302, f"{other.url}/elsewhere"
        with pytest.raises(Undelivered, match="redirect"):
            await webhook(server, token).send(TOLD, ())
        assert (len(server.requests), other.requests) == (1, [])


async def test_what_goes_wrong_is_told_without_the_url(tmp_path: Path) -> None:
    """A server that hangs, one that is not there, and a URL that is none: bounded, and no secret shown."""
    with WebServer() as server:
        server.hang(on=True)
        with pytest.raises(Undelivered, match="no answer within") as hung:
            await webhook(server, seconds=0.2).send(TOLD, ())
    with pytest.raises(Undelivered, match="no connection") as down:
        await webhook(server).send(TOLD, ())
    with pytest.raises(Undelivered) as odd:
        await request("GET", f"http://[::broken{SECRET_PATH}", seconds=1)
    with pytest.raises(Undelivered, match="token"):
        await webhook(server, tmp_path / "absent").send(TOLD, ())
    for caught in (hung, down, odd):
        assert "s3cret" not in str(caught.value)


def test_which_operations_ping() -> None:
    """A SmartScan that succeeded pings, one that failed pings /fail, anything else does not."""
    outcomes = {status: suffix_of(msgspec.structs.replace(SCAN, status=status)) for status in OperationStatus}
    assert outcomes.pop(OperationStatus.SUCCESSFUL) == ""
    assert outcomes.pop(OperationStatus.FAILED) == "/fail"
    assert set(outcomes.values()) == {None}
    assert suffix_of(msgspec.structs.replace(SCAN, type="doAccountScan")) is None


def test_a_suffix_stands_before_a_query() -> None:
    """What is added belongs to the path, whatever follows it."""
    assert with_suffix("https://x.org/u/", "/fail") == "https://x.org/u/fail"
    assert with_suffix("https://x.org/u?create=1", "/fail") == "https://x.org/u/fail?create=1"
    assert with_suffix("https://x.org/u/?a=1", "") == "https://x.org/u/?a=1"


async def until_requests(server: WebServer, count: int) -> None:
    async with asyncio.timeout(30):
        while len(server.requests) < count:  # noqa: ASYNC110 - a thread takes them
            await asyncio.sleep(0.005)


async def test_a_ping_is_tried_again_and_a_newer_one_takes_its_place() -> None:
    """A ping that fails is repeated after its pause; a newer outcome is told instead of it at once."""
    clock = FakeClock()
    with WebServer() as server:
        ping = Ping(f"{server.url}/uuid", clock=clock)
        server.status = 500
        async with asyncio.TaskGroup() as group:
            task = group.create_task(ping.run())
            ping.operation_changed(SCAN)
            await until_requests(server, 1)
            await clock.wait_until_asleep()
            assert "500" in ping.trouble
            await clock.advance(PING_RETRY_SECONDS[0])
            await until_requests(server, 2)
            await clock.wait_until_asleep()
            server.status = 200
            ping.operation_changed(msgspec.structs.replace(SCAN, status=OperationStatus.FAILED))
            await until_requests(server, 3)
            while ping.trouble:  # noqa: ASYNC110 - until the answer is in
                await asyncio.sleep(0.005)
            task.cancel()
    assert [one.path for one in server.requests] == ["/uuid", "/uuid", "/uuid/fail"]


async def test_a_ping_that_never_succeeds_is_given_up() -> None:
    """After its last pause a ping is not repeated; the trouble stays shown. Without a URL nothing happens."""
    with WebServer() as server:
        server.status = 404
        ping = Ping(f"{server.url}/uuid", clock=FakeClock(instant=True))
        ping.operation_changed(SCAN)
        ping._wake.clear()
        await ping._ping()
        assert len(server.requests) == len(PING_RETRY_SECONDS) + 1
        assert "404" in ping.trouble
    silent = Ping(None, clock=FakeClock())
    silent.operation_changed(SCAN)
    await silent._ping()
    assert silent.trouble == ""
