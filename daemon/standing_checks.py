"""Checks of the doctor that follow from how the daemon stands: what `daemon.standing` gathered, judged."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from backupd.jobs.doctor import verdict
from backupd.views import CheckView, GapView, OperationView
from daemon.condition import (
    FAILURES_MAX,
    LAG_SECONDS_MAX,
    SCAN_AGE_MAX,
    STARTING,
    Facts,
    how_healed,
    runs_missed,
    verdict_of,
    what_to_do,
)
from daemon.failures import SMARTSCAN_TYPE, failures
from daemon.missed_runs import making_up
from daemon.standing import DRILL_TYPE
from daemon.subscription import SubscriptionStatus

SESSION_SECONDS_MIN = 24 * 3600
"""A broker that keeps the session for less loses events over a weekend's outage."""
GAPS_NAMED_MAX = 3
PROOF_AGE_MAX = timedelta(weeks=5)
"""A monthly drill may be a few days late."""
ON_AGAIN = "backupctl config set global ZxBackup_RealTimeScanner TRUE"


def judge_daemon(version: str, started: datetime, now: datetime, restarts: int | None) -> CheckView:
    """Judge how long the daemon runs, and how often systemd had to start it again."""
    text = f"version {version}, running since {started:%Y-%m-%d %H:%M:%S} UTC"
    if restarts:
        text = f"{text}, started again {restarts:,} times by systemd"
        cure = "journalctl -u backupd: why did it end? systemctl reset-failed backupd begins to count anew"
        return verdict.warning("daemon", text, cure)
    if started - now > STARTING:
        return verdict.warning("daemon", f"{text}, which is in the future", "see the check of the clock")
    return verdict.ok("daemon", text)


def judge_scanners(facts: Facts) -> list[CheckView]:
    """Judge both scanners: what is off, and what is on and does not work."""
    realtime, scans = facts.realtime_enabled, facts.smartscan_enabled
    if not realtime and not scans:
        text = "NO BACKUP IS BEING MADE: the Realtime Scanner and the SmartScan schedule are both off"
        return [verdict.critical("scanners", text, ON_AGAIN)]
    if facts.accounts and facts.not_enabled >= facts.accounts:
        text = "NO BACKUP IS BEING MADE: every account is left out (backupEnabled is false)"
        return [verdict.critical("scanners", text, "backupctl config set cos NAME backupEnabled true")]
    if not realtime:
        text = (
            "the Realtime Scanner is off: what changes and goes between two SmartScans is not in the backup"
        )
        return [verdict.warning("scanners", text, ON_AGAIN)]
    if not facts.realtime_active and facts.now - facts.started > STARTING:
        why = facts.realtime_trouble or facts.intake_paused or facts.broker.error or "it does not connect"
        cure = "it is tried again by itself; mend what the lines of broker, AppServer and space say"
        return [verdict.critical("scanners", f"the Realtime Scanner does not work: {why}", cure)]
    if not scans:
        text = "the SmartScan schedule is off: what the Realtime Scanner missed is found by hand only"
        cure = "backupctl scheduler SmartScan set global enabled true"
        return [verdict.warning("scanners", text, cure)]
    return [verdict.ok("scanners", "the Realtime Scanner works, SmartScan has its schedule")]


def judge_session(status: SubscriptionStatus | None, *, embedded: bool) -> list[CheckView]:
    """Judge the daemon's own session with the broker; none where the Realtime Scanner is off."""
    name = "broker session"
    if status is None:
        return []
    if not status.connected:
        text = f"not connected for {status.attempts:,} attempts: {status.last_error or 'connecting'}"
        cure = "events wait on the broker; the line of the broker says what to mend"
        return [verdict.critical(name, text, cure)]
    if status.paused:
        cure = "the broker keeps the events; intake goes on by itself once this is mended"
        return [verdict.critical(name, f"nothing new is acknowledged: {status.paused}", cure)]
    taken = f"{status.received:,} events taken, {status.waiting_events:,} waiting for the journal"
    seconds = status.granted.session_seconds if status.granted is not None else SESSION_SECONDS_MIN
    if not embedded and seconds < SESSION_SECONDS_MIN:
        text = f"the broker keeps our session for {seconds / 3600:.1f} h only while the daemon is away"
        cure = "mosquitto: persistent_client_expiration 14d"
        return [verdict.warning(name, text, cure)]
    refused = sum(status.refused.values())
    if refused:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(status.refused.items()))
        text = f"{refused:,} messages were no valid events ({reasons}); {taken}"
        return [
            verdict.warning(name, text, "read quarantine.jsonl in the state directory; mend the publisher")
        ]
    how = "connected" if embedded else "resumed" if status.session_resumed else "begun anew"
    since = f" since {status.since:%Y-%m-%d %H:%M} UTC" if status.since is not None else ""
    return [verdict.ok(name, f"{how}{since}, {taken}")]


