"""Mounts: on which file system a path lies, as the kernel tells it (proc(5), mountinfo)."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

MOUNTINFO = Path("/proc/self/mountinfo")
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gfs2", "ocfs2"}
)
VOLATILE = frozenset({"tmpfs", "ramfs"})
_ESCAPE = re.compile(r"\\([0-7]{3})")
_FIELDS_MIN = 6
_TAIL_MIN = 2


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A mounted file system. `kind` is its type, empty where it is not known."""

    point: str = ""
    kind: str = ""
    source: str = ""
    read_only: bool = False

    @property
    def is_network(self) -> bool:
        """Whether another machine keeps the bytes."""
        return self.kind in NETWORK or self.kind.startswith("fuse.")

    @property
    def is_volatile(self) -> bool:
        """Whether everything on it is gone after a restart of the machine."""
        return self.kind in VOLATILE


def mount_of(path: str, mountinfo: str) -> Mount:
    """Return the mount that holds an absolute, real path; of mounts on one place the last one holds."""
    best = Mount()
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields, rest = head.split(" "), tail.split(" ")
        if len(fields) < _FIELDS_MIN or len(rest) < _TAIL_MIN:
            continue
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
        below = path == point or path.startswith(point.rstrip("/") + "/")
        if below and len(point) >= len(best.point):
            options = {*fields[5].split(","), *(rest[2].split(",") if len(rest) > _TAIL_MIN else ())}
            best = Mount(point=point, kind=rest[0], source=rest[1], read_only="ro" in options)
    return best


def find_mount(path: Path) -> Mount:
    """Return the mount that holds a path; an unknown one where the kernel does not tell."""
    try:
        return mount_of(str(path.resolve()), MOUNTINFO.read_text("utf-8", "surrogateescape"))
    except OSError:
        return Mount()
