"""A mounted path that fills, turns read-only and disappears under a daemon, on real file systems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_store_troubles import IMPATIENCE, failing, is_outside, told, use, volume_of
from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.patience import eventually


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True, timeout=10)


@pytest.fixture
def nas(tmp_path: Path) -> Iterator[Path]:
    """Return a path with a tmpfs of one megabyte on it; skip where nobody may mount."""
    root = tmp_path / "nas"
    root.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting needs root (or a user namespace that may)")
    yield root
    while subprocess.run(["umount", "--lazy", root], capture_output=True, check=False).returncode == 0:
        pass


def test_it_fills_turns_read_only_and_disappears(nas: Path, tmp_path: Path) -> None:
    """Each time mail is recorded, it is told, nothing is written beneath, and all heals by itself."""
    host = MailHost(mailtree.build(tmp_path / "vmail", accounts=1, messages=3, size=300))
    address = host.addresses[0]
    with Daemon(tmp_path / "b", host.tree.root, impatience=IMPATIENCE) as daemon:
        daemon.wait_until_scanned()
        use(daemon, "Local", str(nas))
        eventually("everything is outside", lambda: is_outside(daemon), 20)

        def struck(subject: str, *reasons: str) -> dict[str, Any]:
            """Deliver mail: it is recorded, waits, and the reason is told."""
            body = os.urandom(40_000).hex()
            host.deliver(address, f"Subject: {subject}\r\n\r\n{body}\r\n".encode())
            eventually("it is recorded", lambda: daemon.find(address, subject))
            view = eventually(f"{subject} is told", lambda: failing(daemon), 20)
            assert any(reason in view["error"] for reason in reasons), view["error"]
            assert view["waiting_objects"] > 0
            return view

        def heals() -> None:
            eventually("it is over", lambda: volume_of(daemon)["reachable"] and is_outside(daemon), 20)

        filling = nas / "somebody-else"
        filling.write_bytes(b"x" * (os.statvfs(nas).f_bavail * 4096 - 8192))
        struck("while full", "No space", "full", "space")
        assert "full" in told(daemon, "status", check=False) or "space" in told(daemon, "status", check=False)
        filling.unlink()
        heals()
        mount("-o", "remount,ro", str(nas))
        struck("while read-only", "ead-only")
        mount("-o", "remount,rw", str(nas))
        heals()
        # Gone, and back: a mount elsewhere keeps it meanwhile.
        aside = tmp_path / "aside"
        aside.mkdir()
        mount("--bind", str(nas), str(aside))
        try:
            subprocess.run(["umount", "--lazy", nas], check=True, timeout=10)
            struck("while away", "not mounted")
            assert not list(nas.iterdir())
            mount("--bind", str(aside), str(nas))
            heals()
        finally:
            subprocess.run(["umount", "--lazy", aside], check=False, timeout=10)
        passed = daemon.run("backup/doRestoreDrill", items=20, account_restores=0)
        assert passed["status"] == "successful", passed
