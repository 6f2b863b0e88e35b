"""The Realtime Scanner over a broker in this process: on, off, in trouble, and which gaps that tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from backupd.appservers.base import Account, Watched
from backupd.appservers.memory import MemoryServer
from backupd.clock import SystemClock
from backupd.errors import AppServerUnavailable
from backupd.items import Kind
from daemon import realtime
from daemon.broker_address import BrokerAddress
from daemon.quarantine import Quarantine
from daemon.realtime import RealtimeScanner

BODY = b"Subject: live\r\n\r\n"
NOBODY = BrokerAddress.parse("mqtt://127.0.0.1:9")
"""Where no broker listens."""


class Gathered:
    """What a scanner tells, and the server whose changes it gathers."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.server = MemoryServer(SystemClock())
        self.payloads: list[bytes] = []
        self.gaps: list[tuple[str, str]] = []
        self.sessions = 0
        self.asked_in_loop = False

    def scanner(
        self, address: BrokerAddress | None, *, enabled: bool = True, watch: Callable[[], Any] | None = None
    ) -> RealtimeScanner:
        loop = asyncio.get_running_loop()

        def session_expected() -> bool:
            with suppress(RuntimeError):
                self.asked_in_loop |= asyncio.get_running_loop() is loop
            return self.sessions > 0

        async def on_gap(reason: str, _detail: str) -> None:
            self.gaps.append(("", reason))

        async def on_missed(account: str, reason: str) -> None:
            self.gaps.append((account, reason))

        async def on_session() -> None:
            self.sessions += 1

        async def journal(payloads: Sequence[bytes]) -> None:
            self.payloads += payloads

        return RealtimeScanner(
            server_id="s",
            clock=SystemClock(),
            address=address,
            watch=watch or self.server.watch,
            journal=journal,
            quarantine=Quarantine(self.place / "quarantine.jsonl"),
            on_gap=on_gap,
            on_missed=on_missed,
            on_session=on_session,
            session_expected=session_expected,
            event_bytes_max=1 << 20,
            enabled=enabled,
        )


@pytest.fixture
async def gathered(tmp_path: Path) -> Gathered:
    made = Gathered(tmp_path)
    await made.server.create_account(Account(id="alice", name="alice@example.com", metadata={}))
    return made


@asynccontextmanager
async def running(scanner: RealtimeScanner) -> AsyncIterator[RealtimeScanner]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(scanner.run())
        yield scanner
        task.cancel()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - a real broker is at work
            await asyncio.sleep(0.005)


async def test_a_change_is_journaled_once_it_gathers(gathered: Gathered) -> None:
    """Once gathering is told, what a user does reaches the journal; the loop is not blocked."""
    async with running(gathered.scanner(None)) as scanner:
        assert await scanner.wait_until_gathering()
        await gathered.server.add("alice", Kind.MESSAGE, "INBOX", BODY)
        await until(lambda: gathered.payloads)
        assert scanner.is_embedded
        assert scanner.trouble == ""
    assert b'"item-' in gathered.payloads[0]
    assert not gathered.asked_in_loop
    assert gathered.gaps == []


async def test_off_nothing_is_gathered_and_on_again_the_embedded_broker_tells_its_lost_session(
    gathered: Gathered,
) -> None:
    """Turned off, the scanner lets go of the broker; turned on, it says that it may have missed something."""
    async with running(gathered.scanner(None)) as scanner:
        assert await scanner.wait_until_gathering()
        scanner.enable(enabled=False)
        await until(lambda: scanner.subscription is None)
        await gathered.server.add("alice", Kind.MESSAGE, "INBOX", BODY)
        await asyncio.sleep(0.05)
        assert gathered.payloads == []
        scanner.enable(enabled=True)
        assert await scanner.wait_until_gathering()
        await gathered.server.add("alice", Kind.MESSAGE, "INBOX", BODY)
        await until(lambda: gathered.payloads)
    assert ("", "embedded_restart") in gathered.gaps


async def test_a_scanner_that_begins_off_waits_to_be_turned_on(
    gathered: Gathered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever for a scanner that does not gather."""
    monkeypatch.setattr(realtime, "GATHER_SECONDS_MAX", 0.05)
    async with running(gathered.scanner(None, enabled=False)) as scanner:
        assert not await scanner.wait_until_gathering()
        assert not scanner.enabled
        scanner.enable(enabled=True)
        monkeypatch.setattr(realtime, "GATHER_SECONDS_MAX", 5.0)
        assert await scanner.wait_until_gathering()


async def test_over_a_broker_of_its_own_each_beginning_of_the_watch_is_a_gap(gathered: Gathered) -> None:
    """What the AppServer did while nobody watched is told as missed, also while the broker is down."""
    for times in (1, 2):
        async with running(gathered.scanner(NOBODY)):
            await until(lambda: gathered.gaps == [("", "watch_began")] * times)  # noqa: B023 - awaited here


async def test_a_gap_that_can_not_be_stored_is_told_again(gathered: Gathered) -> None:
    """The watch goes on only once its gap is durable."""
    scanner = gathered.scanner(NOBODY)
    failures = [OSError(28, "No space left on device")]
    on_missed = scanner._on_missed

    async def failing(account: str, reason: str) -> None:
        if failures:
            raise failures.pop()
        await on_missed(account, reason)

    scanner._on_missed = failing
    async with running(scanner):
        await until(lambda: scanner.publisher is not None)
        assert scanner.publisher is not None
        assert not scanner.publisher.status.watching
        await until(lambda: scanner.publisher is not None and scanner.publisher.status.watching)
    assert gathered.gaps == [("", "watch_began")]


async def test_a_part_that_fails_is_shown_and_begun_again(
    gathered: Gathered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operating error stands in `trouble` until the parts begin anew; meanwhile nothing looks alive."""
    made = realtime.EmbeddedBroker
    failures = [OSError(98, "Address already in use"), AppServerUnavailable("still not")]

    class Failing(made):  # type: ignore[misc,valid-type]
        async def __aenter__(self) -> Any:
            if failures:
                raise failures.pop(0)
            return await super().__aenter__()

    monkeypatch.setattr(realtime, "EmbeddedBroker", Failing)
    monkeypatch.setattr(realtime, "RETRY_SECONDS_MAX", 0.05)
    async with running(gathered.scanner(None)) as scanner:
        await until(lambda: scanner.trouble)
        assert "Address already in use" in scanner.trouble
        assert scanner.subscription is None
        await until(lambda: scanner.trouble == "" and scanner.subscription is not None)
        assert await scanner.wait_until_gathering()


async def test_a_bug_is_not_retried(gathered: Gathered) -> None:
    """What is no operating error ends the daemon, loudly."""

    async def buggy() -> AsyncIterator[Watched]:
        yield Watched()
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True, allow_unwrapped=True):
        await asyncio.wait_for(gathered.scanner(None, watch=buggy).run(), 30)
