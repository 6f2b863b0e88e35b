"""Metrics: the text that Prometheus reads, against the table and against what is really the case."""

from __future__ import annotations

import ast
import math
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from backupd import events
from backupd.attributes import Scopes
from backupd.config_sections import LogFormat, LogLevel
from backupd.items import ItemKey, Kind
from backupd.operations import Operation, OperationStatus
from backupd.states import ChangeType
from backupd.store.ledger import Waiting
from daemon import logs, metric_table, metric_values
from daemon.doubts import SCANS_READ_MAX, WAITING_READ_ALWAYS_MAX, WAITING_SECONDS, Doubts
from daemon.freshness import Doubt
from daemon.metric_table import PREFIX, MetricType
from daemon.operations_queue import _Place
from daemon.publisher import PublisherStatus
from daemon.subscription import SubscriptionStatus
from tests.unit.daemon.making import AnsweringWorld
from tests.unit.jobs.worlds import ALICE, change

Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    async with AnsweringWorld(tmp_path) as made:
        made.realtime.subscription = Listening()  # type: ignore[assignment]
        made.realtime.publisher = Watching()  # type: ignore[assignment]
        yield made


class Listening:
    """A subscription with counts."""

    def __init__(self, **facts: object) -> None:
        self.status = msgspec.convert({"broker": "embedded", "connected": True, **facts}, SubscriptionStatus)


class Watching:
    """A publisher at work."""

    status = PublisherStatus(broker="b", source="s", watching=True, published=5, buffered=2, dropped=1)


