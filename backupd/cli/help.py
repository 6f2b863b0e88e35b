"""Help: every word of it comes from the table of commands."""

from __future__ import annotations

from backupd.cli.text import value_text
from backupd.commands import COMMANDS, MODULES, Command
from backupd.parameters import Parameter, Type

OPTIONS = (
    ("--json", "print the answer as one line of JSON (docs/commands.md names the fields)"),
    (
        "--progress",
        "show the operation's progress until it has ended; Ctrl-C ends the output, not the operation",
    ),
    (
        "--sync",
        "wait until it has ended; exit status 0 successful, 1 failed, 2 stopped, 3 removed, 4 interrupted",
    ),
    ("--socket PATH", "the control socket to ask; else BACKUPD_SOCKET, the user's own daemon, the service"),
    ("--config FILE", "doctor only: the configuration of the daemon that is meant"),
    ("--host NAME", "refuse to talk to a daemon that backs up another server"),
    ("--help", "explain a module or a command"),
    ("--version", "print the version"),
)
FORMS = (
    "Parameters in capitals are given without their names, those in brackets as `name value`, `name=value`,\n"
    "`--name value` or `--name=value`. Case does not matter, nor whether it is `-`, `_` or a blank.\n"
    'Dates are "dd/MM/yyyy HH:mm:ss", ISO 8601, or a word that the command names. Commas separate lists.'
)
EXIT_STATUSES = (
    "Exit status: 0 done, 64 wrong words, 66 no such account, item or operation, 69 no daemon or not\n"
    "available yet, 74 damaged content, 77 not permitted, 130 ended by Ctrl-C; otherwise what --sync says."
)


_TOLD = {Type.BOOLEAN, Type.INTEGER, Type.DATE, Type.CHOICE, Type.LIST}
"""Types whose values a meaning does not tell."""


def help_text(topic: tuple[str, ...]) -> str:
    """Return the help for nothing in particular, a module, or a module and a command or its first word."""
    if not topic:
        return _overview()
    rows = [command for command in COMMANDS if command.module == topic[0]]
    if len(topic) > 1:
        exact = [command for command in rows if command.name == topic[1]]
        if exact:
            return _command(exact[0])
        rows = [command for command in rows if command.name.split()[0] == topic[1]]
    return _rows(rows) + f"\nbackupctl help {topic[0]} COMMAND explains one of them.\n"


def _overview() -> str:
    lines = [
        "usage: backupctl MODULE COMMAND [VALUE…] [name value…] [options]",
        "       backupctl status",
        "",
    ]
    for module, meaning in MODULES.items():
        lines.append(f"{module}: {meaning}")
        names = [command.name for command in COMMANDS if command.module == module and command.available]
        lines += [f"  {name}" for name in names]
    lines += ["", "options, anywhere on the line:"]
    lines += [f"  {name:<16}{meaning}" for name, meaning in OPTIONS]
    lines += ["", FORMS, "", EXIT_STATUSES, "", "backupctl help MODULE [COMMAND] explains more.", ""]
    return "\n".join(lines)


def _rows(rows: list[Command]) -> str:
    ready = [command for command in rows if command.available]
    width = max((len(command.title) for command in ready), default=0)
    lines = [f"{command.title:<{width}}  {command.meaning}" for command in ready]
    coming = [command.name for command in rows if not command.available]
    if coming:
        lines += ["", f"not available yet: {', '.join(coming)}"]
    return "\n".join(lines) + "\n"


def _command(command: Command) -> str:
    lines = [f"{command.title}: {command.meaning}", "", f"usage: backupctl {command.usage}", ""]
    lines += [f"  {one.name:<24}{_explained(one)}" for one in command.parameters]
    if not command.available:
        lines += ["It is not available yet."]
    return "\n".join(lines).rstrip() + "\n"


def _explained(parameter: Parameter) -> str:
    default = value_text(parameter.default)
    ends = f" (default {default})" if default else ""
    expects = f"; {parameter.expects}" if parameter.type in _TOLD else ""
    return f"{parameter.meaning}{expects}{ends}"
