"""Showing what concerns the server as a whole: accounts, domains, archives, services, checks."""

from __future__ import annotations

from datetime import datetime

from backupd.cli.page import Page
from backupd.cli.text import local, size, value_text, visible, yes_no
from backupd.control import (
    DoctorReply,
    MapReply,
    NotificationsReply,
    OperationLogReply,
    SchedulesReply,
    ServerConfigReply,
    ServicesReply,
)
from backupd.replies import AccountsReply, DomainsReply, HoldsReply, SuspensionsReply
from backupd.views import AccountView, NotificationView, Outcome, ServiceView

OUTCOME_STYLE = {
    Outcome.OK: "green",
    Outcome.WARNING: "yellow",
    Outcome.CRITICAL: "bold red",
    Outcome.UNKNOWN: "magenta",
}
LEVEL_STYLE = {"warning": "yellow", "error": "red", "critical": "bold red"}
_OUTCOME_WIDTH = 10


def show_accounts(reply: AccountsReply, page: Page) -> None:
    """Show accounts, one a line."""
    if not reply.accounts:
        page.line("the backup holds no such account")
        return
    page.table(
        ("address", "id", "status", "since", "legal hold"),
        [
            (
                visible(one.name),
                visible(one.id),
                _status(one),
                local(one.created),
                _set_or_unset(is_set=one.legal_hold),
            )
            for one in reply.accounts
        ],
    )
    deleted = sum(one.deleted for one in reply.accounts)
    page.line()
    page.line(
        _counted(len(reply.accounts), "account") + (f", {deleted:,} of them deleted" if deleted else "")
    )


def _status(view: AccountView) -> str:
    """Return an account's status as it matters for a restore: what is gone comes first."""
    if view.deleted:
        words = [f"deleted {local(view.deleted_at)}".rstrip()]
    else:
        words = [visible(view.status)] + ([] if view.exists else ["not on the AppServer"])
    words += [] if view.enabled else ["not backed up"]
    words += ["retention suspended"] if view.retention_suspended else []
    return ", ".join(words)


def _set_or_unset(*, is_set: bool) -> str:
    return "set" if is_set else "unset"


def show_holds(reply: HoldsReply, page: Page) -> None:
    """Show accounts, one a line, as address, id and `set` or `unset`; who set it and when stands behind."""
    for one in reply.accounts:
        line = f"{visible(one.name)} {visible(one.id)} {_set_or_unset(is_set=one.legal_hold)}"
        if one.since is not None:
            by = f" by {visible(one.by)}" if one.by else ""
            line += f"  since {local(one.since)}{by}" + (", with all accounts" if one.of_all else "")
        page.line(line)
    if reply.all_since is not None:
        by = f" by {visible(reply.all_by)}" if reply.all_by else ""
        page.line(f"all accounts are held, later ones too: since {local(reply.all_since)}{by}")
    elif not reply.accounts:
        page.line("the backup holds no account")
    if reply.note:
        page.line(visible(reply.note))