def judge_schedules(facts: Facts) -> list[CheckView]:
    """Judge the jobs that run by themselves; those that have nothing to do are left out."""
    name = "schedules"
    schedules = [one for one in facts.schedules if not one.note]
    found = [
        verdict.warning(
            name,
            f"the {one.job} due at {one.last_missed:%Y-%m-%d %H:%M} UTC was missed and is not made up for",
            making_up(one.job),
        )
        for one in runs_missed(facts)
    ]
    never = [one.job for one in schedules if one.enabled and one.next is None]
    if never:
        text = f"on, but no day fits their pattern: {', '.join(never)}"
        found.append(verdict.warning(name, text, "correct the pattern: backupctl config dump global"))
    if not found:
        soon = [f"{one.job} {one.next:%Y-%m-%d %H:%M} UTC" for one in schedules if one.next is not None]
        off = [one.job for one in schedules if not one.enabled]
        text = f"next {', '.join(soon)}" if soon else "nothing runs by itself"
        found.append(verdict.ok(name, text + (f"; off: {', '.join(off)}" if off else "")))
    return found


def judge_runs(facts: Facts) -> list[CheckView]:
    """Judge the last scan and the last operation of each type; of account scans, of each account."""
    failed = failures(facts.last_operations)
    found = [_judge_scan(facts, next((one for one in failed if one.type == SMARTSCAN_TYPE), None))]
    others = [one for one in failed if one.type != SMARTSCAN_TYPE]
    found += [
        verdict.warning(
            "operations", f"the last {one.type} {one.status.value}: {verdict_of(one)}", what_to_do(one)
        )
        for one in others[-FAILURES_MAX:]
    ]
    if len(others) > FAILURES_MAX:
        text = f"{len(others) - FAILURES_MAX:,} more operations failed"
        found.append(verdict.warning("operations", text, "backupctl backup getAllOperations verbose true"))
    if not others:
        well = [one for one in facts.last_operations if one not in failed]
        found.append(verdict.ok("operations", _told_operations(well)))
    return found


def _judge_scan(facts: Facts, failed: OperationView | None) -> CheckView:
    name, start = "last scan", "backupctl backup doSmartScan start"
    if facts.last_scan is None:
        text = "no SmartScan has succeeded yet: the backup is incomplete"
        if facts.scanning:
            return verdict.warning(name, "the first scan runs", "wait: backupctl status")
        if failed is None:
            return verdict.critical(name, text, f"{start}; backupctl backup getAllOperations")
        text = f"{text}; the last one {failed.status.value}: {verdict_of(failed)}"
        return verdict.critical(name, text, what_to_do(failed))
    age = facts.now - facts.last_scan
    if failed is not None:
        since = f"the last that succeeded is of {_ago(age)} ago"
        text = f"the last SmartScan {failed.status.value}, {since}: {verdict_of(failed)}"
        return verdict.warning(name, text, what_to_do(failed))
    text = f"the last SmartScan succeeded {_ago(age)} ago, {facts.last_scan:%Y-%m-%d %H:%M} UTC"
    if age > SCAN_AGE_MAX and facts.smartscan_enabled and not facts.scanning:
        return verdict.warning(name, text, start)
    return verdict.ok(name, text)


def judge_proof(facts: Facts) -> CheckView:
    """Judge whether, and when last, it was proven that the backup can be restored."""
    name, drill = "proven restore", "backupctl backup doRestoreDrill --sync"
    failed = next((one for one in failures(facts.last_operations) if one.type == DRILL_TYPE), None)
    proven = facts.last_proven_restore
    last = "none has succeeded yet" if proven is None else f"the last that succeeded is of {proven:%Y-%m-%d}"
    if failed is not None:
        text = f"the last restore drill {failed.status.value}, {last}"
        return verdict.warning(name, text, f"backupctl backup monitor {failed.uuid}: what differs?")
    if proven is None:
        return verdict.ok(name, "there was no restore drill yet", drill)
    age = facts.now - proven
    if age > PROOF_AGE_MAX:
        return verdict.warning(name, f"the last restore drill succeeded {_ago(age)} ago", drill)
    return verdict.ok(name, f"a restore drill succeeded {_ago(age)} ago")


