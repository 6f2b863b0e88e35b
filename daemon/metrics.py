"""Metrics in Prometheus' text format: facts gathered off the event loop, one text of them at a time.

What there is stands in `metric_table`, how it is reckoned in `metric_values`; this module gathers the facts
and lets prometheus_client write them. The gauge histogram is written as the Prometheus format has it, as a
histogram of buckets and two gauges beside it.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
)
from prometheus_client.registry import Collector

from backupd.clock import Clock
from daemon import logs, metric_table, metric_values
from daemon.metric_table import PREFIX, MetricType
from daemon.metric_values import Facts, Value
from daemon.standing import Standing

_TOTAL = "_total"


class Metrics:
    """Changes nothing. `text` may be asked by many at once; they are answered in turn."""

    def __init__(self, standing: Standing, clock: Clock) -> None:
        self._standing = standing
        self._clock = clock
        self._turn = asyncio.Lock()

    async def text(self) -> str:
        """Return all metrics. Raises `BackupdError`, `OSError` where the store can't be read."""
        async with self._turn:
            began = self._clock.monotonic()
            survey = await self._standing.survey()
            facts = Facts(survey=survey, logged=logs.logged(), python=platform.python_version())
            return await asyncio.to_thread(lambda: written(facts, self._clock.monotonic() - began))


def written(facts: Facts, gathering_seconds: float) -> str:
    """Return facts as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gathered(facts, gathering_seconds))
    ProcessCollector(namespace=PREFIX.rstrip("_"), registry=registry)
    return generate_latest(registry).decode()


class _Gathered(Collector):
    """Gives facts to prometheus_client, as one family per row of the table."""

    def __init__(self, facts: Facts, gathering_seconds: float) -> None:
        self._facts = facts
        self._gathering_seconds = gathering_seconds

    def collect(self) -> Iterator[Metric]:
        values: dict[str, list[Value]] = {}
        for value in metric_values.values(self._facts):
            values.setdefault(value[0], []).append(value)
        values["gathering_seconds"] = [("gathering_seconds", (), self._gathering_seconds)]
        for row in metric_table.TABLE:
            if row.type is MetricType.GAUGE_HISTOGRAM:
                counts, total = metric_values.buckets(self._facts.survey.freshness)
                yield GaugeHistogramMetricFamily(PREFIX + row.name, row.meaning, counts, total)
            elif not row.name.startswith("process_"):
                yield _family(row, values.pop(row.name, ()))
        assert not values, f"metrics without a row in the table: {sorted(values)}"


def _family(row: metric_table.Metric, values: Iterable[Value]) -> Metric:
    kind = CounterMetricFamily if row.type is MetricType.COUNTER else GaugeMetricFamily
    family = kind(PREFIX + row.name.removesuffix(_TOTAL), row.meaning, labels=row.labels)
    for _, labels, number in values:
        family.add_metric(labels, float(number))
    return family
