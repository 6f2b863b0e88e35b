"""Metrics: Prometheus' text format, with every digit."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from daemon import metrics
from daemon.subscription import SubscriptionStatus
from tests.unit.daemon.making import AnsweringWorld

LINE = re.compile(r'backupd_[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? -?\d+(\.\d+)?(e[+-]?\d+)?\Z')


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    async with AnsweringWorld(tmp_path) as made:
        yield made


class Listening:
    """A subscription with counts."""

    def __init__(self, **facts: object) -> None:
        self.status = msgspec.convert({"broker": "embedded", "connected": True, **facts}, SubscriptionStatus)


async def test_every_line_is_of_the_format(world: AnsweringWorld) -> None:
    """With and without a subscription, each value has its help, its type and a number."""
    for subscription in (None, Listening(refused={"not_json": 2, "topic": 1}, paused="disk full")):
        world.realtime.subscription = subscription  # type: ignore[assignment]
        lines = world.answers.metrics().splitlines()
        values = [line for line in lines if not line.startswith("#")]
        assert values
        assert [line for line in values if not LINE.match(line)] == []
        helped = {line.split()[2] for line in lines if line.startswith("# HELP")}
        assert {re.split(r"[ {]", line)[0] for line in values} <= helped


async def test_large_numbers_keep_their_digits(world: AnsweringWorld) -> None:
    """A sequence number above a million is exact."""
    status = msgspec.structs.replace(
        world.recording.status(), journaled=1_234_567_891, recorded=1_234_567_890
    )
    world.realtime.subscription = Listening(received=98_765_432, refused={"topic": 7})  # type: ignore[assignment]
    text = metrics.text(status, world.realtime, world.queue)
    assert "backupd_journal_last_sequence 1234567891\n" in text
    assert "backupd_recorder_cursor 1234567890\n" in text
    assert "backupd_events_received_total 98765432\n" in text
    assert 'backupd_events_refused_total{reason="topic"} 7.0\n' in text


async def test_operations_are_counted_by_type_and_status(world: AnsweringWorld) -> None:
    """Two of a kind are one line."""
    for _ in range(2):
        await world.queue.submit("doSmartScan", {}, started_by="root")
    assert 'backupd_operations{type="doSmartScan",status="queued"} 2.0\n' in world.answers.metrics()
