"""The disk of the Backup Path: whether it can be relied on, how fast it syncs, and how much room there is."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from backupd import durable
from backupd.attributes import attribute_named
from backupd.jobs.doctor import verdict
from backupd.jobs.doctor.mounts import Mount, find_mount
from backupd.store import ownership
from backupd.views import CheckView, SpaceView

NAME = "file system"
SPACE_NAME = "space"
SYNC_SECONDS_MAX = 0.1
"""A sync that takes longer holds up every acknowledgement."""
INODES_FREE_SHARE = 0.05
USUAL_THRESHOLD_SHARE = 20
"""Where no threshold was set, the daemon keeps at most one part in so many free."""
SHARE_OF_MAIL = 0.8
"""How large the device should be at least, compared with the mail (specification, space requirements)."""
_PROBE_BYTES = 4096


class DiskFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of a file system.

    `sync_seconds` None: nothing was written, because of `failure` or because nobody asked for it.
    `inodes_total` 0: the file system has no fixed number of them.
    """

    path: Path
    mount: Mount = Mount()
    inodes_free: int = 0
    inodes_total: int = 0
    sync_seconds: float | None = None
    tells_case: bool = True
    failure: str = ""


def measure_disk(path: Path, *, write: bool = True) -> DiskFacts:
    """Gather the facts of the file system of an existing directory; `write` a probe there and remove it."""
    mount = find_mount(path)
    try:
        statistics = os.statvfs(path)
    except OSError as error:
        return DiskFacts(path=path, mount=mount, failure=f"it does not answer: {error.strerror}")
    facts = DiskFacts(
        path=path, mount=mount, inodes_free=statistics.f_favail, inodes_total=statistics.f_files
    )
    if not write:
        return facts
    probe = path / f"{ownership.PROBE}{secrets.token_hex(4)}"
    try:
        seconds, tells_case = _timed_sync(probe)
    except OSError as error:
        failure = f"a probe file can't be written and synced: {error.strerror}"
        return msgspec.structs.replace(facts, failure=failure)
    return msgspec.structs.replace(facts, sync_seconds=seconds, tells_case=tells_case)


def _timed_sync(probe: Path) -> tuple[float, bool]:
    """Write and sync a probe file; return the seconds of the sync and whether case tells names apart."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(probe, flags, 0o600)
    try:
        durable.write_all(descriptor, secrets.token_bytes(_PROBE_BYTES))
        began = time.perf_counter()
        os.fsync(descriptor)
        seconds = time.perf_counter() - began
        tells_case = not probe.with_name(probe.name.upper()).exists()
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            probe.unlink(missing_ok=True)
    return seconds, tells_case


def judge_disk(facts: DiskFacts) -> list[CheckView]:
    """Judge a file system."""
    found: list[CheckView] = []
    mount, path = facts.mount, facts.path
    if facts.failure:
        cure = f"findmnt -T {path}; dmesg | tail: is it not mounted, read-only, full or broken?"
        found.append(verdict.critical(NAME, f"{path}: {facts.failure}", cure))
    if not facts.tells_case:
        text = f"{path} does not tell upper from lower case: blobs would overwrite each other"
        found.append(verdict.critical(NAME, text, "use ext4, XFS, Btrfs or ZFS without case folding"))
    if mount.is_volatile:
        text = f"{path} is on {mount.kind}: the backup is gone after a restart of this machine"
        found.append(verdict.critical(NAME, text, "mount a disk there, or choose another Backup Path"))
    elif mount.kind == "overlay":
        text = f"{path} lies in a container's own layer: the backup is gone with the container"
        found.append(verdict.critical(NAME, text, "mount a volume there"))
    elif mount.is_network:
        text = f"{path} is on {mount.kind} ({mount.source}): syncs and locks are as good as that server's"
        cure = "a local disk is safer; NFS: mount it hard and sync, and let one machine alone write there"
        found.append(verdict.warning(NAME, text, cure))
    if facts.sync_seconds is not None and facts.sync_seconds > SYNC_SECONDS_MAX:
        text = f"a sync took {facts.sync_seconds * 1000:,.0f} ms; every acknowledgement waits for one"
        cure = "iostat -x 1: who keeps the disk busy? A disk of its own, or an SSD, makes it quick"
        found.append(verdict.warning(NAME, text, cure))
    if facts.inodes_total and facts.inodes_free < facts.inodes_total * INODES_FREE_SHARE:
        text = f"{facts.inodes_free:,} of {facts.inodes_total:,} inodes are free: each item needs two"
        found.append(
            verdict.warning(NAME, text, "a file system with more inodes (mkfs.ext4 -i 4096), or XFS")
        )
    if not found:
        synced = (
            f", a sync takes {facts.sync_seconds * 1000:.1f} ms" if facts.sync_seconds is not None else ""
        )
        inodes = f", {facts.inodes_free:,} inodes free" if facts.inodes_total else ""
        found.append(verdict.ok(NAME, f"{mount.kind or 'unknown'} at {mount.point or path}{synced}{inodes}"))
    return found


def measure_space(path: Path) -> SpaceView:
    """Return the room on a file system, and the threshold that holds unless set. Raises `OSError`."""
    total = durable.total_bytes(path)
    usual = int(str(attribute_named("ZxBackup_SpaceThreshold").default)) << 20
    return SpaceView(
        free_bytes=durable.free_bytes(path),
        total_bytes=total,
        threshold_bytes=min(usual, total // USUAL_THRESHOLD_SHARE),
    )


def judge_space(space: SpaceView) -> CheckView:
    """Judge the room on the Backup Path; `blob_bytes` stands for the size of the mail, where it is known."""
    free, threshold = verdict.megabytes(space.free_bytes), verdict.megabytes(space.threshold_bytes)
    of_all = f"{free} of {verdict.megabytes(space.total_bytes)} free"
    cure = "make room on it, or enlarge it; see what takes it: du -xhd1 PATH"
    if space.free_bytes < space.threshold_bytes:
        text = f"{of_all}, less than the threshold of {threshold}: nothing new is acknowledged"
        return verdict.critical(SPACE_NAME, text, f"{cure}; or lower ZxBackup_SpaceThreshold")
    if space.free_bytes < 2 * space.threshold_bytes:
        text = f"{of_all}: below {threshold} nothing new is acknowledged, and that is near"
        return verdict.warning(SPACE_NAME, text, cure)
    needed = int(space.blob_bytes * SHARE_OF_MAIL)
    if space.blob_bytes and space.total_bytes < needed:
        text = (
            f"{of_all}, and the contents are {verdict.megabytes(space.blob_bytes)}: a device of "
            f"{verdict.megabytes(needed)} (80 % of the mail) is the least that lasts"
        )
        return verdict.warning(SPACE_NAME, text, cure)
    if not space.threshold_bytes:
        return verdict.ok(SPACE_NAME, of_all)
    return verdict.ok(SPACE_NAME, f"{of_all}, intake pauses below {threshold}")
