"""Blob archives: contents of another Backup Path that rest on an external volume, for restores from there.

Where each one rests is told by the catalog of that Backup Path, of which a copy is used, so that nothing is
written there; every content is verified by its digest as it is read.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

import msgspec

from backupd import volume_choice
from backupd.clock import Clock
from backupd.errors import UsageError
from backupd.store.layout import Layout
from backupd.store.outside.catalog import Catalog
from backupd.store.outside.reading import BlobsOutside, External
from backupd.volumes import chosen, key_folder
from backupd.volumes.chosen import ChosenVolume
from backupd.volumes.mounted import MountedVolume
from daemon.external_volume import ExternalVolumes


class BlobArchive:
    """An open archive; `close` ends its requests and removes the copy of the catalog."""

    def __init__(self, outside: BlobsOutside, opened: ChosenVolume, place: Path) -> None:
        self._outside = outside
        self._opened = opened
        self._place = place

    def open(self, digest: str, bytes_max: int | None) -> BinaryIO:
        """Open a content, verified. Raises `BlobMissing`, `CorruptBlob`, `VolumeError`."""
        return self._outside.open(digest, bytes_max)

    def close(self) -> None:
        """Close it; blocks."""
        self._opened.close()
        self._outside.catalog.close()
        shutil.rmtree(self._place, ignore_errors=True)


def open_archive(
    volumes: ExternalVolumes, wanted: str, source: Path, *, clock: Clock, parent: Path
) -> BlobArchive:
    """Open what a command names, a bucket configuration's id or a path, for a Backup Path. Blocks.

    Raises `UsageError` where it can't be that, `ConfigError`, `VolumeError`, `OSError`.
    """
    path = Layout(source).catalog
    if not path.is_file() or path.is_symlink():
        raise UsageError(
            f"{source} knows no external volume: it has no {path.name}",
            hint="retrieveMetadataFromArchive builds a Backup Path that does; else leave blobs_archive out",
        )
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="archive-", dir=parent))
    try:
        for ending in ("", "-wal"):
            beside = path.with_name(path.name + ending)
            if beside.is_file() and not beside.is_symlink():
                shutil.copyfile(beside, place / beside.name)
        catalog = Catalog(place / path.name)
        identity = catalog.current_identity()
        opened = _opened(volumes, wanted, identity)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    external = External(
        identity=identity, title=opened.title, volume=opened.volume, is_remote=opened.is_remote
    )
    return BlobArchive(BlobsOutside(catalog, external, now=clock.now), opened, place)


def _opened(volumes: ExternalVolumes, wanted: str, identity: str) -> ChosenVolume:
    choice: volume_choice.VolumeChoice
    if wanted.startswith("/"):
        marker = MountedVolume(Path(wanted), server_id=None).marker()
        choice = volume_choice.local_choice(wanted, volume_id=marker.volume_id)
    else:
        buckets = volumes.buckets()
        bucket = next((one for one in buckets if one.uuid == wanted), None)
        if bucket is None:
            raise UsageError(
                f"{wanted!r} is no bucket configuration and no path", hint="core listBuckets all lists them"
            )
        bare = volume_choice.bucket_choice(bucket.store_type.value, bucket.uuid)
        base = f"bucket:{chosen.settings_of(bare, bucket, '').place}/"
        # A store may be reached under another name today: then the server's own level is what is left.
        rest = identity.removeprefix(base) if identity.startswith(base) else identity.rpartition("/")[2]
        choice = msgspec.structs.replace(bare, volume_prefix=rest)
    opened = volumes.open(choice, server_id=None)
    assert opened is not None
    if key_folder.is_encrypted(opened.bare):
        opened = volumes.open(msgspec.structs.replace(choice, encrypted=True), server_id=None)
        assert opened is not None
    return opened
