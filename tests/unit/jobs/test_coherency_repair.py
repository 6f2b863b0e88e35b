"""Repair of what a coherency check found: each damage is mended, moved aside or named as lost for good."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from backupd import durable
from backupd.items import ItemKey, digest_of
from backupd.jobs.coherency.findings import Finding
from backupd.jobs.coherency.keeping import StoreKeeper, opened_alone
from backupd.jobs.coherency.repair import REBUILT, Mended, Repair
from backupd.operations import Run
from backupd.store.store import Store
from tests.unit.jobs.coherency_damages import CONTENT, DAMAGES, KEY, Damage, cut, flip
from tests.unit.jobs.coherency_worlds import (
    BOB,
    blob_path,
    body,
    build,
    check,
    copy,
    histories,
    history_path,
    make_old,
    message,
    told,
)
from tests.world.clocks import FakeClock


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repair") / "healthy"
    build(path)
    return path


def mend(path: Path, source: bytes | None = None, found: Sequence[Finding] | None = None) -> Mended:
    """Check and repair a path that no daemon has open; `source` is what the AppServer still holds."""
    clock = FakeClock()
    found = check(path).findings.kept if found is None else found
    rebuild = any(one.code in REBUILT for one in found)
    with opened_alone(path, clock, rebuild_index=rebuild) as store:

        def refetch(digest: str, _items: Sequence[ItemKey]) -> bool:
            return source is not None and stored(store, digest, source)

        return Repair(path, StoreKeeper(store, refetch=refetch), clock=clock).run(Run(clock), found)


def stored(store: Store, digest: str, content: bytes) -> bool:
    """Store a content again, if it is the one that is sought."""
    if digest_of(content) == digest:
        store.blobs.commit([store.blobs.stage(content)])
        return True
    return False


UNOPENABLE = {"map.missing", "map.unreadable", "map.foreign", "ledger.corrupt", "history.unreadable"}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_each_damage_is_told_by_its_own_code_alone_and_mended(
    damage: Damage, healthy: Path, tmp_path: Path
) -> None:
    """A check tells that damage and nothing else; after a repair a second one finds nothing.

    Or only what is told as lost for good, or is not ours to mend. No history and no blob is gone then.
    """
    path = copy(healthy, tmp_path / "damaged")
    before = files(path)
    damage.make(path)
    make_old(path)
    first = check(path)
    assert told(first) == {damage.code: damage.count}, first.findings.kept
    if damage.code in UNOPENABLE:
        return
    damaged = files(path)
    mended = mend(path, found=first.findings.kept)
    make_old(path)
    checked = check(path)
    assert set(told(checked)) == ({damage.left} if damage.left else set()), (mended, checked.findings.kept)
    kept = {one.read_bytes() for one in path.rglob("*") if one.is_file() and not one.is_symlink()}
    lost = {name for name, content in damaged.items() if content not in kept and name in before}
    assert not {name for name in lost if "accounts/" in name or "items/" in name}
    assert checked.findings.total == (0 if damage.left in ("", "blob.lost", "journal.passed") else 1)


def test_a_healthy_path_has_no_findings(healthy: Path) -> None:
    """Nothing is found wrong with what the store itself wrote."""
    assert told(check(healthy)) == {}


def files(path: Path) -> dict[str, bytes]:
    """Return the contents of the files below a path."""
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in path.rglob("*")
        if one.is_file() and not one.is_symlink()
    }


def test_a_damaged_history_gets_back_what_the_index_knows_of_it(healthy: Path, tmp_path: Path) -> None:
    """Of a history that lost its middle every state is there again, and the damaged file is kept."""
    path = copy(healthy, tmp_path / "damaged")
    file = history_path(path, KEY)
    content = file.read_bytes()
    flip(file, 40)
    damaged = file.read_bytes()
    mended = mend(path)
    assert mended.mended == {"history.corrupt": 1}
    assert (path / mended.aside / file.relative_to(path)).read_bytes() == damaged
    with opened_alone(path, FakeClock(), rebuild_index=False) as store:
        found = store.histories.read(KEY)
    facts = [(one.transaction, one.start, one.digest, one.metadata, one.deleted) for one in found]
    wanted = histories()[KEY]
    assert facts == [(one.transaction, one.start, one.digest, one.metadata, one.deleted) for one in wanted]
    assert content.count(b"\n") == file.read_bytes().count(b"\n")


@pytest.mark.parametrize("make", [lambda file: flip(file, 30), Path.unlink, lambda file: cut(file, 9)])
def test_a_content_is_read_again_from_the_appserver(make: object, healthy: Path, tmp_path: Path) -> None:
    """A missing or corrupt blob is whole again where the AppServer still has the content."""
    path = copy(healthy, tmp_path / "damaged")
    make(blob_path(path, CONTENT))  # type: ignore[operator]
    mended = mend(path, source=CONTENT)
    assert (mended.lost, mended.left) == ([], [])
    assert told(check(path)) == {}


def test_a_lost_content_that_comes_back_is_no_finding_any_more(healthy: Path, tmp_path: Path) -> None:
    """What was noted as lost is told while it is, and forgotten once it is stored again."""
    path = copy(healthy, tmp_path / "damaged")
    content = blob_path(path, CONTENT).read_bytes()
    blob_path(path, CONTENT).unlink()
    assert [one.digest for one in mend(path).lost] == [digest_of(CONTENT)]
    checked = check(path)
    assert (told(checked), checked.findings.total) == ({"blob.lost": 1}, 0)
    assert checked.findings.kept[0].items == (str(f"{KEY.account}/{KEY.item}"),)
    blob_path(path, CONTENT).write_bytes(content)
    blob_path(path, CONTENT).chmod(0o600)
    assert told(check(path)) == {}


STEPS = (
    "coherency.move",
    "coherency.moved",
    "coherency.kept_aside",
    "coherency.replaced",
    "coherency.written_anew",
    "coherency.losses_noted",
)


class Killed(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("step", STEPS)
def test_a_repair_that_is_killed_at_any_step_is_finished_by_the_next_one(
    step: str, healthy: Path, tmp_path: Path
) -> None:
    """Whatever was done before, the next repair ends with a whole path, and no file is gone."""
    path = copy(healthy, tmp_path / "damaged")
    flip(history_path(path, KEY), 40)
    history_path(path, message(1)).unlink()
    flip(blob_path(path, body(f"{BOB} 1")), 30)
    make_old(path)
    damaged = set(files(path).values())

    def kill(name: str) -> None:
        if name == step:
            raise Killed

    durable.observe_steps(kill)
    try:
        with pytest.raises(Killed):
            mend(path)
    finally:
        durable.observe_steps(None)
    make_old(path)
    assert [one.code for one in check(path).findings.kept if one.code == "history.empty"] == []
    mend(path)
    make_old(path)
    assert set(told(check(path))) == {"blob.lost"}
    accounts = {one for name, one in files(healthy).items() if name.startswith(("accounts/", "items/"))}
    assert accounts & damaged <= set(files(path).values())
