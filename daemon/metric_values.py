"""Values of the metrics: from facts gathered at one moment to numbers by name and labels. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from backupd.jobs.coherency.findings import SORTS
from backupd.keeping_views import CoherencyView
from backupd.operations import Operation, OperationStatus
from backupd.views import Problem, Severity
from backupd.volume_views import MetadataView, VolumeView
from backupd.volumes.counting import CALLS
from daemon.condition import CLOCK_IN_DOUBT
from daemon.failures import failures, last_of_each
from daemon.freshness import Freshness
from daemon.scheduler import Job
from daemon.standing import Survey
from daemon.subscription import SubscriptionStatus

Value = tuple[str, tuple[str, ...], float]
"""A metric's name without its prefix, the values of its labels, and its number."""

REFUSALS = (
    *(
        "account",
        "body",
        "digest",
        "identity",
        "invalid_field",
        "kind",
        "nesting",
        "not_json",
        "other_server",
    ),
    *("scan_only", "sequence", "size", "specversion", "time", "too_large", "topic", "type"),
)
"""Every reason for which a message is refused: shown from the start as 0, so that the first one is a rise."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that metrics are made of, at one moment."""

    survey: Survey
    logged: Mapping[tuple[str, str], int]
    python: str


def values(facts: Facts) -> Iterator[Value]:
    """Yield every number but those of the gauge histogram and of the process."""
    status = facts.survey.status
    yield "build_info", (status.daemon_version, facts.python), 1
    yield "server_info", (status.server_id, status.server_name, status.backup_path), 1
    yield "started_timestamp_seconds", (), status.started.timestamp()
    for severity in Severity:
        count = sum(problem.severity is severity for problem in status.problems)
        yield "problems", (severity.value,), count
    yield from _scanners(facts.survey)
    yield from _intake(facts.survey)
    yield from _recording(facts.survey)
    yield from _operations(facts.survey)
    yield from _schedules(facts.survey.jobs)
    yield from _holdings(facts.survey)
    yield from _volume(facts.survey.status.volume, facts.survey.status.now)
    yield from _purges(facts.survey, status.problems)
    for (level, event), count in sorted(facts.logged.items()):
        yield "logged_total", (level, event), count


def buckets(fresh: Freshness) -> tuple[list[tuple[str, float]], float]:
    """Return the gauge histogram of accounts by age, and the sum of their ages."""
    counts = [
        ("+Inf" if math.isinf(bound) else f"{bound:.1f}", float(count)) for bound, count in fresh.at_most()
    ]
    return counts, sum(age * count for age, count in fresh.ages() if count)


def _scanners(survey: Survey) -> Iterator[Value]:
    status, fresh = survey.status, survey.freshness
    yield "no_backup", (), not status.realtime.enabled and not status.smartscan.enabled
    for name, scanner in (("realtime", status.realtime), ("smartscan", status.smartscan)):
        yield "scanner_enabled", (name,), scanner.enabled
        yield "scanner_active", (name,), scanner.active
    last = status.smartscan.last_success
    yield "smartscan_last_success_timestamp_seconds", (), last.timestamp() if last else 0
    if fresh.worst is not None and fresh.worst_seconds is not None:
        yield "recovery_age_seconds_worst", (), fresh.worst_seconds
        yield "recoverable_until_timestamp_seconds", (), fresh.worst.timestamp()


def _intake(survey: Survey) -> Iterator[Value]:
    broker = survey.subscription or SubscriptionStatus(broker="")
    yield "broker_connected", (), broker.connected
    yield "broker_connections_lost_total", (), broker.connections_lost
    if broker.last_event is not None:
        yield "broker_last_event_timestamp_seconds", (), broker.last_event.timestamp()
    yield "events_received_total", (), broker.received
    yield "events_journaled_total", (), broker.journaled
    yield "events_redelivered_total", (), broker.redelivered
    for reason, count in sorted((dict.fromkeys(REFUSALS, 0) | broker.refused).items()):
        yield "events_refused_total", (reason,), count
    yield "intake_waiting_events", (), broker.waiting_events
    yield "intake_paused", (), bool(broker.paused)
    publisher = survey.publisher
    if publisher is not None:
        yield "publisher_watching", (), publisher.watching
        yield "publisher_buffered_changes", (), publisher.buffered
        yield "publisher_published_total", (), publisher.published
        yield "publisher_dropped_total", (), publisher.dropped


def _recording(survey: Survey) -> Iterator[Value]:
    recording, gaps, now = survey.recording, survey.gaps, survey.status.now
    yield "journal_last_sequence", (), recording.journaled
    yield "recorder_cursor", (), recording.recorded
    yield "recorder_durable_cursor", (), recording.durable
    yield "recorder_lag_entries", (), max(0, recording.journaled - recording.recorded)
    yield "recorder_lag_seconds", (), recording.lag_seconds
    yield "recorder_paused", (), bool(recording.paused)
    yield "changes_not_enabled_total", (), recording.unwanted
    yield "waiting_photographs", (), survey.status.waiting_photographs
    yield "waiting_oldest_age_seconds", (), _age(now, survey.waiting_since)
    yield "gaps_open", (), len(gaps)
    for reason, count in sorted(Counter(gap.reason for gap in gaps).items()):
        yield "gaps_open_by_reason", (reason,), count
    yield "gap_oldest_age_seconds", (), _age(now, min((gap.opened for gap in gaps), default=None))


