"""The alert rules and the dashboard against the metrics of a real daemon, judged by Prometheus' promtool."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.alert_scenes import SCENES, promtool_tests
from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.patience import eventually

CONFIG = Path(__file__).parents[2] / "config"
DOCS = Path(__file__).parents[2] / "docs"
NAME = re.compile(r"\bbackupd_[a-z0-9_]+")


@pytest.fixture(scope="module")
def exposition(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return what a daemon on the embedded broker exposes over TCP, after its first scan."""
    place = tmp_path_factory.mktemp("alerts")
    tree = mailtree.build(place / "vmail", accounts=2, messages=3, size=200)
    extra = '[metrics]\nlisten = "127.0.0.1:0"'
    with Daemon(place / "b", tree.root, extra=extra) as daemon:
        daemon.wait_until_scanned()
        eventually("all is well", lambda: not daemon.status()["problems"] and not daemon.status()["gaps"])
        lines = [json.loads(line) for line in daemon.log_text().splitlines()]
        port = next(line["port"] for line in lines if line["event"] == "metrics_served")
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            yield answer.read().decode()


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CONFIG / "alerts.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*words: str, given: str | None = None) -> str:
    """Return what promtool says; it must be content."""
    done = subprocess.run(
        ["promtool", *words], input=given, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


@pytest.mark.server("prometheus")
def test_the_metrics_please_promtool(exposition: str) -> None:
    """What the daemon exposes is valid, and promtool's lint finds nothing to say about it."""
    assert promtool("check", "metrics", given=exposition).strip() == ""


@pytest.mark.server("prometheus")
def test_the_rules_are_valid() -> None:
    """Expressions and templates of config/alerts.yml are what Prometheus understands."""
    assert "SUCCESS" in promtool("check", "rules", str(CONFIG / "alerts.yml"))


@pytest.mark.server("prometheus")
def test_each_alert_fires_in_its_case_and_is_silent_while_all_is_well(
    exposition: str, tmp_path: Path
) -> None:
    """Upon what a healthy daemon exposes no alert fires; each fires in its scene, and only there."""
    asked = set().union(*(names_in(rule["expr"]) for rule in rules()))
    good: dict[tuple[str, str], float] = {("up", ""): 1.0}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = ",".join(f"{name}={json.dumps(value)}" for name, value in sample.labels.items())
            if sample.name in asked:
                good[sample.name, labels] = sample.value
    files = []
    for alert, tests in promtool_tests(good).items():
        # Promtool evaluates every rule that it is given at every step: each scene has its own alert's alone.
        given = [rule for rule in rules() if alert in ("", rule["alert"])]
        for rule in given:
            del rule["annotations"]  # promtool would compare the rendered sentences
        about = {"groups": [{"name": alert or "all", "rules": given}]}
        (tmp_path / f"rules{alert}.yml").write_text(json.dumps(about))
        test = {"rule_files": [f"rules{alert}.yml"], "evaluation_interval": "5m", "tests": tests}
        files.append(tmp_path / f"tests{alert}.yml")
        files[-1].write_text(json.dumps(test))
    promtool("test", "rules", *map(str, files))


def test_every_alert_has_a_scene() -> None:
    """No alert is left untested, and the scenes name none that there is not."""
    alerts = [rule["alert"] for rule in rules()]
    assert [scene.alert for scene in SCENES] == alerts
    assert [scene.severity for scene in SCENES] == [rule["labels"]["severity"] for rule in rules()]


def test_every_alert_has_a_section_for_the_admin() -> None:
    """Each rule says what is the matter and names a section of docs/operations.md that exists."""
    text = (DOCS / "operations.md").read_text("utf-8")
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"(?m)^#+ (.+)$", text)
    }
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operations.md"
        assert anchor in anchors, rule["alert"]


def names_in(expression: str) -> set[str]:
    return {re.sub(r"_bucket$", "", name) for name in NAME.findall(expression)}


@pytest.mark.parametrize("file", ["alerts.yml", "grafana-dashboard.json"])
def test_every_metric_that_is_used_is_exposed(exposition: str, file: str) -> None:
    """Each metric that a rule or a panel asks for is one that the daemon exposes, by its whole name."""
    exposed = set()
    for family in text_string_to_metric_families(exposition):
        exposed.add(f"{family.name}_total" if family.type == "counter" else family.name)
    text = (CONFIG / file).read_text("utf-8")
    if file.endswith(".json"):
        asked = set().union(*(names_in(expression) for expression in expressions(json.loads(text))))
    else:
        asked = set().union(*(names_in(rule["expr"]) for rule in rules()))
    assert asked
    assert asked - exposed == set()


def expressions(dashboard: Any) -> Iterator[str]:
    """Yield every query of a dashboard."""
    if isinstance(dashboard, dict):
        for key, value in dashboard.items():
            if key in ("expr", "query", "definition") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(dashboard, list):
        for one in dashboard:
            yield from expressions(one)


@pytest.mark.server("prometheus")
def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    """Prometheus can parse each panel's query, with Grafana's own variables filled in."""
    dashboard = json.loads((CONFIG / "grafana-dashboard.json").read_text("utf-8"))
    queries = [
        target["expr"].replace("$__rate_interval", "5m").replace('"$instance"', '"x"')
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]
    recorded = [{"record": f"q:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": recorded}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(file))
