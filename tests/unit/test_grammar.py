"""The grammar: command lines as the specification prints them, and as people mistype them."""

from __future__ import annotations

import shlex
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.commands import COMMANDS
from backupd.errors import UsageError
from backupd.grammar import NotAvailableYet, complete, parse

UUID = "0192f3c4-0000-4000-8000-0123456789ab"


def given_values(line: str) -> tuple[str, dict[str, Any]]:
    """Return the command's title and the values that differ from its defaults."""
    request = parse(shlex.split(line))
    command = request.command
    assert command is not None
    defaults = {one.name: one.default for one in command.optional}
    values = {name: value for name, value in request.parameters.items() if value != defaults.get(name)}
    return command.title, values


@pytest.mark.parametrize(
    ("line", "title", "values"),
    [
        # As the specification prints them.
        (
            "config set global ZxCore_LogLevel 0",
            "config set global",
            {"attribute": "ZxCore_LogLevel", "value": "0"},
        ),
        ("config dump global", "config dump global", {}),
        (
            "config set server mail.example.com ZxBackup_DestPath /opt/carbonio-backup",
            "config set server",
            {"server": "mail.example.com", "attribute": "ZxBackup_DestPath", "value": "/opt/carbonio-backup"},
        ),
        (
            "config get server mail.example.com ZxBackup_DestPath",
            "config get server",
            {"server": "mail.example.com", "attribute": "ZxBackup_DestPath"},
        ),
        (
            "config global set attribute backupBloblessMode value true",
            "config set global",
            {"attribute": "backupBloblessMode", "value": "true"},
        ),
        (
            "config server set mail.example.com attribute backupBloblessMode value true",
            "config set server",
            {"server": "mail.example.com", "attribute": "backupBloblessMode", "value": "true"},
        ),
        ("backup doSmartScan start", "backup doSmartScan", {"action": "start"}),
        (f"backup monitor {UUID}", "backup monitor", {"operation_uuid": UUID}),
        ("backup getAllOperations", "backup getAllOperations", {}),
        # Each form of an optional parameter.
        ("backup doSmartScan start deep true", "backup doSmartScan", {"action": "start", "deep": True}),
        ("backup dosmartscan START --deep", "backup doSmartScan", {"action": "start", "deep": True}),
        ("backup doSmartScan start --deep=true", "backup doSmartScan", {"action": "start", "deep": True}),
        ("backup doSmartScan --deep true start", "backup doSmartScan", {"action": "start", "deep": True}),
        ("backup doSmartScan --deep start", "backup doSmartScan", {"action": "start", "deep": True}),
        ("backup doSmartScan start deep=1", "backup doSmartScan", {"action": "start", "deep": True}),
        ("backup doAccountScan deep true a@b", "backup doAccountScan", {"account": "a@b", "deep": True}),
        (
            "backup doSmartScan start notifications a@b,c@d",
            "backup doSmartScan",
            {"action": "start", "notifications": ["a@b", "c@d"]},
        ),
        # Both spellings that the vendor mixes.
        (
            "backup getItem a@b 7 dump_blob true",
            "backup getItem",
            {"account": "a@b", "item": "7", "dump_blob": True},
        ),
        (
            "backup getitem a@b 7 dump blob true",
            "backup getItem",
            {"account": "a@b", "item": "7", "dump_blob": True},
        ),
        (
            "backup getItem a@b 7 --dump-blob",
            "backup getItem",
            {"account": "a@b", "item": "7", "dump_blob": True},
        ),
        (
            "backup getItem a@b 7 backup path /x",
            "backup getItem",
            {"account": "a@b", "item": "7", "backup_path": "/x"},
        ),
        ("backup getItem account a@b item 7", "backup getItem", {"account": "a@b", "item": "7"}),
        ("backup getItem a@b -- --deep", "backup getItem", {"account": "a@b", "item": "--deep"}),
        ("backup getItem a@b 7 date ALL", "backup getItem", {"account": "a@b", "item": "7", "date": "all"}),
        # A text that is called like a parameter, where nothing else can be meant.
        ("config set global value 5", "config set global", {"attribute": "value", "value": "5"}),
        ("config set global X value", "config set global", {"attribute": "X", "value": "value"}),
        ("config set global X a=b", "config set global", {"attribute": "X", "value": "a=b"}),
        ("status", "backup status", {}),
    ],
)
def test_a_line_means(line: str, title: str, values: dict[str, Any]):
    """Each line is understood as the command and the values it names."""
    assert given_values(line) == (title, values)


