"""Peers: who is at the other end of the control socket, as the kernel tells, and what they may do.

Root and the daemon's own user may change; they and members of the socket file's group may read. Membership
counts for primary and supplementary groups at the moment of connecting.
"""

from __future__ import annotations

import array
import asyncio
import pwd
import socket
import struct

import msgspec

from backupd.errors import BackupdError

SO_PEERGROUPS = 59
"""Linux, since 4.13; Python has no name for it."""
GROUPS_BYTES_MAX = 1024
"""The most that getsockopt takes: 256 groups. Of somebody in more, only the primary group counts."""


class Forbidden(BackupdError):
    """The caller may not do this."""

    exit_status = 77


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A process at the other end, as it was when it connected."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()


class Owners(msgspec.Struct, frozen=True, kw_only=True):
    """Whose socket it is: the daemon's user, and the group of the socket file."""

    uid: int
    gid: int


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and what they may."""

    uid: int
    gid: int
    pid: int
    name: str
    may_read: bool
    may_change: bool


def caller_of(peer: Peer, owners: Owners) -> Caller:
    """Decide what a peer may."""
    may_change = peer.uid in {0, owners.uid}
    in_group = owners.gid in {peer.gid, *peer.groups}
    return Caller(
        uid=peer.uid,
        gid=peer.gid,
        pid=peer.pid,
        name=_name_of(peer.uid),
        may_read=may_change or in_group,
        may_change=may_change,
    )


def peer_of(transport: asyncio.BaseTransport | None) -> Peer:
    """Ask the kernel who is at the other end of a connection. Raises `Forbidden` where it can't tell."""
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        raise Forbidden("the caller is gone")
    size = struct.calcsize("3i")
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    groups = array.array("I")
    try:
        groups.frombytes(connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES_MAX))
    except OSError:
        groups = array.array("I")
    return Peer(pid=pid, uid=uid, gid=gid, groups=frozenset(groups))


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
