"""The control socket: what it makes of its path, whom it lets in, and what it answers to right and wrong."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import aiohttp.web
import msgspec
import pytest

from backupd.clock import SystemClock
from backupd.control import (
    REQUEST_BYTES_MAX,
    SERVER_HEADER,
    ErrorReply,
    OperationReply,
    OperationsReply,
    Reply,
    StatusReply,
    decode_reply,
)
from backupd.errors import ConfigError
from backupd.items import digest_of
from backupd.operations import OperationStatus
from daemon import control_routes
from daemon.control_socket import ControlAddress, ControlSocket
from daemon.peers import Caller, Owners, Peer, caller_of
from tests.world.service import CONTENT, CORRUPT, ENDLESS, SERVER_ID, UUIDS, World


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


@pytest.fixture
def address() -> Iterator[ControlAddress]:
    with ControlAddress() as made:
        yield made


def answering(address: ControlAddress, path: Path, world: World) -> ControlSocket:
    """Return what answers at a path."""
    return ControlSocket(address, path, world, clock=SystemClock())


class Asking:
    """An HTTP client on the control socket."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def ask(self, method: str, place: str, **more: Any) -> tuple[int, Reply]:
        async with self.session.request(method, f"http://backupd{place}", **more) as answer:
            assert answer.content_type == "application/json"
            return answer.status, decode_reply(await answer.read())

    async def command(self, words: str, **parameters: Any) -> tuple[int, Reply]:
        return await self.ask("POST", f"/v1/commands/{words}", json={"parameters": parameters})


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def asking(address: ControlAddress, path: Path, world: World) -> AsyncIterator[Asking]:
    async with (
        answering(address, path, world),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
    ):
        yield Asking(session)


# --- the path --------------------------------------------------------------------------------------------


async def test_the_socket_has_its_mode_and_goes_with_the_daemon(
    address: ControlAddress, path: Path, world: World
):
    """While it listens it is a socket of mode 0660; afterwards nothing is left."""
    async with answering(address, path, world):
        mode = path.lstat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660
    address.close()
    assert not path.exists()


async def test_who_asks_between_two_lifetimes_is_answered_by_the_next(
    address: ControlAddress, path: Path, world: World
):
    """The file stays the same, and a question that came while nobody answered gets its answer."""
    async with answering(address, path, world):
        before = path.lstat().st_ino
    async with (
        asyncio.TaskGroup() as tasks,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
    ):
        asked = tasks.create_task(Asking(session).ask("GET", "/v1/status"))
        await asyncio.sleep(0.05)
        assert not asked.done()
        async with answering(address, path, world):
            status, reply = await asyncio.wait_for(asked, 10)
    assert status == 200
    assert isinstance(reply, StatusReply)
    assert path.lstat().st_ino == before


async def test_another_path_replaces_the_former(address: ControlAddress, path: Path, world: World):
    """A path that can't be used leaves the former file; one that can takes its place."""
    async with answering(address, path, world):
        pass
    with pytest.raises(ConfigError):
        await answering(address, path.parent / ("x" * 120), world).__aenter__()
    assert path.is_socket()
    path.unlink()
    async with answering(address, path, world):
        assert path.is_socket()
    async with answering(address, path.with_name("other"), world):
        assert not path.exists()
        assert path.with_name("other").is_socket()


async def test_a_stale_socket_is_replaced(address: ControlAddress, path: Path, world: World):
    """A socket on which nobody listens any more, as a killed daemon leaves it, is no obstacle."""
    path.parent.mkdir()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with answering(address, path, world):
        assert path.is_socket()


async def test_a_living_daemons_socket_is_left_alone(address: ControlAddress, path: Path, world: World):
    """A second daemon is refused, and the first one's socket stays where it is."""
    async with answering(address, path, world):
        before = path.lstat().st_ino
        with pytest.raises(ConfigError, match="somebody answers"):
            await answering(ControlAddress(), path, world).__aenter__()
        assert path.lstat().st_ino == before


async def test_what_is_no_socket_is_never_removed(address: ControlAddress, path: Path, world: World):
    """A file in the socket's place is refused and keeps its content."""
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is no socket"):
        await answering(address, path, world).__aenter__()
    assert path.read_text() == "precious"


async def test_a_socket_that_took_its_place_is_not_removed(address: ControlAddress, path: Path, world: World):
    """Only the daemon's own socket is removed at the end."""
    async with answering(address, path, world):
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))
    address.close()
    assert path.is_socket()
    other.close()


async def test_a_path_too_long_for_a_socket_is_named(address: ControlAddress, tmp_path: Path, world: World):
    """The kernel's limit of 107 bytes is told before the kernel's own message would confuse."""
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        await answering(address, tmp_path / ("x" * 120), world).__aenter__()


