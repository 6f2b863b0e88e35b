"""Help: complete for every row, readable in any width, and hints that lead to the right word."""

from __future__ import annotations

import pytest

from backupd.cli.help import OPTIONS, combinations, entries, help_text
from backupd.commands import COMMANDS, MODULES, Command
from backupd.errors import UsageError
from backupd.grammar import parse
from backupd.schedules import JOBS

AVAILABLE = [command for command in COMMANDS if command.available]
OVERVIEW_LINES_MAX = 125


def test_the_overview_names_everything_and_stays_readable():
    """Every module, option and command of one word stands there; families of words are one entry each."""
    text = help_text(())
    for module in MODULES:
        assert f"\n{module}: " in text
    for command in AVAILABLE:
        if " " not in command.name:
            assert f" {command.name} " in text
    for name, _ in OPTIONS:
        assert f"\n  {name} " in text
    assert "  get|set|unset|dump LEVEL  LEVEL: global, server, cos, domain, account\n" in text
    assert "  JOB get|set global|server" in text
    assert all(job.name in text for job in JOBS)
    assert len(text.splitlines()) <= OVERVIEW_LINES_MAX


@pytest.mark.parametrize("command", AVAILABLE, ids=lambda command: command.title)
def test_help_of_a_command_says_all_there_is(command: Command):
    """Usage, each parameter, trailing values as such, defaults, other spellings and the answer."""
    text = help_text((command.module, command.name), width=10_000)
    assert f"usage: backupctl {command.usage}\n" in text
    for one in command.trailing:
        assert f"[{one.name.upper()}]" in text
    for spelling in command.spellings:
        assert f"backupctl {command.module} {spelling}\n" in text
    assert f"it answers: {' or '.join(command.replies)}." in text


@pytest.mark.parametrize("line", [f"{one.title} --help" for one in AVAILABLE] + ["help completion", "help"])
def test_every_help_can_be_asked_for(line: str):
    """`COMMAND --help` needs no values and comes to the help of that command."""
    request = parse(line.split())
    assert request.command is None
    assert help_text(request.topic).startswith(line.removesuffix(" --help").removeprefix("help ")) or (
        request.topic == ()
    )


@pytest.mark.parametrize("width", [20, 40, 80, 100])
def test_help_fits_narrow_terminals(width: int):
    """Folded lines are no wider than the terminal, down to the width that names and usages need."""
    for line in help_text(("backup", "doItemSearch"), width=max(width, 50)).splitlines():
        assert len(line) <= max(width, 50)
    for line in entries([("name", "a meaning of several words that goes on and on")], width):
        assert len(line) <= max(width, 28)


def test_only_full_products_are_combined():
    """Where a combination is missing, commands are one line by their first word, with what may follow."""
    rows = [one for one in AVAILABLE if one.module == "config" and " " in one.name]
    assert len(combinations("config", rows)) == 1
    assert [name for name, _ in combinations("config", rows[:-1])] == [
        "get TYPE",
        "set TYPE",
        "unset TYPE",
        "dump TYPE",
    ]
    assert [name for name, _ in combinations("config", rows[:3])] == ["get|set|unset LEVEL"]


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("dcotor", "doctor"),
        ("statsu", "status"),
        ("bakcup status", "backup"),
        ("completoin bash", "completion"),
        ("getItem a b", "backup getItem"),
        ("backup doctr", "doctor"),
        ("backup schedulr SmartScan get global", "scheduler"),
        ("backup scheduler SmartScn get global", "SmartScan"),
        ("scheduler SmartScan gte global", "SmartScan get global"),
        ("scheduler SmartScan get globl", "SmartScan get global"),
        ("scheduler SmartScan set global patern x", "pattern"),
        ("config gte global", "get"),
        ("config get glboal", "get global"),
        ("core getNotificaton", "getNotification"),
        ("backup getAvailableAccounts output_headers accountLst", "accountList"),
        ("backup doStratService module", "doStartService"),
    ],
)
def test_a_slip_is_met_with_the_nearest_word(line: str, near: str):
    """A usage error names the word that was meant, and lists only what may stand there."""
    with pytest.raises(UsageError) as refused:
        parse(line.split())
    assert refused.value.hint.startswith(f"did you mean {near}? valid: ")
    assert refused.value.exit_status == 64
