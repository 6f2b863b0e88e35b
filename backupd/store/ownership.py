"""Ownership: whose Backup Path a directory is, and every reason for which it must not be used.

A Backup Path holds exactly one map file, `map_<server id>`, written first of all. A directory that is
another server's, of a newer format, on a case-insensitive file system, not readable or not writable, or that
holds something else altogether, is refused by `BackupPathRefused`, which says what to do. Nothing is changed
in a directory that is refused.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from backupd import durable
from backupd.decoding import decoded
from backupd.errors import BackupPathRefused
from backupd.items import identifier_of
from backupd.store.layout import DIRECTORIES, Layout
from backupd.volumes.disk import full_disk_told

FORMAT_VERSION = 1
_NEVER_OURS_NOR_HARMFUL = frozenset({"lost+found"})
PROBE = ".backupd-probe-"
"""How names begin that are written to try a file system and removed at once.

One left behind is no harm, and goes with the next.
"""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a map file holds. `imported_from` is the server whose backup was imported into this one."""

    format: int
    server: str
    name: str
    since: datetime
    imported_from: str | None = None


def check(layout: Layout, server_id: str, *, writable: bool) -> Identity | None:
    """Return the identity in the map file, None for a directory that is ready to become a Backup Path.

    Reads only. An empty `server_id` means whoever's path it is, for reading alone. Raises
    `BackupPathRefused`.
    """
    assert server_id or not writable
    root = layout.root
    if not root.is_dir():
        if writable and not os.path.lexists(root):
            return None
        raise _refused(root, "it is no directory", "make the directory, or mount its file system")
    wanted = os.R_OK | os.X_OK | (os.W_OK if writable else 0)
    if not os.access(root, wanted):
        kind = "readable and writable" if writable else "readable"
        raise _refused(root, f"it is not {kind} for this user", f"give it to the service user: chown {root}")
    maps = layout.map_files()
    if not server_id and len(maps) == 1:
        server_id = identifier_of(maps[0].name.removeprefix("map_"))
    own = layout.map_file(server_id)
    for path in maps:
        if path != own:
            raise _refused(
                root,
                f"it is the backup of another server: {path.name}",
                "use another directory; to restore from that backup, import it",
            )
    if not maps:
        _check_unused(root)
        return None
    for name in (own.name, *DIRECTORIES, layout.index.name, layout.ledger.name, layout.lock.name):
        if (root / name).is_symlink():
            raise _refused(
                root, f"{name} is a link", "move the real one there; to use another disk, mount it"
            )
    return _read(own, server_id)


def claim(layout: Layout, server_id: str, server_name: str, now: datetime) -> Identity:
    """Make sure that the directory is this server's Backup Path and may be written; the lock must be held.

    Raises `BackupPathRefused`, `SpaceExhausted`, `OSError`.
    """
    _probe(layout.root)
    identity = check(layout, server_id, writable=True)
    with full_disk_told(layout.root):
        if identity is None:
            identity = Identity(format=FORMAT_VERSION, server=server_id, name=server_name, since=now)
            durable.replace_file(layout.map_file(server_id), _encoded(identity))
        elif identity.name != server_name:
            identity = msgspec.structs.replace(identity, name=server_name)
            _change(layout.map_file(server_id), {"name": server_name})
        for name in DIRECTORIES:
            (layout.root / name).mkdir(mode=0o700, exist_ok=True)
        durable.sync_directory(layout.root)
    return identity


def note_import(layout: Layout, server_id: str, imported_from: str, entries: Mapping[str, str]) -> None:
    """Keep in our map file from where a backup was imported, and which id became which, beside what it says.

    Keys of `entries` hold a colon, which no key of the identity does. Raises `SpaceExhausted`, `OSError`.
    """
    assert all(":" in key for key in entries)
    with full_disk_told(layout.root):
        _change(layout.map_file(server_id), {"imported_from": imported_from, **entries})


def _change(path: Path, changes: Mapping[str, str]) -> None:
    """Change a map file, and keep all else that it says."""
    content = decoded(path.read_bytes(), dict[str, Any])
    changed = {**content, **changes}
    if changed != content:
        durable.replace_file(path, msgspec.json.format(msgspec.json.encode(changed), indent=2) + b"\n")


def _encoded(identity: Identity) -> bytes:
    return msgspec.json.format(msgspec.json.encode(identity), indent=2) + b"\n"


def _read(path: Path, server_id: str) -> Identity:
    root = path.parent
    try:
        content = path.read_bytes()
        version = msgspec.json.decode(content).get("format")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise _refused(
                root,
                f"its format version is {version}, this backupd knows up to {FORMAT_VERSION}",
                "use the newer backupd that wrote it",
            )
        identity = decoded(content, Identity)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, AttributeError) as error:
        raise _refused(
            root, f"{path.name} can't be read: {error}", f"restore {path.name} from a copy"
        ) from error
    if identity.server != server_id:
        raise _refused(
            root,
            f"{path.name} says that it is the backup of server {identity.server!r}",
            "use another directory, or correct the server's id in the configuration",
        )
    return identity


def _check_unused(root: Path) -> None:
    found = sorted(
        name
        for name in os.listdir(root)  # noqa: PTH208 - only names are wanted
        if name not in _NEVER_OURS_NOR_HARMFUL and not name.startswith((".lock", ".map_", PROBE))
    )
    if not found:
        return
    if {"accounts", "items"} <= set(found):
        raise _refused(root, "it holds a backup without a map file", "put the file map_<server id> back")
    raise _refused(
        root, f"it is not empty and no Backup Path: it holds {found[0]}", "use an empty directory of its own"
    )


def _probe(root: Path) -> None:
    """Write and look up one name: refuses a read-only or a case-insensitive file system."""
    name = f"{PROBE}{secrets.token_hex(4)}"
    probe = root / name
    try:
        with full_disk_told(root):
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        is_insensitive = (root / name.upper()).exists()
        for left in (probe, *root.glob(f"{PROBE}*")):  # one may be left of a process that was killed
            left.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(
            root, f"it can't be written: {error.strerror}", "mount it read-write for the service user"
        ) from error
    if is_insensitive:
        raise _refused(
            root,
            "its file system does not tell upper from lower case, so that blobs would overwrite each other",
            "use ext4, XFS, Btrfs or ZFS without case folding",
        )


def make_directory(root: Path) -> None:
    """Make the directory of a Backup Path. Raises `BackupPathRefused` where this user may not, `OSError`."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except PermissionError as error:
        hint = "mount its file system; if it is new, make it and give it to the service's user"
        raise _refused(root, f"it can't be made: {error.strerror}", hint) from error


def _refused(root: Path, reason: str, hint: str) -> BackupPathRefused:
    return BackupPathRefused(
        f"Backup Path {root} is refused: {reason}", hint=hint, path=str(root), reason=reason
    )