# --- the callers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "gid", "groups", "may_read", "may_change"),
    [
        (0, 0, (), True, True),
        (990, 1, (), True, True),
        (1000, 991, (), True, False),
        (1000, 100, (100, 991), True, False),
        (1000, 100, (100, 990), False, False),
    ],
)
def test_who_may_what(uid: int, gid: int, groups: tuple[int, ...], may_read: bool, may_change: bool):
    """Root and the service's user may change, members of the group read, others nothing."""
    caller = caller_of(Peer(pid=1, uid=uid, gid=gid, groups=frozenset(groups)), Owners(uid=990, gid=991))
    assert (caller.may_read, caller.may_change) == (may_read, may_change)


async def test_the_kernel_tells_who_asks(asking: Asking, world: World):
    """The caller that the service sees is this process."""
    await asking.command("backup/getBackupInfo")
    caller: Caller = world.asked[0][1]
    assert (caller.pid, caller.uid, caller.may_change) == (os.getpid(), os.geteuid(), True)


@pytest.mark.parametrize(
    ("owners", "place", "expected"),
    [
        (Owners(uid=990, gid=os.getegid()), "backup/getBackupInfo", 200),
        (Owners(uid=990, gid=os.getegid()), "backup/doSmartScan", 403),
        (Owners(uid=990, gid=991), "backup/getBackupInfo", 403),
    ],
)
async def test_rights_are_asked_before_anything_is_done(
    path: Path, world: World, monkeypatch: pytest.MonkeyPatch, owners: Owners, place: str, expected: int
):
    """A member of the group may ask but not change, a stranger gets nothing but one clear line."""
    peer = Peer(pid=1, uid=1000, gid=os.getegid())
    monkeypatch.setattr(control_routes, "peer_of", lambda _: peer)
    app = control_routes.application(world, owners)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    path.parent.mkdir()
    await aiohttp.web.UnixSite(runner, str(path)).start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        status, reply = await Asking(session).command(place, **{"action": "start"} if "Scan" in place else {})
    await runner.cleanup()
    assert status == expected
    assert bool(world.asked) == (expected == 200)
    if expected == 403:
        assert isinstance(reply, ErrorReply)
        assert reply.exit_status == 77
        assert reply.hint


# --- the answers -----------------------------------------------------------------------------------------


async def test_status_and_operations_are_answered(asking: Asking):
    """The plain routes give the structs that the service gave."""
    status, reply = await asking.ask("GET", "/v1/status")
    assert status == 200
    assert isinstance(reply, StatusReply)
    assert reply.server_id == SERVER_ID
    _, listed = await asking.ask("GET", "/v1/operations")
    assert isinstance(listed, OperationsReply)
    assert len(listed.operations) == 2
    _, one = await asking.ask("GET", f"/v1/operations/{ENDLESS}")
    assert isinstance(one, OperationReply)


async def test_a_command_reaches_the_service_checked_and_complete(asking: Asking, world: World):
    """Names and values in any spelling arrive in the table's, with defaults; an operation answers 202."""
    status, reply = await asking.command("backup/dosmartscan", Action="START", DEEP="yes")
    assert status == 202
    assert isinstance(reply, OperationReply)
    request = world.asked[0][0]
    assert (request.module, request.command) == ("backup", "doSmartScan")
    assert request.parameters["deep"] is True
    assert request.parameters["force"] is False
    assert request.parameters["notifications"] is None


async def test_a_name_of_several_words_is_a_path(asking: Asking, world: World):
    """`config get server` is /config/get/server."""
    status, _ = await asking.command("config/get/server", server="x", attribute="ZxBackup_DestPath")
    assert status == 200
    assert world.asked[0][0].command == "get server"


async def test_operations_that_ended_are_listed_only_when_verbose(asking: Asking):
    """The list has what runs and waits; `verbose` adds what ended."""
    _, brief = await asking.command("backup/getAllOperations")
    _, verbose = await asking.command("core/getAllOperations", verbose=True)
    assert isinstance(brief, OperationsReply)
    assert isinstance(verbose, OperationsReply)
    assert [view.uuid for view in brief.operations] == [ENDLESS]
    assert len(verbose.operations) == 2


