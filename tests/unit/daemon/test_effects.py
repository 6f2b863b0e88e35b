"""Effects: each attribute that has one acts on its part at once, and again when it is unset."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backupd.attribute_table import TABLE
from backupd.attributes import Scopes
from backupd.schedules import JOBS, METADATA_UPLOAD
from daemon import logs
from daemon.effects import NO_VOLUME, Effects
from tests.unit.daemon.making import AnsweringWorld, configured
from tests.unit.jobs.worlds import SERVER


class EffectsWorld(AnsweringWorld):
    """An answering world whose settings act."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.effects = Effects(
            config=configured(path),
            settings=self.settings,
            server_id=SERVER,
            store=self.store,
            realtime=self.realtime,
            scheduler=self.scheduler,
            services=self.services,
            clock=self.clock,
        )
        self.effects.apply()

    def set(self, name: str, value: object) -> None:
        self.settings.set(name, Scopes(), value)
        self.effects.apply()

    def unset(self, name: str) -> None:
        self.settings.unset(name, Scopes())
        self.effects.apply()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[EffectsWorld]:
    async with EffectsWorld(tmp_path) as made:
        yield made


async def test_the_level_of_compression_counts_for_the_next_content(world: EffectsWorld) -> None:
    """Harder compression makes the next content smaller; unset, it is as before."""
    text = b" ".join(b"%d" % (number * 7919 % 10007) for number in range(20_000))
    sizes = []
    for level in (1, 19):
        world.set("backupCompressionLevel", level)
        staged = world.store.blobs.stage(text + b"%d" % level)
        world.store.blobs.commit([staged])
        sizes.append(world.store.blobs.stored_size(staged.digest))
    assert sizes[1] < sizes[0]
    world.unset("backupCompressionLevel")
    assert world.store.blobs.level == 3


async def test_the_threshold_of_free_space(world: EffectsWorld) -> None:
    """A value that was set holds as it is; the default is never more than a share of the file system."""
    world.set("ZxBackup_SpaceThreshold", 4096)
    assert world.store.space_threshold_bytes == 4096 << 20
    world.unset("ZxBackup_SpaceThreshold")
    assert world.store.space_threshold_bytes <= 1024 << 20


async def test_the_log_level(world: EffectsWorld) -> None:
    """0 lets lines for debugging through, 1 what the file says."""
    world.set("ZxCore_LogLevel", 0)
    assert logs._threshold.level == logs._LEVELS[logs.LogLevel.DEBUG]
    world.set("ZxCore_LogLevel", 1)
    assert logs._threshold.level == logs._LEVELS[logs.LogLevel.INFO]


async def test_every_job_is_scheduled_as_its_attribute_says(world: EffectsWorld) -> None:
    """Each job has its time; one that has nothing to do says so; a change of one counts for that one."""
    jobs = {job.name: job for job in world.scheduler.jobs}
    assert jobs.keys() == {job.name for job in JOBS}
    defaults = {row.name: row.default for row in TABLE}
    for row in JOBS:
        schedule = defaults[row.attribute]
        assert isinstance(schedule, dict)
        assert jobs[row.name].pattern == schedule["cron-pattern"]
        assert jobs[row.name].enabled == schedule["cron-enabled"]
        assert jobs[row.name].note == (NO_VOLUME if row.name == METADATA_UPLOAD else "")
        assert bool(row.operation) == (row.name != METADATA_UPLOAD)
    world.set("backupSmartScanScheduler", {"cron-enabled": True, "cron-pattern": "30 2 * * *"})
    assert next(job for job in world.scheduler.jobs if job.name == "SmartScan").pattern == "30 2 * * *"


async def test_what_makes_no_backup_is_known(world: EffectsWorld) -> None:
    """Idle is: no live changes and no scan by itself, be it by attributes or by stopped services."""
    assert not world.effects.is_idle
    world.services.stop("module")
    assert world.effects.is_idle
    world.services.start("module")
    assert not world.effects.is_idle
    world.set("backupSmartScanScheduler", {"cron-enabled": False, "cron-pattern": "0 4 * * *"})
    assert not world.effects.is_idle
    world.services.stop("realtime-scanner")
    assert world.effects.is_idle
