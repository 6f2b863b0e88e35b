"""Files of accounts: the one that `getAvailableAccounts output_file F` leaves, and those that commands take.

The console writes it, as the user who asks: the daemon may write where that user may not. A list by itself
has no header, several are each headed by `# name`. It comes whole or not at all, for its owner alone.

A file that a command takes (`input_file`) is read by the console for the same reason: one account a line, an
address or an id; empty lines and those that begin with `#` are passed over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from backupd.cli.text import visible
from backupd.durable import replace_file
from backupd.errors import BackupdError
from backupd.parameters import Value
from backupd.views import AccountView

FILE_MODE = 0o600
INPUT_BYTES_MAX = 4 << 20


class NotRead(BackupdError):
    """A file of accounts could not be read, or holds none."""

    exit_status = 66


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


def with_accounts(parameters: Mapping[str, Value]) -> dict[str, Value]:
    """Return a command's parameters with those accounts that its `input_file` names. Raises `NotRead`."""
    rest = dict(parameters)
    path = rest.pop("input_file", None)
    if path is None:
        return rest
    given = rest.get("accounts")
    rest["accounts"] = [*(given if isinstance(given, list) else ()), *read_accounts(str(path))]
    return rest


def read_accounts(path: str) -> list[str]:
    """Return the accounts that a file names. Raises `NotRead`."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(INPUT_BYTES_MAX + 1).decode("utf-8-sig")
    except OSError as error:
        raise NotRead(f"can't read {visible(path)}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise NotRead(f"{visible(path)} is no text in UTF-8") from error
    if len(content) > INPUT_BYTES_MAX:
        raise NotRead(f"{visible(path)} is larger than {INPUT_BYTES_MAX >> 20} MiB")
    lines = [line.strip() for line in content.splitlines()]
    accounts = [line for line in lines if line and not line.startswith("#")]
    if not accounts:
        raise NotRead(f"{visible(path)} names no account", hint="write one address or id a line")
    return accounts


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