def test_a_date_may_be_one_word_or_two():
    """Quoted and unquoted dates mean the same; what follows is read on."""
    quoted = parse(["backup", "getItem", "a@b", "7", "date", "12/11/2026 10:00:00", "dump_blob", "true"])
    apart = parse(shlex.split("backup getItem a@b 7 date 12/11/2026 10:00:00 dump_blob true"))
    equals = parse(shlex.split("backup getItem a@b 7 date=2026-11-12 10:00:00 dump_blob true"))
    assert quoted.parameters == apart.parameters == equals.parameters
    assert quoted.parameters["dump_blob"] is True


@pytest.mark.parametrize(
    "line",
    [
        "--json --sync --socket /x --host m backup doSmartScan start",
        "backup --json doSmartScan --socket=/x start --host=m --sync",
        "backup doSmartScan start --sync --JSON --socket /x --host m",
    ],
)
def test_options_stand_anywhere(line: str):
    """Global options are taken from wherever they stand."""
    request = parse(line.split())
    assert request.command is not None
    options = request.options
    assert (options.json, options.sync, options.progress, options.socket, options.host) == (
        True,
        True,
        False,
        "/x",
        "m",
    )


@pytest.mark.parametrize(
    ("line", "topic"),
    [
        ("backup updateBackupVolume --help", ("backup", "updateBackupVolume")),
        ("", ()),
        ("help", ()),
        ("--help", ()),
        ("help backup", ("backup",)),
        ("backup --help", ("backup",)),
        ("help backup getitem", ("backup", "getItem")),
        ("backup getItem a@b --help", ("backup", "getItem")),
        ("config get --help", ("config", "get")),
        ("config get server x y -h", ("config", "get server")),
        ("help status", ("backup", "status")),
    ],
)
def test_help_is_found_for(line: str, topic: tuple[str, ...]):
    """Help can be asked for before, after and instead of a command."""
    request = parse(line.split())
    assert request.command is None
    assert request.topic == topic


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("bakup status", "no module is called 'bakup'", "did you mean backup?"),
        ("doSmartScan start", "no module", "did you mean backup doSmartScan?"),
        ("backup doSmartScn start", "no command 'doSmartScn'", "did you mean doSmartScan?"),
        ("backup", "backup needs a command", "doSmartScan"),
        ("config get", "needs more words", "get global, get server"),
        ("config get globl X", "no command 'get globl'", "did you mean get global?"),
        ("backup doSmartScan", "needs start", "usage: backup doSmartScan start"),
        ("backup doSmartScan stat", "'stat' is no value for action", "did you mean start?"),
        ("backup doSmartScan start dep true", "no parameter 'dep'", "did you mean deep?"),
        ("backup doSmartScan start --dep", "no parameter 'dep'", "did you mean deep?"),
        ("backup doSmartScan start deep", "deep needs a value", "true or false"),
        ("backup doSmartScan start deep maybe", "no value for deep", "true or false"),
        ("backup doSmartScan start deep true --deep", "deep is given twice", ""),
        ("backup monitor 5", "no value for operation_uuid", "a UUID"),
        ("backup getItem a@b", "needs ITEM", "usage: backup getItem ACCOUNT ITEM"),
        ("backup getItem a@b 7 date soon", "no value for date", "dd/MM/yyyy HH:mm:ss"),
        ("backup getBackupInfo --socket", "--socket needs a value", ""),
        ("status --json=x", "no value for --json", "true or false"),
        ("backup getAllOperations -- x", "one value too many", "usage"),
    ],
)
def test_a_wrong_line_is_told_what_would_be_right(line: str, message: str, hint: str):
    """Usage errors are one line, exit 64, and name the nearest valid word and what is valid."""
    with pytest.raises(UsageError) as refused:
        parse(line.split())
    assert message in refused.value.message
    assert hint in refused.value.hint
    assert refused.value.exit_status == 64
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("command", [row for row in COMMANDS if not row.available], ids=lambda row: row.title)
def test_commands_that_are_coming_say_so(command: Any):
    """A command that is not built yet is recognised whatever follows it, and exits 69."""
    with pytest.raises(NotAvailableYet) as refused:
        parse([command.module, command.name, "whatever", "--it", "takes=5"])
    assert refused.value.exit_status == 69


