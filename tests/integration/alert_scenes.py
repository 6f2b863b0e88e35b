"""Scenes of the alerts: for each alert, what the metrics are when it must fire.

A scene overrides series of the good state, which is what a real daemon exposes. Values are in promtool's
notation (`0+60x10`: from 0 in ten steps of 60), a step is a minute, `x3000` as long as it takes; `after`
is when the alert has to fire.
"""

from __future__ import annotations

from typing import Any

import msgspec

JOB = 'job="backupd",instance="mail:9469"'
MINUTES = {"m": 1, "h": 60}
REALTIME, SMARTSCAN = 'scanner="realtime"', 'scanner="smartscan"'


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """`series` has (metric, its labels) and values; None: the series is not there. `fires` are its labels."""

    alert: str
    severity: str
    series: dict[tuple[str, str], str | None]
    after: str
    fires: dict[str, str] = msgspec.field(default_factory=lambda: {"job": "backupd", "instance": "mail:9469"})


def _scene(alert: str, severity: str, after: str, metric: str, values: str | None, labels: str = "") -> Scene:
    return Scene(alert=alert, severity=severity, after=after, series={(metric, labels): values})


def _with(scene: Scene, **fires: str) -> Scene:
    return msgspec.structs.replace(scene, fires=scene.fires | fires)


def _also(scene: Scene, metric: str, values: str | None, labels: str = "") -> Scene:
    return msgspec.structs.replace(scene, series=scene.series | {(metric, labels): values})


CRITICAL, WARNING = "critical", "warning"
SCANNED, WORST = "smartscan_last_success_timestamp_seconds", "recovery_age_seconds_worst"
PROVEN = "last_proven_restore_timestamp_seconds"
DAMAGED_BLOBS = 'code="blob.corrupt",severity="danger"'
FREE, THRESHOLD, TOTAL = "disk_free_bytes", "disk_threshold_bytes", "disk_total_bytes"

SCENES = (
    _scene("BackupdDown", CRITICAL, "6m", "up", "0x3000"),
    msgspec.structs.replace(_scene("BackupdMetricsMissing", CRITICAL, "11m", "build_info", None), fires={}),
    _scene("BackupdRestartsOften", WARNING, "1h", "process_start_time_seconds", "0x50 1 2 3 4x20"),
    _scene("BackupdNoBackup", CRITICAL, "6m", "no_backup", "1x3000"),
    _scene("BackupdNeverScanned", CRITICAL, "31m", SCANNED, "0x3000"),
    _scene("BackupdSmartScanOverdue", CRITICAL, "37h", SCANNED, "60x3000"),
    _scene("BackupdRecoveryBehind", WARNING, "16m", WORST, "3601x3000"),
    _scene("BackupdRecoveryFarBehind", CRITICAL, "16m", WORST, "129601x3000"),
    _scene("BackupdBrokerDisconnected", WARNING, "6m", "broker_connected", "0x3000"),
    _scene("BackupdIntakePaused", CRITICAL, "6m", "intake_paused", "1x3000"),
    _scene("BackupdPublisherNotWatching", WARNING, "6m", "publisher_watching", "0x3000"),
    _scene("BackupdEventsRefused", WARNING, "1h", "events_refused_total", "0x30 1x60", 'reason="topic"'),
    _scene("BackupdRecorderPaused", CRITICAL, "6m", "recorder_paused", "1x3000"),
    _scene("BackupdRecorderLags", WARNING, "11m", "recorder_lag_seconds", "301x3000"),
    _scene("BackupdPhotographsWait", WARNING, "6m", "waiting_oldest_age_seconds", "3601x3000"),
    _scene("BackupdGapOpen", WARNING, "16m", "gap_oldest_age_seconds", "21601x3000"),
    _with(
        _scene(
            "BackupdOperationFailed", WARNING, "6m", "operation_last_failed", "1x3000", 'type="doSmartScan"'
        ),
        type="doSmartScan",
    ),
    _with(
        _scene(
            "BackupdOperationRunsLong",
            WARNING,
            "1m",
            "operation_running_seconds",
            "86401x30",
            'type="doSmartScan"',
        ),
        type="doSmartScan",
    ),
    _with(
        _scene(
            "BackupdScheduleMissed",
            WARNING,
            "1h",
            "schedule_missed_runs_total",
            "0x30 1x60",
            'schedule="SmartScan"',
        ),
        schedule="SmartScan",
    ),
    # Time begins at 0 here: 35 days before it.
    _scene("BackupdRestoreNotProven", WARNING, "1h", PROVEN, "-3024000x3000"),
    _scene("BackupdVolumeUnreachable", WARNING, "31m", "volume_reachable", "0x3000"),
    _scene("BackupdUploadsBehind", WARNING, "16m", "upload_oldest_age_seconds", "14401x3000"),
    _also(
        _scene("BackupdUploadsFillThePath", CRITICAL, "16m", "upload_waiting_bytes", "101x3000"),
        "blob_cache_limit_bytes",
        "100x3000",
    ),
    _scene("BackupdBlobsNotSent", CRITICAL, "6m", "upload_damaged_objects", "1x3000"),
    _scene("BackupdMetadataNotSent", WARNING, "6m", "metadata_sent_age_seconds", "1801x3000"),
    _also(_scene("BackupdSpaceExhausted", CRITICAL, "6m", FREE, "99x3000"), THRESHOLD, "100x3000"),
    _also(_scene("BackupdSpaceLow", WARNING, "16m", FREE, "199x3000"), THRESHOLD, "100x3000"),
    # 4,000 bytes free, 600 fewer each hour: none are left after seven hours.
    _also(
        _also(_scene("BackupdSpaceRunsOut", WARNING, "2h", FREE, "4000-10x390"), TOTAL, "10000x3000"),
        THRESHOLD,
        "0x3000",
    ),
    _scene("BackupdIncoherent", CRITICAL, "1m", "coherency_findings", "2x3000", DAMAGED_BLOBS),
    _scene("BackupdDamaged", CRITICAL, "1m", "damaged_files", "1x3000"),
    _scene("BackupdMassDeletion", CRITICAL, "1m", "retention_suspended_accounts", "1x3000"),
    _scene("BackupdClockInDoubt", WARNING, "16m", "clock_in_doubt", "1x3000"),
    _scene("BackupdPurgeOverdue", WARNING, "362h", "purge_last_end_timestamp_seconds", "60x25000"),
)

