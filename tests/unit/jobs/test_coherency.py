"""Coherency check: a Backup Path damaged in many ways, each told with its own code and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.jobs.coherency_damages import DAMAGES, Damage
from tests.unit.jobs.coherency_worlds import build, check, copy, make_old, told


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coherency") / "healthy"
    build(path)
    return path


def test_a_healthy_path_has_no_findings(healthy: Path) -> None:
    """Nothing is found wrong with what the store itself wrote, and all of it was read."""
    checked = check(healthy)
    assert checked.findings.kept == []
    assert told(checked) == {}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_each_damage_is_told_by_its_own_code_and_nothing_else(
    damage: Damage, healthy: Path, tmp_path: Path
) -> None:
    """A check of a damaged path tells that damage, and nothing else."""
    path = copy(healthy, tmp_path / "damaged")
    damage.make(path)
    make_old(path)
    checked = check(path)
    assert told(checked) == {damage.code: damage.count}, checked.findings.kept