def show_suspensions(reply: SuspensionsReply, page: Page) -> None:
    """Show suspended and lifted retention, one account a line."""
    if not reply.accounts:
        page.line("retention is suspended for no account")
        return
    page.table(
        ("address", "id", "since", "what happened", "lifted"),
        [
            (
                visible(one.name),
                visible(one.id),
                local(one.since),
                visible(one.sentence),
                f"{local(one.lifted)} {visible(one.lifted_by)}".strip() if one.lifted else "no",
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
    page.line()
    page.line(_counted(len(reply.domains), "domain"))


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


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
    if reply.entries:
        page.line()
        page.table(("old", "new"), [(visible(old), visible(new)) for old, new in reply.entries.items()])


def show_server_config(reply: ServerConfigReply, page: Page) -> None:
    """Show archives, and below them what stands in the one that was read, one value a line."""
    if not reply.archives:
        maker = "doBackupServerCustomizations" if reply.type == "customizations" else "doBackupCluster"
        page.line(f"there is no such archive; backupctl backup {maker} start makes one")
        return
    page.table(
        ("config date", "type", "size", "archive"),
        [(local(one.date), visible(one.type), size(one.size), visible(one.path)) for one in reply.archives],
    )
    if reply.values or reply.query:
        page.line()
    if reply.query and not reply.values:
        page.line(f"nothing in it stands under {visible(reply.query)}; query / shows everything")
    for fact in reply.values:
        page.line(f"{visible(f'{fact.type}/{fact.id}/{fact.key}')}  {value_text(fact.value)}".rstrip())
    if reply.more:
        page.line()
        page.line(
            "there is more: query TYPE/ID/KEY shows a part of it, verbose true prints long values whole"
        )


def show_services(reply: ServicesReply, page: Page) -> None:
    """Show services, one a line."""
    page.table(
        ("service", "state", "what it does", "note"),
        [(visible(one.name), _state(one), visible(one.meaning), visible(one.note)) for one in reply.services],
    )


def _state(view: ServiceView) -> str:
    return "running" if view.running else "stopped"


def show_notifications(reply: NotificationsReply, page: Page) -> None:
    """Show notifications, one a line; one with its text by itself."""
    if not reply.notifications:
        page.line("nobody was told anything yet")
        return
    if any(one.text for one in reply.notifications):
        for number, one in enumerate(reply.notifications):
            if number:
                page.line()
            _show_notification(one, page)
        return
    page.table(
        ("id", "time", "level", "subject", "went"),
        [
            (str(one.id), local(one.time), visible(one.level), visible(one.subject), _ways(one))
            for one in reply.notifications
        ],
    )


def _show_notification(view: NotificationView, page: Page) -> None:
    page.fields(
        (
            ("id", str(view.id)),
            ("time", local(view.time)),
            ("level", visible(view.level)),
            ("subject", visible(view.subject)),
            ("operation", visible(view.operation)),
            ("went", _ways(view)),
        )
    )
    page.line()
    for line in view.text.splitlines():
        page.line(visible(line))


def _ways(view: NotificationView) -> str:
    words = [*view.delivered, *(f"{way} waits" for way in view.pending)]
    words += [f"{way} failed" for way in view.failed]
    return visible(", ".join(words))


def show_log(reply: OperationLogReply, page: Page) -> None:
    """Show the lines of operations' logs, below the operation they belong to."""
    if not reply.lines:
        page.line("nothing was logged")
    heading = ""
    for line in reply.lines:
        if line.operation != heading:
            if heading:
                page.line()
            heading = line.operation
            page.line(f"operation {visible(heading)}", style="bold")
        facts = "  ".join(f"{visible(name)}={value_text(value)}" for name, value in line.facts.items())
        level, event = visible(line.level), visible(line.event)
        text = f"  {_local_time(line.timestamp)}  {level:<7}  {event}  {facts}"
        page.line(text.rstrip(), style=LEVEL_STYLE.get(line.level, ""))
    if reply.dropped:
        page.line(f"and {reply.dropped:,} lines that did not fit")


def _local_time(timestamp: str) -> str:
    """Return a line's time as all other times are shown; what is no moment stays as it is."""
    try:
        return local(datetime.fromisoformat(timestamp))
    except ValueError:
        return visible(timestamp)


def show_schedules(reply: SchedulesReply, page: Page) -> None:
    """Show jobs and when they run, a block each."""
    for number, view in enumerate(reply.schedules):
        if number:
            page.line()
        page.fields(
            (
                ("job", visible(view.job)),
                ("enabled", yes_no(view.enabled)),
                ("pattern", visible(view.pattern)),
                ("isInherited", yes_no(view.is_inherited)),
                ("next run", local(view.next) or "never"),
                ("last run", local(view.last)),
                ("missed runs", f"{view.missed:,}" if view.missed else ""),
                ("last missed", local(view.last_missed)),
                ("note", visible(view.note)),
            )
        )


def show_doctor(reply: DoctorReply, page: Page) -> None:
    """Show in words how it stands, then checks, one a line, with the cure below what is not well."""
    page.line(_diagnosis(reply), style=OUTCOME_STYLE[reply.outcome])
    page.line()
    width = max((len(visible(check.name)) for check in reply.checks), default=0)
    for check in reply.checks:
        found = f"{visible(check.name):<{width}}  {visible(check.found)}"
        page.line(f"{check.outcome.upper():<{_OUTCOME_WIDTH}}{found}", style=OUTCOME_STYLE[check.outcome])
        if check.cure:
            word = "better" if check.outcome is Outcome.OK else "cure"
            page.line(f"{' ' * (_OUTCOME_WIDTH + width)}  {word}: {visible(check.cure)}")


def _diagnosis(reply: DoctorReply) -> str:
    count = _counted(len(reply.checks), "check")
    wrong = sum(check.outcome is not Outcome.OK for check in reply.checks)
    if not wrong and reply.outcome is Outcome.OK:
        return f"All is well: {count}."
    return f"{reply.outcome.value.capitalize()}: {wrong} of {count} {'is' if wrong == 1 else 'are'} not well."
