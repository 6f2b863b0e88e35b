"""A retrieval that is given again completes what an ended one left."""

from __future__ import annotations

from pathlib import Path

from tests.unit.jobs.test_metadata import SendingWorld
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
