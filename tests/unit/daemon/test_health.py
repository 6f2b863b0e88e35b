"""Health: what reaches a service manager's socket, and when the watchdog goes hungry."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.health import STATUS_CHARACTERS_MAX, Notifier, Pulse, feed_watchdog
from tests.world.clocks import FakeClock


class Systemd:
    """A socket as the service manager offers it, and what was said to it."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(0)
        self.address = address

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@backupd-test-{os.getpid()}"
    systemd = Systemd(address)
    yield systemd
    systemd.socket.close()


def test_what_systemd_hears(systemd: Systemd) -> None:
    """Each message is one datagram in the words of sd_notify, at a path or an abstract address."""
    notifier = Notifier(systemd.address)
    notifier.status("rebuilding\nthe   index")
    notifier.extend_timeout(90)
    notifier.ready("following 3 accounts")
    notifier.feed_watchdog()
    notifier.stopping()
    assert systemd.heard() == [
        "STATUS=rebuilding the index",
        "EXTEND_TIMEOUT_USEC=90000000",
        "READY=1\nSTATUS=following 3 accounts",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=stopping",
    ]
    notifier.reloading()
    (message,) = systemd.heard()
    assert message.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert notifier.is_heard


def test_a_status_is_one_short_line(systemd: Systemd) -> None:
    """A long status is cut, an empty one is not sent."""
    notifier = Notifier(systemd.address)
    notifier.status("x" * 5000)
    notifier.status("")
    assert [len(message) for message in systemd.heard()] == [STATUS_CHARACTERS_MAX + len("STATUS=")]


def test_the_environment_is_read_once_and_emptied() -> None:
    """Worker processes must not speak for the daemon: the variables are gone once read."""
    environ = {
        "NOTIFY_SOCKET": "/run/n",
        "WATCHDOG_USEC": "60000000",
        "WATCHDOG_PID": str(os.getpid()),
        "A": "b",
    }
    notifier = Notifier.from_environment(environ)
    assert (notifier.is_heard, notifier.watchdog_seconds, environ) == (True, 60.0, {"A": "b"})


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "60000000"},
        {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"},
    ],
)
def test_no_watchdog_where_none_is_meant(environ: dict[str, str]) -> None:
    """Without a socket, for another process or with nonsense in the variable there is no watchdog."""
    assert Notifier.from_environment(environ).watchdog_seconds == 0


def test_nobody_listening_disturbs_nobody(tmp_path: Path) -> None:
    """Without an address nothing is sent; an address where nobody listens raises nothing."""
    Notifier().ready()
    Notifier(str(tmp_path / "nobody")).ready()


async def test_the_watchdog_is_fed_three_times_per_interval(tmp_path: Path) -> None:
    """Within two intervals of 60 s the watchdog is fed at 0, 20, …, 120 s."""
    systemd, clock = Systemd(str(tmp_path / "notify")), FakeClock()
    notifier = Notifier(systemd.address, watchdog_seconds=60)
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(feed_watchdog(notifier, clock, lambda: ""))
        await clock.advance(120)
        feeding.cancel()
    assert systemd.heard() == ["WATCHDOG=1"] * 7
    systemd.socket.close()


async def test_the_watchdog_starves_while_something_hangs(tmp_path: Path) -> None:
    """A part that gives no sign of life stops the feeding; when it beats again, feeding goes on."""
    systemd, clock = Systemd(str(tmp_path / "notify")), FakeClock()
    notifier = Notifier(systemd.address, watchdog_seconds=3)
    recorder = Pulse("the recorder", clock, silent_seconds_max=30)
    recorder.beat()
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(feed_watchdog(notifier, clock, recorder.unwell))
        fed = 0
        for _ in range(6):
            await clock.advance(5.05)
            fed += len(systemd.heard())
        assert fed == 31
        await clock.advance(60)
        assert systemd.heard() == []
        recorder.beat()
        await clock.advance(5)
        assert len(systemd.heard()) == 5
        feeding.cancel()
    systemd.socket.close()


async def test_without_a_watchdog_nothing_is_awaited() -> None:
    """Where there is no watchdog the feeder is done at once."""
    await feed_watchdog(Notifier(), FakeClock(), lambda: "")


def test_a_pulse_is_expected_only_while_there_is_work() -> None:
    """Before the first beat and while resting nothing is wrong; after too long a silence it is named."""
    clock = FakeClock()
    pulse = Pulse("the recorder", clock, silent_seconds_max=30)
    clock.tick(1000)
    assert pulse.unwell() == ""
    pulse.beat()
    clock.tick(30)
    assert pulse.unwell() == ""
    clock.tick(1)
    assert pulse.unwell() == "the recorder gave no sign of life for 31 s"
    pulse.rest()
    assert pulse.unwell() == ""