BUCKET_FIELDS = {
    "bucket_name": "mail",
    "access_key": "AKIA",
    "secret": "s3cret",
    "label": "one",
    "region": "EU_WEST_1",
}
S3_WORDS = "mail AKIA s3cret one EU_WEST_1"


@pytest.mark.parametrize(
    "words",
    [
        S3_WORDS,
        "region EU_WEST_1 label one secret s3cret access_key AKIA bucket_name mail",
        "--secret=s3cret mail AKIA one EU_WEST_1",
        "mail AKIA secret s3cret label one region EU_WEST_1",
    ],
)
def test_a_bucket_by_place_or_by_name(words: str):
    """Mandatory values stand in their order, by name in any order, or both."""
    request = parse(f"core doCreateBucket S3 {words}".split())
    assert request.command is not None
    assert request.command.title == "core doCreateBucket S3"
    given = {name: value for name, value in request.parameters.items() if value is not None}
    assert given == BUCKET_FIELDS


@pytest.mark.parametrize(
    "words",
    [
        "mail AKIA one EU_WEST_1 secret_file /run/secret",
        "--secret_file /run/secret mail AKIA one EU_WEST_1",
        "mail AKIA --secret-file=/run/secret label one region EU_WEST_1",
    ],
)
def test_what_stands_in_the_place_of_a_mandatory_value(words: str):
    """With `secret_file` anywhere on the line the secret is left out, and the other values move up."""
    request = parse(f"core doCreateBucket S3 {words}".split())
    given = {name: value for name, value in request.parameters.items() if value is not None}
    assert given == {name: value for name, value in BUCKET_FIELDS.items() if name != "secret"} | {
        "secret_file": "/run/secret"
    }
    with pytest.raises(UsageError, match="needs SECRET"):
        parse(["core", "doCreateBucket", "S3", "bucket_name=mail", "access_key=AKIA"])


def test_a_misplaced_secret_is_not_repeated():
    """A word that is taken for a parameter's name may be the secret: the error does not show it."""
    with pytest.raises(UsageError) as refused:
        parse(["core", "doCreateBucket", "S3", "mail", "AKIA", "one", "two", "three", "s3cr3t"])
    assert "s3cr3t" not in str(refused.value)
    assert "s3cr3t" not in refused.value.hint


LINE_PARTS = """backup config core status help getItem doItemSearch get set global server doSmartScan start
date --deep deep dump blob true 12/11/2026 10:00:00 -- --json --socket --host=x a@b type message = --= -
--date=last attribute value"""
WORDS = st.sampled_from(LINE_PARTS.split())


@given(st.lists(WORDS | st.text(max_size=12), max_size=10))
def test_no_line_raises_anything_but_usage_errors(words: list[str]):
    """Any words give a request with every value in place, or a `UsageError`, or `NotAvailableYet`."""
    request = None
    with suppress(UsageError, NotAvailableYet):
        request = parse(words)
    if request is not None and request.command is not None:
        assert set(request.parameters) == {one.name for one in request.command.parameters}
        assert complete(request.command, request.parameters) == request.parameters
