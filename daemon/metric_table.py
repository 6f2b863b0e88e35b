"""The table of metrics: every name with its type, its labels and one sentence, as exposed and as documented.

Names follow Prometheus' conventions: base units, `_total` for what only grows since the process began,
`_timestamp_seconds` for moments (seconds since 1970). Run as a module it prints docs/metrics.md.
"""

from __future__ import annotations

import sys
from enum import StrEnum

import msgspec

PREFIX = "backupd_"


class MetricType(StrEnum):
    """How a metric's values are meant."""

    GAUGE = "gauge"
    COUNTER = "counter"
    GAUGE_HISTOGRAM = "gaugehistogram"


class Metric(msgspec.Struct, frozen=True):
    """One row. `name` stands without `PREFIX`; a counter's ends in `_total`."""

    name: str
    type: MetricType
    meaning: str
    labels: tuple[str, ...] = ()


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, MetricType.GAUGE, meaning, labels)


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, MetricType.COUNTER, meaning, labels)


RECOVERY_AGE = Metric(
    "account_recovery_age_seconds",
    MetricType.GAUGE_HISTOGRAM,
    "Accounts by how long ago the moment is up to which they can be brought back.",
    ("le",),
)

TABLE = (
    _gauge("build_info", "Always 1; the labels say which version runs.", "version", "python"),
    _gauge("server_info", "Always 1; the labels say whose backup this is.", "id", "name", "backup_path"),
    _gauge("started_timestamp_seconds", "When the daemon began with its present configuration."),
    _gauge("gathering_seconds", "How long these metrics took to gather."),
    _gauge("problems", "Problems that `backupctl status` shows, by severity.", "severity"),
    # Scanners and freshness
    _gauge("no_backup", "1 if no backup is being made: both scanners are off."),
    _gauge("scanner_enabled", "1 if the scanner is turned on.", "scanner"),
    _gauge("scanner_active", "1 if the scanner works at this moment.", "scanner"),
    _gauge("smartscan_last_success_timestamp_seconds", "When a SmartScan last succeeded; 0: never."),
    RECOVERY_AGE,
    _gauge(
        "recovery_age_seconds_worst", "How old that moment is for all accounts; none before a first scan."
    ),
    _gauge(
        "recoverable_until_timestamp_seconds",
        "Up to when every account can be brought back; none before a first scan.",
    ),
    # Broker, intake, publisher
    _gauge("broker_connected", "1 if the broker is connected and subscribed."),
    _counter("broker_connections_lost_total", "Connections to the broker that broke off or failed."),
    _gauge("broker_last_event_timestamp_seconds", "When an event last came; none before the first."),
    _counter("events_received_total", "Messages that came from the broker."),
    _counter("events_journaled_total", "Events that were journaled and acknowledged."),
    _counter("events_redelivered_total", "Messages that the broker delivered again."),
    _counter("events_refused_total", "Messages that were no events, by reason.", "reason"),
    _gauge("intake_waiting_events", "Events that have come and are not acknowledged yet."),
    _gauge("intake_paused", "1 if nothing new is acknowledged."),
    _gauge("publisher_watching", "1 if the AppServer's changes are watched; none where it publishes itself."),
    _gauge("publisher_buffered_changes", "Changes that wait to be published."),
    _counter("publisher_published_total", "Changes that were published."),
    _counter("publisher_dropped_total", "Changes that could not be published; each account got a gap."),
    # Journal and recorder
    _gauge("journal_last_sequence", "Sequence number of the last journal entry."),
    _gauge("recorder_cursor", "Sequence number of the last recorded entry."),
    _gauge("recorder_durable_cursor", "Sequence number of the last entry whose state is synced."),
    _gauge("recorder_lag_entries", "Journal entries that are not recorded yet."),
    _gauge("recorder_lag_seconds", "Age of the oldest entry that is not recorded yet."),
    _gauge("recorder_paused", "1 if recording can't go on."),
    _counter("changes_not_enabled_total", "Changes left out because their account is not backed up."),
    _gauge("waiting_photographs", "Items that changed and could not be read yet."),
    _gauge("waiting_oldest_age_seconds", "Age of the oldest change that waits for its photograph."),
    _gauge("gaps_open", "Gaps that no scan has closed yet."),
    _gauge("gaps_open_by_reason", "The same by reason; only reasons that there are.", "reason"),
    _gauge("gap_oldest_age_seconds", "Age of the oldest open gap."),
    # Operations and schedules
    _gauge("operations", "Operations that are kept, by type and status.", "type", "status"),
    _gauge("operations_waiting", "Operations that wait in the queue."),
    _gauge("operations_running", "Operations that run: 1 or 0."),
    _gauge("operation_running_seconds", "How long the running operation has been running.", "type"),
    _gauge("operation_last_success_timestamp_seconds", "When one of this type last succeeded.", "type"),
    _gauge("operation_last_duration_seconds", "How long the last success of this type ran.", "type"),
    _gauge(
        "operation_last_failed",
        "1 if one of this type failed or was interrupted, and nothing has mended that since.",
        "type",
    ),
    _gauge(
        "coherency_findings",
        "What coherency checks found and nothing has mended, by code and severity.",
        "code",
        "severity",
    ),
    _gauge("coherency_last_run_timestamp_seconds", "When a coherency check last ended; 0: never."),
    _gauge(
        "coherency_last_pass_timestamp_seconds",
        "When the whole Backup Path was last checked, in one run or several; 0: never.",
    ),
    _gauge("coherency_pass_share", "The part of the present pass of coherency checks that is done, 0 to 1."),
    _gauge("last_proven_restore_timestamp_seconds", "When a restore drill last succeeded; 0: never."),
    _gauge("schedule_enabled", "1 if the job runs by itself.", "schedule"),
    _gauge("schedule_next_run_timestamp_seconds", "When the job runs next; none if never.", "schedule"),
    _gauge("schedule_last_run_timestamp_seconds", "When the job last ran; none if never.", "schedule"),
    _counter("schedule_missed_runs_total", "Runs that were missed and not made up for.", "schedule"),
    # What the backup holds
    _gauge("accounts", "Accounts that are backed up."),
    _gauge("accounts_deleted", "Deleted accounts that the backup still holds."),
    _gauge("accounts_not_enabled", "Accounts that are not backed up because backupEnabled is false."),
    _gauge("legal_holds", "Accounts with a legal hold of their own."),
    _gauge("legal_hold_all", "1 if all accounts are under legal hold."),
    _gauge("retention_suspended_accounts", "Accounts whose retention is suspended after a mass deletion."),
    _gauge("items", "Items by kind; state is live or deleted.", "kind", "state"),
    _gauge("states", "States of all items."),
    _gauge("blobs", "Distinct contents."),
    _gauge("blob_bytes", "Bytes of all distinct contents, before compression."),
    _gauge("journal_bytes", "Bytes of the journal's segments."),
    _gauge("damaged_files", "Histories and journal records that can't be read."),
    _gauge("disk_free_bytes", "Bytes that can still be written to the Backup Path."),
    _gauge("disk_total_bytes", "Size of the Backup Path's file system."),
    _gauge("disk_threshold_bytes", "Below so many free bytes nothing new is acknowledged; 0: no threshold."),
    # The external volume; all of these are well where there is none
    _gauge("volume_external", "1 if an external volume is set."),
    _gauge("volume_reachable", "0 if the last attempt to send to the external volume failed."),
    _gauge("upload_waiting_objects", "Blobs that are not confirmed on the external volume yet."),
    _gauge("upload_waiting_bytes", "Bytes of their files."),
    _gauge("upload_oldest_age_seconds", "How long the oldest of them has been waiting."),
    _gauge("upload_damaged_objects", "Blobs that can't be sent: damaged, here or where they should go."),
    _counter("upload_sent_objects_total", "Blobs that were sent and confirmed."),
    _counter("upload_sent_bytes_total", "Bytes of their files."),
    _counter("upload_failures_total", "Attempts to send that failed; each is made again."),
    _counter("volume_requests_total", "Calls to the external volume, by what was asked.", "call"),
    _gauge("blob_cache_bytes", "Bytes of blobs in the Backup Path that are confirmed outside."),
    _gauge("blob_cache_limit_bytes", "What those and the waiting ones may take together."),
    _gauge("metadata_sent_age_seconds", "Since when no metadata was sent to the external volume."),
    _gauge("metadata_pass_timestamp_seconds", "When archives of all accounts were last outside; 0: not yet."),
    # Retention
    _gauge("purge_last_end_timestamp_seconds", "When a purge last came to its end; 0: never."),
    _gauge("purge_last_freed_bytes", "What the last successful purge freed; none before the first."),
    _gauge("purge_condemned_blobs", "Contents that nothing refers to, and that wait for the end of grace."),
    _gauge("clock_in_doubt", "1 if the clock is in doubt, so that nothing is purged."),
    # The process
    _counter("logged_total", "Log lines of level warning and error, by event.", "level", "event"),
    _gauge("process_virtual_memory_bytes", "Virtual memory size in bytes."),
    _gauge("process_resident_memory_bytes", "Resident memory size in bytes."),
    _gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds."),
    _counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds."),
    _gauge("process_open_fds", "Number of open file descriptors."),
    _gauge("process_max_fds", "Maximum number of open file descriptors."),
)
"""Every metric, in the order of exposition. Those of the process are prometheus_client's own."""

_HEAD = """# Metrics

All that `GET /metrics` answers, in Prometheus' text format. [operations.md](operations.md#metrics) says how
to ask, and what each alert made from them means. Counters begin at 0 with the process. The gauge histogram
counts all accounts anew at every scrape: in `_bucket{le="60"}` are those that can be brought back as of at
most 60 seconds ago, `_gcount` is their number, `_gsum` the sum of their ages.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def page() -> str:
    """Return docs/metrics.md."""
    return _HEAD + "".join(f"{row_of(metric)}\n" for metric in TABLE)


def row_of(metric: Metric) -> str:
    """Return a metric's row of docs/metrics.md."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{PREFIX}{metric.name}` | {metric.type} | {labels} | {metric.meaning} |"


if __name__ == "__main__":
    sys.stdout.write(page())
