"""Pages: what each answer looks like, plain and on a terminal."""

from __future__ import annotations

import asyncio
import io
from datetime import timedelta

import msgspec
import pytest

from backupd.cli.page import PlainPage, RichPage
from backupd.cli.show import progress_text, show, show_verdict
from backupd.cli.show_status import headline
from backupd.cli.text import local
from backupd.commands import COMMANDS
from backupd.control import (
    BucketsReply,
    ConfigReply,
    DoctorReply,
    NotificationsReply,
    OperationLogReply,
    OperationReply,
    OperationsReply,
    SchedulesReply,
    ServerConfigReply,
)
from backupd.grammar import command_at
from backupd.keeping_views import HoldView, SuspensionView
from backupd.operations import OperationStatus
from backupd.replies import AccountsReply, HoldsReply, ItemReply, SearchReply, SuspensionsReply
from backupd.views import (
    AccountView,
    ArchiveView,
    AttributeView,
    CheckView,
    LogLineView,
    NotificationView,
    Outcome,
    ScannerView,
    ScheduleView,
    ServerFact,
)
from backupd.volume_views import BucketUseView, BucketView, VolumeView
from tests.world.service import ACCOUNTS, ANSWERS, NOON, PROBLEM, SERVER_ID, World, operation, state

GET = command_at("config", ["get", "server"])[0]
DUMP = command_at("config", ["dump", "global"])[0]


def shown(reply, command=COMMANDS[0]) -> str:
    out = io.StringIO()
    show(reply, command, PlainPage(out))
    return out.getvalue()


def test_buckets_are_printed_as_in_the_specification():
    """Fields, servers and volumes stand at the columns of the specification's sample."""
    view = BucketView(
        bucket_name="backup",
        protocol="HTTPS",
        store_type="S3",
        access_key="xxxxxxx",
        region="EU_WEST_1",
        destination_path="server2",
        uuid="5d32b50d-79fc-4591-86da-35bedca95de7",
        powerstore_usage=(BucketUseView(server="srv1", volume="centralized-s3"),),
    )
    used = msgspec.structs.replace(view, powerstore_usage=(), backup_usage=(BucketUseView(server="srv2"),))
    printed = shown(BucketsReply(buckets=(view, used), note="try it")).splitlines()
    assert printed[0] == f"{'bucketName':<60}backup"
    assert f"{'destinationPath':<60}server2" in printed
    usage = printed.index("usage in powerstore volumes")
    assert printed[usage + 1] == f"{' ' * 16}{'server: srv1':<50}volume: centralized-s3"
    assert printed[usage + 2] == f"{'usage in external backup':<60}unused"
    assert printed[-3:] == [f"{' ' * 16}server: srv2", "", "try it"]
    assert "secret" not in "".join(printed)


def test_the_external_volume_is_shown():
    """What waits and when it is done; with the store away, why and when it is tried again."""
    status = asyncio.run(World().status())
    assert "external volume" not in shown(status)
    busy = VolumeView(
        title="bucket one",
        waiting_objects=1200,
        waiting_bytes=5 << 20,
        oldest=NOON - timedelta(hours=1),
        bytes_per_second=float(1 << 20),
        remaining_seconds=5.0,
        sent_objects=77,
        requests={"put": 3, "get": 4},
        cache_bytes_max=10 << 30,
    )
    text = shown(msgspec.structs.replace(status, volume=busy))
    for words in ("bucket one, 1,200 blobs", "the oldest for 1 h", "to go", "with 7 requests"):
        assert words in text
    away = msgspec.structs.replace(busy, reachable=False, error="access denied", next_try=NOON)
    text = shown(msgspec.structs.replace(status, volume=away))
    assert "NOT reachable: access denied" in text
    assert "next try" in text
    assert "to go" not in text
    idle = shown(msgspec.structs.replace(status, volume=VolumeView(title="bucket one")))
    assert "bucket one, everything is outside" in idle


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
    first = msgspec.structs.replace(fresh, smartscan=ScannerView(enabled=True, active=True))
    assert headline(first) == "The first scan runs: nothing can be recovered yet."
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


def test_every_attribute_is_a_block_where_none_is_named():
    """`config get LEVEL` prints all attributes as it prints one."""
    views = tuple(AttributeView(attribute=name, value=1) for name in ("A", "B"))
    text = shown(ConfigReply(level="global", values=views), GET)
    assert [line.split() for line in text.splitlines() if "attribute" in line] == [
        ["attribute", "A"],
        ["attribute", "B"],
    ]
    assert text.count("isInherited") == 2


def test_a_diagnosis_comes_first_and_cures_stand_below():
    """The doctor says in a sentence how it stands, then each check with its cure."""
    ill = shown(ANSWERS["doctor"]).splitlines()
    assert ill[0] == "Critical: 1 of 2 checks is not well."
    assert ill[2].split()[:2] == ["OK", "broker"]
    assert ill[4].strip() == "cure: mount it for writing"
    well = DoctorReply(outcome=Outcome.OK, checks=(CheckView(name="x", outcome=Outcome.OK, found="y"),))
    assert shown(well).startswith("All is well: 1 check.\n")


