"""A retrieval that is given again completes what an ended one left."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupd.items import ItemKey, Kind
from backupd.jobs.metadata import names
from tests.unit.jobs.test_metadata import SendingWorld, histories_in
from tests.unit.jobs.worlds import ALICE


async def test_small_files_that_were_cut_short_are_completed(tmp_path: Path) -> None:
    """A retrieval that ended in the midst of one, given again, brings it whole; what is longer here stays."""
    async with SendingWorld(tmp_path / "backup") as world:
        await world.account(ALICE)
        await world.scan_all()
        account = world.store.layout.account(ALICE)
        for name in ("id_mapper.log", "account_stat", "backupstat"):
            (account / name).write_text(f"{name}: first line\nsecond line\n")
        await world.receive("1")
        world.upload.archive(world.run())
        back = tmp_path / "back"
        world.retrieve(back)
        there = back / account.relative_to(world.path)
        (there / "id_mapper.log").write_bytes(b"")
        (there / "account_stat").write_text("account_stat: fir")
        longer = (there / "backupstat").read_text() + "third line\n"
        (there / "backupstat").write_text(longer)
        assert world.retrieve(back).successful
        for name in ("id_mapper.log", "account_stat"):
            assert (there / name).read_bytes() == (account / name).read_bytes()
        assert (there / "backupstat").read_text() == longer


@pytest.mark.parametrize("lost", [0, 1])
async def test_what_is_missing_in_the_midst_is_told(tmp_path: Path, lost: int) -> None:
    """A parcel that vanished between others fails the retrieval with its numbers; all else comes back."""
    async with SendingWorld(tmp_path / "backup") as world:
        await world.account(ALICE)
        await world.scan_all()
        world.upload.archive(world.run())
        for number in range(3):
            await world.receive(f"mail {number}")
            world.upload.send_changes()
        whole = world.run()
        assert world.retrieve(tmp_path / "whole", whole).successful
        gone = names.range_objects(world.volume.names(names.STATES))[lost]
        world.volume.delete(gone.name)
        run = world.run()
        assert not world.retrieve(tmp_path / "back", run).successful
        (error,) = run.errors
        assert error.item == names.STATES
        assert f"{gone.first:,} to {gone.last:,}" in error.reason
        there = set(histories_in(tmp_path / "back"))
        assert set(world.everything()) - there == {ItemKey(ALICE, Kind.MESSAGE, f"mail {lost}")}


async def test_what_archives_hold_may_be_missing_among_the_parcels(tmp_path: Path) -> None:
    """Parcels from before the last pass are needed by nobody whose archives can be read."""
    async with SendingWorld(tmp_path / "backup") as world:
        await world.account(ALICE)
        await world.scan_all()
        world.upload.archive(world.run())
        for number in range(3):
            await world.receive(f"mail {number}")
            world.upload.send_changes()
        await world.clock.advance(60)
        world.upload.archive(world.run())
        archive = list(world.volume.names(names.account_folder(ALICE)))[-1]
        gone = names.range_objects(world.volume.names(names.STATES))[1]
        world.volume.delete(gone.name)
        assert world.retrieve(tmp_path / "back").successful
        world.volume.delete(archive)
        world.volume.put(archive, b"damaged")
        run = world.run()
        world.retrieve(tmp_path / "again", run)
        assert {error.item for error in run.errors} == {archive, names.STATES}