def _operations(survey: Survey) -> Iterator[Value]:
    operations = survey.operations
    counts = Counter((one.type, one.status.value) for one in operations)
    for (type_, status), count in sorted(counts.items()):
        yield "operations", (type_, status), count
    yield "operations_waiting", (), sum(one.status is OperationStatus.QUEUED for one in operations)
    running = [one for one in operations if one.started is not None and not one.has_ended]
    yield "operations_running", (), len(running)
    for one in running:
        yield "operation_running_seconds", (one.type,), _age(survey.status.now, one.started)
    last = last_of_each(operations, survey.status.now)
    failed = {one.type for one in failures(last)}
    for type_ in sorted({one.type for one in operations if one.has_ended}):
        yield "operation_last_failed", (type_,), type_ in failed
    succeeded = {
        one.type: one
        for one in sorted(operations, key=_end)
        if one.status is OperationStatus.SUCCESSFUL and one.ended is not None and one.started is not None
    }
    for type_, one in sorted(succeeded.items()):
        assert one.ended is not None
        yield "operation_last_success_timestamp_seconds", (type_,), one.ended.timestamp()
        yield "operation_last_duration_seconds", (type_,), _age(one.ended, one.started)
    yield from _coherency(survey.status.coherency)
    proven = survey.status.last_proven_restore
    yield "last_proven_restore_timestamp_seconds", (), proven.timestamp() if proven else 0


def _coherency(known: CoherencyView) -> Iterator[Value]:
    for code, count in sorted(known.counts.items()):
        yield "coherency_findings", (code, SORTS[code].weight.value), count
    for name, when in (("run", known.last_run), ("pass", known.last_whole)):
        yield f"coherency_last_{name}_timestamp_seconds", (), when.timestamp() if when else 0
    yield "coherency_pass_share", (), known.share


def _schedules(jobs: Sequence[Job]) -> Iterator[Value]:
    for job in jobs:
        yield "schedule_enabled", (job.name,), job.enabled
        if job.next is not None:
            yield "schedule_next_run_timestamp_seconds", (job.name,), job.next.timestamp()
        if job.last is not None:
            yield "schedule_last_run_timestamp_seconds", (job.name,), job.last.timestamp()
        yield "schedule_missed_runs_total", (job.name,), job.missed


def _holdings(survey: Survey) -> Iterator[Value]:
    status = survey.status
    yield "accounts", (), status.accounts
    yield "accounts_deleted", (), survey.accounts_deleted
    yield "accounts_not_enabled", (), status.accounts_not_enabled
    yield "legal_holds", (), status.legal_holds
    yield "legal_hold_all", (), status.all_held
    yield "retention_suspended_accounts", (), status.retention_suspended
    for count in status.counts:
        yield "items", (count.kind, "live"), count.items
        yield "items", (count.kind, "deleted"), count.deleted
    yield "states", (), survey.states
    space = status.space
    yield "blobs", (), space.blobs
    yield "blob_bytes", (), space.blob_bytes
    yield "journal_bytes", (), space.journal_bytes
    yield "damaged_files", (), survey.damaged
    yield "disk_free_bytes", (), space.free_bytes
    yield "disk_total_bytes", (), space.total_bytes
    yield "disk_threshold_bytes", (), space.threshold_bytes


def _volume(volume: VolumeView | None, now: datetime) -> Iterator[Value]:
    yield "volume_external", (), volume is not None
    volume = volume or VolumeView(title="")
    yield "volume_reachable", (), volume.reachable
    yield "upload_waiting_objects", (), volume.waiting_objects
    yield "upload_waiting_bytes", (), volume.waiting_bytes
    yield "upload_oldest_age_seconds", (), _age(now, volume.oldest)
    yield "upload_damaged_objects", (), volume.damaged_objects
    yield "upload_sent_objects_total", (), volume.sent_objects
    yield "upload_sent_bytes_total", (), volume.sent_bytes
    yield "upload_failures_total", (), volume.failures
    for call, count in sorted((dict.fromkeys(CALLS, 0) | volume.requests).items()):
        yield "volume_requests_total", (call,), count
    yield "blob_cache_bytes", (), volume.cached_bytes
    yield "blob_cache_limit_bytes", (), volume.cache_bytes_max
    metadata = volume.metadata or MetadataView()
    since = metadata.last_sent or metadata.failing_since or metadata.waiting_since
    yield "metadata_sent_age_seconds", (), _age(now, since)
    passed = metadata.last_pass
    yield "metadata_pass_timestamp_seconds", (), 0 if passed is None else passed.timestamp()


def _purges(survey: Survey, problems: Sequence[Problem]) -> Iterator[Value]:
    yield "purge_last_end_timestamp_seconds", (), survey.last_purge.timestamp() if survey.last_purge else 0
    yield "purge_condemned_blobs", (), survey.condemned
    done = [
        one
        for one in survey.operations
        if one.type == "doPurge" and one.status is OperationStatus.SUCCESSFUL and "freedBytes" in one.counts
    ]
    if done:
        yield "purge_last_freed_bytes", (), max(done, key=_end).counts["freedBytes"]
    yield "clock_in_doubt", (), any(problem.name == CLOCK_IN_DOUBT for problem in problems)


def _end(operation: Operation) -> datetime:
    return operation.ended or operation.submitted


def _age(now: datetime, then: datetime | None) -> float:
    """Return the seconds since then, 0 where there is none or where the clock was set back."""
    return max(0.0, (now - then).total_seconds()) if then is not None else 0.0
