"""Showing replies: one function a kind of reply, onto a page for people.

`backupctl --json` does not come here: it prints replies as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from backupd.cli.page import Page
from backupd.cli.show_past import show_diff, show_folders, show_history
from backupd.cli.show_server import (
    show_accounts,
    show_doctor,
    show_domains,
    show_holds,
    show_log,
    show_map,
    show_notifications,
    show_schedules,
    show_server_config,
    show_services,
    show_suspensions,
)
from backupd.cli.show_status import show_status
from backupd.cli.text import duration, local, size, value_text, visible, yes_no
from backupd.commands import Command
from backupd.control import (
    AccountReply,
    AccountsReply,
    AttributeReply,
    BackupInfoReply,
    BlobReply,
    ConfigReply,
    DiffReply,
    DoctorReply,
    DomainsReply,
    DoneReply,
    ErrorReply,
    FoldersReply,
    HistoryReply,
    HoldsReply,
    ItemReply,
    MapReply,
    NotificationsReply,
    OperationLogReply,
    OperationReply,
    OperationsReply,
    Reply,
    SchedulesReply,
    SearchReply,
    ServerConfigReply,
    ServicesReply,
    StatusReply,
    SuspensionsReply,
)
from backupd.operations import OperationStatus
from backupd.views import AttributeView, OperationView, StateView

_FIELD_WIDTH = 52
_LEVEL_INDENT = 8


def show(reply: Reply, command: Command, page: Page) -> None:  # noqa: C901, PLR0912, PLR0915 - one line a kind
    """Show the answer to a command."""
    match reply:
        case DoneReply():
            page.line(visible(reply.text))
        case OperationReply():
            show_operation(reply.operation, page)
        case OperationsReply():
            _show_operations(reply.operations, page)
        case ItemReply():
            _show_item(reply, page)
        case SearchReply():
            _show_found(reply, page)
        case HistoryReply():
            show_history(reply, page)
        case DiffReply():
            show_diff(reply, page)
        case FoldersReply():
            show_folders(reply, page)
        case AccountReply():
            _show_account(reply, page)
        case AccountsReply():
            show_accounts(reply, page)
        case DomainsReply():
            show_domains(reply, page)
        case HoldsReply():
            show_holds(reply, page)
        case SuspensionsReply():
            show_suspensions(reply, page)
        case MapReply():
            show_map(reply, page)
        case ServerConfigReply():
            show_server_config(reply, page)
        case ServicesReply():
            show_services(reply, page)
        case NotificationsReply():
            show_notifications(reply, page)
        case OperationLogReply():
            show_log(reply, page)
        case SchedulesReply():
            show_schedules(reply, page)
        case DoctorReply():
            show_doctor(reply, page)
        case ConfigReply() | AttributeReply():
            _show_setting(reply, command, page)
        case StatusReply():
            show_status(reply, page)
        case BackupInfoReply():
            _show_backup(reply, page)
        case BlobReply() | ErrorReply():
            raise AssertionError(f"a {type(reply).__name__} is no page")
        case _:
            assert_never(reply)


def show_operation(view: OperationView, page: Page) -> None:
    """Show one operation: how far it is, or how it ended."""
    parameters = "  ".join(f"{visible(name)} {value_text(value)}" for name, value in view.parameters.items())
    page.fields(
        (
            ("operation", visible(view.uuid)),
            ("type", visible(view.type)),
            ("status", view.status.value),
            ("parameters", parameters),
            ("started by", visible(view.started_by)),
            ("submitted", local(view.submitted)),
            ("started", local(view.started)),
            ("ended", local(view.ended)),
            ("progress", progress_text(view) if view.started else ""),
            ("verdict", visible(view.verdict)),
        )
    )
    _show_errors(view, page)
    if view.status is OperationStatus.QUEUED:
        page.line(f"follow it: backupctl backup monitor {visible(view.uuid)} --progress", style="dim")


def show_verdict(view: OperationView, page: Page) -> None:
    """Show how a followed operation ended."""
    style = "green" if view.status is OperationStatus.SUCCESSFUL else "bold red"
    verdict = f": {visible(view.verdict)}" if view.verdict else ""
    page.line(f"{visible(view.type)} {view.status.value}{verdict}", style=style)
    _show_errors(view, page)


def progress_text(view: OperationView) -> str:
    """Return an operation's progress in words."""
    progress = view.progress
    total = f" of {progress.total:,}" if progress.total else ""
    words = [f"{progress.done:,}{total} {visible(progress.unit)}"]
    if progress.total:
        words.append(f"{100 * progress.done // progress.total} %")
    if progress.rate and not view.has_ended:
        words.append(f"{progress.rate:,.0f}/s")
    if progress.remaining_seconds is not None and not view.has_ended:
        words.append(f"about {duration(progress.remaining_seconds)} left")
    return ", ".join(words)


def _show_errors(view: OperationView, page: Page) -> None:
    for error in view.errors:
        page.line(f"  {visible(error)}", style="red")
    if view.errors_total > len(view.errors):
        page.line(f"  and {view.errors_total - len(view.errors):,} more")


def _show_operations(views: Sequence[OperationView], page: Page) -> None:
    if not views:
        page.line("no operation runs or waits")
        return
    page.table(
        ("uuid", "type", "status", "submitted", "progress"),
        [
            (
                visible(view.uuid),
                visible(view.type),
                view.status.value,
                local(view.submitted),
                visible(view.verdict) if view.has_ended else progress_text(view),
            )
            for view in views
        ],
    )


