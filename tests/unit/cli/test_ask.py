"""Asking and following: each way in which the other side of the socket can fail."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.cli import ask, follow
from backupd.cli.ask import BrokenContent, Daemon, NotPermitted, socket_path
from backupd.cli.follow import views_until_end
from backupd.commands import COMMANDS
from backupd.errors import DaemonUnreachable
from backupd.operations import OperationStatus
from backupd.replies import BlobReply
from backupd.views import OperationView
from tests.world.service import operation

STATUS = COMMANDS[0]
NOBODY = 65534


def answering(path: Path, answer: bytes) -> socket.socket:
    """Listen on a path and answer the first caller with these bytes, then close."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        connection, _ = listening.accept()
        connection.recv(65536)
        connection.sendall(answer)
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return listening


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 mail.example.com ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"reply":"unknown"}',
    ],
)
def test_whatever_answers_that_is_no_backupd_is_told(tmp_path: Path, answer: bytes):
    """Another server, another version or a daemon that dies while answering is one clear error, exit 69."""
    with answering(tmp_path / "s", answer), pytest.raises(DaemonUnreachable):
        Daemon(str(tmp_path / "s")).command(STATUS, {})


@pytest.mark.parametrize("size", [4, 6])
def test_a_content_of_another_size_is_broken(tmp_path: Path, size: int):
    """A content that is not as long as was said is never taken for complete."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    with answering(tmp_path / "s", answer), pytest.raises(BrokenContent, match=f"5 of {size} bytes"):
        list(Daemon(str(tmp_path / "s")).blob(BlobReply(digest="d", size=size)))


@pytest.mark.parametrize("bound", ["ANSWER_SECONDS", "STATUS_SECONDS"])
def test_a_silent_daemon_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str):
    """A daemon that accepts and says nothing does not hang the console for ever; its status sooner."""
    monkeypatch.setattr(ask, bound, 0.1)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with pytest.raises(DaemonUnreachable, match="gave no answer"):
            Daemon(str(tmp_path / "s")).command(STATUS, {})


def test_nobody_listening_and_no_socket_are_the_same(tmp_path: Path):
    """A stale socket, none at all and a path that can't be one mean that no daemon answers."""
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    for path in (stale, tmp_path / "none", tmp_path / ("x" * 200)):
        with pytest.raises(DaemonUnreachable, match="no daemon answers"):
            Daemon(str(path)).command(STATUS, {})


def test_a_socket_that_is_not_for_this_user_is_told(tmp_path: Path):
    """Who may not connect is told what would help, exit 77."""
    with answering(tmp_path / "s", b""):
        tmp_path.chmod(0o000)
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
        try:
            with pytest.raises(NotPermitted) as refused:
                Daemon(str(tmp_path / "s")).command(STATUS, {})
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
            tmp_path.chmod(0o700)
    assert refused.value.exit_status == 77


def test_the_socket_is_found_where_it_was_named(tmp_path: Path):
    """The option wins, then BACKUPD_SOCKET, then the user's own daemon if there is one, then the service."""
    own = tmp_path / "backupd" / "control.sock"
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert socket_path("/a", {"BACKUPD_SOCKET": "/b", **environ}) == "/a"
    assert socket_path(None, {"BACKUPD_SOCKET": "/b", **environ}) == "/b"
    assert socket_path(None, environ) == "/run/backupd/control.sock"
    own.parent.mkdir()
    own.touch()
    assert socket_path(None, environ) == str(own)


class Flaky(Daemon):
    """A daemon whose streams break: each entry is what one connection gives before it ends."""

    def __init__(self, streams: list[list[OperationView] | None]) -> None:
        super().__init__("/nowhere")
        self.streams = streams

    def events(self, uuid: str) -> Iterator[OperationView]:
        stream = self.streams.pop(0) if self.streams else None
        if stream is None:
            raise DaemonUnreachable("gone")
        yield from stream


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "RECONNECT_SECONDS", 0.0)


RUNNING = operation("u", OperationStatus.RUNNING, 4)
INTERRUPTED = operation("u", OperationStatus.INTERRUPTED, 4)


def test_a_stream_that_breaks_is_taken_up_again():
    """The daemon restarts while it is followed: the end is still seen, as what it is."""
    views = list(views_until_end(Flaky([[RUNNING], None, [], None, [RUNNING, INTERRUPTED]]), RUNNING))
    assert views == [RUNNING, RUNNING, INTERRUPTED]


def test_an_operation_that_ended_needs_no_daemon():
    """What has ended already is not asked about again."""
    assert list(views_until_end(Flaky([]), INTERRUPTED)) == [INTERRUPTED]


@pytest.mark.parametrize("streams", [[], [[]] * 1000])
def test_a_daemon_that_stays_away_is_given_up(streams: list[list[OperationView] | None]):
    """Reconnecting has a bound, whether connections fail or streams stay empty."""
    with pytest.raises(DaemonUnreachable):
        list(views_until_end(Flaky(list(streams)), RUNNING))
