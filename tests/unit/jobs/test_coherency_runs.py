"""Runs of the coherency check: bounded ones that complete a pass, what is remembered, verdicts, harm."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
import zstandard

from backupd.clock import SystemClock
from backupd.errors import BackupPathRefused, OperationStopped, UsageError
from backupd.items import digest_of
from backupd.jobs.coherency import job, memory
from backupd.jobs.coherency.accounts import accounts_named
from backupd.jobs.coherency.check import Check, Wanted
from backupd.jobs.coherency.digest_sets import DigestSet
from backupd.jobs.coherency.findings import SORTS
from backupd.jobs.coherency.memory import Remembered
from backupd.jobs.coherency.rotation import Position
from backupd.operations import Run
from backupd.store import history_format, layout
from backupd.store.blob_reading import MAGIC
from backupd.store.foreign_files import Tree
from backupd.store.outside.catalog import Catalog
from backupd.store.outside.objects import Objects
from tests.unit.jobs.coherency_damages import CONTENT, KEY, cut, flip, put
from tests.unit.jobs.coherency_worlds import (
    ALICE,
    BOB,
    blob_path,
    body,
    build,
    check,
    copy,
    history_path,
    make_old,
    message,
    state,
    told,
    tree_state,
)
from tests.world.clocks import START, FakeClock


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "healthy"
    build(path)
    return path


@pytest.fixture
def path(healthy: Path, tmp_path: Path) -> Path:
    return copy(healthy, tmp_path / "path")


class Runs:
    """Runs of jobs behind each other, with what is remembered between them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.known = Remembered()

    def run(self, **wanted: object) -> job.Outcome:
        self.clock.jump(60)
        work = job.Job(Check(self.path, clock=self.clock, workers=0, settle_seconds=0.0), clock=self.clock)
        return work.run(Run(self.clock), Wanted(**wanted), self.known, self.keep)  # type: ignore[arg-type]

    def keep(self, known: Remembered) -> None:
        self.known = memory.decode(memory.encode(known))


def test_a_check_writes_nothing(path: Path) -> None:
    """Neither contents nor modes nor times of anything in the path change, and no lock is taken."""
    before = tree_state(path)
    check(path)
    assert tree_state(path) == before


def test_a_check_reads_everything(healthy: Path) -> None:
    """Every history and blob of the path is among the files that were read."""
    checked = check(healthy)
    wanted = [one for one in healthy.rglob("*") if one.is_file() and one.parent.name != "journal"]
    at_top = [one for one in wanted if one.parent == healthy or one.parent.name == "servers"]
    assert checked.files == len(wanted) - len(at_top)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_bounded_runs_complete_a_whole_pass(path: Path, share: float) -> None:
    """Runs of a share go on behind each other, look at every shelf once, and then begin anew."""
    position = Position()
    seen: list[set[str]] = []
    shares = []
    while not position.is_complete:
        checked = check(path, position=position, share=share)
        seen.append(checked.looked_at)
        shares.append(checked.share)
    whole = check(path).looked_at
    assert set().union(*seen) == whole
    shelves = [one for several in seen for one in several if one.count("/") > 1 or one.startswith("items/")]
    assert len(shelves) == len(set(shelves))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) > 2


def test_a_run_without_time_still_advances(path: Path) -> None:
    """A bound in time ends a run after its first shelf at the latest, and the next goes on behind it."""
    runs = Runs(path)
    for _ in range(200):
        runs.run(seconds_max=1e-9)
        if runs.known.last_whole is not None:
            break
    assert runs.known.last_whole is not None
    assert runs.known.position == Position()
    assert runs.run(share=0.1).checked.share < 1


def test_findings_of_bounded_runs_stay_known_until_looked_at_again(path: Path) -> None:
    """What one part of a pass found is not forgotten by the next, and goes once it is mended."""
    flip(blob_path(path, CONTENT), 30)
    cut(history_path(path, message(1, account=BOB)), 30)
    whole = blob_path(path, CONTENT).read_bytes()
    runs = Runs(path)
    while runs.known.last_whole is None:
        runs.run(share=0.1)
    assert runs.known.counts == {"blob.corrupt": 1, "history.torn": 1}
    assert runs.known.total == 2
    flip(blob_path(path, CONTENT), 30)
    assert blob_path(path, CONTENT).read_bytes() != whole
    runs.run()
    assert runs.known.counts == {"history.torn": 1}