SILENT = (
    # What hides an alert on purpose.
    _scene("BackupdRestoreNotProven", "", "40h", PROVEN, "0x3000"),
    _also(_scene("BackupdNeverScanned", "", "1h", SCANNED, "0x3000"), "scanner_active", "1x3000", SMARTSCAN),
    _also(
        _scene("BackupdSmartScanOverdue", "", "40h", SCANNED, "60x3000"),
        "scanner_active",
        "1x3000",
        SMARTSCAN,
    ),
    _also(
        _scene("BackupdSmartScanOverdue", "", "40h", SCANNED, "60x3000"),
        "scanner_enabled",
        "0x3000",
        SMARTSCAN,
    ),
    _also(
        _scene("BackupdRecoveryBehind", "", "1h", WORST, "9000x3000"), "scanner_enabled", "0x3000", REALTIME
    ),
    _also(
        _scene("BackupdBrokerDisconnected", "", "1h", "broker_connected", "0x3000"),
        "scanner_enabled",
        "0x3000",
        REALTIME,
    ),
    _also(_scene("BackupdMetricsMissing", "", "1h", "build_info", None), "up", "0x3000"),
    _scene("BackupdRestartsOften", "", "1h", "process_start_time_seconds", "0x50 1x20"),
    _also(
        _also(_scene("BackupdSpaceRunsOut", "", "2h", FREE, "4000x390"), TOTAL, "10000x3000"),
        THRESHOLD,
        "0x3000",
    ),
)
"""Scenes in which the alert must not fire, though one of its conditions holds."""


def promtool_tests(good: dict[tuple[str, str], float]) -> dict[str, list[dict[str, Any]]]:
    """Return promtool's tests by the alert they are about: each scene upon the good state; "" is for all."""
    alerts = sorted({scene.alert for scene in SCENES})
    silence = [
        {"eval_time": when, "alertname": alert, "exp_alerts": []}
        for alert in alerts
        for when in ("1h", "12h")
    ]
    tests = {"": [_test("good", good, {}, silence)], **{alert: [] for alert in alerts}}
    for scene in SCENES:
        labels = {"severity": scene.severity, **scene.fires}
        expected = {
            "eval_time": scene.after,
            "alertname": scene.alert,
            "exp_alerts": [{"exp_labels": labels}],
        }
        tests[scene.alert].append(_test(scene.alert, good, scene.series, [expected]))
    for scene in SILENT:
        expected = {"eval_time": scene.after, "alertname": scene.alert, "exp_alerts": []}
        tests[scene.alert].append(_test(f"not {scene.alert}", good, scene.series, [expected]))
    return tests


def _test(
    name: str,
    good: dict[tuple[str, str], float],
    overrides: dict[tuple[str, str], str | None],
    expected: list[dict[str, Any]],
) -> dict[str, Any]:
    # Promtool needs its time for every sample: none is made beyond the last look.
    minutes = max(int(look["eval_time"][:-1]) * MINUTES[look["eval_time"][-1]] for look in expected)
    values: dict[tuple[str, str], str] = {series: f"{number!r}x3000" for series, number in good.items()}
    for (metric, labels), value in overrides.items():
        if value is None:
            values = {series: one for series, one in values.items() if series[0] != f"backupd_{metric}"}
        else:
            values["up" if metric == "up" else f"backupd_{metric}", labels] = value
    return {
        "name": name,
        "interval": "1m",
        "input_series": [
            {
                "series": f"{metric}{{{JOB}{',' if labels else ''}{labels}}}",
                "values": told.replace("x3000", f"x{minutes}"),
            }
            for (metric, labels), told in values.items()
        ],
        "alert_rule_test": expected,
    }
