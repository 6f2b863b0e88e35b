"""The table of commands: every row can be typed, means one thing and can't be confused with another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from backupd.cli.help import help_text
from backupd.cli.manual import manual
from backupd.cli.reference import reference
from backupd.commands import COMMANDS, MODULES, Command, CommandKind
from backupd.control import Reply
from backupd.grammar import command_at
from backupd.parameters import Type, checked, squashed

ROWS = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.title)


@ROWS
def test_every_name_finds_its_own_row(command: Command):
    """Module and name, in any spelling and case, find exactly this row."""
    for name in command.names:
        for form in (name, name.upper(), name.replace("-", "_")):
            found, length = command_at(command.module, [*form.split(), "surplus"])
            assert found is command
            assert length == len(name.split())


@ROWS
def test_parameters_of_a_row_can_be_told_apart(command: Command):
    """No two parameters of a command share a squashed name, and choices stand where a choice is asked."""
    names = [squashed(name) for one in command.parameters for name in one.names]
    assert not [name for name, count in Counter(names).items() if count > 1]
    for one in command.parameters:
        assert one.choices if one.type is Type.CHOICE else not one.choices or one.type is Type.LIST
        assert not one.keywords or one.type is Type.DATE


@ROWS
def test_every_row_explains_itself(command: Command):
    """Each command and parameter has one line of meaning; its help names every parameter."""
    assert command.module in MODULES
    assert command.meaning
    assert "\n" not in command.meaning
    shown = help_text((command.module, command.name))
    for one in command.parameters:
        assert one.meaning
        assert f"  {one.name} " in shown


@ROWS
def test_defaults_are_values_of_their_type(command: Command):
    """A default passes the check it stands for, unchanged; positionals have none."""
    assert all(one.default is None for one in command.positional)
    for one in command.trailing + command.optional:
        if one.default is not None:
            assert checked(one, one.default) == one.default


def test_scans_and_restores_are_operations_and_reading_is_a_query():
    """The kinds that decide about rights are those one expects."""
    kinds = {command.name: command.kind for command in COMMANDS}
    assert {kinds[name] for name in ("doSmartScan", "doAccountScan", "doItemRestore")} == {
        CommandKind.OPERATION
    }
    assert {kinds[name] for name in ("status", "getItem", "monitor", "get global")} == {CommandKind.QUERY}
    assert {kinds[name] for name in ("set global", "unset server", "doStopOperation")} == {
        CommandKind.SETTING
    }


DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_in_docs_is_the_table():
    """docs/commands.md is what the table says today (python -m backupd.cli.reference renews it)."""
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == reference()


def test_the_manual_page_is_the_table():
    """docs/backupctl.1 is what the table says today (python -m backupd.cli.manual renews it)."""
    assert (DOCS / "backupctl.1").read_text(encoding="utf-8") == manual()


@ROWS
def test_answers_of_a_row_are_described(command: Command):
    """Every answer that a row names is a reply there is, and the reference describes it below its link."""
    if command.available:
        assert command.replies
    for reply in command.replies:
        assert reply in {one.__struct_config__.tag for one in get_args(Reply)}
        assert f"(#reply-{reply})" in reference()
        assert f'\n### `"reply": "{reply}"`\n' in reference()
