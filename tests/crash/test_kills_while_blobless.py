"""The daemon is killed while the AppServer holds contents for it, and while they are fetched home."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from backupd.appservers.holding import HoldingArea
from backupd.items import digest_of
from backupd.store.store import Store
from tests.crash import steps, verdict
from tests.world.daemons import Daemon
from tests.world.faults import KILL, Fault, Faults
from tests.world.mailhost import MailHost
from tests.world.mailtree import build

HOLDING = steps.BLOBLESS[:-1]
SERVER = "11111111-2222-4333-8444-555555555555"


def blobs(daemon: Daemon) -> int:
    return sum(one.is_file() for one in (daemon.backup_path / "items").rglob("*"))


def test_killed_at_any_step_nothing_held_is_lost(place: Path) -> None:
    """After each kill a start, a deletion, a scan: the content can be read, and is stored nowhere else.

    Off again, a kill while contents are let go takes none of those that were fetched.
    """
    tree = build(place / "vmail", accounts=1, messages=2)
    host, faults = MailHost(tree), Faults(place / "faults")
    with Daemon(place / "d", tree.root, watch=False, environment=faults.environment) as daemon:
        daemon.wait_until_scanned()
        stored = blobs(daemon)
        assert _set(daemon, "true") == "done"
        contents = []
        for number, step in enumerate(HOLDING):
            path = host.deliver_text(host.addresses[0], f"message {number}.")
            contents.append(path.read_bytes())
            _killed(daemon, faults, Fault(step, KILL))
            daemon.start()
            assert daemon.scan()["status"] == "successful"
            path.unlink()
            assert daemon.scan()["status"] == "successful"
        assert blobs(daemon) == stored
        with _store(daemon, tree.root) as store:
            assert [store.blobs.read(digest_of(one)) for one in contents] == contents
            assert not any(store.blobs.contains(digest_of(one)) for one in contents)

        assert _set(daemon, "false") == "done"
        _killed(daemon, faults, Fault(steps.BLOBLESS[-1], KILL, 2))
        with _store(daemon, tree.root) as store:
            assert [store.blobs.read(digest_of(one)) for one in contents] == contents
        daemon.start()
        assert daemon.scan(deep=True)["status"] == "successful"
        left = [one for one in (tree.root / ".backupd-held").rglob("*") if one.is_file()]
        assert left == []
        with _store(daemon, tree.root) as store:
            assert all(store.blobs.contains(digest_of(one)) for one in contents)


def _set(daemon: Daemon, value: str) -> str:
    reply = daemon.command("config/set/global", attribute="backupBloblessMode", value=value)
    return str(reply["reply"])


def _killed(daemon: Daemon, faults: Faults, fault: Fault) -> None:
    """Have a deep scan killed by a fault."""
    faults.arm(fault)
    with contextlib.suppress(OSError, ValueError):
        daemon.command("backup/doSmartScan", action="start", deep=True)
    assert daemon.process is not None
    daemon.process.wait(20)
    assert faults.hits() == [fault.step]
    faults.disarm()


@contextlib.contextmanager
def _store(daemon: Daemon, root: Path) -> Iterator[Store]:
    """Open the Backup Path for reading, with what the mail host holds."""
    with verdict.opened(daemon.backup_path, SERVER) as store:
        store.keeping.leave_with(HoldingArea(str(root.resolve())), lambda: False)
        yield store
