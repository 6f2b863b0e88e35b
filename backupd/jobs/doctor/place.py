"""The Backup Path as a place: whose it is, who holds it, who may read it, and whether it stands apart.

The lock is looked up in /proc/locks instead of tried: a lock that is tried is held for a moment, and a daemon
that starts in that moment would be refused.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from backupd.decoding import decoded
from backupd.errors import BackupPathRefused
from backupd.jobs.doctor import verdict
from backupd.jobs.doctor.mounts import Mount, find_mount
from backupd.store import ownership
from backupd.store.layout import Layout
from backupd.store.lock import Holder
from backupd.views import CheckView

NAME = "Backup Path"
LOCKS = Path("/proc/locks")
_LOCK_BYTES_MAX = 4096
_LOCK_FIELDS_MIN = 6


class PathFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of a Backup Path.

    `refused` says why it must not be used, `since` when it was made (None: there is no backup in it yet).
    `holder` is the process id of who holds the lock, `holder_since` what that one wrote into it. `open_to`
    names what others than the owner may read. `stray` names an entry of another owner than the path's own.
    """

    path: Path
    exists: bool = True
    refused: str = ""
    hint: str = ""
    since: datetime | None = None
    holder: int | None = None
    holder_since: str = ""
    open_to: tuple[str, ...] = ()
    owner: str = ""
    stray: str = ""
    mail: Path | None = None
    same_file_system: bool = False
    mount: Mount = Mount()


def look_at_path(path: Path, server_id: str, mail: Path | None) -> PathFacts:
    """Gather the facts of a Backup Path; an empty server id means whoever's it is. Reads only."""
    root = path.resolve()
    layout = Layout(root)
    try:
        identity = ownership.check(layout, server_id, writable=bool(server_id))
    except BackupPathRefused as error:
        return PathFacts(
            path=root,
            exists=root.is_dir(),
            refused=str(error.facts.get("reason", error.message)),
            hint=error.hint,
            mount=find_mount(root),
            mail=mail.resolve() if mail is not None else None,
        )
    exists = root.is_dir()
    holder, holder_since = lock_holder(layout.lock) if exists else (None, "")
    own = root.stat() if exists else None
    return PathFacts(
        path=root,
        exists=exists,
        since=identity.since if identity is not None else None,
        holder=holder,
        holder_since=holder_since,
        open_to=_open_to(layout) if exists else (),
        owner=user_name(own.st_uid) if own is not None else "",
        stray=_stray(layout, own.st_uid) if own is not None else "",
        mail=mail.resolve() if mail is not None else None,
        same_file_system=own is not None and mail is not None and _device(mail) == own.st_dev,
        mount=find_mount(root),
    )


def judge_path(facts: PathFacts, *, pid: int | None) -> list[CheckView]:
    """Judge a Backup Path; `pid` is the daemon that must hold it, None where none runs."""
    found: list[CheckView] = []
    if facts.refused:
        found.append(verdict.critical(NAME, f"{facts.path} can't be used: {facts.refused}", facts.hint))
    elif facts.since is None and pid is not None:
        cure = "is its file system still mounted? Mount it, then: systemctl restart backupd"
        found.append(verdict.critical(NAME, f"the backup is gone from {facts.path}", cure))
    elif not facts.exists or facts.since is None:
        cure = "the first start makes one here; if there was one, mount its file system first"
        found.append(verdict.warning(NAME, f"there is no backup in {facts.path} yet", cure))
    if pid is not None and not facts.refused and facts.since is not None and facts.holder != pid:
        other = f"process {facts.holder} holds it" if facts.holder else f"{facts.path}/.lock was removed"
        cure = "systemctl restart backupd: another daemon could write here as well"
        found.append(verdict.critical(NAME, f"the lock is not this daemon's any more: {other}", cure))
    found += _judge_place(facts)
    if not found:
        held = f", held by process {facts.holder}" if facts.holder else ""
        owner = f", owned by {facts.owner}" if facts.owner else ""
        since = f" since {facts.since:%Y-%m-%d}" if facts.since is not None else ""
        beside = ", on the same file system as the mail" if facts.same_file_system else ""
        better = "a disk of its own: one broken disk takes mail and backup" if facts.same_file_system else ""
        found.append(verdict.ok(NAME, f"{facts.path} is this server's{since}{owner}{held}{beside}", better))
    return found


