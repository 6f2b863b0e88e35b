"""The page on formats is true: its examples run on a Backup Path and find what is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from backupd.items import Kind
from backupd.store import archives
from backupd.store.archives import ArchiveType
from backupd.store.id_mapper import IdMapper, MappedItem
from backupd.store.index_queries import SCHEMA
from backupd.store.ledger_schema import SCHEMA as LEDGER_SCHEMA
from backupd.store.statistics import AccountStatistics, BackupStatistics
from tests.unit.store.making import START, message, opened, payloads, state

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"
TOOLS = {"jq": "jq", "zstd": "zstd", "sqlite3": "sqlite3", "openssl": "openssl", "flock": "util-linux"}
EXAMPLES = [
    example
    for example in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    if "$OUTSIDE" not in example  # of objects of an external volume: `test_metadata`
]


@pytest.fixture(scope="module")
def backup(tmp_path_factory) -> Path:
    """Return a Backup Path with a message that was changed and deleted, and noise that is stored plain."""
    path = tmp_path_factory.mktemp("formats") / "backup"
    with opened(path) as store:
        store.journal.append(payloads(3, 2055))
        text, noise = b"Subject: hello\r\n\r\n" + b"line\r\n" * 100, os.urandom(900)
        store.blobs.commit([store.blobs.stage(text), store.blobs.stage(noise)])
        flags = {"folder": "INBOX", "flags": ["seen"], "subject": "number 5"}
        store.record(message("2057"), [state(1, content=text), state(5, content=text, metadata=flags)])
        store.record(message("2058"), [state(6, content=noise), state(7, content=noise, deleted=True)])
        store.ledger.open_gap("alice", "sequence_hole", "5 to 7", START)
        store.statistics.write_account("alice", AccountStatistics(cursor="c", last_scan=START))
        store.statistics.write_backup(BackupStatistics(first_run=START))
        store.checkpoint(0)
        came = MappedItem(source="1", target="2057", kind=Kind.MESSAGE, origin="server/account")
        IdMapper(store.layout).append("alice", [came])
        entries = [("backupd/attributes.json", b"[]")]
        archives.write(
            store.layout,
            ArchiveType.CONFIGURATION,
            lambda writer: archives.add_entries(writer, entries),
            START,
        )
    return path


@pytest.fixture
def run(backup, tmp_path):
    """Return a function that runs an example as an admin would, and fails on any complaint."""
    missing = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    if missing:
        pytest.skip(f"install {' '.join(sorted(missing))} to run the examples")

    def run(example: str, item: str = "2057") -> list[str]:
        environment = {**os.environ, "BACKUP": str(backup), "ACCOUNT": "alice", "ITEM": item}
        ended = subprocess.run(
            ["/bin/sh", "-euc", example],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr == ""
        return ended.stdout.splitlines()

    return run


def example_with(text: str) -> str:
    (found,) = [one for one in EXAMPLES if text in one]
    return found


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split()[0])
def test_every_example_runs(run, example):
    """No example fails or complains, for text and for a content that is stored plain."""
    run(example)
    run(example, "2058")


def test_states_over_time(run):
    """The examples on histories show each state, and the one of a moment."""
    lines = run(example_with('@tsv\' "$BACKUP/accounts/$ACCOUNT"/items'))
    assert "2026-11-23T20:55:01Z\tmodified\tINBOX\t" in lines
    assert "2026-11-23T20:55:05Z\tmodified\tINBOX\tseen" in lines
    assert '  "transaction": 1,' in lines[lines.index("2026-11-23T20:55:05Z\tmodified\tINBOX\tseen") :]
    found = run(example_with("grep -lE"))
    assert len(found) == 3
    assert found[-1].endswith("/58/2058\t2026-11-23T20:55:07Z")


def test_a_damaged_history_is_found(run, backup):
    """The example that looks for invalid histories names a torn one, and none if all is well."""
    example = example_with("tail -n 2")
    healthy = run(example)
    assert not [line for line in healthy if line.startswith("/")]
    victim = backup / "accounts" / "alice" / "items" / "58" / "2058"
    good = victim.read_bytes()
    victim.write_bytes(good[:-3])
    assert [line for line in run(example) if line.startswith("/")] == [str(victim)]
    victim.write_bytes(good)


@pytest.mark.parametrize("item", ["2057", "2058"])
def test_a_content(run, tmp_path, backup, item):
    """The examples on blobs give the content, compressed or not, and find a damaged one."""
    run(example_with("content.eml"), item)
    with opened(backup, writable=False) as store:
        digest = store.histories.read(message(item))[0].digest
        assert (tmp_path / "content.eml").read_bytes() == store.blobs.read(digest)
    check = example_with("damaged: ")
    assert run(check) == []


def test_a_damaged_blob_is_found(run, backup):
    """The example that checks all blobs names one whose content was changed."""
    with opened(backup) as store:
        (staged,) = [store.blobs.stage(os.urandom(500))]
        store.blobs.commit([staged])
    (victim,) = backup.glob(f"items/*/{staged.digest}")
    victim.write_bytes(b"other")
    assert run(example_with("damaged: ")) == [f"damaged: {victim}"]
    victim.unlink()


def test_the_journal(run):
    """The examples on the journal show the changes that wait."""
    lines = run(example_with('$BACKUP"/journal'))
    assert next(line for line in lines if '"item":"2057"' in line).startswith('{"sequence":3,')
    assert sum(line.startswith('{"sequence":') for line in lines) >= 3


def test_tables_are_told():
    """The page names every table and every column of both databases."""
    page = PAGE.read_text(encoding="utf-8")
    for schema in (SCHEMA, LEDGER_SCHEMA):
        for table in re.findall(r"CREATE TABLE (\w+)", schema):
            assert f"| `{table}` |" in page, table
    (items,) = re.findall(r"CREATE TABLE items \(\n(.*?)\);", SCHEMA, re.DOTALL)
    row = next(line for line in page.splitlines() if line.startswith("| `items` |"))
    for column in re.findall(r"(\w+) (?:TEXT|INTEGER)", items)[1:]:
        assert f"`{column}`" in row, column
