"""Condition: from facts to problems, each in one sentence with what to do. Pure.

`danger` means that changes are not being backed up, or could be lost; `attention` means that something
waits for the admin or will heal by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from backupd.keeping_views import BloblessView, CoherencyView, SuspensionView
from backupd.views import (
    BrokerView,
    GapView,
    OperationView,
    Problem,
    RecorderView,
    ScheduleView,
    Severity,
    SpaceView,
)
from backupd.volume_views import VolumeView
from daemon.failures import failing_scan, failures
from daemon.keeping_condition import blobless_problems, coherency_problems, loss_problems
from daemon.missed_runs import PURGE, SMARTSCAN, making_up, missed_runs
from daemon.problems import attention, danger
from daemon.volume_condition import volume_problems

LAG_SECONDS_MAX = 60.0
SCAN_AGE_MAX = timedelta(hours=36)
STARTING = timedelta(seconds=5)
"""For so long after the start it is no problem that something has not begun yet."""

MISSED = "changes may have been missed"
"""The detail of a gap of which no more is known."""

FAILURES_MAX = 5
"""So many failed operations are told one by one, the latest."""

NO_BACKUP = "no_backup"
INTAKE_PAUSED = "intake_paused"
RECORDING_PAUSED = "recording_paused"
SPACE_LOW = "space_low"
BACKUP_PATH_GONE = "backup_path_gone"
DAMAGED = "damaged"
GAP = "gap"
OPERATION_FAILED = "operation_failed"
UNSENT = "notifications_unsent"
RUN_MISSED = "run_missed"
SERVICES_STOPPED = "services_stopped"
CLOCK_IN_DOUBT = "clock_in_doubt"
"""Names of problems that others ask for."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What problems are judged by."""

    now: datetime
    realtime_enabled: bool
    realtime_active: bool
    realtime_trouble: str
    smartscan_enabled: bool
    last_scan: datetime | None
    scanning: bool
    started: datetime
    broker: BrokerView
    intake_paused: str
    recorder: RecorderView
    waiting_photographs: int
    gaps: Sequence[GapView]
    last_operations: Sequence[OperationView]
    damaged: Sequence[str]
    space: SpaceView
    backup_path_trouble: str = ""
    services_stopped: Sequence[str] = ()
    schedules: Sequence[ScheduleView] = ()
    unsent: str = ""
    metrics_trouble: str = ""
    config_trouble: str = ""
    clock_doubt: str = ""
    last_purge: datetime | None = None
    backup_path: str = "PATH"
    last_proven_restore: datetime | None = None
    volume: VolumeView | None = None
    suspensions: Sequence[SuspensionView] = ()
    coherency: CoherencyView = CoherencyView()
    blobless: BloblessView = BloblessView()
    accounts: int = 0
    not_enabled: int = 0


def problems(facts: Facts) -> list[Problem]:
    """Return what is not well, the worst first."""
    found = [
        *_backup_path_problems(facts),
        *_clock_problems(facts),
        *_scanner_problems(facts),
        *_schedule_problems(facts),
        *_intake_problems(facts),
        *_store_problems(facts),
        *volume_problems(facts.volume, facts.now),
        *loss_problems(facts.suspensions),
        *blobless_problems(facts.blobless),
    ]
    return sorted(found, key=lambda problem: problem.severity is not Severity.DANGER)


def _backup_path_problems(facts: Facts) -> list[Problem]:
    if not facts.backup_path_trouble:
        return []
    return [
        danger(
            BACKUP_PATH_GONE,
            f"NO BACKUP IS BEING MADE: {facts.backup_path_trouble}",
            "is its file system still mounted? Mount it, then: systemctl restart backupd",
        )
    ]


def _start_command(stopped: Sequence[str]) -> str:
    """Return the command that starts what is stopped: the one service, or all of them."""
    return f"backupctl backup doStartService {stopped[0] if len(stopped) == 1 else 'module'}"


