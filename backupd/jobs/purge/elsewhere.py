"""Opening a Backup Path that is not the daemon's own, to purge it: with its own identity and its own lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backupd.clock import Clock
from backupd.errors import BackupPathRefused, UsageError
from backupd.store import ownership
from backupd.store.layout import Layout
from backupd.store.store import Store


def is_own(path: Path, own: Path) -> bool:
    """Tell whether a path is the daemon's own Backup Path."""
    return path.resolve() == own.resolve()


@contextmanager
def opened_elsewhere(path: Path, own: Path, clock: Clock) -> Iterator[Store]:
    """Open another server's Backup Path for writing; its lock keeps everybody else out meanwhile.

    Raises `UsageError` for what lies in ours or around it, `BackupPathRefused` for what is no backup or in
    use, `SpaceExhausted`, `OSError`.
    """
    if not path.is_absolute():
        raise UsageError(f"{path} is no absolute path", hint="give the whole path of the directory")
    real, ours = path.resolve(), own.resolve()
    if real.is_relative_to(ours) or ours.is_relative_to(real):
        raise UsageError(
            f"{path} lies in this server's own Backup Path, or around it",
            hint="to purge that one, leave backup_path out",
        )
    identity = ownership.check(Layout(real), "", writable=False)
    if identity is None:
        raise BackupPathRefused(
            f"{path} can't be purged: there is no backup in it",
            hint="name a whole Backup Path",
            path=str(path),
        )
    with Store.open(real, server_id=identity.server, server_name=identity.name, clock=clock) as store:
        yield store
