"""What the doctor makes of how the daemon stands: facts in, outcome, words and cure out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from backupd.keeping_views import CoherencyView, SuspensionView
from backupd.operations import OperationStatus
from backupd.views import CheckView, GapView, OperationView, Outcome, RecorderView, ScheduleView
from daemon import standing_checks
from daemon.condition import LAG_SECONDS_MAX, SCAN_AGE_MAX, Facts
from daemon.connection import Granted
from daemon.standing_checks import PROOF_AGE_MAX
from daemon.subscription import SubscriptionStatus
from tests.unit.daemon.making import well

NOW = datetime(2026, 11, 23, 20, 55, tzinfo=UTC)
OK, WARNING, CRITICAL = Outcome.OK, Outcome.WARNING, Outcome.CRITICAL
OPERATION = OperationView(
    uuid="u-1", type="doSmartScan", status=OperationStatus.FAILED, submitted=NOW, verdict="1 missing"
)
REFUSED = msgspec.structs.replace(OPERATION, verdict="1 missing (is it mounted?)", hint="is it mounted?")
ACCOUNT_SCAN = msgspec.structs.replace(OPERATION, type="doAccountScan")
SUSPENDED = SuspensionView(
    id="a", name="a@example.com", since=NOW, lost=90, total=100, hours=24, sentence="90 of 100 items"
)


def facts(**changes: Any) -> Facts:
    """Return the facts of a daemon that is well, with changes."""
    return well(NOW, **changes)


def judged(checks: list[CheckView], name: str, outcome: Outcome, word: str) -> None:
    """Assert what one of the checks says, that the others are well, and that what is not well has a cure."""
    for check in checks:
        assert bool(check.cure) is (check.outcome is not OK), check
        if check.name == name:
            assert check.outcome is outcome, check
            assert word in f"{check.found} | {check.cure}"
        else:
            assert check.outcome is OK, check
    assert name in {check.name for check in checks}


@pytest.mark.parametrize(
    ("changes", "outcome", "word"),
    [
        ({}, OK, "works"),
        ({"realtime_enabled": False, "smartscan_enabled": False}, CRITICAL, "NO BACKUP IS BEING MADE"),
        ({"realtime_enabled": False}, WARNING, "ZxBackup_RealTimeScanner TRUE"),
        ({"accounts": 3, "not_enabled": 3}, CRITICAL, "every account is left out"),
        ({"accounts": 3, "not_enabled": 2}, OK, "works"),
        ({"smartscan_enabled": False}, WARNING, "SmartScan set global enabled true"),
        ({"realtime_active": False, "realtime_trouble": "the port is taken"}, CRITICAL, "the port is taken"),
        ({"realtime_active": False, "intake_paused": "disk full"}, CRITICAL, "disk full"),
        ({"realtime_active": False, "started": NOW - timedelta(seconds=2)}, OK, "works"),
    ],
)
def test_scanners(changes: dict[str, Any], outcome: Outcome, word: str):
    """Both off, or realtime on and not working, is critical; one off is a warning; a start has its time."""
    judged(standing_checks.judge_scanners(facts(**changes)), "scanners", outcome, word)


@pytest.mark.parametrize(
    ("changes", "name", "outcome", "word"),
    [
        ({}, "last scan", OK, "60 min ago"),
        ({"last_scan": None}, "last scan", CRITICAL, "doSmartScan start"),
        ({"last_scan": None, "scanning": True}, "last scan", WARNING, "the first scan runs"),
        ({"last_scan": NOW - SCAN_AGE_MAX}, "last scan", OK, "36 h ago"),
        ({"last_scan": NOW - SCAN_AGE_MAX - timedelta(seconds=1)}, "last scan", WARNING, "36 h ago"),
        ({"last_operations": (OPERATION,)}, "last scan", WARNING, "backup monitor u-1"),
        ({"last_operations": (REFUSED,)}, "last scan", WARNING, "60 min ago: 1 missing | is it mounted?; "),
        ({"last_operations": (OPERATION,), "last_scan": None}, "last scan", CRITICAL, "1 missing"),
        ({"last_operations": (ACCOUNT_SCAN,)}, "operations", WARNING, "backup monitor u-1"),
    ],
)
def test_runs(changes: dict[str, Any], name: str, outcome: Outcome, word: str):
    """No scan ever is critical, an old one or a failed operation a warning with what to look at."""
    judged(standing_checks.judge_runs(facts(**changes)), name, outcome, word)


FAILED_DRILL = msgspec.structs.replace(OPERATION, type="doRestoreDrill", status=OperationStatus.FAILED)


@pytest.mark.parametrize(
    ("changes", "outcome", "word"),
    [
        ({"last_proven_restore": NOW - PROOF_AGE_MAX}, OK, "succeeded 35 days ago"),
        ({"last_proven_restore": NOW - PROOF_AGE_MAX - timedelta(seconds=1)}, WARNING, "doRestoreDrill"),
        ({"last_operations": (FAILED_DRILL,)}, WARNING, "none has succeeded yet"),
        (
            {"last_operations": (FAILED_DRILL,), "last_proven_restore": NOW},
            WARNING,
            "backup monitor u-1",
        ),
    ],
)
def test_proof(changes: dict[str, Any], outcome: Outcome, word: str):
    """None yet is well and comes with advice; a failed drill and one older than five weeks are warnings."""
    judged([standing_checks.judge_proof(facts(**changes))], "proven restore", outcome, word)
    never = standing_checks.judge_proof(facts())
    assert never.outcome is OK
    assert "doRestoreDrill" in f"{never}"


@pytest.mark.parametrize(
    ("changes", "name", "outcome", "word"),
    [
        ({}, "gaps", OK, "none"),
        (
            {"gaps": (GapView(id=1, reason="session_lost", opened=NOW),)},
            "gaps",
            WARNING,
            "all accounts since",
        ),
        ({"waiting_photographs": 3}, "waiting photographs", WARNING, "3 items"),
        ({"recorder": RecorderView(paused="disk full")}, "recorder", CRITICAL, "disk full"),
        ({"recorder": RecorderView(lag_seconds=LAG_SECONDS_MAX)}, "recorder", OK, "60 s behind"),
        ({"recorder": RecorderView(lag_seconds=LAG_SECONDS_MAX + 1)}, "recorder", WARNING, "iostat"),
        ({"coherency": CoherencyView(findings=2, dangers=1, words="2 x")}, "coherency", CRITICAL, "2 x"),
        ({"coherency": CoherencyView(findings=1, words="1 y")}, "coherency", WARNING, "1 y"),
        ({"damaged": ("a", "b", "c", "d", "e")}, "damaged files", CRITICAL, "a; b; c and 2 more"),
        ({"suspensions": (SUSPENDED,)}, "mass deletions", WARNING, "a@example.com since"),
    ],
)
def test_what_waits_and_what_is_damaged(changes: dict[str, Any], name: str, outcome: Outcome, word: str):
    """Damage and a paused recorder are critical; gaps, photographs, lags and losses are warnings."""
    judged(standing_checks.judge_stores(facts(**changes)), name, outcome, word)


SESSION = SubscriptionStatus(
    broker="mqtt://x:1", connected=True, since=NOW, granted=Granted(session_seconds=7 * 86_400)
)


@pytest.mark.parametrize(
    ("changes", "outcome", "word"),
    [
        ({}, OK, "begun anew"),
        ({"session_resumed": True}, OK, "resumed"),
        ({"connected": False, "attempts": 4, "last_error": "refused"}, CRITICAL, "4 attempts: refused"),
        ({"paused": "disk full"}, CRITICAL, "nothing new is acknowledged: disk full"),
        ({"granted": Granted(session_seconds=3600)}, WARNING, "for 1.0 h only"),
        ({"refused": {"topic": 2, "kind": 1}}, WARNING, "kind 1, topic 2"),
    ],
)
def test_the_session_with_the_broker(changes: dict[str, Any], outcome: Outcome, word: str):
    """The daemon's own session must be there, take events, and be kept for a day at least."""
    status = msgspec.structs.replace(SESSION, **changes)
    judged(standing_checks.judge_session(status, embedded=False), "broker session", outcome, word)