def _clock_problems(facts: Facts) -> list[Problem]:
    if not facts.clock_doubt:
        return []
    return [
        attention(
            CLOCK_IN_DOUBT,
            f"the clock is in doubt, so nothing is purged: {facts.clock_doubt}",
            "set the clock (timedatectl); if it is right, once: backupctl backup doPurge force true",
        )
    ]


def _nothing_runs(facts: Facts) -> list[Problem]:
    """Return that no backup is being made, or that services are stopped."""
    found = []
    scans_itself = facts.smartscan_enabled and not {"scheduler", "operations"} & set(facts.services_stopped)
    if not facts.realtime_enabled and not scans_itself:
        stopped = (
            f" (stopped services: {', '.join(facts.services_stopped)})" if facts.services_stopped else ""
        )
        found.append(
            danger(
                NO_BACKUP,
                f"NO BACKUP IS BEING MADE: the Realtime Scanner and SmartScan are both off{stopped}",
                "backupctl backup doStartService module"
                if facts.services_stopped
                else "backupctl config set global ZxBackup_RealTimeScanner TRUE",
            )
        )
    elif facts.accounts and facts.not_enabled >= facts.accounts:
        found.append(
            danger(
                NO_BACKUP,
                "NO BACKUP IS BEING MADE: every account is left out (backupEnabled is false)",
                "backupctl config set cos NAME backupEnabled true, or of single accounts",
            )
        )
    elif facts.services_stopped:
        found.append(
            attention(
                SERVICES_STOPPED,
                f"stopped services: {', '.join(facts.services_stopped)}",
                _start_command(facts.services_stopped),
            )
        )
    return found


def _scanner_problems(facts: Facts) -> list[Problem]:
    found = _nothing_runs(facts)
    if facts.realtime_enabled and not facts.realtime_active:
        if facts.realtime_trouble:
            found.append(
                danger(
                    "realtime_trouble",
                    f"the Realtime Scanner does not work: {facts.realtime_trouble}",
                    "it is tried again by itself; until then only scans find what changes",
                )
            )
        elif facts.now - facts.started > STARTING:
            reason = facts.broker.error or "connecting"
            found.append(
                danger(
                    "broker_not_connected",
                    f"the broker {facts.broker.url} is not connected: {reason}",
                    "events wait there until it is back; is it running, are the credentials right?",
                )
            )
    if facts.last_scan is None:
        if not facts.scanning and not facts.backup_path_trouble:
            found.append(
                danger(
                    "never_scanned",
                    "no SmartScan has succeeded yet: the backup is incomplete",
                    "backupctl backup doSmartScan start",
                )
            )
    elif facts.smartscan_enabled and facts.now - facts.last_scan > SCAN_AGE_MAX and not facts.scanning:
        found.append(
            attention(
                "scan_is_old",
                f"the last successful SmartScan was at {facts.last_scan:%Y-%m-%d %H:%M} UTC",
                "backupctl backup doSmartScan start",
            )
        )
    return found


def runs_missed(facts: Facts) -> list[ScheduleView]:
    """Return the jobs of which a run was missed that nothing has made up for since."""
    done = {SMARTSCAN: facts.last_scan, PURGE: facts.last_purge}
    return missed_runs(facts.schedules, facts.now, done=done)


def _schedule_problems(facts: Facts) -> list[Problem]:
    found = []
    for job in runs_missed(facts):
        following = f"; the next is at {job.next:%Y-%m-%d %H:%M} UTC" if job.next else ""
        found.append(
            attention(
                RUN_MISSED,
                f"the {job.job} due at {job.last_missed:%Y-%m-%d %H:%M} UTC was missed and is not made up for"
                f"{following}",
                making_up(job.job),
            )
        )
    return found


