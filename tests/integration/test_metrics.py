"""Metrics of a whole daemon: who can read them, what an unusable address does, and what shipping needs."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.world import mailtree
from tests.world.daemons import Daemon, _UnixConnection
from tests.world.patience import eventually

CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, socket.socket]]:
    """Return a daemon whose metrics address is taken by somebody else, and who that is."""
    place = tmp_path_factory.mktemp("metrics")
    tree = mailtree.build(place / "vmail", accounts=2, messages=3, size=200)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Daemon(place / "b", tree.root, extra=f'[metrics]\nlisten = "127.0.0.1:{port}"') as running:
            running.wait_until_scanned()
            yield running, taken


def logged(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in daemon.log_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def over_socket(daemon: Daemon) -> str:
    connection = _UnixConnection(daemon.socket)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def over_tcp(port: int, method: str = "GET", path: str = "/metrics") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def without_numbers(text: str) -> set[str]:
    """Return the names of all series with their labels."""
    return {re.sub(r" \S+$", "", line) for line in text.splitlines() if not line.startswith("#")}


def test_an_address_in_use_is_told_and_ends_nothing(daemon: tuple[Daemon, socket.socket]) -> None:
    """The daemon backs up all the same, status has the problem, and the control socket has the metrics."""
    running, _ = daemon
    problem = eventually(
        "the problem is shown",
        lambda: next((one for one in running.status()["problems"] if "metrics" in one["message"]), None),
    )
    assert problem["severity"] == "attention"
    assert "in use" in problem["message"]
    assert logged(running, "metrics_not_served")
    text = over_socket(running)
    assert 'backupd_logged_total{event="metrics_not_served",level="error"} 1.0' in text
    assert "backupd_smartscan_last_success_timestamp_seconds 1." in text


def test_a_new_address_is_taken_over_by_a_reload(daemon: tuple[Daemon, socket.socket]) -> None:
    """After SIGHUP the new address answers what the socket answers, and nothing of the control socket."""
    running, taken = daemon
    port = taken.getsockname()[1]
    running.config.write_text(running.config.read_text().replace(f"127.0.0.1:{port}", "127.0.0.1:0"))
    assert running.process is not None
    os.kill(running.process.pid, signal.SIGHUP)
    (served, *_) = eventually("it is served", lambda: logged(running, "metrics_served"))
    status, text = over_tcp(served["port"])
    assert status == 200
    assert without_numbers(text) >= {"backupd_no_backup", "backupd_recorder_lag_seconds"}
    assert over_tcp(served["port"], "GET", "/v1/status")[0] == 404
    assert over_tcp(served["port"], "POST", "/v1/commands/backup/doSmartScan")[0] == 404
    eventually(
        "the problem is gone", lambda: not any("metrics" in str(one) for one in running.status()["problems"])
    )


def test_the_configuration_of_vector_loads() -> None:
    """config/vector.toml is TOML whose parts are connected: every input names a source or a transform."""
    parts = tomllib.loads((CONFIG / "vector.toml").read_text("utf-8"))
    names = set(parts["sources"]) | set(parts["transforms"])
    for kind in ("transforms", "sinks"):
        for name, part in parts[kind].items():
            assert set(part["inputs"]) <= names - {name}, name
    assert parts["sources"]["backupd_journal"]["include_units"] == ["backupd.service"]


def test_the_dashboard_has_what_grafana_needs() -> None:
    """Each panel has a place and a number of its own, and the data source that the variable chooses."""
    dashboard = json.loads((CONFIG / "grafana-dashboard.json").read_text("utf-8"))
    variables = {one["name"] for one in dashboard["templating"]["list"]}
    assert variables == {"datasource", "instance"}
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"], panel["title"]
            assert panel["description"], panel["title"]
