"""The whole daemon over a tree of real messages, contacts, calendars and documents, then changed live."""

from __future__ import annotations

import random
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.clock import SystemClock
from backupd.items import ItemKey, digest_of
from backupd.states import state_at
from backupd.store.store import Store
from tests.world import mailtree
from tests.world.corpus import corpus_files, corpus_root
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost

ACCOUNTS = 20
LIVE_CHANGES = 1_000
ROUNDS = 5
BOX = ("INBOX", "Sent", "Projects")


@pytest.fixture
def host(tmp_path):
    if corpus_root() is None:
        pytest.skip("the corpus of real messages is not on this machine")
    tree = mailtree.build(tmp_path / "vmail", accounts=ACCOUNTS, corpus=corpus_files("mail"))
    for kind, area, suffix in (
        ("vcf", "contacts/Real", ".vcf"),
        ("ics", "calendars/Real", ".ics"),
        ("files", "files", ""),
    ):
        for number, path in enumerate(corpus_files(kind)):
            place = tree.account(tree.addresses[number % ACCOUNTS]) / area
            tree.write(place / f"{number}-{path.stem}{suffix or path.suffix}", path.read_bytes())
    return MailHost(tree)


def files_of(backup: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every history and blob."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for part in ("accounts", "items")
        for path in (backup / part).rglob("*")
        if path.is_file()
    }


def opened(daemon: Daemon) -> Store:
    return Store.open(daemon.backup_path, server_id="", server_name="", clock=SystemClock(), writable=False)


def wait_until_quiet(daemon: Daemon, host: MailHost) -> None:
    """Wait until all that lies in the tree is recorded: counts agree and nothing is left to do."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        status = daemon.status()
        stored = {one["kind"]: one["items"] for one in status["counts"]}
        expected = host.counts()
        if not status["recorder"]["lag_entries"] and all(stored.get(k, 0) == n for k, n in expected.items()):
            return
        time.sleep(0.1)
    raise AssertionError(f"stored {stored}, in the tree {expected}")


@pytest.mark.timeout(300)
def test_real_files_are_stored_whole_and_followed(tmp_path, host):
    """Every blob equals its source, a second scan writes nothing, live changes end where a scan ends."""
    contents = {
        digest_of(content) for path, content in host.tree.contents.items() if not path.endswith(".toml")
    }
    with Daemon(tmp_path, host.tree.root) as daemon:
        scan = daemon.wait_until_scanned(120)
        assert (scan["status"], scan["errors_total"]) == ("successful", 0), scan
        wait_until_quiet(daemon, host)
        with opened(daemon) as store:
            assert set(store.blobs.digests()) == contents
            for digest in contents:
                assert digest_of(store.blobs.read(digest)) == digest
        _zstd_reads(daemon.backup_path)
        before, sequence = files_of(daemon.backup_path), daemon.status()["recorder"]["journaled"]
        again = daemon.scan(deep=False)
        assert "0 new, 0 changed" in again["verdict"]
        deep = daemon.scan(deep=True)
        assert "0 new, 0 changed" in deep["verdict"], deep
        stats = {name: facts for name, facts in files_of(daemon.backup_path).items() if "_stat" not in name}
        assert stats == {name: facts for name, facts in before.items() if "_stat" not in name}
        assert daemon.status()["recorder"]["journaled"] == sequence
        _live_rounds(daemon, host)


def _zstd_reads(backup: Path) -> None:
    """Check that an admin can read blobs with zstd alone."""
    packed = [path for path in (backup / "items").rglob("*=") if path.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"]
    shown = subprocess.run(["zstd", "-dc", str(packed[0])], capture_output=True, check=False)
    if shown.returncode == 0:
        assert digest_of(shown.stdout) == packed[0].name


def _live_rounds(daemon: Daemon, host: MailHost) -> None:
    """Change things at random, and compare the state at each round's end with what a model says then."""
    dice = random.Random(7)
    account = host.addresses[0]
    account_id = daemon.command("backup/doItemSearch", account=account, search_filter="all")["account"]
    snapshots = []
    for _ in range(ROUNDS):
        for _ in range(LIVE_CHANGES // ROUNDS):
            _change(dice, host, account)
        wait_until_quiet(daemon, host)
        time.sleep(0.5)
        wait_until_quiet(daemon, host)
        snapshots.append((datetime.now(UTC), _model(host, account)))
        time.sleep(0.2)
    deep = daemon.run("backup/doAccountScan", account=account, deep=True)
    assert "0 new, 0 changed" in deep["verdict"], deep
    assert ", 0 deleted" in deep["verdict"], deep
    with opened(daemon) as store:
        items = [item for item in store.index.items(account_id, deleted=None) if item.kind == "message"]
        histories = [store.histories.read(ItemKey(account_id, item.kind, item.item)) for item in items]
        for moment, model in snapshots:
            states = [state_at(history, moment) for history in histories]
            found = sorted(
                (state.metadata["folder"], tuple(state.metadata["flags"]), state.digest)
                for state in states
                if state is not None and not state.deleted
            )
            assert found == model


def _model(host: MailHost, account: str) -> list[tuple[str, tuple[str, ...], str]]:
    """Return what lies in the account's mail folders now: folder, flags, digest of each message."""
    words = {"F": "flagged", "R": "answered", "S": "seen", "P": "forwarded", "D": "draft", "T": "deleted"}
    found = []
    for folder in mailtree.FOLDERS:
        for path in host.messages(account, folder):
            letters = path.name.partition(":2,")[2] if path.parent.name == "cur" else ""
            flags = tuple(sorted(words[letter] for letter in letters if letter in words))
            found.append((folder, flags, digest_of(path.read_bytes())))
    return sorted(found)


def _change(dice: random.Random, host: MailHost, account: str) -> None:
    folder = dice.choice(BOX)
    messages = host.messages(account, folder)
    match dice.randrange(5):
        case 0 | 1:
            host.deliver_text(account, f"live {dice.random()}", folder)
        case 2 if messages:
            host.flag(dice.choice(messages), dice.choice(["", "S", "FS", "RS", "FRS"]))
        case 3 if messages:
            host.move(dice.choice(messages), account, dice.choice([one for one in BOX if one != folder]))
        case 4 if len(messages) > 5:
            dice.choice(messages).unlink()
