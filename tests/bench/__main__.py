"""`python -m tests.bench [--only NAME]… [--quick] [--place DIRECTORY]`: measure, and print JSON.

Every measurement stands beside its yardstick from the same run on the same machine; docs/performance.md says
what they mean. Each is a line on standard error as soon as it is there; all are printed together at the end.
The exit status is 0 when all that could be measured met its target, else 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.bench import bucket_uploads, checks, purges, realtime, restores, scans, uploads
from tests.bench.figures import Measurement, Report, machine

MEASUREMENTS: dict[str, Callable[..., Measurement]] = {
    "intake": realtime.measure_intake,
    "latency": realtime.measure_latency,
    "first_scan": scans.measure_first_scan,
    "unchanged_scan": scans.measure_unchanged_scan,
    "growth": scans.measure_growth,
    "status": scans.measure_status,
    "account_at": restores.measure_account_at,
    "restore": restores.measure_restore,
    "uploads": uploads.measure_uploads,
    "bucket_uploads": bucket_uploads.measure_bucket_uploads,
    "coherency": checks.measure_coherency,
    "purge": purges.measure_purge,
}


def _measured(name: str, place: Path, *, quick: bool) -> Measurement:
    began = time.monotonic()
    found = MEASUREMENTS[name](place, quick=quick)
    sys.stderr.write(f"{msgspec.json.encode(found).decode()}\n")
    sys.stderr.write(f"  took {time.monotonic() - began:.0f} s\n")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="measure this alone")
    parser.add_argument("--quick", action="store_true", help="smaller trees, fewer events: for a first look")
    parser.add_argument("--place", type=Path, help="where to put files (default: the temporary directory)")
    given = parser.parse_args()
    began = time.monotonic()
    # Nothing is removed before the end: ext4 is slow to make files while it remembers removed ones.
    with tempfile.TemporaryDirectory(prefix="backupd-bench-", dir=given.place) as name:
        place = Path(name)
        told = machine(place)
        found = []
        for measurement in given.only or MEASUREMENTS:
            sys.stderr.write(f"measuring {measurement} …\n")
            found.append(_measured(measurement, place / measurement, quick=given.quick))
    report = Report(
        machine=told,
        quick=given.quick,
        seconds=round(time.monotonic() - began, 1),
        all_met=all(target.met for one in found for target in one.targets),
        measurements=found,
    )
    print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    return 0 if report.all_met else 1


if __name__ == "__main__":
    sys.exit(main())
