"""Pages: what each answer looks like, plain and on a terminal."""

from __future__ import annotations

import io
from datetime import timedelta

import msgspec
import pytest

from backupd.cli.page import PlainPage, RichPage
from backupd.cli.show import progress_text, show, show_verdict
from backupd.cli.show_status import headline
from backupd.commands import COMMANDS
from backupd.control import ConfigReply, ItemReply, OperationReply, OperationsReply, SearchReply
from backupd.grammar import command_at
from backupd.operations import OperationStatus
from backupd.views import AttributeView
from tests.world.service import ANSWERS, NOON, PROBLEM, SERVER_ID, World, operation, state

GET = command_at("config", ["get", "server"])[0]
DUMP = command_at("config", ["dump", "global"])[0]


def shown(reply, command=COMMANDS[0]) -> str:
    out = io.StringIO()
    show(reply, command, PlainPage(out))
    return out.getvalue()


def test_an_attribute_is_printed_as_in_the_specification():
    """The fields, their order, columns and indentation are those of the specification's sample."""
    view = AttributeView(attribute="ZxBackup_DestPath", value="/opt/zextras/backup/zextras/")
    assert shown(ConfigReply(level="server", subject=SERVER_ID, values=(view,)), GET) == (
        "server                                              9d16badb-e89e-4dff-b5b9-bd2bddce53e2\n"
        "values\n"
        "\n"
        "        attribute                                                   ZxBackup_DestPath\n"
        "        value                                                       /opt/zextras/backup/zextras/\n"
        "        isInherited                                                 false\n"
        "        modules\n"
        "                ZxBackup\n"
    )


def test_a_dump_can_be_searched_line_by_line():
    """`config dump global | grep NAME` shows the value, as the specification uses it."""
    views = (AttributeView(attribute="ZxBackup_DataRetentionDays", value=30),)
    assert shown(ConfigReply(level="global", values=views), DUMP).split() == [
        "ZxBackup_DataRetentionDays",
        "30",
    ]


async def test_a_status_says_first_whether_all_is_well():
    """The first line is the verdict in words; problems come with what to do; then every part is named."""
    well = shown(await World().status())
    assert well.startswith("All is well: recoverable until 2026-")
    for part in (
        "Realtime Scanner",
        "SmartScan",
        "broker",
        "recorder",
        "waiting photographs",
        "queue",
        "free space",
    ):
        assert f"\n{part}" in well
    ill = shown(await World((PROBLEM,)).status())
    assert ill.startswith("Danger: 1 problem; recoverable until")
    assert "The broker can't be reached since 11:58" in ill
    assert "do: systemctl status mosquitto" in ill
    assert "sequence_hole" in ill


async def test_the_headline_never_promises_what_is_not():
    """Without a first scan nothing is recoverable, and the sentence says so."""
    status = await World().status()
    fresh = msgspec.structs.replace(status, recoverable_until=None)
    assert headline(fresh) == "All is well: nothing can be recovered yet."
    late = msgspec.structs.replace(status, recoverable_until=NOON - timedelta(hours=3))
    assert "3 h 0 min ago" in headline(late)


def test_subjects_can_not_act_on_the_terminal():
    """A hostile subject is shown as what it is, also where rich would read markup."""
    out = io.StringIO()
    rich_console = pytest.importorskip("rich.console")
    console = rich_console.Console(file=out, force_terminal=True, width=200, color_system=None)
    show(ANSWERS["doItemSearch"], COMMANDS[0], RichPage(console))
    assert "\\x1b]0;owned\\x07[bold]invoice\\u202e\\x9b2J" in out.getvalue()
    assert "\x1b]" not in out.getvalue()
    assert out.getvalue().count("[bold]") == 3


def test_an_empty_search_says_how_to_find_more():
    """The default looks for deleted items only: nothing found is explained."""
    assert "search_filter all" in shown(SearchReply(account="u1", items=()))


def test_states_show_the_specifications_fields():
    """A state is shown with start date, end date, change, deleted, folder and blob path."""
    text = shown(ItemReply(account="u1", item="7", kind="message", states=(state(1),)))
    for name in ("start date", "end date", "change", "deleted", "folder", "blob path", "digest", "size"):
        assert f"\n{name} " in text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (OperationStatus.RUNNING, "4 of 10 items, 40 %, 5/s, about 2 s left"),
        (OperationStatus.SUCCESSFUL, "4 of 10 items, 40 %"),
    ],
)
def test_progress_in_words(status: OperationStatus, words: str):
    """An estimate is told only while there is something to wait for."""
    assert progress_text(operation("u", status, 4)) == words


def test_operations_are_shown_with_how_to_follow_them():
    """A queued operation names the command that follows it; an empty queue is said in words."""
    queued = shown(OperationReply(operation=operation("the-uuid", OperationStatus.QUEUED)))
    assert "backupctl backup monitor the-uuid --progress" in queued
    assert shown(OperationsReply(operations=())) == "no operation runs or waits\n"


def test_errors_beyond_those_shown_are_counted():
    """The list of failed items is bounded and says what it leaves out."""
    out = io.StringIO()
    view = msgspec.structs.replace(operation("u", OperationStatus.FAILED, 9), errors_total=1001)
    show_verdict(view, PlainPage(out))
    assert "\\x1b[31munreadable" in out.getvalue()
    assert "and 1,000 more" in out.getvalue()
