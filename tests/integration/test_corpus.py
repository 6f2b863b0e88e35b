"""The open corpus as a mail host of 20 accounts: scanned, scanned again, changed a thousand times, live."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.items import ItemKey, Kind, digest_of
from backupd.states import ChangeType, State, state_at
from backupd.store.layout import blob_name
from backupd.store.store import Store
from tests.world.corpus import WHERE, corpus_files, corpus_root
from tests.world.corpus_host import (
    ACCOUNTS,
    Present,
    World,
    corpus_host,
    differences,
    present,
    present_now,
    reading,
    wait_until_recorded,
)
from tests.world.daemons import Daemon
from tests.world.users import Expected, Users

BATCHES = 5
CHANGES_PER_BATCH = 200
SEED = int(os.environ.get("BACKUPD_SEED", "20261123"))
"""Of the random changes; another one makes other changes."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
STATISTICS = ("account_stat", "backupstat")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return the corpus as a mail host, after the first scan of a daemon."""
    if corpus_root() is None:
        pytest.skip(f"the open corpus is not here: {WHERE}")
    with corpus_host(tmp_path_factory.mktemp("corpus"), SEED) as made:
        yield made


def all_histories(store: Store, accounts: Mapping[str, str]) -> dict[ItemKey, list[State]]:
    """Return every history of the accounts, deleted items' too, as they stand on disk."""
    histories = {
        found.key: found.states for found in store.histories.walk() if found.key.account in accounts.values()
    }
    known = {one.key for account in accounts.values() for one in store.index.items(account, deleted=None)}
    assert histories.keys() == known | {ItemKey(one, Kind.ACCOUNT, one) for one in accounts.values()}
    return histories


def present_at(
    histories: Mapping[ItemKey, list[State]], accounts: Mapping[str, str], when: datetime
) -> dict[str, dict[str, Present]]:
    """Return what lived at a moment, by address and id, as the histories tell it."""
    there: dict[str, dict[str, Present]] = {address: {} for address in accounts}
    names = {account: address for address, account in accounts.items()}
    for key, states in histories.items():
        state = state_at(states, when)
        if key.kind is not Kind.ACCOUNT and state is not None and not state.deleted:
            there[names[key.account]][key.item] = present(key.kind, state.metadata, state.digest)
    return there


def snapshot(root: Path, *, statistics: bool) -> dict[str, tuple[int, int, int]]:
    """Return size, modification time and file number of every history and blob, and of statistics."""
    return {
        str(path.relative_to(root)): (facts.st_size, facts.st_mtime_ns, facts.st_ino)
        for top in ("accounts", "items", "servers")
        for path in (root / top).rglob("*")
        if statistics or path.name not in STATISTICS
        if path.is_file() and (facts := path.stat())
    }


def test_everything_is_in_the_backup_as_it_is_on_the_host(world):
    """Each file of the corpus has its history of one state and a blob that equals it, also by `zstd -d`."""
    daemon, users, accounts, _ = world
    expected = users.photograph()
    with reading(daemon) as store:
        assert differences(expected, present_now(store, accounts), learn=True) == []
        histories = all_histories(store, accounts)
        assert [key for key, states in histories.items() if len(states) != 1] == []
        assert {state.change for states in histories.values() for state in states} == {ChangeType.CREATED}
        for thing in users.things:
            content = thing.path.read_bytes()
            assert store.blobs.read(thing.expected.digest) == content, thing.path
        counts = store.index.counts().items
    kinds = Counter(one.kind for one in expected)
    assert {kind: counts[kind] for kind in kinds} == kinds
    assert kinds[Kind.MESSAGE] == len(corpus_files("mail"))
    assert counts[Kind.ACCOUNT] == ACCOUNTS
    users.rest()
    is_readable_by_zstd(daemon.backup_path, users)


def is_readable_by_zstd(backup_path: Path, users: Users) -> None:
    """Decompress every compressed blob by the program, and compare what comes out with its source."""
    if shutil.which("zstd") is None:
        pytest.skip("zstd is missing: apt-get install zstd")
    places = {digest_of(thing.path.read_bytes()): thing.path for thing in users.things}
    files = {backup_path / blob_name(digest): source for digest, source in places.items()}
    compressed = [file for file in files if file.read_bytes()[:4] == ZSTD_MAGIC]
    assert len(compressed) > len(files) // 2
    done = subprocess.run(["zstd", "-dc", *compressed], capture_output=True, check=True)
    assert done.stdout == b"".join(files[file].read_bytes() for file in compressed)
    for file in files.keys() - set(compressed):
        assert file.read_bytes() == files[file].read_bytes()


def test_a_second_scan_writes_nothing(world):
    """Scans with nothing changed add no journal entry and touch no file; soon not even statistics."""
    daemon = world.daemon
    journaled = daemon.status()["recorder"]["journaled"]
    before = snapshot(daemon.backup_path, statistics=False)
    assert daemon.scan()["status"] == "successful"
    assert snapshot(daemon.backup_path, statistics=False) == before
    # Folders younger than two seconds are looked through again; by now none is.
    whole = snapshot(daemon.backup_path, statistics=True)
    verdict = daemon.scan()["verdict"]
    assert f"{ACCOUNTS} accounts, {ACCOUNTS} of them unchanged" in verdict
    assert snapshot(daemon.backup_path, statistics=True) == whole
    assert daemon.status()["recorder"]["journaled"] == journaled


def test_a_thousand_live_changes_are_a_history_that_tells_each_moment(world):
    """`state_at` equals what users remember of each moment; a deep scan then finds nothing to record."""
    daemon, users, accounts, _ = world
    moments: list[tuple[datetime, list[Expected]]] = []
    with reading(daemon) as store:
        assert differences(users.photograph(), present_now(store, accounts), learn=True) == []
        users.rest()
        for _ in range(BATCHES):
            users.act(CHANGES_PER_BATCH)
            wait_until_recorded(world, store)
            users.rest()
            time.sleep(0.25)
            moments.append((datetime.now(UTC), users.photograph()))
            time.sleep(0.25)
        histories = all_histories(store, accounts)
    for number, (moment, remembered) in enumerate(moments):
        assert differences(remembered, present_at(histories, accounts, moment)) == [], f"after batch {number}"
    assert sum(users.done.values()) == BATCHES * CHANGES_PER_BATCH
    assert nothing_came_back(histories) == []
    status = daemon.status()
    assert (status["gaps"], status["problems"]) == ([], [])
    deep = daemon.scan(deep=True)
    assert "0 new, 0 changed" in deep["verdict"], changed_by_scan(daemon, accounts)
    assert ", 0 deleted, 0 vanished" in deep["verdict"], changed_by_scan(daemon, accounts)
    assert daemon.status()["recorder"]["journaled"] == status["recorder"]["journaled"]


def nothing_came_back(histories: Mapping[ItemKey, list[State]]) -> list[str]:
    """Return items that were told as deleted while they were there: users never bring anything back."""
    return [
        f"{key}: {[state.change.value for state in states]}"
        for key, states in histories.items()
        if any(state.deleted for state in states[:-1])
    ]


def changed_by_scan(daemon: Daemon, accounts: Mapping[str, str]) -> str:
    """Return what a scan found differing from what live changes had recorded."""
    with reading(daemon) as store:
        pairs = [
            (key, states[-2:])
            for key, states in all_histories(store, accounts).items()
            if len(states) > 1 and states[-1].origin == "smartscan"
        ]
    return "\n".join(f"{key}: {pair}" for key, pair in pairs[:10])
