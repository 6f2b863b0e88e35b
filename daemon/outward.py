"""Outward: everything of a lifetime that concerns the external volume, made and ended together.

The volume that the attributes choose stands behind the blobs before anything is read or recorded; the loops
send contents and metadata there, and trim the journal of what was sent; operations and commands choose
another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import structlog

from backupd.attributes import Settings
from backupd.clock import Clock, wait_until_set
from backupd.config import Config
from backupd.jobs.metadata import MetadataUpload
from backupd.operations import OperationStatus, Run
from backupd.store.outside.catalog import Catalog
from backupd.store.outside.reading import External
from backupd.store.outside.reclaiming import Reclaimed
from backupd.store.store import Store
from backupd.volume_choice import VolumeChoice
from backupd.volume_views import VolumeView
from daemon.answering import Answering
from daemon.blob_archives import BlobArchive, open_archive
from daemon.external_volume import ExternalVolumes, UnusableVolume
from daemon.metadata_sending import MetadataSending
from daemon.operations_queue import Factory, OperationsQueue
from daemon.outside_volume import make_uploading
from daemon.trimming import Trimming
from daemon.uploading import Uploading
from daemon.volume_commands import VolumeCommands, VolumeSetting
from daemon.volume_works import MIGRATION, VolumeWorks

LOOK_SECONDS = 10.0
LEFT_OVER_AFTER = timedelta(days=1)
"""An upload that has not ended by then never will."""

log = structlog.get_logger(__name__)


class Outward:
    """Use `open`; `close` ends every request under way, also one to a store that hangs."""

    def __init__(
        self,
        *,
        store: Store,
        settings: Settings,
        setting: VolumeSetting,
        clock: Clock,
        volumes: ExternalVolumes,
        made_of: bytes | None,
        external: External | None,
        uploading: Uploading,
        recorded_through: Callable[[], int],
        scratch: Path,
    ) -> None:
        self._store = store
        self._settings = settings
        self._setting = setting
        self._clock = clock
        self._volumes = volumes
        self._uploading = uploading
        self.chosen = asyncio.Event()
        """Set once another volume was chosen, or the same one is reached in another way."""
        self._look = asyncio.Event()
        self._made_of = made_of
        self._is_unusable = external is not None and isinstance(external.volume, UnusableVolume)
        self._scratch = scratch
        upload = None
        if external is not None:
            upload = MetadataUpload(
                store,
                external.volume,
                volume_id=external.identity,
                clock=clock,
                recorded_through=recorded_through,
            )
        self.metadata = MetadataSending(upload, clock=clock)
        self._trimming = Trimming(store, clock=clock, sent_through=self.metadata.sent_through)
        self._works = VolumeWorks(
            store=store,
            volumes=volumes,
            outside=uploading.outside,
            recorded_through=recorded_through,
            switch=self._choose,
            clock=clock,
        )

    @classmethod
    async def open(
        cls,
        config: Config,
        store: Store,
        settings: Settings,
        setting: VolumeSetting,
        *,
        clock: Clock,
        recorded_through: Callable[[], int],
    ) -> Outward:
        """Put the chosen volume behind the blobs; asks nothing of it. Raises `SpaceExhausted`, `OSError`."""
        server_id = store.identity.server
        volumes = ExternalVolumes(config, settings, server_id=server_id, clock=clock)

        def attach() -> tuple[bytes | None, External | None, Uploading]:
            made_of = volumes.made_of()  # before the volume is made: what changes meanwhile is seen
            external = volumes.current(_known_identity(store))
            uploading = make_uploading(store, external, settings=settings, server_id=server_id, clock=clock)
            return made_of, external, uploading

        made_of, external, uploading = await asyncio.to_thread(attach)
        return cls(
            store=store,
            settings=settings,
            setting=setting,
            clock=clock,
            volumes=volumes,
            made_of=made_of,
            external=external,
            uploading=uploading,
            recorded_through=recorded_through,
            scratch=config.server.state_directory / "archives",
        )

    async def close(self) -> None:
        """End the loops' requests and close the catalog."""
        await asyncio.to_thread(self._volumes.close)
        await self._uploading.close()

    def reclaim(self, run: Run) -> Reclaimed | None:
        """Give back the room that dead contents take outside; None without an external volume. Blocks.

        What uploads that never ended left there goes too.
        """
        self._volumes.remove_leftovers(self._clock.now() - LEFT_OVER_AFTER)
        return self._uploading.reclaim(run)

    def open_archive(self, wanted: str, source: Path) -> BlobArchive:
        """Open the contents of another Backup Path that rest outside; see `blob_archives`."""
        return open_archive(self._volumes, wanted, source, clock=self._clock, parent=self._scratch)

    async def wait_for_choice(self, queue: OperationsQueue, begin_again: Callable[[], None]) -> None:
        """Have a lifetime with another volume begin, once the migration that chose it has ended."""
        await self.chosen.wait()
        for operation in queue.operations():
            if operation.type.startswith(MIGRATION) and operation.status is not OperationStatus.QUEUED:
                await queue.wait_until_ended(operation.uuid)
        begin_again()

    def loops(self) -> tuple[tuple[str, Coroutine[Any, Any, None]], ...]:
        """Return what runs for the lifetime, by name."""
        return (
            ("uploading", self._uploading.run()),
            ("metadata", self.metadata.run()),
            ("trimming", self._trimming.run()),
            ("volume watch", self._watch()),
        )

    def look_soon(self) -> None:
        """Have it looked soon whether the volume is reached in another way now: a setting changed."""
        self._look.set()

    async def _watch(self) -> None:
        """Have a lifetime with new credentials begin; a secret's file tells nobody of a change."""
        while not await asyncio.to_thread(self._is_reached_otherwise):
            self._look.clear()
            await wait_until_set(self._look, self._clock, LOOK_SECONDS)
        log.info("volume_reached_otherwise", was_usable=not self._is_unusable)
        self.chosen.set()

    def _is_reached_otherwise(self) -> bool:
        if self._is_unusable:
            return self._volumes.can_be_made()
        made_of = self._volumes.made_of()
        return made_of is not None and made_of != self._made_of

    def factories(self) -> dict[str, Factory]:
        """Return a factory for each type of operation on volumes."""
        return self._works.factories()

    def table(self, queue: OperationsQueue) -> Mapping[str, Answering]:
        """Return what answers the commands on volumes."""
        return VolumeCommands(
            store=self._store,
            volumes=self._volumes,
            works=self._works,
            queue=queue,
            choose=self._choose,
            clock=self._clock,
        ).table()

    def view(self) -> VolumeView | None:
        """Return how the external volume stands; None without one."""
        view = self._uploading.view()
        return None if view is None else msgspec.structs.replace(view, metadata=self.metadata.view())

    def _choose(self, choice: VolumeChoice) -> None:
        self._setting.choose(self._settings, choice)


def _known_identity(store: Store) -> str:
    """Return the identity of the volume that the catalog knows as the one in use; empty without one."""
    path = store.layout.catalog
    if not path.exists():
        return ""
    catalog = Catalog(path)
    try:
        return catalog.current_identity()
    finally:
        catalog.close()