def test_a_missing_content_is_known_until_it_is_there(path: Path) -> None:
    """A look at the shelf of blobs alone does not tell that a content is back; its file does."""
    content = blob_path(path, CONTENT).read_bytes()
    blob_path(path, CONTENT).unlink()
    runs = Runs(path)
    runs.run()
    runs.run(share=0.05)
    assert runs.known.counts == {"blob.missing": 1}
    put(path, layout.blob_name(digest_of(CONTENT)), content)
    runs.run(share=0.01)
    assert runs.known.counts == {}


def test_single_accounts_are_checked_with_their_contents_alone(path: Path) -> None:
    """Damage of the account and of a content it needs is found, that of another account is not."""
    flip(blob_path(path, CONTENT), 30)
    flip(blob_path(path, body(f"{BOB} 1")), 30)
    cut(history_path(path, message(2, account=BOB)), 30)
    checked = check(path, accounts=(ALICE,))
    assert told(checked) == {"blob.corrupt": 1}
    assert checked.findings.kept[0].digest == digest_of(CONTENT)


def test_a_stopped_run_keeps_how_far_it_came(path: Path) -> None:
    """A bounded run that is stopped ends as stopped, and the next goes on from there."""
    runs = Runs(path)
    run = Run(runs.clock)
    run.request_stop()
    work = job.Job(Check(path, clock=runs.clock, workers=0), clock=runs.clock)
    with pytest.raises(OperationStopped):
        work.run(run, Wanted(share=0.5), runs.known, runs.keep)
    assert runs.known.last_run is None


def test_young_and_awaited_blobs_are_no_orphans(path: Path) -> None:
    """A blob that was just written, or that a journal entry names, may be referred to in a moment."""
    content = b"\x01just came"
    put(path, layout.blob_name(digest_of(content)), content)
    assert told(check(path)) == {}
    make_old(path)
    assert told(check(path)) == {"blob.orphan": 1}


def test_an_orphan_by_a_stale_index_is_none(path: Path) -> None:
    """What only a history refers to is no orphan, whatever the index says."""
    content = b"\x01known to a history alone"
    put(path, layout.blob_name(digest_of(content)), content)
    key = message(412)
    put(
        path,
        str(history_path(path, key).relative_to(path)),
        history_format.encode_history([state(400, key, content)]),
    )
    make_old(path)
    assert told(check(path)) == {"index.lacks": 1}


def test_contents_that_rest_outside_are_not_missed(path: Path) -> None:
    """What the catalog knows on the volume in use is there; without the catalog it is missing."""
    catalog = Catalog(path / "volume.sqlite")
    catalog.use("v1")
    objects = Objects(catalog, catalog.number_of("v1"))
    for blob in (path / "items").rglob("*="):
        size = len(zstandard.decompress(blob.read_bytes())) if blob.read_bytes()[:4] == MAGIC else 0
        name = str(blob.relative_to(path))
        objects.confirm_single(
            name, blob.name, size or blob.stat().st_size, 1, SystemClock().now(), adopt=True
        )
        blob.unlink()
    assert told(check(path)) == {}
    catalog.use("")
    catalog.close()
    assert told(check(path))["blob.missing"] == 14


def test_worker_processes_find_the_same(path: Path) -> None:
    """What workers find is what one process finds."""
    flip(blob_path(path, CONTENT), 30)
    history_path(path, KEY).write_bytes(b"")
    make_old(path)
    clock = FakeClock()
    checker = Check(path, clock=clock, workers=2, pool_after_seconds=0.0, settle_seconds=0.0)
    checked = checker.run(Run(clock), Wanted(), Position())
    alone = check(path)
    assert sorted(checked.findings.kept, key=str) == sorted(alone.findings.kept, key=str)
    assert (checked.files, told(checked)) == (alone.files, {"blob.corrupt": 1, "history.empty": 1})


