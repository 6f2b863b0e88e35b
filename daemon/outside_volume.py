"""The external volume of a lifetime: opens its catalog, puts it behind the blobs, makes what uploads.

The one place where the store learns of an external volume. Without one, blobs live in the Backup Path alone,
and a catalog that is there from an earlier volume is told so, for worker processes ask it. A catalog that
can't be used is moved aside and built anew from the volume.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from backupd.attributes import Scopes, Settings
from backupd.clock import Clock
from backupd.errors import BackupPathRefused
from backupd.jobs.upload.upload import Upload
from backupd.store.outside.cache import Cache
from backupd.store.outside.catalog import DAMAGE_ENDING, Catalog
from backupd.store.outside.reading import BlobsOutside, External
from backupd.store.outside.sending import Sender
from backupd.store.store import Store
from backupd.volumes.calls import CountingVolume
from daemon.uploading import Uploading, UploadingParts

CACHE_SIZE = "backupBlobCacheSize"
_MEGABYTE = 1 << 20
ROOM_PART = 1.25
"""Below this part of the space threshold the cache stands back, before intake would pause."""

log = structlog.get_logger(__name__)


def current_volume() -> External | None:
    """Return the external volume that is set; none can be set yet."""
    return None


def make_uploading(
    store: Store, external: External | None, *, settings: Settings, server_id: str, clock: Clock
) -> Uploading:
    """Put an external volume behind the blobs of a store, or none; blocks.

    To be called before anything is read or recorded. Raises `SpaceExhausted`, `OSError`.
    """
    scopes = Scopes(server=server_id)

    def cache_bytes_max() -> int:
        return int(str(settings.get(CACHE_SIZE, scopes).value)) * _MEGABYTE

    def lacking() -> int:
        return int(store.space_threshold_bytes * ROOM_PART) - store.free_bytes()

    parts = None
    if external is None:
        _detach(store)
    else:
        parts = _attached(store, external, clock.now)
    return Uploading(parts, clock=clock, cache_bytes_max=cache_bytes_max, lacking=lacking)


def _detach(store: Store) -> None:
    path = store.layout.catalog
    store.blobs.outside = None
    if path.exists():
        try:
            catalog = Catalog(path)
        except BackupPathRefused as error:
            log.error("catalog_moved_aside", reason=error.message, to=str(_move_aside(path)))
            return
        catalog.use("")
        catalog.close()


def _attached(store: Store, external: External, now: Callable[[], datetime]) -> UploadingParts:
    path = store.layout.catalog
    try:
        catalog = Catalog(path)
    except BackupPathRefused as error:
        log.error("catalog_moved_aside", reason=error.message, to=str(_move_aside(path)))
        catalog = Catalog(path)
    counted = CountingVolume(external.volume)
    outside = BlobsOutside(catalog, msgspec.structs.replace(external, volume=counted), now=now)
    cache = Cache(store.layout.root)
    sender = Sender(outside, cache, now=now, level=lambda: store.blobs.level)
    store.blobs.outside = outside
    return UploadingParts(
        outside=outside,
        upload=Upload(outside, cache, sender, now=now),
        counted=counted,
    )


def _move_aside(path: Path) -> Path:
    """Move a catalog that can't be used out of the way, with what SQLite keeps beside it."""
    place = 1
    while (aside := path.with_name(f"{path.name}.damaged-{place}")).exists():
        place += 1
    for ending in ("", "-wal", "-shm", DAMAGE_ENDING):
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.replace(path.with_name(aside.name + ending))
    return aside