@pytest.mark.parametrize(
    ("method", "place", "body", "expected", "exit_status", "words"),
    [
        ("GET", "/", b"", 404, 64, "nothing is at /"),
        ("PUT", "/v1/status", b"", 405, 64, "PUT is not for"),
        ("GET", f"/v1/operations/{SERVER_ID}", b"", 404, 66, "no operation"),
        ("GET", f"/v1/operations/{SERVER_ID}/events", b"", 404, 66, "no operation"),
        ("GET", "/v1/blobs/..%2f..%2fetc%2fpasswd", b"", 400, 64, "is no digest"),
        ("GET", "/v1/blobs/" + quote(digest_of(b"?"), safe=""), b"", 404, 66, "no blob"),
        ("POST", "/v1/commands/backup/getItm", b"", 400, 64, "no command"),
        ("POST", "/v1/commands/backup/doFixShares", b"", 503, 69, "not available yet"),
        ("POST", "/v1/commands/backup/getItem/now", b"", 400, 64, "in the request's body"),
        ("POST", "/v1/commands/backup/getItem", b"{}", 400, 64, "needs ACCOUNT"),
        ("POST", "/v1/commands/backup/getItem", b"{", 400, 64, "is no command"),
        ("POST", "/v1/commands/backup/getItem", b"[" * 5000, 400, 64, "is no command"),
        ("POST", "/v1/commands/backup/getItem", b"\xff", 400, 64, "is no command"),
        ("POST", "/v1/commands/backup/getItem", b'{"parameters":{"x":1}}', 400, 64, "no parameter 'x'"),
        ("POST", "/v1/commands/backup/getItem", b" " * (REQUEST_BYTES_MAX + 1), 413, 64, "at most"),
        ("POST", "/v1/commands/backup/doStopAllOperations", b"", 500, 70, "met a bug"),
        ("POST", "/v1/commands/backup/getMap", b"", 500, 74, "/gone"),
    ],
)
async def test_what_is_wrong_is_answered_as_an_error(
    asking: Asking, method: str, place: str, body: bytes, expected: int, exit_status: int, words: str
):
    """Each mistake, and each bug of the daemon, is an `ErrorReply`; the daemon goes on answering."""
    status, reply = await asking.ask(method, place, data=body)
    assert status == expected
    assert isinstance(reply, ErrorReply)
    assert reply.exit_status == exit_status
    assert words in reply.message
    assert (await asking.ask("GET", "/v1/status"))[0] == 200


@pytest.mark.parametrize(("name", "expected"), [("MAIL.example.com", 200), (SERVER_ID, 200), ("other", 400)])
async def test_another_servers_name_is_refused(asking: Asking, name: str, expected: int):
    """`--host` names the server meant; only its own name and id are answered."""
    status, _ = await asking.ask("GET", "/v1/status", headers={SERVER_HEADER: name})
    assert status == expected


async def test_an_operation_is_streamed_until_it_ended(asking: Asking):
    """Server-sent events: progress, then `ended`, then the end of the stream."""
    uuid = UUIDS[OperationStatus.FAILED]
    async with asking.session.get(f"http://backupd/v1/operations/{uuid}/events") as answer:
        assert answer.content_type == "text/event-stream"
        events = [part.split(b"\n") for part in (await answer.read()).strip().split(b"\n\n")]
    assert [lines[0] for lines in events[:-1]] == [b"event: progress"] * (len(events) - 1)
    assert events[-1][0] == b"event: ended"
    last = msgspec.json.decode(events[-1][1].removeprefix(b"data: "), type=OperationReply)
    assert last.operation.status is OperationStatus.FAILED


async def test_a_stream_without_news_says_that_it_lives(asking: Asking, monkeypatch: pytest.MonkeyPatch):
    """A comment is sent now and then, so that either side notices when the other is gone."""
    monkeypatch.setattr(control_routes, "KEEP_ALIVE_SECONDS", 0.05)
    async with (
        asyncio.timeout(30),
        asking.session.get(f"http://backupd/v1/operations/{ENDLESS}/events") as answer,
    ):
        while not (await answer.content.readline()).startswith(b":"):
            pass


async def test_leaving_ends_open_streams(address: ControlAddress, path: Path, world: World):
    """A reader of an endless operation does not keep the daemon from stopping."""
    async with asyncio.timeout(30):
        async with answering(address, path, world):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"GET /v1/operations/%s/events HTTP/1.1\r\nHost: x\r\n\r\n" % ENDLESS.encode())
            await reader.readuntil(b"event: progress")
        await reader.read()
        writer.close()


async def test_a_content_is_streamed_as_it_is(asking: Asking):
    """The bytes of a blob arrive unchanged."""
    async with asking.session.get(f"http://backupd/v1/blobs/{quote(digest_of(CONTENT), safe='')}") as answer:
        assert await answer.read() == CONTENT


async def test_a_corrupt_content_never_looks_complete(asking: Asking):
    """Where the last piece turns out wrong, the connection breaks instead of ending well."""
    async with asking.session.get(f"http://backupd/v1/blobs/{quote(CORRUPT, safe='')}") as answer:
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


async def test_metrics_are_text(asking: Asking):
    """Prometheus gets its text format."""
    async with asking.session.get("http://backupd/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert "backupd_up 1" in await answer.text()
