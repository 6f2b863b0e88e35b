"""The file that `getAvailableAccounts output_file F` leaves: lists of accounts, made to be read by scripts.

The console writes it, as the user who asks: the daemon may write where that user may not. A list by itself
has no header, several are each headed by `# name`. It comes whole or not at all, for its owner alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from backupd.cli.text import visible
from backupd.durable import replace_file
from backupd.errors import BackupdError
from backupd.views import AccountView

FILE_MODE = 0o600


class NotWritten(BackupdError):
    """The file could not be written; what was there before is as it was."""

    exit_status = 74


def lists_text(accounts: Sequence[AccountView], headers: Sequence[str]) -> str:
    """Return the lists that `headers` name, one account a line."""
    parts = []
    for header in dict.fromkeys(headers):
        heading = f"# {header}\n" if len(set(headers)) > 1 else ""
        parts.append(heading + "".join(f"{_LINES[header](one)}\n" for one in accounts))
    return "".join(parts)


def write_lists(path: str, accounts: Sequence[AccountView], headers: Sequence[str]) -> None:
    """Put the lists in place of the file. Raises `NotWritten`."""
    target = Path(path)
    try:
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            raise NotWritten(
                f"{visible(path)} is no file; it is left alone",
                hint="name a file that may be replaced, or a new one",
            )
        # What a link points to is replaced, not the link.
        target = Path(os.path.realpath(path))
        replace_file(target, lists_text(accounts, headers).encode("utf-8", "replace"), mode=FILE_MODE)
    except OSError as error:
        raise NotWritten(
            f"can't write {visible(path)}: {error.strerror}",
            hint="the list is written by the user who asks, not by the daemon",
        ) from error


def _written(moment: datetime | None) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else ""


def _map_line(one: AccountView) -> str:
    words = (one.id, one.name, one.status, _written(one.created), _written(one.deleted_at))
    return "\t".join(visible(word) for word in words)


_LINES: dict[str, Callable[[AccountView], str]] = {
    "accountList": lambda one: visible(one.name),
    "accountIdList": lambda one: visible(one.id),
    "accountAndIdList": lambda one: f"{visible(one.name)} {visible(one.id)}",
    "accountMap": _map_line,
}
"""One line of each list; nothing in an address can begin a new one."""
