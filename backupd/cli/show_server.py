"""Showing what concerns the server as a whole: accounts, domains, archives, services, checks."""

from __future__ import annotations

from backupd.cli.page import Page
from backupd.cli.text import local, size, value_text, visible, yes_no
from backupd.control import (
    AccountsReply,
    DoctorReply,
    DomainsReply,
    MapReply,
    NotificationsReply,
    OperationLogReply,
    SchedulesReply,
    ServerConfigReply,
    ServicesReply,
)
from backupd.views import NotificationView, Outcome

OUTCOME_STYLE = {
    Outcome.OK: "green",
    Outcome.WARNING: "yellow",
    Outcome.CRITICAL: "bold red",
    Outcome.UNKNOWN: "magenta",
}


def show_accounts(reply: AccountsReply, page: Page) -> None:
    """Show accounts, one a line."""
    if not reply.accounts:
        page.line("the backup holds no such account")
        return
    page.table(
        ("id", "address", "status", "since", "deleted", "on the AppServer"),
        [
            (
                visible(one.id),
                visible(one.name),
                visible(one.status),
                local(one.created),
                local(one.deleted_at),
                yes_no(one.exists),
            )
            for one in reply.accounts
        ],
    )


def show_domains(reply: DomainsReply, page: Page) -> None:
    """Show domains, one a line."""
    if not reply.domains:
        page.line("the backup holds no domain")
        return
    page.table(
        ("domain", "id", "accounts", "deleted"),
        [
            (visible(one.name), visible(one.id), f"{one.accounts:,}", yes_no(one.deleted))
            for one in reply.domains
        ],
    )


def show_map(reply: MapReply, page: Page) -> None:
    """Show what a map file says."""
    page.fields(
        (
            ("map file", visible(reply.path)),
            ("server", visible(f"{reply.server_name} ({reply.server_id})")),
            ("created", local(reply.created)),
            ("format", str(reply.format_version)),
            ("imported from", visible(reply.imported_from)),
        )
    )
    page.fields(((visible(old), visible(new)) for old, new in reply.entries.items()), indent=4)


def show_server_config(reply: ServerConfigReply, page: Page) -> None:
    """Show archives, and what stands in the one that was read."""
    for archive in reply.archives:
        page.fields((("config date", local(archive.date)), ("archive", visible(archive.path))))
        page.fields((("size", size(archive.size)),))
    if reply.values:
        page.line()
    for fact in reply.values:
        page.line(f"{visible(f'{fact.type}/{fact.id}/{fact.key}')}  {value_text(fact.value)}".rstrip())
    if reply.more:
        page.line("there is more: give a query, or verbose true")


def show_services(reply: ServicesReply, page: Page) -> None:
    """Show services, one a line."""
    page.table(
        ("service", "running", "what it does", "note"),
        [
            (visible(one.name), yes_no(one.running), visible(one.meaning), visible(one.note))
            for one in reply.services
        ],
    )


def show_notifications(reply: NotificationsReply, page: Page) -> None:
    """Show notifications, one a line; a single one with its text."""
    if not reply.notifications:
        page.line("nobody was told anything yet")
        return
    page.table(
        ("id", "time", "level", "subject", "went"),
        [
            (str(one.id), local(one.time), visible(one.level), visible(one.subject), _ways(one))
            for one in reply.notifications
        ],
    )
    for one in reply.notifications:
        if one.text:
            page.line()
            for line in one.text.splitlines():
                page.line(visible(line))


def _ways(view: NotificationView) -> str:
    words = [*view.delivered, *(f"{way} waits" for way in view.pending)]
    words += [f"{way} failed" for way in view.failed]
    return visible(", ".join(words))


def show_log(reply: OperationLogReply, page: Page) -> None:
    """Show the lines of operations' logs."""
    if not reply.lines:
        page.line("nothing was logged")
    for line in reply.lines:
        facts = "  ".join(f"{visible(name)}={value_text(value)}" for name, value in line.facts.items())
        words = (line.timestamp, line.level, line.operation, line.event)
        page.line("  ".join([*(visible(word) for word in words), facts]).rstrip())
    if reply.dropped:
        page.line(f"and {reply.dropped:,} lines that did not fit")


def show_schedules(reply: SchedulesReply, page: Page) -> None:
    """Show jobs and when they run."""
    for view in reply.schedules:
        page.fields(
            (
                ("job", visible(view.job)),
                ("enabled", yes_no(view.enabled)),
                ("pattern", visible(view.pattern)),
                ("isInherited", yes_no(view.is_inherited)),
                ("next run", local(view.next)),
                ("last run", local(view.last)),
                ("missed runs", str(view.missed) if view.missed else ""),
                ("last missed", local(view.last_missed)),
                ("note", visible(view.note)),
            )
        )


def show_doctor(reply: DoctorReply, page: Page) -> None:
    """Show checks, one a line, with the cure below what is not well."""
    for check in reply.checks:
        word = check.outcome.upper()
        page.line(
            f"{word:<9}{visible(check.name)}: {visible(check.found)}", style=OUTCOME_STYLE[check.outcome]
        )
        if check.cure:
            page.line(f"         cure: {visible(check.cure)}")