def test_a_hostile_path_is_read_without_harm(path: Path, tmp_path: Path) -> None:
    """Links out of the path, pipes, huge numbers, deep nesting and forged frames are findings, no more."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "3").write_text("secret")
    shelf = path / "accounts" / ALICE / "items"
    (shelf / "44").symlink_to(outside)
    (shelf / "03" / "103").symlink_to(outside / "3")
    os.mkfifo(shelf / "03" / "203", 0o600)
    put(path, f"accounts/{ALICE}/items/03/303", b"[\n" + b"[" * 100_000)
    huge = history_format.encode_history([state(7, message(403), None)])
    put(path, f"accounts/{ALICE}/items/03/403", huge.replace(b'"transaction":7', b'"transaction":%d' % 2**63))
    naive = history_format.encode_history([state(8, message(503), None)]).replace(b"Z", b"")
    put(path, f"accounts/{ALICE}/items/03/503", naive)
    bomb = b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\0" * 40
    put(path, layout.blob_name(digest_of(b"bomb")), bomb)
    make_old(path)
    counts = told(check(path))
    assert counts.pop("history.empty") == 1
    assert counts == {"file.link": 2, "file.special": 1, "history.corrupt": 2, "blob.corrupt": 1}


def test_what_is_no_path_is_refused(tmp_path: Path) -> None:
    """A directory that is not there can't be checked."""
    with pytest.raises(BackupPathRefused):
        check(tmp_path / "none")


@pytest.mark.parametrize("sample", ["0%", "101%", "some", "-5%", "5 %%"])
def test_a_share_must_be_one(sample: str) -> None:
    """Nothing, more than all, and what is no number are usage errors."""
    with pytest.raises(UsageError):
        job.wanted_of((), sample, None)


def test_what_is_wanted() -> None:
    """Shares and minutes bound a run, single accounts are looked at whole."""
    assert job.wanted_of((), "5%", None).share == 0.05
    assert job.wanted_of((), " 12.5 ", 10) == Wanted(share=0.125, seconds_max=600.0)
    assert not job.wanted_of(("a",), None, None).is_bounded
    for bad in ((("a",), "5%", None), ((), None, 0)):
        with pytest.raises(UsageError):
            job.wanted_of(*bad)


def test_the_verdict_counts(path: Path) -> None:
    """It says how much was read, what was found, and how far a pass is; only a clean run is successful."""
    runs = Runs(path)
    clean = runs.run()
    assert clean.verdict.successful
    assert "no findings" in clean.verdict.sentence
    flip(blob_path(path, CONTENT), 30)
    found = runs.run(share=1.0)
    assert not found.verdict.successful
    assert "1 findings: 1 blob.corrupt" in found.verdict.sentence
    assert "100.0% of the pass is done" in found.verdict.sentence
    reply = job.reply_of(path, found)
    assert [one.code for one in reply.counts] == ["blob.corrupt"]
    assert reply.findings[0].path == layout.blob_name(digest_of(CONTENT))


def test_accounts_are_found_by_id_and_address(healthy: Path) -> None:
    """An account is meant by its folder's id or by its address in any case."""
    tree = Tree(healthy)
    assert accounts_named(tree, [ALICE, "BOB-ID@example.com", "nobody"]) == {
        ALICE: ALICE,
        "BOB-ID@example.com": BOB,
    }


def test_what_was_remembered_by_another_version_is_forgotten_with_grace() -> None:
    """Codes that this version does not know are dropped, what can't be read counts as never kept."""
    known = Remembered(counts={"blob.corrupt": 1}, last_run=START + timedelta(days=1))
    encoded = memory.encode(known).replace(b"blob.corrupt", b"blob.strange")
    assert memory.decode(encoded).counts == {}
    assert memory.decode(b"{") == memory.decode(None) == Remembered()


def test_digest_sets_hold_and_group(tmp_path: Path) -> None:
    """Digests come back once, by shelf, without those that were taken out."""
    digests = [digest_of(b"%d" % number) for number in range(300)]
    held = DigestSet(tmp_path / "set")
    held.add([*digests, *digests])
    held.remove(digests[:100])
    assert sorted(held) == sorted(digests[100:])
    assert all(len({one[-3:-1] for one in group}) == 1 for group in held.by_shelf())
    held.close()


def test_the_page_for_admins_lists_every_code() -> None:
    """docs/coherency.md has a row for each code, with the words of the table."""
    page = (Path(__file__).parents[3] / "docs" / "coherency.md").read_text("utf-8")
    for code, sort in SORTS.items():
        assert f"| `{code}` | {sort.weight} | {sort.meaning} | {sort.cure} |" in page
    assert page.count("\n| `") == len(SORTS)
