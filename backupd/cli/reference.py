"""The reference: docs/commands.md, made from the table of commands and the structs of the control socket.

`python -m backupd.cli.reference > docs/commands.md` renews it.
"""

from __future__ import annotations

import inspect
import sys
from datetime import datetime
from enum import StrEnum
from typing import get_args, get_origin

import msgspec

from backupd.cli.help import EXIT_STATUSES, FORMS, OPTIONS
from backupd.cli.text import value_text
from backupd.commands import COMMANDS, MODULES, Command
from backupd.control import Reply


def reference() -> str:
    """Return the whole table as Markdown: the content of docs/commands.md."""
    lines = [
        "# Commands",
        "",
        "This page is made from `backupd/commands.py` and `backupd/control.py` by",
        "`python -m backupd.cli.reference`; a test keeps it true. With `alias carbonio=backupctl` the",
        "commands work in the words of the specification.",
        "",
        "```",
        "backupctl MODULE COMMAND [VALUE…] [name value…] [options]",
        "```",
        "",
        FORMS.replace("\n", " "),
        "",
        "| Option | Meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in OPTIONS),
        "",
        EXIT_STATUSES.replace("\n", " "),
        "",
        "A *query* reads: root, the service's user and members of the control socket's group may give it.",
        "An *operation* is queued and gets a UUID, a *setting* acts at once: both are for root and the",
        "service's user. Parameters in bold may be given without their names, in the order of the table;",
        "those in brackets may be left out.",
    ]
    for module, meaning in MODULES.items():
        rows = [command for command in COMMANDS if command.module == module]
        lines += ["", f"## {module}", "", meaning[0].upper() + meaning[1:] + "."]
        for command in rows:
            if command.available:
                lines += _section(command)
        coming = [f"`{command.name}`" for command in rows if not command.available]
        if coming:
            lines += ["", f"Recognised, but not available yet: {', '.join(coming)}."]
    return "\n".join(lines + _shapes()) + "\n"


def _section(command: Command) -> list[str]:
    lines = [
        "",
        f"### {command.title}",
        "",
        f"{command.meaning[0].upper()}{command.meaning[1:]}. *{command.kind}*",
    ]
    if command.spellings:
        also = ", ".join(f"`{command.module} {spelling}`" for spelling in command.spellings)
        lines += ["", f"Also written {also}."]
    if command.parameters:
        lines += ["", "| Parameter | Type | Default | Meaning |", "|---|---|---|---|"]
    for one in command.parameters:
        name = f"**{one.name}**" if one in command.in_order else one.name
        name = f"[{name}]" if one in command.trailing else name
        kind = one.expects if one.choices or one.keywords or one.is_ranged else str(one.type)
        lines.append(f"| {name} | {kind} | {value_text(one.default)} | {one.meaning} |")
    if command.replies:
        answers = [f"[`{reply}`](#reply-{reply})" for reply in command.replies]
        lines += ["", f"Answers with {' or '.join(answers)}."]
    return lines


def _shapes() -> list[str]:
    """Describe the answers as JSON: what `--json` prints and the control socket sends."""
    lines = [
        "",
        "## Answers as JSON",
        "",
        "`--json` prints each answer on one line, as the control socket sends it; of an operation that is",
        "followed, one line whenever it changed. `reply` tells which of these it is. `version` grows only",
        "when a field changes its meaning or goes; new fields may come at any time. Moments are RFC 3339 in",
        "UTC, sizes are bytes, durations seconds.",
    ]
    shown: set[type] = set()
    waiting = list(get_args(Reply))
    while waiting:
        struct = waiting.pop(0)
        if struct in shown:
            continue
        shown.add(struct)
        fields, nested = _fields(struct)
        lines += [
            "",
            f"### {_heading(struct)}",
            "",
            inspect.cleandoc(struct.__doc__ or "").replace("\n", " "),
        ]
        lines += ["", ", ".join(fields) + "."]
        waiting += nested
    return lines


def _heading(struct: type[msgspec.Struct]) -> str:
    tag = struct.__struct_config__.tag
    return f'`"reply": "{tag}"`' if tag else f"`{struct.__name__}`"


def _fields(struct: type[msgspec.Struct]) -> tuple[list[str], list[type[msgspec.Struct]]]:
    """Return a struct's fields with their types, and the structs among those."""
    fields = []
    nested: list[type[msgspec.Struct]] = []
    for field in msgspec.structs.fields(struct):
        fields.append(f"`{field.encode_name}` ({_type_text(field.type)})")
        parts = (field.type, *get_args(field.type))
        nested += [one for one in parts if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    return fields, nested


def _type_text(kind: object) -> str:
    """Return a type in JSON's words."""
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        return f"list of {_type_text(arguments[0])}"
    if get_origin(kind) is dict:
        return "object"
    if arguments:
        return " or ".join(_type_text(one) for one in arguments)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return " \\| ".join(kind)
    return _JSON_WORDS.get(kind) or (f"`{kind.__name__}`" if isinstance(kind, type) else "any value")


_JSON_WORDS: dict[object, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    datetime: "moment",
    type(None): "null",
}


if __name__ == "__main__":
    sys.stdout.write(reference())
