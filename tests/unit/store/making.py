"""Changes and states for the tests of the store, and faults at durable steps."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backupd import durable
from backupd.events import Change, encode_change
from backupd.items import ItemKey, Kind, digest_of
from backupd.states import ChangeType, Origin, State
from backupd.store.store import Store
from tests.world.clocks import FakeClock

START = datetime(2026, 11, 23, 20, 55, tzinfo=UTC)


def change(item: str = "1", **more: object) -> Change:
    """Return a change of a message."""
    facts = {"metadata": {"folder": "INBOX"}, "event": f"source#{item}", **more}
    return Change(
        account="alice",
        kind=Kind.MESSAGE,
        item=item,
        type=ChangeType.MODIFIED,
        time=START,
        origin=Origin.REALTIME,
        **facts,
    )


def payloads(count: int, first: int = 1) -> list[bytes]:
    """Return encoded changes of items numbered from `first`."""
    return [encode_change(change(str(number))) for number in range(first, first + count)]


def state(
    transaction: int, kind: Kind = Kind.MESSAGE, *, content: bytes | None = None, **more: object
) -> State:
    """Return a state whose start-date grows with its transaction."""
    facts = {"metadata": {"folder": "INBOX", "subject": f"number {transaction}"}, **more}
    return State(
        transaction=transaction,
        kind=kind,
        start=START + timedelta(seconds=transaction),
        change=ChangeType.MODIFIED,
        origin=Origin.REALTIME,
        digest=None if content is None else digest_of(content),
        size=None if content is None else len(content),
        **facts,
    )


def opened(path: Path, server: str = "one", *, writable: bool = True, **more: int) -> Store:
    """Open the Backup Path of a server."""
    clock = FakeClock()
    return Store.open(path, server_id=server, server_name="mail", clock=clock, writable=writable, **more)


def message(item: str = "2057", account: str = "alice") -> ItemKey:
    """Return the key of a message."""
    return ItemKey(account, Kind.MESSAGE, item)


@contextmanager
def failing(step: str, number: int = errno.ENOSPC, *, times: int = 1) -> Iterator[list[str]]:
    """Make the disk fail at a durable step, so many times; yields the steps passed."""
    passed: list[str] = []
    left = [times]

    def observe(name: str) -> None:
        passed.append(name)
        if name == step and left[0] > 0:
            left[0] -= 1
            raise OSError(number, "injected")

    durable.observe_steps(observe)
    try:
        yield passed
    finally:
        durable.observe_steps(None)