def judge_stores(facts: Facts) -> list[CheckView]:
    """Judge what waits and what is damaged: gaps, photographs, recorder, files, checks."""
    found = [_judge_gaps(facts)]
    waiting = facts.waiting_photographs
    if waiting:
        text = f"{waiting:,} items changed and could not be read yet"
        cure = "they are tried again by themselves; is the AppServer's storage readable?"
        found.append(verdict.warning("waiting photographs", text, cure))
    else:
        found.append(verdict.ok("waiting photographs", "none"))
    recorder = facts.recorder
    behind = f"{recorder.lag_entries:,} entries and {recorder.lag_seconds:,.0f} s behind the journal"
    if recorder.paused:
        cure = "the journal keeps what came; recording goes on by itself once this is mended"
        found.append(verdict.critical("recorder", f"paused: {recorder.paused}", cure))
    elif recorder.lag_seconds > LAG_SECONDS_MAX:
        cure = "nothing is lost; is the disk of the Backup Path, or the AppServer, slow? iostat -x 1"
        found.append(verdict.warning("recorder", behind, cure))
    else:
        found.append(verdict.ok("recorder", behind))
    if facts.damaged:
        text = verdict.some(facts.damaged, len(facts.damaged))
        cure = (
            "the rest of the backup goes on; keep these files and copy the Backup Path before anything else"
        )
        found.append(verdict.critical("damaged files", text, cure))
    else:
        found.append(verdict.ok("damaged files", "none known; what is read is verified"))
    return [*found, _judge_losses(facts), _judge_coherency(facts)]


def _judge_losses(facts: Facts) -> CheckView:
    name = "mass deletions"
    if not facts.suspensions:
        return verdict.ok(name, "no account lost an unusual share of its items")
    named = [f"{one.name} since {one.since:%Y-%m-%d %H:%M} UTC ({one.sentence})" for one in facts.suspensions]
    text = f"retention is suspended for {verdict.some(named, len(named), shown_max=GAPS_NAMED_MAX)}"
    cure = "was it meant? bring back what is missed, then: backupctl backup doResumeRetention ACCOUNT"
    return verdict.warning(name, text, cure)


def _judge_coherency(facts: Facts) -> CheckView:
    """Judge what checks of the whole path found, and say when the last one was."""
    name, known = "coherency", facts.coherency
    if known.findings:
        judged = verdict.critical if known.dangers else verdict.warning
        return judged(name, f"found and not mended: {known.words}", "backupctl backup getCoherencyFindings")
    if known.last_run is None:
        return verdict.ok(name, "the Backup Path was never checked: backupctl backup doCoherencyCheck PATH")
    lost = f"; {known.lost:,} contents are known as lost" if known.lost else ""
    return verdict.ok(name, f"the last check found nothing, {_ago(facts.now - known.last_run)} ago{lost}")


def _judge_gaps(facts: Facts) -> CheckView:
    if not facts.gaps:
        return verdict.ok("gaps", "none: no change is known to have been missed")
    named = [f"{_whose(gap)} since {gap.opened:%Y-%m-%d %H:%M} UTC ({gap.reason})" for gap in facts.gaps]
    text = f"changes may have been missed: {verdict.some(named, len(named), shown_max=GAPS_NAMED_MAX)}"
    return verdict.warning("gaps", text, how_healed(facts, facts.gaps[0]))


def _told_operations(operations: Sequence[OperationView]) -> str:
    if not operations:
        return "none has ended yet"
    return "the last of each type ended well: " + ", ".join(sorted(one.type for one in operations))


def _ago(age: timedelta) -> str:
    minutes = max(0, int(age.total_seconds() // 60))
    if minutes < 120:  # noqa: PLR2004 - two hours, in minutes
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 72 * 60 else f"{minutes // 1440} days"


def _whose(gap: GapView) -> str:
    return gap.account_name or gap.account or "all accounts"
