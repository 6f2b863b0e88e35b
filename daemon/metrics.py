"""Metrics in Prometheus' text format: how far intake, recording and operations are."""

from __future__ import annotations

from collections import Counter

from daemon.operations_queue import OperationsQueue
from daemon.realtime import RealtimeScanner
from daemon.recording import RecordingStatus


def text(recording: RecordingStatus, realtime: RealtimeScanner, queue: OperationsQueue) -> str:
    """Return all metrics."""
    lines: list[str] = []

    def add(name: str, kind: str, meaning: str, *values: tuple[str, float]) -> None:
        lines.append(f"# HELP backupd_{name} {meaning}")
        lines.append(f"# TYPE backupd_{name} {kind}")
        # repr, because a sequence number has more digits than a float is usually shown with.
        lines.extend(f"backupd_{name}{labels} {value!r}" for labels, value in values)

    subscription = realtime.subscription
    add("realtime_enabled", "gauge", "1 if the Realtime Scanner is on.", ("", float(realtime.enabled)))
    connected = subscription is not None and subscription.status.connected
    add("broker_connected", "gauge", "1 if the broker is connected and subscribed.", ("", float(connected)))
    if subscription is not None:
        status = subscription.status
        add("events_received_total", "counter", "Events that arrived since the start.", ("", status.received))
        add("events_journaled_total", "counter", "Events journaled since the start.", ("", status.journaled))
        refused = [(f'{{reason="{reason}"}}', float(count)) for reason, count in status.refused.items()]
        add("events_refused_total", "counter", "Messages that were no events.", *refused)
        add("intake_paused", "gauge", "1 if nothing is acknowledged.", ("", float(bool(status.paused))))
    add("journal_last_sequence", "gauge", "Last journaled sequence number.", ("", recording.journaled))
    add("recorder_cursor", "gauge", "Last recorded sequence number.", ("", recording.recorded))
    add("recorder_lag_seconds", "gauge", "Age of the oldest unrecorded entry.", ("", recording.lag_seconds))
    add("recorder_paused", "gauge", "1 if recording can't go on.", ("", float(bool(recording.paused))))
    counts = Counter((one.type, one.status.value) for one in queue.operations())
    operations = [
        (f'{{type="{type_}",status="{status}"}}', float(count))
        for (type_, status), count in sorted(counts.items())
    ]
    add("operations", "gauge", "Operations that are kept, by type and status.", *operations)
    return "\n".join(lines) + "\n"
