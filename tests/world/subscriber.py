"""A subscriber that tests may kill: the real subscription with a journal of JSON lines.

`python -m tests.world.subscriber PORT PASSWORD_FILE DIRECTORY [STEP]` appends every journal payload as a
line, synced, and prints `subscribed` once it is. With STEP it kills itself with SIGKILL at that durable step.
`Pipeline` is the same within a test's own process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog

from backupd import durable
from backupd.clock import Clock, SystemClock
from daemon.broker_address import BrokerAddress
from daemon.quarantine import Quarantine
from daemon.subscription import Subscription
from tests.world.brokers import USERNAME

SERVER_ID = "s1"


class HastyClock(SystemClock):
    """The machine's clock, whose waits are cut short: back-offs of minutes take a moment."""

    def __init__(self, seconds_max: float = 0.05) -> None:
        self._seconds_max = seconds_max

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, self._seconds_max))


async def until(condition: Callable[[], bool], seconds_max: float = 30.0) -> None:
    """Wait until a condition holds; fail where it does not in time."""
    async with asyncio.timeout(seconds_max):
        while not condition():
            await SystemClock().sleep(0.005)


@asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run coroutines in the background of a block; they are cancelled at its end."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(one) for one in work]
        try:
            yield started
        finally:
            for task in started:
                task.cancel()


class Pipeline:
    """A subscription with a journal of lines, and what it told: gaps, sessions."""

    def __init__(
        self,
        address: BrokerAddress,
        directory: Path,
        *,
        session_expected: bool = False,
        persistent: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self.journal_file = directory / "journal.jsonl"
        self.quarantine_file = directory / "quarantine.jsonl"
        self.gaps: list[tuple[str, str]] = []
        self.sessions = 0
        self.trouble: Exception | None = None
        """Raised by the journal while set."""
        self.appends = 0
        self.subscription = Subscription(
            address=address,
            server_id=SERVER_ID,
            clock=clock or HastyClock(),
            journal=self._journal,
            quarantine=Quarantine(self.quarantine_file),
            on_gap=self._on_gap,
            on_session=self._on_session,
            session_expected=session_expected,
            persistent=persistent,
        )

    @property
    def ids(self) -> list[str]:
        """The ids of the journaled events, in order, repeated where they are."""
        if not self.journal_file.exists():
            return []
        lines = self.journal_file.read_bytes().split(b"\n")[:-1]
        return [msgspec.json.decode(line)["event"].split("#")[1] for line in lines]

    async def _journal(self, payloads: Sequence[bytes]) -> None:
        self.appends += 1
        if self.trouble is not None:
            raise self.trouble
        await asyncio.to_thread(self._append, payloads)

    def _append(self, payloads: Sequence[bytes]) -> None:
        descriptor = os.open(self.journal_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            durable.write_all(descriptor, b"".join(payload + b"\n" for payload in payloads))
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    async def _on_gap(self, reason: str, detail: str) -> None:
        self.gaps.append((reason, detail))

    async def _on_session(self) -> None:
        self.sessions += 1


async def main() -> None:
    port, password_file, directory = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if len(sys.argv) > 4:

        def kill(step: str) -> None:
            if step == sys.argv[4]:
                os.kill(os.getpid(), signal.SIGKILL)

        durable.observe_steps(kill)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    address = BrokerAddress.parse(f"mqtt://127.0.0.1:{port}", username=USERNAME, password_file=password_file)
    pipeline = Pipeline(address, directory, session_expected=True)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pipeline.subscription.run())
        await pipeline.subscription.wait_until_subscribed()
        print("subscribed", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
