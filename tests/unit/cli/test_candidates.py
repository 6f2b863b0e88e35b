"""Candidates: what may follow which words, as values; and that nothing makes them fail."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.attribute_table import TABLE
from backupd.cli.candidates import Pair, candidates
from backupd.commands import COMMANDS
from backupd.grammar import parse
from backupd.parameters import Parameter, Type

WORLD = {
    Type.ACCOUNT: "alice@example.com",
    Type.UUID: "0192f3c4-0000-4000-8000-0123456789ab",
    Type.DATE: "2026-11-23",
}
SCAN = ["deep", "force", "notifications", "read_error_threshold", "remote_metadata_upload"]


def known(parameter: Parameter, word: str) -> Sequence[Pair]:
    """Know one account, one operation, and of everything else its parameter's name in angles."""
    value = "" if parameter.type is Type.DATE else WORLD.get(parameter.type, f"<{parameter.name}>")
    return [(value, "")] if value.startswith(word) else []


def after(line: str) -> list[str]:
    """Return the candidates of the last word of a line; it is empty where the line ends with a blank."""
    *before, word = line.split(" ")
    return [one for one, _ in candidates([one for one in before if one], word, known)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ba", ["backup"]),
        ("backup scheduler ", after("scheduler ")),
        ("config ", ["get", "set", "unset", "dump", "info"]),
        ("config global ", ["get", "set", "unset", "dump"]),
        ("config get ", ["global", "server", "cos", "domain", "account"]),
        ("scheduler smartscan ", ["get", "set"]),
        ("backup scheduler SmartScan get ", ["global", "server"]),
        ("backup s", ["status", "setBackupVolume", "scheduler"]),
        ("BACKUP dosm", ["doSmartScan"]),
        ("help backup getav", ["getAvailableAccounts", "getAvailableDomains"]),
        ("help backup getMap ", []),
        ("completion ", ["bash", "zsh", "fish"]),
        ("completion bash ", []),
        ("backup doFixSh", []),
    ],
)
def test_modules_and_commands_are_completed(line: str, words: list[str]):
    """Words of modules and commands follow each other in both orders and spellings; what is coming is not."""
    assert after(line) == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("backup doSmartScan ", ["start"]),
        ("backup doSmartScan start ", [*SCAN, "create_fake_blob"]),
        ("backup doSmartScan start deep true f", ["force"]),
        ("backup doSmartScan start de", ["deep"]),
        ("backup doSmartScan start deep ", ["true", "false"]),
        ("backup doSmartScan start deep=t", ["deep=true"]),
        ("backup doSmartScan start --deep=", ["--deep=true", "--deep=false"]),
        ("backup doSmartScan start --de", ["--deep"]),
        ("backup doSmartScan start --deep f", ["false", "force"]),
        ("backup doSmartScan --deep true ", ["start"]),
        ("backup doAccountScan ", ["alice@example.com"]),
        ("backup doAccountScan deep true al", ["alice@example.com"]),
        ("backup doAccountScan account=al", ["account=alice@example.com"]),
        ("backup getItem alice@example.com ", ["<item>"]),
        ("backup getItem alice@example.com 7 date ", ["last", "first", "all"]),
        ("backup getItem alice@example.com 7 --dump-b", ["--dump_blob"]),
        ("backup monitor ", [WORLD[Type.UUID]]),
        ("backup doItemSearch a type contact", ["contact", "contact-group"]),
        ("backup getAvailableAccounts output_headers accountMap,accountI", ["accountMap,accountIdList"]),
        ("backup getAvailableAccounts output_file <", ["<output_file>"]),
        ("backup getAvailableDomains ", ["last", "backup_path"]),
        ("config get server <s", ["<server>"]),
        ("config get server x ", [one.name for one in TABLE]),
        ("config get global zxcore", ["ZxCore_LogLevel"]),
        ("config global set attribute zxcore", ["ZxCore_LogLevel"]),
        ("config set global ZxBackup_RealTimeScanner ", ["true", "false"]),
        ("config set global zxbackup_realtimescanner value=t", ["value=true"]),
        ("scheduler purge set global ", ["enabled", "pattern"]),
        ("--socket ", ["<socket>"]),
        ("--socket=", ["--socket=<socket>"]),
        ("--socket /x --host <", ["<server>"]),
        ("--json sta", ["status"]),
        ("backup --j", ["--json"]),
    ],
)
def test_parameters_and_values_are_completed(line: str, words: list[str]):
    """Values stand where values are due, in each form a parameter may be given in; names where names are."""
    assert after(line) == words


@pytest.mark.parametrize(
    "line",
    [
        "bakcup ",
        "backup nothing ",
        "backup doSmartScan start nothing ",
        "backup doSmartScan start deep true deep ",
        "--json=perhaps ",
        "backup getItem -- a ",
        "config set global X ",
    ],
)
def test_where_nothing_fits_nothing_is_offered(line: str):
    """After words that are wrong, literal or free, there is no guess."""
    assert after(line) == []


def test_every_row_can_be_typed_by_taking_what_is_offered():
    """Whoever takes offered words alone comes to every command that is available, in each spelling."""
    for command in COMMANDS:
        for name in command.names if command.available else ():
            before = [command.module]
            for part in name.split():
                assert part in [one for one, _ in candidates(before, part[:1])], (command.title, part)
                before.append(part)


def test_every_offered_name_is_understood():
    """A name that is offered after a complete command is read by the grammar as that parameter."""
    for command in COMMANDS:
        if not command.available or any(one.type is Type.DATE for one in command.trailing):
            continue
        line = [command.module, *command.name.split()]
        values = [one.choices[0] if one.choices else WORLD.get(one.type, "7") for one in command.positional]
        for name, _ in candidates([*line, *values], "--", known):
            parameter = next((one for one in command.optional if f"--{one.name}" == name), None)
            if parameter is not None and parameter.type is Type.BOOLEAN:
                request = parse([*line, *values, name])
                assert request.parameters[parameter.name] is True


WORDS = st.sampled_from(
    [word for command in COMMANDS for word in (command.module, *command.name.split())]
    + [one.name for command in COMMANDS for one in command.parameters]
    + ["--", "-", "=", "--deep=", "--socket", "help", "true", "12/11/2026", "10:00:00", "completion", "a,"]
)


@given(st.lists(WORDS | st.text(max_size=8), max_size=7), WORDS | st.text(max_size=8))
def test_nothing_makes_it_fail(before: list[str], word: str):
    """Whatever stands on the line, the answer is pairs of texts, and each begins as the word does."""
    for one, meaning in candidates(before, word, known):
        assert one
        assert isinstance(meaning, str)