def _intake_problems(facts: Facts) -> list[Problem]:
    found = []
    if facts.intake_paused:
        found.append(
            danger(
                INTAKE_PAUSED,
                f"nothing new is acknowledged: {facts.intake_paused}",
                "the broker keeps the events; intake goes on by itself once this is mended",
            )
        )
    if facts.recorder.paused:
        found.append(
            danger(
                RECORDING_PAUSED,
                f"recording is paused: {facts.recorder.paused}",
                "the journal keeps what came; recording goes on by itself once this is mended",
            )
        )
    elif facts.recorder.lag_seconds > LAG_SECONDS_MAX:
        found.append(
            attention(
                "recording_is_behind",
                f"recording is {facts.recorder.lag_entries:,} entries and "
                f"{facts.recorder.lag_seconds:,.0f} s behind the journal",
                "nothing is lost; is the disk of the Backup Path, or the AppServer, slow?",
            )
        )
    for gap in facts.gaps[:3]:
        whose = f"account {gap.account_name or gap.account}" if gap.account else "all accounts"
        detail = "" if gap.detail == MISSED else f": {gap.detail}"
        found.append(
            attention(
                GAP,
                f"changes of {whose} may have been missed ({gap.reason}){detail}",
                how_healed(facts, gap),
            )
        )
    if facts.waiting_photographs:
        found.append(
            attention(
                "photographs_wait",
                f"{facts.waiting_photographs:,} photographs wait: their items could not be read yet",
                "they are tried again by themselves; is the AppServer's storage readable?",
            )
        )
    return found


def how_healed(facts: Facts, gap: GapView) -> str:
    """Return what heals a gap, or that the scan that should does not succeed."""
    failing = failing_scan(facts.last_operations, gap.account)
    if failing is None:
        return "a scan heals this by itself"
    return f"the scan that would heal it fails, and is tried again by itself: {what_to_do(failing)}"


def _store_problems(facts: Facts) -> list[Problem]:
    found = []
    if (
        facts.space.threshold_bytes
        and not facts.backup_path_trouble
        and facts.space.free_bytes < facts.space.threshold_bytes
    ):
        found.append(
            danger(
                SPACE_LOW,
                f"the Backup Path has {facts.space.free_bytes >> 20:,} MB free, less than the threshold of "
                f"{facts.space.threshold_bytes >> 20:,} MB",
                "make room, or lower ZxBackup_SpaceThreshold",
            )
        )
    found += [
        danger(DAMAGED, f"damaged: {sentence}", "the rest of the backup goes on; keep the file for repair")
        for sentence in facts.damaged[:5]
    ]
    found += coherency_problems(facts.coherency, facts.backup_path)
    if facts.config_trouble:
        found.append(
            attention(
                "configuration_broken",
                f"the configuration can't be used as it stands now: {facts.config_trouble}",
                "the one before stays in force, but the next start would fail: mend it, then reload",
            )
        )
    if facts.metrics_trouble:
        found.append(
            attention(
                "metrics_not_served",
                f"metrics are not served: {facts.metrics_trouble}",
                "mend [metrics] listen; it is tried again by itself, and the control socket has them too",
            )
        )
    found += _failure_problems(facts)
    if facts.unsent:
        hint = "it is tried again by itself for a day; backupctl core getNotification lists them"
        found.append(attention(UNSENT, f"admins are not told: {facts.unsent}", hint))
    return found


def _failure_problems(facts: Facts) -> list[Problem]:
    failed = failures(facts.last_operations)
    found = [
        attention(
            OPERATION_FAILED,
            f"the last {one.type} {one.status.value}: {verdict_of(one)}",
            what_to_do(one),
        )
        for one in failed[-FAILURES_MAX:]
    ]
    more = len(failed) - FAILURES_MAX
    if more > 0:
        hint = "backupctl backup getAllOperations verbose true"
        found.append(attention(OPERATION_FAILED, f"{more:,} more operations failed", hint))
    return found


def verdict_of(failed: OperationView) -> str:
    """Return the verdict of a failed operation without the advice, which stands by itself."""
    return failed.verdict.removesuffix(f" ({failed.hint})") or "without a verdict"


def what_to_do(failed: OperationView) -> str:
    """Return the cure of a failed operation: what it advised itself, and where its errors are listed."""
    monitor = f"backupctl backup monitor {failed.uuid}"
    return f"{failed.hint}; its errors: {monitor}" if failed.hint else monitor
