"""A process that purges a Backup Path, to be killed: `python -m tests.crash.purging_process PATH`.

Faults are taken from the environment as the daemon takes them (tests/world/faults). `fill` makes a Backup
Path with a past, as years of events leave one.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from backupd.clock import SystemClock
from backupd.events import Change, encode_change
from backupd.items import ItemKey, Kind, digest_of
from backupd.jobs.purge import Alone, NothingKept, Purge, PurgeWanted, Rules
from backupd.operations import Run
from backupd.retention import Retention
from backupd.states import ChangeType, Origin, State
from backupd.store.store import Store
from tests.world import faults

SERVER = "11111111-2222-4333-8444-555555555555"
RETENTION = Retention(data_days=30, account_days=30, archive_days=30)
ACCOUNTS = ("anna", "bert", "carl")
GONE_ACCOUNT = "carl"
SHARED = b"Subject: shared\r\n\r\nby many\r\n"


def opened(path: Path) -> Store:
    return Store.open(path, server_id=SERVER, server_name="mail", clock=SystemClock())


def purge_of(store: Store) -> Purge:
    """Return the purge of a store that nobody records into."""
    return Purge(
        store,
        Alone(store),
        clock=SystemClock(),
        rules=lambda: Rules(retention=RETENTION, share_max=100, grace=timedelta()),
        keeping=NothingKept,
        clock_doubt=str,
    )


def fill(path: Path, items: int) -> set[ItemKey]:
    """Make a Backup Path of three accounts, one of them deleted long ago; return what a purge must leave."""
    left: set[ItemKey] = set()
    now = SystemClock().now()
    with opened(path) as store:
        transaction = 0
        payloads: list[bytes] = []
        for account in ACCOUNTS:
            for number in range(items):
                is_old, is_young = number % 3 == 0, number % 3 == 1
                text = SHARED if number % 4 == 0 else f"Subject: {account} {number}\r\n\r\n".encode()
                key = ItemKey(account, Kind.MESSAGE, str(number))
                store.blobs.commit([store.blobs.stage(text)])
                days = [90, 60] if is_old else [90, 5] if is_young else [90]
                states = []
                for place, age in enumerate(days):
                    transaction += 1
                    states.append(
                        State(
                            transaction=transaction,
                            kind=key.kind,
                            start=now - timedelta(days=age),
                            change=ChangeType.DELETED if place else ChangeType.CREATED,
                            deleted=bool(place),
                            origin=Origin.REALTIME,
                            digest=digest_of(text),
                            size=len(text),
                            metadata={"folder": "INBOX"},
                        )
                    )
                store.record(key, states)
                payloads += [_entry(key, state) for state in states]
                if account != GONE_ACCOUNT and not is_old:
                    left.add(key)
            transaction = _account(store, account, transaction, payloads, left)
        store.journal.append(payloads)
        store.checkpoint(transaction)
        for number in range(3):
            store.blobs.commit([store.blobs.stage(f"nobody's {number}".encode())])
    return left


def _entry(key: ItemKey, state: State) -> bytes:
    """Return the journal entry that a state came from."""
    return encode_change(
        Change(
            account=key.account,
            kind=key.kind,
            item=key.item,
            type=state.change,
            time=state.start,
            origin=state.origin,
            metadata=state.metadata,
            digest=state.digest,
            size=state.size,
        )
    )


def _account(store: Store, account: str, transaction: int, payloads: list[bytes], left: set[ItemKey]) -> int:
    now = SystemClock().now()
    key = ItemKey(account, Kind.ACCOUNT, account)
    gone = account == GONE_ACCOUNT
    moments = [100, 40] if gone else [100]
    states = [
        State(
            transaction=transaction + place + 1,
            kind=Kind.ACCOUNT,
            start=now - timedelta(days=age),
            change=ChangeType.DELETED if place else ChangeType.CREATED,
            deleted=bool(place),
            origin=Origin.SMARTSCAN,
            metadata={"name": f"{account}@example.test"},
        )
        for place, age in enumerate(moments)
    ]
    store.record(key, states)
    payloads += [_entry(key, state) for state in states]
    if not gone:
        left.add(key)
    return transaction + len(states)


def main() -> int:
    faults.install()
    with opened(Path(sys.argv[1])) as store:
        print(asyncio.run(purge_of(store).run(Run(SystemClock()), PurgeWanted())).sentence)
    return 0


if __name__ == "__main__":
    sys.exit(main())
