"""`backupctl backup doCoherencyCheck` where no daemon does it: none runs, or the path is not the daemon's.

The check is the engine's own, made as the user who asks, and writes nothing but for `fixBackup`, which takes
the path's lock as a daemon would. How far a pass is can't be kept then: a bounded run begins anywhere.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backupd.cli.ask import Daemon, NotPermitted
from backupd.cli.page import warn
from backupd.clock import SystemClock
from backupd.commands import COMMANDS
from backupd.control import CoherencyReply, StatusReply
from backupd.errors import DaemonUnreachable, UnknownAccount, UsageError
from backupd.jobs.coherency import job
from backupd.jobs.coherency.accounts import accounts_named
from backupd.jobs.coherency.check import Check, Checked, Wanted
from backupd.jobs.coherency.keeping import StoreKeeper, opened_alone
from backupd.jobs.coherency.memory import Remembered
from backupd.jobs.coherency.repair import REBUILT, Repair
from backupd.jobs.coherency.rotation import Position
from backupd.jobs.coherency.shelves import Walk
from backupd.operations import Run
from backupd.parameters import Value
from backupd.store.foreign_files import Tree

PROGRESS_SECONDS = 10.0
_STATUS = next(one for one in COMMANDS if one.title == "backup status")


def checked_here(daemon: Daemon, parameters: Mapping[str, Value]) -> CoherencyReply | None:
    """Check a path without a daemon; None where the daemon that answers is the one to do it.

    Raises `BackupPathRefused`, `UsageError`, `UnknownAccount`.
    """
    path = Path(os.path.abspath(str(parameters["backup_path"])))  # noqa: PTH100 - no link is resolved
    try:
        reply, _ = daemon.command(_STATUS, {})
    except (DaemonUnreachable, NotPermitted):
        reply = None
    if isinstance(reply, StatusReply) and _is_same(path, Path(reply.backup_path)):
        return None
    if parameters.get("checkZimbra"):
        raise UsageError(
            "only the daemon of a Backup Path can compare it with its AppServer",
            hint="start the daemon, or leave checkZimbra out",
        )
    if parameters.get("notifications"):
        warn("no notifications are sent: this check is made by the console, not by the daemon")
    names = parameters.get("accountIds")
    minutes = parameters.get("max_minutes")
    sample = parameters.get("sample")
    wanted = job.wanted_of(
        _accounts(path, names if isinstance(names, list) else ()),
        sample if isinstance(sample, str) else None,
        minutes if isinstance(minutes, int) else None,
    )
    return check_path(path, wanted, fix=bool(parameters.get("fixBackup")))


def check_path(path: Path, wanted: Wanted, *, fix: bool) -> CoherencyReply:
    """Check a path, and mend it where that is asked for. Raises `BackupPathRefused`, `OSError`."""
    clock = SystemClock()
    run = Run(clock)
    with ExitStack() as open_, _progress(run):

        def repair(checked: Checked) -> Repair:
            rebuild = any(checked.findings.counts[code] for code in REBUILT)
            store = open_.enter_context(opened_alone(path, clock, rebuild_index=rebuild))
            return Repair(path, StoreKeeper(store), clock=clock)

        work = job.Job(Check(path, clock=clock), clock=clock, repair=repair if fix else None)
        before = Remembered(position=_anywhere(path) if wanted.is_bounded else Position())
        return job.reply_of(path, work.run(run, wanted, before))


def _accounts(path: Path, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    found = accounts_named(Tree(path), names)
    unknown = [name for name in names if name not in found]
    if unknown:
        raise UnknownAccount(f"there is no account {unknown[0][:80]!r} in {path}")
    return list(found.values())


def _anywhere(path: Path) -> Position:
    """Return a place to begin at, another one each time."""
    walk = Walk(Tree(path))
    shelves, accounts = walk.blob_shelves(), walk.account_folders()
    return Position(
        blobs=random.choice(shelves).path if shelves else "",  # noqa: S311 - no secret
        histories=f"accounts/{random.choice(accounts)}" if accounts else "",  # noqa: S311 - no secret
    )


def _is_same(path: Path, own: Path) -> bool:
    try:
        return path.samefile(own)
    except OSError:
        return False


@contextmanager
def _progress(run: Run) -> Iterator[None]:
    """Say now and then on a terminal how far it is: a whole check may take hours."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(PROGRESS_SECONDS):
            progress = run.progress
            share = f"{progress.done / progress.total:.1%}" if progress.total else f"{progress.done:,}"
            sys.stderr.write(f"backupctl: {share} looked at\n")

    teller = threading.Thread(target=tell, daemon=True)
    if sys.stderr.isatty():
        teller.start()
    try:
        yield
    finally:
        ended.set()