async def samples(world: AnsweringWorld) -> Samples:
    """Return every number by its name without the prefix and the values of its labels, sorted by label."""
    return {
        (
            sample.name.removeprefix(PREFIX),
            tuple(value for _, value in sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(await world.answers.metrics())
        for sample in family.samples
    }


async def test_the_text_is_what_the_table_says(world: AnsweringWorld) -> None:
    """Each row is exposed once, with its type, its help and its labels, and nothing else is."""
    await world.account()
    await world.scan_all()
    await world.queue.submit("doSmartScan", {}, started_by="root")
    world.scheduler.set("SmartScan", "0 4 * * *")
    world.store.ledger.open_gap(ALICE, "sequence_hole", "2", world.clock.now())
    text = await world.answers.metrics()
    rows = {PREFIX + row.name: row for row in metric_table.TABLE}
    found = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = family
    beside = {f"{PREFIX}{metric_table.RECOVERY_AGE.name}{suffix}" for suffix in ("_gsum", "_gcount")}
    assert found.keys() - beside == rows.keys()
    for name, row in rows.items():
        family = found[name]
        is_histogram = row.type is MetricType.GAUGE_HISTOGRAM
        assert family.type == ("histogram" if is_histogram else row.type), name
        assert family.documentation == row.meaning, name
        for sample in family.samples:
            assert tuple(sorted(sample.labels)) == tuple(sorted(row.labels)), name


def test_the_page_is_the_table() -> None:
    """docs/metrics.md is what the table prints."""
    path = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert path.read_text("utf-8") == metric_table.page()


async def test_without_a_broker_there_are_zeroes(world: AnsweringWorld) -> None:
    """While the Realtime Scanner does not run, counters are 0 and what is unknown is left out."""
    world.realtime.subscription = world.realtime.publisher = None
    found = await samples(world)
    assert found["broker_connected", ()] == found["events_received_total", ()] == 0
    assert ("broker_last_event_timestamp_seconds", ()) not in found
    assert ("publisher_watching", ()) not in found
    assert found["events_refused_total", ("topic",)] == 0


async def test_large_numbers_keep_their_digits(world: AnsweringWorld) -> None:
    """A sequence number above a million is exact, and so is a count."""
    survey = await world.standing.survey()
    status = msgspec.structs.replace(survey.recording, journaled=1_234_567_891, recorded=1_234_567_880)
    facts = metric_values.Facts(
        survey=msgspec.structs.replace(
            survey,
            recording=status,
            subscription=Listening(received=98_765_432, refused={"topic": 7}).status,
        ),
        logged={},
        python="3",
    )
    found = {(name, labels): value for name, labels, value in metric_values.values(facts)}
    assert found["journal_last_sequence", ()] == 1_234_567_891
    assert found["recorder_lag_entries", ()] == 11
    assert found["events_received_total", ()] == 98_765_432
    assert found["events_refused_total", ("topic",)] == 7


def test_every_reason_of_refusal_is_known() -> None:
    """The reasons that events are refused for are all shown as 0 from the start."""
    tree = ast.parse(Path(events.__file__).read_text("utf-8"))
    given = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "NotAnEvent"
        and isinstance(node.args[0], ast.Constant)
    }
    assert given | {"account", "item", "not_json", "invalid_field"} >= set(metric_values.REFUSALS) >= given


async def test_operations_are_told_by_type(world: AnsweringWorld) -> None:
    """Counts, the running one's seconds, the last success and its duration, whether the last one failed."""
    start = world.clock.now()

    def ended(order: int, type_: str, status: OperationStatus, begun: float, seconds: float) -> Operation:
        began = start + timedelta(seconds=begun)
        end = began + timedelta(seconds=seconds)
        return Operation(
            uuid=str(order), order=order, type=type_, status=status, submitted=began, started=began, ended=end
        )

    kept = [
        ended(1, "doSmartScan", OperationStatus.SUCCESSFUL, 0, 40),
        ended(2, "doSmartScan", OperationStatus.FAILED, 100, 1),
        ended(3, "doItemRestore", OperationStatus.FAILED, 200, 1),
        ended(4, "doItemRestore", OperationStatus.SUCCESSFUL, 300, 7),
        ended(5, "doItemRestore", OperationStatus.STOPPED, 400, 1),
        ended(8, "doRestoreDrill", OperationStatus.SUCCESSFUL, 500, 5),
        ended(9, "doRestoreDrill", OperationStatus.FAILED, 600, 5),
        Operation(
            uuid="6",
            order=6,
            type="doAccountScan",
            status=OperationStatus.RUNNING,
            submitted=start,
            started=start,
        ),
    ]
    for one in kept:
        await world.queue._save(_Place(one))
    await world.queue.load()
    running = msgspec.structs.replace(kept[-1], uuid="7")
    world.queue._places["7"] = _Place(running)
    await world.queue.submit("doSmartScan", {}, started_by="root")
    await world.queue.submit("doSmartScan", {}, started_by="root")
    await world.clock.advance(30)
    found = await samples(world)
    assert found["operations", ("queued", "doSmartScan")] == found["operations_waiting", ()] == 2
    assert found["operations", ("interrupted", "doAccountScan")] == 1
    assert found["operation_running_seconds", ("doAccountScan",)] == 30
    assert found["operation_last_success_timestamp_seconds", ("doSmartScan",)] == start.timestamp() + 40
    assert found["operation_last_duration_seconds", ("doSmartScan",)] == 40
    assert found["operation_last_failed", ("doSmartScan",)] == 1
    assert found["operation_last_failed", ("doItemRestore",)] == 0
    assert found["operation_last_failed", ("doAccountScan",)] == 1
    assert found["last_proven_restore_timestamp_seconds", ()] == start.timestamp() + 505


async def test_gaps_and_waiting_photographs_age(world: AnsweringWorld) -> None:
    """Both are counted, age with the clock, and lower the freshness of their accounts alone."""
    for account in (ALICE, "bob", "carol", "dave"):
        await world.account(account)
    await world.scan_all()
    scanned = world.clock.now()
    await world.clock.advance(100)
    world.store.ledger.open_gap("bob", "sequence_hole", "2", world.clock.now())
    world.server.unavailable = "it is down"
    world.journal(change("1", ChangeType.CREATED, event="e1", folder=None, at=100))
    await world.record()
    await world.clock.advance(50)
    found = await samples(world)
    assert found["gaps_open", ()] == found["gaps_open_by_reason", ("sequence_hole",)] == 1
    assert found["gap_oldest_age_seconds", ()] == 50
    assert found["waiting_photographs", ()] == 1
    assert found["waiting_oldest_age_seconds", ()] == 50
    assert found["recovery_age_seconds_worst", ()] == 150
    assert found["recoverable_until_timestamp_seconds", ()] == scanned.timestamp()
    age = "account_recovery_age_seconds"
    shown = [found[f"{age}_bucket", (bound,)] for bound in ("1.0", "15.0", "60.0", "300.0", "+Inf")]
    assert shown == [2, 2, 3, 4, 4]
    assert (found[f"{age}_gcount", ()], found[f"{age}_gsum", ()]) == (4, 200)


async def test_before_a_first_scan_no_moment_is_told(world: AnsweringWorld) -> None:
    """Without a scan no age is given, though one that never succeeded is told."""
    found = await samples(world)
    assert ("recovery_age_seconds_worst", ()) not in found
    assert found["smartscan_last_success_timestamp_seconds", ()] == 0
    assert found["last_proven_restore_timestamp_seconds", ()] == 0


async def test_no_backup_means_both_scanners_are_off(world: AnsweringWorld) -> None:
    """The metric is 1 only where neither scanner is on."""
    assert (await samples(world))["no_backup", ()] == 0
    world.realtime.enable(enabled=False)
    assert (await samples(world))["no_backup", ()] == 0
    world.settings.set(
        "backupSmartScanScheduler", Scopes(), {"cron-pattern": "0 4 * * *", "cron-enabled": False}
    )
    assert (await samples(world))["no_backup", ()] == 1


async def test_warnings_and_errors_are_counted(world: AnsweringWorld) -> None:
    """Each event of level warning and above counts, also where the level in force hides it; others do not."""
    before = logs.logged()
    try:
        logs.configure(LogFormat.JSON, LogLevel.ERROR)
        log = structlog.get_logger()
        log.info("counted_never")
        log.warning("counted_once")
        log.error("counted_twice")
        log.error("counted_twice")
    finally:
        structlog.reset_defaults()
    found = await samples(world)
    assert (
        found["logged_total", ("counted_once", "warning")] == before.get(("warning", "counted_once"), 0) + 1
    )
    assert found["logged_total", ("counted_twice", "error")] == before.get(("error", "counted_twice"), 0) + 2
    assert not any("counted_never" in labels for _, labels in found)


def test_names_of_events_are_bounded() -> None:
    """However many different events there are, so many series at most; the others count together."""
    tally = logs._Tally()
    for number in range(logs.EVENTS_COUNTED_MAX + 50):
        tally(None, "error", {"event": f"event_{number}"})
    tally(None, "error", {"event": "event_0"})
    counts = tally.counts()
    assert len(counts) == logs.EVENTS_COUNTED_MAX + 1
    assert counts["error", logs.OTHER_EVENTS] == 50
    assert counts["error", "event_0"] == 2


async def test_a_gap_counts_from_its_own_accounts_last_scan(world: AnsweringWorld) -> None:
    """An account's own scan counts; one that was never scanned alone has that of all accounts."""
    of_all = world.clock.now()
    await world.account()
    await world.clock.advance(100)
    await world.scan_all()
    scanned = world.clock.now()
    await world.clock.advance(100)
    for account in (ALICE, "new", ""):
        world.store.ledger.open_gap(account, "sequence_hole", "", world.clock.now())
    doubts = Doubts(world.store, world.clock).read(world.store.ledger.gaps(), 0, of_all)
    assert doubts == [Doubt(ALICE, scanned), Doubt("new", of_all), Doubt(None, of_all)]


async def test_the_cost_of_doubts_is_bounded(world: AnsweringWorld) -> None:
    """Of many gaps only so many accounts are read; very many waiting changes are read now and then."""
    read: list[str] = []
    account = world.store.statistics.account
    world.store.statistics.account = lambda one: read.append(one) or account(one)  # type: ignore[method-assign]
    moment = world.clock.now()
    with world.store.ledger.batch():
        for number in range(SCANS_READ_MAX + 100):
            world.store.ledger.open_gap(f"a{number}", "sequence_hole", "", moment)
    doubts = Doubts(world.store, world.clock)
    assert len(doubts.read(world.store.ledger.gaps(), 0, moment)) == SCANS_READ_MAX + 100
    assert len(read) == SCANS_READ_MAX

    def wait(item: str) -> None:
        made = msgspec.json.encode(change(item, ChangeType.CREATED))
        world.store.ledger.put_waiting(Waiting(ItemKey(item, Kind.MESSAGE, item), 1, made, 0, moment, ""))

    wait("1")
    assert doubts.waiting(1).keys() == {"1"}
    wait("2")
    assert doubts.waiting(WAITING_READ_ALWAYS_MAX + 1).keys() == {"1"}
    assert doubts.waiting(2).keys() == {"1", "2"}
    wait("3")
    await world.clock.advance(WAITING_SECONDS + 1)
    assert doubts.waiting(WAITING_READ_ALWAYS_MAX + 1).keys() == {"1", "2", "3"}


async def test_a_scrape_of_many_accounts_is_quick(world: AnsweringWorld) -> None:
    """With 2,000 gaps and 5,000 waiting photographs the median scrape stays far below a second."""
    moment = datetime(2026, 11, 23, tzinfo=UTC)
    made = msgspec.json.encode(change("1", ChangeType.CREATED, body=None))
    with world.store.ledger.batch():
        for number in range(2_000):
            world.store.ledger.open_gap(f"a{number}", "sequence_hole", "", moment)
        for number in range(5_000):
            key = ItemKey(f"b{number}", Kind.MESSAGE, "1")
            world.store.ledger.put_waiting(Waiting(key, 1, made, 0, moment, ""))
    took = []
    for _ in range(5):
        began = time.process_time()
        await world.answers.metrics()
        took.append(time.process_time() - began)
    assert sorted(took)[2] < 0.5, took


async def test_the_sum_of_ages_is_finite_where_there_is_no_account(world: AnsweringWorld) -> None:
    """An empty backup before its first scan has no accounts, and so no ages to add up."""
    found = await samples(world)
    assert found["account_recovery_age_seconds_gsum", ()] == 0
    assert not any(math.isnan(value) for value in found.values())
