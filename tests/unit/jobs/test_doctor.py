"""The doctor's judgements of place, disk, mail, machine and settings: facts in, outcome and words out."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backupd.jobs.doctor import disk, machine, mail, place, settings, verdict
from backupd.jobs.doctor.mounts import Mount, mount_of
from backupd.views import EXIT_STATUS_OF_OUTCOME, CheckView, Outcome, SpaceView

NOW = datetime(2026, 11, 23, 20, 55, tzinfo=UTC)
OK, WARNING, CRITICAL, UNKNOWN = Outcome.OK, Outcome.WARNING, Outcome.CRITICAL, Outcome.UNKNOWN
BACKUP = Path("/backup")
MAIL = Path("/var/vmail")
EXT4 = Mount(point="/backup", kind="ext4", source="/dev/sdb1")


def only(checks: list[CheckView]) -> CheckView:
    assert len(checks) == 1, checks
    return checks[0]


def judged(check: CheckView, outcome: Outcome, *words: str) -> None:
    """Assert an outcome, words of what was found and of the cure, and a cure where one is needed."""
    assert check.outcome is outcome, check
    for word in words:
        assert word in f"{check.found} | {check.cure}"
    if outcome in (WARNING, CRITICAL):
        assert check.cure


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([OK, OK], OK),
        ([OK, UNKNOWN], UNKNOWN),
        ([UNKNOWN, WARNING, OK], WARNING),
        ([WARNING, CRITICAL, UNKNOWN], CRITICAL),
        ([], UNKNOWN),
    ],
)
def test_the_worst_outcome_is_the_whole(outcomes: list[Outcome], expected: Outcome):
    """A known fault outweighs what could not be found out; without checks nothing is known."""
    checks = [CheckView(name="x", outcome=one, found="y") for one in outcomes]
    assert verdict.report(checks).outcome is expected
    assert sorted(EXIT_STATUS_OF_OUTCOME.values()) == [0, 1, 2, 3]


# --- the Backup Path -------------------------------------------------------------------------------------


def path_facts(**changes: Any) -> place.PathFacts:
    facts = place.PathFacts(path=BACKUP, since=NOW, holder=7, owner="backupd", mail=MAIL, mount=EXT4)
    return msgspec.structs.replace(facts, **changes)


@pytest.mark.parametrize(
    ("changes", "outcome", "word"),
    [
        ({}, OK, "owned by backupd"),
        (
            {"refused": "it is the backup of another server", "hint": "use another"},
            CRITICAL,
            "another server",
        ),
        ({"since": None}, CRITICAL, "gone from /backup"),
        ({"holder": None}, CRITICAL, ".lock was removed"),
        ({"holder": 8}, CRITICAL, "process 8 holds it"),
        ({"path": MAIL / "backup"}, CRITICAL, "inside the mail"),
        ({"mail": BACKUP / "vmail"}, CRITICAL, "lies inside the Backup Path"),
        ({"same_file_system": True}, OK, "same file system"),
        ({"open_to": ("mode 0755",)}, WARNING, "chmod -R go= /backup"),
        ({"stray": "journal belongs to root"}, WARNING, "chown -R backupd: /backup"),
    ],
)
def test_the_backup_path_is_judged(changes: dict[str, Any], outcome: Outcome, word: str):
    """Under a running daemon the path must be its own, held, apart from the mail and for its owner alone."""
    judged(only(place.judge_path(path_facts(**changes), pid=7)), outcome, word)


def test_without_a_daemon_a_path_may_be_new_and_free():
    """Where no daemon runs nobody needs to hold it, and a path without a backup is a warning only."""
    judged(only(place.judge_path(path_facts(holder=None), pid=None)), OK)
    new = path_facts(holder=None, since=None, exists=False)
    judged(only(place.judge_path(new, pid=None)), WARNING, "the first start makes one")


def test_the_kernel_tells_who_holds_a_lock():
    """Only flock(2) locks on the inode count, by device and process."""
    text = (
        "1: POSIX  ADVISORY  WRITE 11 08:01:99 0 EOF\n2: FLOCK  ADVISORY  WRITE 12 08:01:99 0 EOF\n"
        "3: FLOCK  ADVISORY  WRITE 13 08:01:98 0 EOF\nnonsense\n"
    )
    assert place.holders(99, text) == {(8, 1): 12}


@pytest.mark.parametrize(
    ("mode", "who", "expected"),
    [
        (0o700, (5, [6]), True),
        (0o700, (9, [6]), False),
        (0o770, (9, [6]), True),
        (0o707, (9, [8]), True),
        (0o077, (5, [6]), False),
        (0o000, (0, []), True),
    ],
)
def test_mode_bits_permit_as_the_kernel_does(mode: int, who: tuple[int, list[int]], expected: bool):
    """The first class that fits decides, also where a later one would permit more; root may everything."""
    assert place.permits(mode, (5, 6), who, os.R_OK | os.W_OK | os.X_OK) is expected


# --- the disk --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "outcome", "word"),
    [
        ({}, OK, "ext4 at /backup, a sync takes 5.0 ms"),
        ({"sync_seconds": 0.1}, OK, "100.0 ms"),
        ({"sync_seconds": 0.101}, WARNING, "101 ms"),
        ({"sync_seconds": None, "failure": "Read-only file system"}, CRITICAL, "Read-only"),
        ({"tells_case": False}, CRITICAL, "upper from lower case"),
        ({"mount": Mount(point="/backup", kind="tmpfs")}, CRITICAL, "gone after a restart"),
        ({"mount": Mount(point="/", kind="overlay")}, CRITICAL, "mount a volume"),
        ({"mount": Mount(point="/backup", kind="nfs4", source="nas:/b")}, WARNING, "nas:/b"),
        ({"mount": Mount(point="/backup", kind="fuse.sshfs", source="x")}, WARNING, "fuse.sshfs"),
        ({"inodes_free": 49}, WARNING, "inodes"),
        ({"inodes_free": 50}, OK, "50 inodes free"),
        ({"inodes_free": 0, "inodes_total": 0}, OK, "ext4"),
    ],
)
def test_the_file_system_is_judged(changes: dict[str, Any], outcome: Outcome, word: str):
    """Syncs are quick up to 100 ms; what forgets, folds case or fails is critical, a network a warning."""
    facts = disk.DiskFacts(path=BACKUP, mount=EXT4, inodes_free=900, inodes_total=1000, sync_seconds=0.005)
    judged(only(disk.judge_disk(msgspec.structs.replace(facts, **changes))), outcome, word)


@pytest.mark.parametrize(
    ("free", "threshold", "total", "blobs", "outcome", "word"),
    [
        (999, 1000, 5000, 0, CRITICAL, "nothing new is acknowledged"),
        (1000, 1000, 5000, 0, WARNING, "that is near"),
        (1999, 1000, 5000, 0, WARNING, "that is near"),
        (2000, 1000, 5000, 0, OK, "intake pauses below 1,000 MB"),
        (2000, 1000, 5000, 6300, WARNING, "80 % of the mail"),
        (2000, 1000, 5000, 6200, OK, "intake pauses"),
        (10, 0, 5000, 0, OK, "10 MB of 5,000 MB free"),
    ],
)
def test_space_is_judged(free: int, threshold: int, total: int, blobs: int, outcome: Outcome, word: str):
    """Below the threshold is critical, below its double a warning, and 80 % of the mail must fit at all."""
    space = SpaceView(
        free_bytes=free << 20,
        threshold_bytes=threshold << 20,
        total_bytes=total << 20,
        blob_bytes=blobs << 20,
    )
    judged(disk.judge_space(space), outcome, word)


def test_the_mount_of_a_path_is_the_nearest_and_the_last():
    """Of mounts one below the other the nearest holds, of two on one place the later; blanks are read."""
    text = (
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "22 21 8:2 / /backup rw - xfs /dev/sdb1 rw\n"
        "23 21 0:9 / /backup rw,noatime - nfs4 nas:/b rw\n"
        "24 21 8:3 / /mnt/my\\040disk rw - ext4 /dev/sdc1 ro\n"
        "too short\n"
    )
    assert mount_of("/backup/x", text).kind == "nfs4"
    assert mount_of("/backups", text).point == "/"
    spaced = mount_of("/mnt/my disk/b", text)
    assert (spaced.point, spaced.read_only) == ("/mnt/my disk", True)


# --- the mail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "outcomes", "word"),
    [
        ({}, [OK, OK, OK], "3 of 3 accounts looked at"),
        ({"failure": "Permission denied"}, [CRITICAL], "sudo -u backupd ls /var/vmail"),
        ({"accounts": 0}, [CRITICAL], "holds no account"),
        ({"unreadable": ("a/cur",), "unreadable_total": 9}, [CRITICAL, OK, OK], "a/cur and 8 more"),
        ({"read_only": ("a",), "read_only_total": 1}, [OK, WARNING, OK], "restores into them fail"),
        ({"folders": 800}, [OK, OK, OK], "800 directories"),
        ({"folders": 801}, [OK, OK, WARNING], "nearly used up"),
        ({"folders": 1001}, [OK, OK, CRITICAL], "fs.inotify.max_user_watches="),
        ({"folders": 1001, "counted_all": False}, [OK, OK, CRITICAL], "more than 1,001"),
        ({"watches_max": 0}, [OK, OK, UNKNOWN], "does not tell"),
    ],
)
def test_the_mail_is_judged(changes: dict[str, Any], outcomes: list[Outcome], word: str):
    """Unreadable mail is critical and named, unwritable a warning, too many folders to watch critical."""
    facts = mail.MailFacts(root=MAIL, accounts=3, sampled=3, messages=5, folders=10, watches_max=1000)
    checks = mail.judge_mail(msgspec.structs.replace(facts, **changes), watch=True, user="backupd")
    assert [check.outcome for check in checks] == outcomes
    assert any(word in f"{check.found} {check.cure}" for check in checks), checks


def test_folders_do_not_matter_where_the_server_publishes():
    """Without a watch of our own no limit of watches is judged."""
    facts = mail.MailFacts(root=MAIL, accounts=1, folders=9999, watches_max=10)
    judged(mail.judge_mail(facts, watch=False, user="backupd")[2], OK, "publishes its events itself")


# --- the machine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "outcome", "word"),
    [
        ({"doubt": "it jumped forward"}, WARNING, "it jumped forward"),
        ({}, OK, "synchronized"),
        ({"synchronized": False}, WARNING, "timedatectl set-ntp true"),
        ({"synchronized": None}, UNKNOWN, "not told here"),
        ({"now": datetime(1970, 1, 2, tzinfo=UTC)}, CRITICAL, "that can't be"),
        ({"latest": NOW + timedelta(seconds=60)}, OK, "synchronized"),
        ({"latest": NOW + timedelta(seconds=61)}, CRITICAL, "it was set back"),
    ],
)
def test_the_clock_is_judged(changes: dict[str, Any], outcome: Outcome, word: str):
    """A clock before its own past is critical, an unsynchronized one a warning, an untold one unknown."""
    facts = machine.ClockFacts(now=NOW, synchronized=True, latest=NOW, zone="Europe/Rome")
    clock, zone = machine.judge_clock(msgspec.structs.replace(facts, **changes))
    judged(clock, outcome, word)
    judged(zone, OK, "Europe/Rome")


def test_a_zone_that_does_not_exist_is_told():
    """A TZ that nobody knows is a warning that names it; a known one is shown with its offset."""
    wrong = machine.look_at_clock(NOW, None, {"TZ": "Europe/Atlantis"})
    judged(machine.judge_clock(wrong)[1], WARNING, "Europe/Atlantis")
    right = machine.look_at_clock(NOW, None, {"TZ": "Europe/Rome"})
    judged(machine.judge_clock(right)[1], OK, "Europe/Rome")


@pytest.mark.parametrize(
    ("uid", "opened", "limit", "outcomes"),
    [
        (999, 50, 65536, [OK, OK]),
        (0, 50, 65536, [WARNING, OK]),
        (999, 50, 1024, [OK, WARNING]),
        (999, 60_000, 65536, [OK, CRITICAL]),
    ],
)
def test_the_service_is_judged(uid: int, opened: int, limit: int, outcomes: list[Outcome]):
    """Root is a warning; few files are a warning, and files nearly used up are critical."""
    facts = machine.ServiceFacts(user="backupd", uid=uid, open_files=opened, open_files_max=limit)
    assert [check.outcome for check in machine.judge_service(facts)] == outcomes


# --- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "outcome", "word"),
    [
        ({}, OK, "no file of one"),
        ({"error": "/p can't be read: Permission denied"}, CRITICAL, "chown backupd /p"),
        ({"open_to_all": True}, WARNING, "chmod o-rwx /p"),
    ],
)
def test_secrets_are_judged(changes: dict[str, Any], outcome: Outcome, word: str):
    """A secret must be readable for the daemon, and not for everybody."""
    facts = [settings.SecretFacts(key="broker.password_file", path=Path("/p"), **changes)] if changes else []
    judged(only(settings.judge_secrets(facts, user="backupd")), outcome, word)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [({}, OK), ({"exists": False}, CRITICAL), ({"writable": False}, CRITICAL), ({"mode": 0o750}, WARNING)],
)
def test_the_state_directory_is_judged(changes: dict[str, Any], outcome: Outcome):
    """It must be there, writable, and for the daemon alone."""
    judged(settings.judge_state(settings.StateFacts(path=Path("/s"), **changes), user="backupd"), outcome)