def test_accounts_say_what_became_of_them():
    """Deleted accounts say since when, and those that the AppServer has not say that; they are counted."""
    gone = AccountView(id="u9", name="carol@example.com", exists=False)
    text = shown(AccountsReply(accounts=(*ACCOUNTS, gone)))
    assert f"deleted {local(NOON + timedelta(days=1))}" in text
    assert "active, not on the AppServer" in text
    assert text.endswith("\n4 accounts, 1 of them deleted\n")
    assert "no such account" in shown(AccountsReply(accounts=()))


def test_holds_are_printed_as_address_id_and_whether_they_are_set():
    """A line an account in the specification's form; who set it and when stands behind."""
    held = HoldView(id="u1", name="a@example.com", legal_hold=True, since=NOON, by="root")
    free = HoldView(id="u2", name="b@example.com", legal_hold=False)
    lines = shown(HoldsReply(accounts=(held, free))).splitlines()
    assert lines == [f"a@example.com u1 set  since {local(NOON)} by root", "b@example.com u2 unset"]
    every = shown(HoldsReply(accounts=(), all_since=NOON, all_by="root", note="2 accounts were held"))
    assert "all accounts are held, later ones too" in every
    assert every.endswith("2 accounts were held\n")
    assert shown(HoldsReply(accounts=())) == "the backup holds no account\n"


def test_suspended_retention_says_what_happened_and_who_lifted_it():
    """Each account stands with its loss; none at all is said, too."""
    one = SuspensionView(
        id="u1", name="a@example.com", since=NOON, lost=9, total=9, hours=24, sentence="9 of 9 items"
    )
    lifted = msgspec.structs.replace(one, lifted=NOON, lifted_by="root")
    text = shown(SuspensionsReply(accounts=(one, lifted)))
    assert text.count("9 of 9 items") == 2
    assert f"{local(NOON)} root" in text
    assert shown(SuspensionsReply(accounts=())) == "retention is suspended for no account\n"


def test_logs_stand_below_their_operation():
    """Lines are grouped by operation, with local times; what is no moment and what was dropped are told."""
    line = LogLineView(operation="u1", timestamp="2026-11-23T12:00:00Z", level="info", event="scan_started")
    other = LogLineView(operation="u2", timestamp="?", level="error", event="e", facts={"item": "7\x1b"})
    text = shown(OperationLogReply(lines=(line, line, other), dropped=3))
    assert text.count("operation u1") == 1
    assert f"  {local(NOON)}  info     scan_started\n" in text
    assert "  ?  error    e  item=7\\x1b\n" in text
    assert "3 lines that did not fit" in text


def test_a_notification_by_itself_shows_its_text():
    """The list is a table; one that was asked for has its fields and its text, harmless."""
    one = NotificationView(id=7, time=NOON, level="danger", subject="s", pending=("webhook",), failed=("e",))
    assert "webhook waits, e failed" in shown(NotificationsReply(notifications=(one,)))
    told = msgspec.structs.replace(one, text="first\nsecond\x1b[2J")
    assert shown(NotificationsReply(notifications=(told,))).endswith("\n\nfirst\nsecond\\x1b[2J\n")


def test_archives_and_their_values():
    """Archives are listed, values stand one a line under the path that finds them again."""
    archive = ArchiveView(path="servers/c.tar.gz", type="standard", date=NOON, size=2048)
    fact = ServerFact(type="domain", id="example.com", key="status", value="active")
    text = shown(ServerConfigReply(type="standard", archives=(archive,), values=(fact,), more=True))
    assert "servers/c.tar.gz" in text
    assert "\ndomain/example.com/status  active\n" in text
    assert "query TYPE/ID/KEY" in text
    missed = shown(ServerConfigReply(type="standard", archives=(archive,), query="domain"))
    assert "nothing in it stands under domain; query / shows everything" in missed
    assert "doBackupServerCustomizations start" in shown(ServerConfigReply(type="customizations"))


def test_services_and_schedules_say_how_they_stand():
    """A stopped service and a job that never runs are said in words."""
    assert "stopped" in shown(ANSWERS["getServices"])
    job = ScheduleView(job="purge", enabled=False, note="nothing runs")
    assert "next run              never\n" in shown(SchedulesReply(level="global", schedules=(job, job)))


async def test_a_status_has_a_line_for_each_job_that_runs():
    """Jobs stand in lines by when they run next; those turned off in one, one with nothing to do says why."""
    jobs = [ScheduleView(job=name, next=NOON) for name in ("SmartScan", "configurationDump")]
    rest = (
        ScheduleView(job="drill", enabled=False),
        ScheduleView(job="upload", note="nothing to do: no volume"),
    )
    status = msgspec.structs.replace(await World().status(), schedules=(*jobs, *rest))
    marks = (local(NOON) + "  ", "never:", "upload: nothing to do: no volume")
    lines = [line for line in shown(status).splitlines() if any(mark in line for mark in marks)]
    assert [line.split()[-1] for line in lines] == ["SmartScan", "configurationDump", "drill", "volume"]


def test_tables_that_do_not_fit_become_blocks():
    """On a narrow terminal each row of a table is shown field by field, nothing cut."""
    rich_console = pytest.importorskip("rich.console")
    for width, whole in ((200, False), (40, True)):
        out = io.StringIO()
        show(
            ANSWERS["getAvailableAccounts"],
            COMMANDS[0],
            RichPage(rich_console.Console(file=out, width=width)),
        )
        assert ("address               alice@example.com\n" in out.getvalue()) is whole
        assert "bob@example.com" in out.getvalue()
