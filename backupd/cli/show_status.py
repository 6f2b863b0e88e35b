"""Showing the status: first in words whether all is well and what to do, then the parts of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from backupd.cli.page import Page
from backupd.cli.text import duration, local, size, visible
from backupd.control import StatusReply
from backupd.keeping_views import BloblessView
from backupd.views import BrokerView, ScannerView, Severity
from backupd.volume_views import MetadataView, VolumeView

GAPS_SHOWN_MAX = 10


def show_status(status: StatusReply, page: Page) -> None:
    """Show a status, the verdict first."""
    _show_verdict(status, page)
    page.line()
    page.fields(_machine(status))
    if status.gaps:
        page.line()
        _show_gaps(status, page)
    page.line()
    page.fields(_holdings(status))


def headline(status: StatusReply) -> str:
    """Return the one sentence an admin needs: whether all is well, and until when all can be brought back."""
    until = "nothing can be recovered yet"
    if status.recoverable_until is not None:
        age = (status.now - status.recoverable_until).total_seconds()
        until = f"recoverable until {local(status.recoverable_until)}, {duration(age)} ago"
    if not status.problems and status.recoverable_until is None and status.smartscan.active:
        return f"The first scan runs: {until}."
    if not status.problems:
        return f"All is well: {until}."
    worst = "Danger" if any(one.severity is Severity.DANGER for one in status.problems) else "Attention"
    count = len(status.problems)
    return f"{worst}: {count} problem{'' if count == 1 else 's'}; {until}."


def _show_verdict(status: StatusReply, page: Page) -> None:
    style = "bold green"
    if status.problems:
        dangerous = any(one.severity is Severity.DANGER for one in status.problems)
        style = "bold red" if dangerous else "bold yellow"
    page.line(headline(status), style=style)
    for problem in sorted(status.problems, key=lambda one: one.severity is not Severity.DANGER):
        page.line(f"  {problem.severity.value}: {visible(problem.message)}", style="red")
        if problem.hint:
            page.line(f"    do: {visible(problem.hint)}")


def _machine(status: StatusReply) -> Sequence[tuple[str, str]]:
    recorder = status.recorder
    lag = "up to date"
    if recorder.lag_entries:
        lag = f"{recorder.lag_entries:,} changes behind, {recorder.lag_seconds:.1f} s"
    running = [
        f"{visible(one.type)} {one.status.value} {one.progress.done:,}/{one.progress.total:,}"
        for one in status.operations
    ]
    return (
        ("server", visible(f"{status.server_name} ({status.server_id})")),
        ("daemon", f"{visible(status.daemon_version)}, pid {status.pid}, since {local(status.started)}"),
        ("Realtime Scanner", _scanner(status.realtime, status.now)),
        ("SmartScan", _scanner(status.smartscan, status.now)),
        ("broker", _broker(status.broker)),
        ("recorder", lag + (f"; paused: {visible(recorder.paused)}" if recorder.paused else "")),
        ("waiting photographs", f"{status.waiting_photographs:,}"),
        ("gaps", f"{status.gaps_total:,}"),
        *_volume(status.volume, status.now),
        ("queue", "; ".join(running) or "empty"),
        ("proven restore", _proof(status)),
        ("coherency", _coherency(status)),
        ("last purge", _purge(status)),
        *_next_runs(status),
    )


def _next_runs(status: StatusReply) -> Sequence[tuple[str, str]]:
    """Return a line for each job that will run, one for those turned off, and those with nothing to do."""
    able = [one for one in status.schedules if not one.note]
    coming = sorted((one.next, one.job) for one in able if one.enabled and one.next is not None)
    lines = [f"{local(moment)}  {visible(job)}" for moment, job in coming]
    jobs = {job for _, job in coming}
    resting = [visible(one.job) for one in able if one.job not in jobs]
    if resting:
        lines.append(f"never: {', '.join(resting)}")
    lines += [visible(f"{one.job}: {one.note}") for one in status.schedules if one.note]
    return [("" if number else "next runs", line) for number, line in enumerate(lines)]


def _scanner(view: ScannerView, now: datetime) -> str:
    words = ["on" if view.enabled else "off"]
    if view.active:
        words.append("at work")
    if view.last_success is not None:
        age = (now - view.last_success).total_seconds()
        words.append(f"last success {local(view.last_success)}, {duration(age)} ago")
    if view.note:
        words.append(visible(view.note))
    return ", ".join(words)


def _proof(status: StatusReply) -> str:
    proven = status.last_proven_restore
    if proven is None:
        return "none yet: backupctl backup doRestoreDrill"
    return f"drill of {local(proven)}, {duration((status.now - proven).total_seconds())} ago"


def _coherency(status: StatusReply) -> str:
    known = status.coherency
    if known.last_run is None:
        return "never checked: backupctl backup doCoherencyCheck " + visible(status.backup_path)
    found = known.words or "no findings"
    lost = f"; {known.lost:,} contents known as lost" if known.lost else ""
    share = f", {known.share:.0%} of a pass" if 0 < known.share < 1 else ""
    return f"{visible(found)}{lost}; checked {local(known.last_run)}{share}"


def _purge(status: StatusReply) -> str:
    ended = status.last_purge
    told = "none yet" if ended is None else local(ended)
    if ended is not None:
        told += f", {duration((status.now - ended).total_seconds())} ago"
    return told + (f"; {status.condemned_blobs:,} contents in grace" if status.condemned_blobs else "")


def _broker(view: BrokerView) -> str:
    if not view.url:
        return ""
    state = f"connected since {local(view.since)}" if view.connected else "NOT connected"
    words = [visible(view.url), state, f"{view.received:,} events"]
    if view.refused:
        words.append(f"{view.refused:,} refused")
    if view.error:
        words.append(visible(view.error))
    return ", ".join(words)


def _volume(view: VolumeView | None, now: datetime) -> Sequence[tuple[str, str]]:
    if view is None:
        return ()
    words = [visible(view.title)]
    if view.waiting_objects:
        words.append(f"{view.waiting_objects:,} blobs ({size(view.waiting_bytes)}) wait")
        if view.oldest is not None:
            words.append(f"the oldest for {duration((now - view.oldest).total_seconds())}")
        if view.remaining_seconds is not None and view.reachable:
            words.append(f"{size(int(view.bytes_per_second))}/s, {duration(view.remaining_seconds)} to go")
    else:
        words.append("everything is outside")
    if not view.reachable:
        words.append(f"NOT reachable: {visible(view.error)}")
        if view.next_try is not None:
            words.append(f"next try {local(view.next_try)}")
    if view.rebuilding:
        words.append(visible(view.rebuilding))
    requests = sum(view.requests.values())
    sent = f"{view.sent_objects:,} blobs ({size(view.sent_bytes)}) sent with {requests:,} requests"
    cache = f"{view.cached_objects:,} blobs, {size(view.cached_bytes)} of {size(view.cache_bytes_max)}"
    return (
        ("external volume", ", ".join(words)),
        ("uploads", sent),
        ("metadata outside", _metadata(view.metadata, now)),
        ("blob cache", cache),
    )


def _metadata(view: MetadataView | None, now: datetime) -> str:
    if view is None:
        return "none is sent"
    words = ["not sent yet" if view.last_sent is None else f"sent {_ago(view.last_sent, now)}"]
    if view.last_pass is not None:
        words.append(f"archives of all accounts complete {_ago(view.last_pass, now)}")
    if view.error:
        words.append(f"NOT sent: {visible(view.error)}")
    return ", ".join(words)


def _ago(then: datetime, now: datetime) -> str:
    return f"{duration((now - then).total_seconds())} ago"


def _show_gaps(status: StatusReply, page: Page) -> None:
    page.table(
        ("gap", "account", "opened", "reason"),
        [
            (
                str(gap.id),
                visible(gap.account_name or gap.account) or "whole server",
                local(gap.opened),
                visible(f"{gap.reason} {gap.detail}".strip()),
            )
            for gap in status.gaps[:GAPS_SHOWN_MAX]
        ],
    )
    if status.gaps_total > GAPS_SHOWN_MAX:
        page.line(f"and {status.gaps_total - GAPS_SHOWN_MAX:,} more")


def _accounts(status: StatusReply) -> str:
    words = [f"{status.accounts:,}"]
    words += [f"{status.accounts_not_enabled:,} not backed up"] if status.accounts_not_enabled else []
    if status.all_held:
        words.append("all under legal hold")
    elif status.legal_holds:
        words.append(f"{status.legal_holds:,} under legal hold")
    words += [f"retention of {status.retention_suspended:,} suspended"] if status.retention_suspended else []
    return ", ".join(words)


def blobless_line(mode: BloblessView | None) -> Sequence[tuple[str, str]]:
    """Return a line on blobless mode; none where it is off and nothing is left of it."""
    if mode is None:
        return ()
    if mode.active:
        return (("blobless mode", "on: the AppServer holds the contents"),)
    if mode.trouble:
        return (("blobless mode", f"set, not in force: {visible(mode.trouble)}"),)
    if mode.not_fetched:
        return (("blobless mode", f"off, {mode.not_fetched:,} contents not fetched yet"),)
    return ()


def _holdings(status: StatusReply) -> Sequence[tuple[str, str]]:
    kinds = [
        f"{visible(one.kind)} {one.items:,}" + (f" ({one.deleted:,} deleted)" if one.deleted else "")
        for one in status.counts
    ]
    space = status.space
    free = f"{size(space.free_bytes)} of {size(space.total_bytes)}"
    return (
        ("backup path", visible(status.backup_path)),
        ("accounts", _accounts(status)),
        ("items", ", ".join(kinds)),
        ("blobs", f"{space.blobs:,}, {size(space.blob_bytes)}"),
        *blobless_line(status.blobless),
        ("journal", size(space.journal_bytes)),
        ("free space", f"{free}, intake pauses below {size(space.threshold_bytes)}"),
    )
