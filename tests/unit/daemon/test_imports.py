"""What a process loads at its start: nothing that only a bucket or encryption needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("aiobotocore", "botocore", "cryptography")
"""A quarter of a second and 20 MB that most installations have no use for."""
WEB = ("aiohttp", "aiomqtt", "amqtt", "rich")


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("daemon.process", HEAVY),
        ("backupd.cli.main", HEAVY + WEB),
        ("backupd.jobs.smartscan.workers", HEAVY + WEB),
        ("backupd.jobs.coherency.workers", HEAVY + WEB),
    ],
)
def test_a_process_loads_only_what_it_needs(module: str, unwanted: tuple[str, ...]) -> None:
    """The daemon without a bucket, the console and worker processes load no client of buckets, no OpenSSL."""
    program = f"import sys, {module}; print(*sorted(set({unwanted!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
