"""Following an operation until it ends: `--progress` shows the way, `--sync` only waits.

The stream may break off, because the daemon restarts or the connection goes: then it is taken up again, for
a bounded time. Ending the console never ends the operation.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator

from backupd.cli.ask import Daemon
from backupd.cli.page import Page, RichPage
from backupd.cli.show import progress_text, show_verdict
from backupd.cli.text import harmless_json, visible
from backupd.control import OperationReply, encode
from backupd.errors import DaemonUnreachable
from backupd.operations import EXIT_STATUS_OF
from backupd.views import OperationView

RECONNECTS_MAX = 120
RECONNECT_SECONDS = 1.0


def views_until_end(daemon: Daemon, view: OperationView) -> Iterator[OperationView]:
    """Yield an operation's views until it has ended; at least the last one."""
    if view.has_ended:
        yield view
        return
    failures = 0
    while True:
        try:
            for newer in daemon.events(view.uuid):
                failures = 0
                yield newer
                if newer.has_ended:
                    return
        except DaemonUnreachable:
            if failures >= RECONNECTS_MAX:
                raise
        failures += 1
        if failures > RECONNECTS_MAX:
            raise DaemonUnreachable(
                f"the daemon tells nothing about operation {view.uuid} any more",
                hint=f"backupctl backup monitor {view.uuid}",
            )
        time.sleep(RECONNECT_SECONDS)


def follow(daemon: Daemon, view: OperationView, page: Page, *, json: bool, progress: bool) -> int:
    """Wait until an operation has ended, show it as asked, and return the exit status of its end."""
    views = views_until_end(daemon, view)
    last = _shown(views, page, json=json) if progress else _last(views)
    if not json:
        show_verdict(last, page)
    elif not progress:
        sys.stdout.write(_line(last))
    return EXIT_STATUS_OF[last.status]


def _last(views: Iterable[OperationView]) -> OperationView:
    *_, last = views
    return last


def _line(view: OperationView) -> str:
    return harmless_json(encode(OperationReply(operation=view))) + "\n"


def _words(view: OperationView) -> str:
    return f"{visible(view.type)} {view.status.value}: {progress_text(view)}\n"


def _shown(views: Iterator[OperationView], page: Page, *, json: bool) -> OperationView:
    if json:
        return _as_lines(views, _line)
    if isinstance(page, RichPage):
        return _as_bar(views, page)
    return _as_lines(views, _words)


def _as_lines(views: Iterator[OperationView], written: Callable[[OperationView], str]) -> OperationView:
    """Write a line whenever it says something new."""
    before = ""
    last: OperationView | None = None
    for last in views:
        text = written(last)
        if text != before:
            sys.stdout.write(text)
            sys.stdout.flush()
        before = text
    assert last is not None
    return last


def _as_bar(views: Iterator[OperationView], page: RichPage) -> OperationView:
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - only a terminal has a bar

    columns = (
        TextColumn("{task.fields[what]}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[words]}", markup=False),
    )
    last: OperationView | None = None
    with Progress(*columns, console=page.console, transient=True) as bar:
        task = bar.add_task("", total=None, what="", words="")
        for last in views:
            bar.update(
                task,
                completed=last.progress.done,
                total=last.progress.total or None,
                what=f"{visible(last.type)} {last.status.value}",
                words=progress_text(last),
            )
    assert last is not None
    return last
