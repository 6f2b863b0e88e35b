"""A Backup Path of 20 accounts, made by a real daemon, comes into an empty mail host by another one."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backupd.appservers.file_trees import ASIDE_PREFIX
from tests.world import corpus, mailtree
from tests.world.daemons import Daemon

ACCOUNTS = 20
KILLS = 50 if os.environ.get("BACKUPD_CRASHES") else 4
SECONDS = 0.5
"""About as long as the restore takes."""
HERE = "22222222-2222-4333-8444-555555555555"


def contents(root: Path) -> Counter[tuple[str, ...]]:
    """Return what users see in a mail host: folders, bytes, flags, dates; without the names of messages."""
    found: Counter[tuple[str, ...]] = Counter()
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.parent.name in {"cur", "new"} and path.is_file():
            flags = path.name.partition(":2,")[2]
            facts = (str(relative.parent.parent), "".join(sorted(flags)), str(path.stat().st_mtime_ns))
        elif path.is_dir() and path.name == "cur":
            facts = (str(relative.parent), "folder", "")
        elif path.suffix in {".vcf", ".ics"} or ("files" in relative.parts and path.is_file()):
            facts = (str(relative.parent), path.name * ("files" in relative.parts), "")
        else:
            continue
        if any(part.startswith(ASIDE_PREFIX) for part in relative.parts):
            # What a restore that was killed had written aside: no item (docs/directory-layout.md).
            continue
        content = path.read_bytes() if path.is_file() else b""
        found[(*facts, hashlib.sha256(content).hexdigest())] += 1
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a mail host and the Backup Path that a daemon made of it, which has ended."""
    place = tmp_path_factory.mktemp("source")
    tree = mailtree.build(
        place / "vmail",
        accounts=ACCOUNTS,
        messages=6,
        contacts=2,
        appointments=4,
        documents=1,
        size=400,
        corpus=[path for path in corpus.corpus_files("mail") if path.stat().st_size < 100_000][:200],
    )
    with Daemon(place / "b", tree.root, watch=False) as daemon:
        assert daemon.wait_until_scanned()["status"] == "successful"
        daemon.stop()
    # A copy is what an admin has of another server: without the index, which nothing here needs.
    copy = place / "copy"
    shutil.copytree(daemon.backup_path, copy, ignore=shutil.ignore_patterns("*.sqlite*", ".lock", "journal"))
    return tree.root, copy


def importing(place: Path) -> Daemon:
    root = place / "vmail"
    root.mkdir(parents=True)
    return Daemon(place / "b", root, server_id=HERE, watch=False)


def restore(daemon: Daemon, copy: Path, **given: Any) -> Any:
    return daemon.run("backup/doExternalRestore", source_path=str(copy), **given)


def counted(operation: Any) -> tuple[int, ...]:
    """Return what a verdict says: expected, restored, skipped, unrestored."""
    said = r"([\d,]+) expected, ([\d,]+) restored .*, ([\d,]+) skipped .*, ([\d,]+) unrestored"
    found = re.search(said, operation["verdict"])
    assert found, operation
    return tuple(int(number.replace(",", "")) for number in found.groups())


def test_it_comes_in_whole_and_twice_changes_nothing(source: tuple[Path, Path], tmp_path: Path) -> None:
    """Byte for byte, flag for flag, date for date; a second run skips all; getMap shows the ids."""
    root, copy = source
    with importing(tmp_path) as daemon:
        daemon.wait_until_scanned()
        first = restore(daemon, copy)
        assert first["status"] == "successful", first
        assert first["progress"]["done"] == first["progress"]["total"]
        assert contents(daemon.root) == contents(root)
        assert (daemon.root / "cos" / "default.toml").read_text() == "quota_bytes = 1000000000\n"
        assert "members" in (daemon.root / "lists" / "all@example.test.toml").read_text()
        account = (daemon.root / "example.test" / "user0003" / "account.toml").read_text()
        assert 'full_name = "User 3"' in account
        daemon.scan()
        second = restore(daemon, copy, concurrent_accounts=2)
        expected, restored, *_ = counted(first)
        assert expected == restored
        assert counted(second) == (expected, 0, expected, 0)
        assert contents(daemon.root) == contents(root)
        mapped = daemon.command("backup/getMap")
        assert mapped["imported_from"] == "11111111-2222-4333-8444-555555555555"
        assert sum(key.startswith("account:") for key in mapped["entries"]) == ACCOUNTS
        logs = list(daemon.backup_path.glob("accounts/*/id_mapper.log"))
        assert len(logs) == ACCOUNTS
        lines = [line for path in logs for line in path.read_text().splitlines() if "\tfolder\t" not in line]
        assert len(lines) == restored
        log = daemon.command("core/getOperationLog", operation_uuid=first["uuid"])
        assert "phase_1_complete" in str(log)


def test_killed_at_any_moment_it_goes_on(source: tuple[Path, Path], tmp_path: Path) -> None:
    """After SIGKILL at random moments, the restore that is given again ends with exactly the same."""
    root, copy = source
    dice = random.Random(7)
    daemon = importing(tmp_path)
    wanted = contents(root)
    with daemon:
        daemon.wait_until_scanned()
        midway = 0
        for _ in range(KILLS):
            daemon.command("backup/doExternalRestore", source_path=str(copy))
            time.sleep(dice.random() * SECONDS)
            daemon.kill()
            if contents(daemon.root) == wanted:
                # It was through: begin with an empty mail host and another Backup Path, to be killed again.
                shutil.rmtree(daemon.root)
                daemon.root.mkdir()
                shutil.rmtree(daemon.backup_path)
            else:
                midway += 1
            daemon.start()
            daemon.wait_until_scanned()
        ended = restore(daemon, copy)
        assert ended["status"] == "successful", ended
        assert contents(daemon.root) == wanted
        assert midway, "no kill struck while it ran"
        expected, restored, skipped, unrestored = counted(ended)
        assert (restored + skipped, unrestored) == (expected, 0)


def test_the_console_reads_the_file_of_accounts(source: tuple[Path, Path], tmp_path: Path) -> None:
    """`input_file` is read by the console; only the accounts in it come in; the socket does not take it."""
    _, copy = source
    chosen = tmp_path / "accounts.txt"
    chosen.write_text("# two\nuser0001@example.test\n\nUSER0002@example.test\n")
    with importing(tmp_path) as daemon:
        daemon.wait_until_scanned()
        done = daemon.console(
            "backup", "doExternalRestore", str(copy), "input_file", str(chosen), "--sync", check=False
        )
        assert done.returncode == 0, done
        assert sorted(path.name for path in (daemon.root / "example.test").iterdir() if path.is_dir()) == [
            "user0001",
            "user0002",
        ]
        refused = daemon.command("backup/doExternalRestore", source_path=str(copy), input_file=str(chosen))
        assert "read by the console" in refused["message"]
        chosen.write_text("\n")
        done = daemon.console("backup", "doExternalRestore", str(copy), f"--input_file={chosen}", check=False)
        assert done.returncode == 66