def test_a_short_session_does_not_matter_where_the_broker_is_embedded():
    """The embedded broker keeps nothing in any case, and without a Realtime Scanner there is no session."""
    short = msgspec.structs.replace(SESSION, granted=Granted(session_seconds=0))
    judged(standing_checks.judge_session(short, embedded=True), "broker session", OK, "connected")
    assert standing_checks.judge_session(None, embedded=False) == []


@pytest.mark.parametrize(
    ("changes", "outcome", "word"),
    [
        ({}, OK, "next SmartScan 2026-11-24"),
        ({"enabled": False, "next": None}, OK, "off: SmartScan"),
        ({"missed": 2, "last_missed": NOW}, WARNING, "the SmartScan due at 2026-11-23 20:55 UTC was missed"),
        ({"missed": 2, "last_missed": NOW}, WARNING, "backupctl backup doSmartScan start"),
        ({"missed": 2, "last_missed": NOW - timedelta(hours=2)}, OK, "next SmartScan"),
        ({"missed": 2, "last_missed": NOW - timedelta(hours=1), "last": NOW}, OK, "next SmartScan"),
        ({"missed": 365, "last_missed": NOW + timedelta(days=300)}, OK, "next SmartScan"),
        ({"next": None}, WARNING, "no day fits"),
        ({"next": None, "note": "nothing to do"}, OK, "nothing runs by itself"),
    ],
)
def test_schedules(changes: dict[str, Any], outcome: Outcome, word: str):
    """A missed run is a warning until it was made up for, as is a pattern of no day; what is off is told."""
    view = ScheduleView(job="SmartScan", pattern="0 4 * * *", next=NOW + timedelta(hours=7))
    schedules = (msgspec.structs.replace(view, **changes),)
    checks = standing_checks.judge_schedules(facts(schedules=schedules))
    judged(checks, "schedules", outcome, word)


@pytest.mark.parametrize(
    ("started", "restarts", "outcome", "word"),
    [
        (NOW, None, OK, "running since 2026-11-23 20:55:00 UTC"),
        (NOW, 0, OK, "version 1.0"),
        (NOW, 3, WARNING, "started again 3 times"),
        (NOW + timedelta(minutes=1), None, WARNING, "in the future"),
    ],
)
def test_the_daemon_itself(started: datetime, restarts: int | None, outcome: Outcome, word: str):
    """A daemon that systemd had to start again, or that started in the future, is a warning."""
    judged([standing_checks.judge_daemon("1.0", started, NOW, restarts)], "daemon", outcome, word)