def _judge_place(facts: PathFacts) -> list[CheckView]:
    found: list[CheckView] = []
    path, mail = facts.path, facts.mail
    if mail is not None and path.is_relative_to(mail):
        text = f"{path} lies inside the mail {mail}: the backup would back up itself"
        cure = "backupctl config set server NAME ZxBackup_DestPath /another/disk"
        found.append(verdict.critical(NAME, text, cure))
    elif mail is not None and mail.is_relative_to(path):
        text = f"the mail {mail} lies inside the Backup Path {path}"
        found.append(verdict.critical(NAME, text, "give the backup a directory of its own"))
    if facts.open_to:
        text = f"others than its owner may read it: {', '.join(facts.open_to)}"
        found.append(verdict.warning(NAME, text, f"chmod -R go= {path}"))
    if facts.stray:
        text = f"it belongs to {facts.owner}, but {facts.stray}"
        cure = f"was the daemon started by hand? chown -R {facts.owner}: {path}"
        found.append(verdict.warning(NAME, text, cure))
    return found


def lock_holder(lock: Path) -> tuple[int | None, str]:
    """Return the process that holds a lock file's flock(2), None for nobody, and since when, as it wrote."""
    try:
        facts = lock.stat(follow_symlinks=False)
        pids = holders(facts.st_ino, LOCKS.read_text("ascii", "replace"))
        with lock.open("rb") as file:
            content = file.read(_LOCK_BYTES_MAX)
    except OSError:
        return None, ""
    try:
        told = decoded(content, Holder)
    except (msgspec.DecodeError, UnicodeDecodeError):
        told = None
    if told is not None and told.pid in pids.values():
        return told.pid, told.since
    # Some file systems show another device number there than stat(2) does: then the pid decides, above.
    exact = pids.get((os.major(facts.st_dev), os.minor(facts.st_dev)))
    return exact, ""


def holders(inode: int, locks: str) -> dict[tuple[int, int], int]:
    """Return (major, minor) → process id of the flock(2) locks on an inode, from the text of /proc/locks."""
    found = {}
    for line in locks.splitlines():
        fields = line.split()
        if len(fields) < _LOCK_FIELDS_MIN or fields[1] != "FLOCK":
            continue
        major, _, rest = fields[5].partition(":")
        minor, _, number = rest.partition(":")
        if number == str(inode):
            found[int(major, 16), int(minor, 16)] = int(fields[4])
    return found


def permits(mode: int, owner: tuple[int, int], who: tuple[int, Sequence[int]], wanted: int) -> bool:
    """Tell whether mode bits let (uid, gids) do what `wanted` (os.R_OK, …) says to what (uid, gid) owns."""
    uid, groups = who
    if uid == 0:
        return True
    shift = 6 if uid == owner[0] else 3 if owner[1] in groups else 0
    return (mode >> shift) & wanted == wanted


def user_name(uid: int) -> str:
    """Return a user's name, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _open_to(layout: Layout) -> tuple[str, ...]:
    """Return what others could read: the root where it is open, else nothing below it can be reached."""
    mode = stat.S_IMODE(layout.root.stat().st_mode)
    return (f"mode {mode:04o}",) if mode & 0o077 else ()


def _stray(layout: Layout, owner: int) -> str:
    """Return an entry at the top of the Backup Path that has another owner, in words."""
    with os.scandir(layout.root) as entries:
        for entry in entries:
            uid = entry.stat(follow_symlinks=False).st_uid
            if uid != owner and entry.name != "lost+found":
                return f"{entry.name} belongs to {user_name(uid)}"
    return ""


def _device(path: Path) -> int:
    try:
        return path.stat().st_dev
    except OSError:
        return -1