def _show_item(reply: ItemReply, page: Page) -> None:
    owner = visible(reply.account_name or reply.account)
    page.line(f"{visible(reply.kind)} {visible(reply.item)} of {owner}", style="bold")
    for state in reply.states:
        page.line()
        page.fields(_state_fields(state))
        page.fields(((visible(name), value_text(value)) for name, value in state.metadata.items()), indent=4)


def _show_account(reply: AccountReply, page: Page) -> None:
    page.line(
        f"account {visible(reply.account_name or reply.account)} ({visible(reply.account)})", style="bold"
    )
    for sentence in reply.protections:
        page.line(visible(sentence))
    if reply.not_enabled_since is not None:
        page.line(f"not backed up since {local(reply.not_enabled_since)} (backupEnabled is false)")
    for state in reply.states:
        page.line()
        page.fields(_state_fields(state))
        page.fields(((visible(name), value_text(value)) for name, value in state.metadata.items()), indent=4)
    if reply.statistics is not None:
        page.line()
        page.line("statistics", style="bold")
        page.fields(
            ((visible(name), value_text(value)) for name, value in reply.statistics.items()), indent=4
        )


def _state_fields(state: StateView) -> Sequence[tuple[str, str]]:
    return (
        ("start date", local(state.start, exact=True)),
        ("end date", local(state.end, exact=True) or "still"),
        ("change", visible(state.change)),
        ("deleted", yes_no(state.deleted)),
        ("folder", visible(state.folder)),
        ("blob path", visible(state.blob_path)),
        ("digest", visible(state.digest or "")),
        ("size", size(state.size)),
        ("origin", visible(state.origin)),
        ("observed", local(state.observed, exact=True)),
        ("lacking", visible(", ".join(state.lacking))),
        ("transaction", str(state.transaction)),
    )


def _show_found(reply: SearchReply, page: Page) -> None:
    if not reply.items:
        page.line("no item found; search_filter all: not only deleted ones, type all: not only messages")
        return
    page.table(
        ("id", "kind", "folder", "date", "deleted", "subject"),
        [
            (
                visible(item.id),
                visible(item.kind),
                visible(item.folder),
                local(item.date),
                (local(item.deleted_at) or "true") if item.deleted else "",
                visible(item.subject),
            )
            for item in reply.items
        ],
    )
    for item in reply.items:
        if item.metadata is not None:
            page.line()
            page.line(visible(item.id), style="bold")
            page.fields(
                ((visible(name), value_text(value)) for name, value in item.metadata.items()), indent=4
            )
    if reply.more:
        page.line("there are more: limit N lists more of them")


def _show_setting(reply: ConfigReply | AttributeReply, command: Command, page: Page) -> None:
    if isinstance(reply, AttributeReply):
        _show_attribute(reply, page)
    else:
        _show_config(reply, page, dumped=command.name.startswith("dump"))


def _show_config(reply: ConfigReply, page: Page, *, dumped: bool) -> None:
    """Show attributes as the specification prints them: blocks for `get`, one a line for `dump`."""
    if dumped:
        for view in reply.values:
            page.line(f"{visible(view.attribute):<{_FIELD_WIDTH}}{value_text(view.value)}")
        return
    if reply.subject:
        page.line(f"{visible(reply.level):<{_FIELD_WIDTH}}{visible(reply.subject)}")
    page.line("values")
    for view in reply.values:
        page.line()
        _show_value(view, page)


def _show_value(view: AttributeView, page: Page) -> None:
    indent = " " * _LEVEL_INDENT
    width = _FIELD_WIDTH + _LEVEL_INDENT
    page.line(f"{indent}{'attribute':<{width}}{visible(view.attribute)}")
    page.line(f"{indent}{'value':<{width}}{value_text(view.value)}".rstrip())
    page.line(f"{indent}{'isInherited':<{width}}{yes_no(view.is_inherited)}")
    page.line(f"{indent}modules")
    for module in view.modules:
        page.line(f"{indent}{indent}{visible(module)}")


def _show_attribute(reply: AttributeReply, page: Page) -> None:
    page.line(visible(reply.attribute), style="bold")
    page.fields(
        (
            ("meaning", visible(reply.meaning)),
            ("type", visible(reply.type)),
            ("range", visible(reply.range)),
            ("default", value_text(reply.default)),
            ("levels", visible(", ".join(reply.levels))),
            ("modules", visible(", ".join(reply.modules))),
        )
    )


def _show_backup(reply: BackupInfoReply, page: Page) -> None:
    page.fields(
        (
            ("backup path", visible(reply.backup_path)),
            ("server", visible(f"{reply.server_name} ({reply.server_id})")),
            ("imported from", visible(reply.imported_from)),
            ("format", str(reply.format_version)),
            ("created", local(reply.created)),
            ("first scan", local(reply.first_scan)),
            ("last scan", local(reply.last_scan)),
            ("accounts", f"{reply.accounts:,}, and {reply.accounts_deleted:,} deleted"),
            ("blobs", f"{reply.space.blobs:,}, {size(reply.space.blob_bytes)}"),
            ("free space", f"{size(reply.space.free_bytes)} of {size(reply.space.total_bytes)}"),
        )
    )
    if reply.counts:
        page.line()
        page.table(
            ("kind", "items", "deleted"),
            [(visible(one.kind), f"{one.items:,}", f"{one.deleted:,}") for one in reply.counts],
        )
