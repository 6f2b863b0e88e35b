"""Figures: what a measurement hands back, and how it is held against its targets.

A `Measurement` has figures (numbers with their unit in the name), targets, and a sentence on what limits
them. Comparisons are ratios of figures from the same run on the same machine. What could not be measured is
`skipped`, with the reason, and counts neither as met nor as missed.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One promise: `measured` must lie on the right side of `bound` (`at_most`, else at least)."""

    what: str
    measured: float
    bound: float
    at_most: bool = True
    met: bool = False

    @staticmethod
    def at_most_of(what: str, measured: float, bound: float) -> Target:
        return Target(what=what, measured=round(measured, 4), bound=bound, met=measured <= bound)

    @staticmethod
    def at_least_of(what: str, measured: float, bound: float) -> Target:
        met = measured >= bound
        return Target(what=what, measured=round(measured, 4), bound=bound, at_most=False, met=met)


class Measurement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one measurement found."""

    name: str
    figures: dict[str, float | str | list[float]] = {}
    targets: list[Target] = []
    limited_by: str = ""
    skipped: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `python -m tests.bench` prints."""

    machine: dict[str, str | int]
    quick: bool
    seconds: float
    all_met: bool
    measurements: list[Measurement]


def machine(place: Path) -> dict[str, str | int]:
    """Say on what was measured; `place` is where the files of the measurements lie."""
    return {
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "file_system": _file_system(place),
        "load_before": f"{os.getloadavg()[0]:.2f}",
    }


def percentile(values: list[float], share: float) -> float:
    """Return the value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _file_system(place: Path) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, found = line.split()[:3]
        inside = str(place) == mount or str(place).startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind
