"""Operations on volumes: migration to another one, retrieval of metadata, and the list of what is lost.

A migration copies, verifies, and switches only when everything is there: by the same setting that
`setBackupVolume` makes. Credentials given for a retrieval are kept in memory alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from backupd import volume_choice
from backupd.buckets import Bucket, StoreType, made
from backupd.clock import Clock
from backupd.errors import UsageError, VolumeError
from backupd.jobs.metadata import MetadataUpload, Retrieval
from backupd.jobs.migrate import FetchedBack, LostContents, Migration, Tally
from backupd.operations import Operation, Run, Verdict, Work
from backupd.store.blobs import Blobs
from backupd.store.outside.catalog import Catalog
from backupd.store.outside.reading import BlobsOutside, External
from backupd.store.outside.rebuilding import rebuild
from backupd.store.store import Store
from backupd.volume_choice import BucketChoice, DefaultChoice, LocalChoice, VolumeChoice, described
from backupd.volumes import chosen, key_folder
from backupd.volumes.base import Volume
from backupd.volumes.chosen import ChosenVolume
from backupd.volumes.local import LocalVolume
from backupd.volumes.mounted import MountedVolume
from daemon.external_volume import ExternalVolumes
from daemon.operations_queue import Factory
from daemon.own_thread import in_own_thread

MIGRATION = "migrateBackupVolume"
GIVEN_BUCKET = "00000000-0000-4000-8000-000000000001"
"""Stands for a bucket that was described in a command and is not configured."""
CREDENTIALS = "credentials"
"""Parameter of a queued retrieval: under which token its credentials are in memory."""


class VolumeWorks:
    """Factories of the queue; `switch` makes a choice the one in force, from any thread."""

    def __init__(
        self,
        *,
        store: Store,
        volumes: ExternalVolumes,
        outside: BlobsOutside | None,
        recorded_through: Callable[[], int],
        switch: Callable[[VolumeChoice], None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._volumes = volumes
        self._outside = outside
        self._recorded_through = recorded_through
        self._switch = switch
        self._clock = clock
        self.given_buckets: dict[str, Bucket] = {}
        """Buckets that were described with a retrieval, by token."""

    def factories(self) -> dict[str, Factory]:
        """Return a factory for each type of operation."""
        table: dict[str, Factory] = {
            "migrateBackupVolume Default": self._migrate_home,
            "migrateBackupVolume Local": self._migration(self._local),
            "retrieveMetadataFromArchive Local": self._retrieve_local,
            "retrieveMetadataFromArchive S3": self._retrieve_bucket,
            "doListLostContents": self._list_lost,
        }
        for kind in StoreType:
            table[f"migrateBackupVolume {kind.value}"] = self._migration(partial(self._bucket, kind))
        return table

    def _local(self, given: Mapping[str, Any]) -> VolumeChoice:
        return volume_choice.local_choice(given["path"], encrypted=self._volumes.encrypts)

    def _bucket(self, kind: StoreType, given: Mapping[str, Any]) -> VolumeChoice:
        return bucket_choice(kind, given, encrypted=self._volumes.encrypts)

    # ---------------------------------------------------------------- migration

    def _migration(self, choose: Callable[[Mapping[str, Any]], VolumeChoice]) -> Factory:
        def factory(operation: Operation) -> Work:
            given = operation.parameters

            async def work(run: Run) -> Verdict:
                return await in_own_thread(
                    lambda: self._migrate(run, choose(given), int(given.get("threads") or 10)),
                    name="migration",
                )

            return work

        return factory

    def _migrate(self, run: Run, choice: VolumeChoice, threads: int) -> Verdict:
        before = self._volumes.choice()
        opened = self._open(choice)
        choice = self._claimed(opened, choice)
        if self._outside is not None and opened.identity == self._outside.external.identity:
            raise UsageError(
                f"{opened.title} is the volume in use already", hint="name another one to migrate to"
            )
        copied = self._copied(run, opened, threads)
        if copied.failed:
            return copied.verdict(opened.title, described(before), switched=False)
        archived = MetadataUpload(
            self._store,
            opened.volume,
            volume_id=opened.identity,
            clock=self._clock,
            recorded_through=self._recorded_through,
        ).archive(run)
        if archived.failed:
            return msgspec.structs.replace(
                copied.verdict(opened.title, described(before), switched=False),
                sentence=f"{archived.sentence()}; {described(before)} stays in use",
                successful=False,
            )
        with self._nothing_leaving() as chosen_now:
            # What came meanwhile may have gone to the volume in use, and out of the cache.
            last = self._copied(run, opened, threads)
            copied = msgspec.structs.replace(
                copied,
                copied=copied.copied + last.copied,
                bytes=copied.bytes + last.bytes,
                failed=last.failed,
            )
            if not copied.failed:
                self._switch(choice)
                chosen_now()
        verdict = copied.verdict(opened.title, described(before), switched=not copied.failed)
        return msgspec.structs.replace(verdict, sentence=f"{verdict.sentence}; {archived.sentence()}")

    def _copied(self, run: Run, opened: ChosenVolume, threads: int) -> Tally:
        catalog, is_own = self._catalog()
        try:
            target = _external(opened)
            migration = Migration(self._store.blobs, catalog, target, now=self._clock.now, threads=threads)
            return migration.run(run, self._store.index.counts().blobs)
        finally:
            if is_own:
                catalog.close()

    @contextmanager
    def _nothing_leaving(self) -> Iterator[Callable[[], None]]:
        """Let the cache keep everything; once another volume was chosen, until the lifetime ends."""
        outside, is_chosen = self._outside, False

        def chosen_now() -> None:
            nonlocal is_chosen
            is_chosen = True

        if outside is not None:
            outside.keep_all()
        try:
            yield chosen_now
        finally:
            if outside is not None and not is_chosen:
                outside.evict_again()

    def _claimed(self, opened: ChosenVolume, choice: VolumeChoice) -> VolumeChoice:
        return claimed(self._store, opened, choice, self._clock, self._volumes.mail_root)

    def _open(self, choice: VolumeChoice) -> ChosenVolume:
        opened = self._volumes.open(choice, server_id=self._store.identity.server)
        assert opened is not None
        return opened

    def _catalog(self) -> tuple[Catalog, bool]:
        if self._outside is not None:
            return self._outside.catalog, False
        return Catalog(self._store.layout.catalog), True

    def _migrate_home(self, _operation: Operation) -> Work:
        async def work(run: Run) -> Verdict:
            return await in_own_thread(lambda: self._fetch_back(run), name="migration")

        return work

    def _fetch_back(self, run: Run) -> Verdict:
        before = self._volumes.choice()
        if isinstance(before, DefaultChoice):
            raise UsageError("everything is on the Backup Path already", hint="there is nothing to migrate")
        blobs = self._store.blobs
        local = Blobs(LocalVolume(self._store.layout.root), level=blobs.level)
        with self._nothing_leaving() as chosen_now:
            tally = FetchedBack(blobs, local).run(run, self._store.index.counts().blobs)
            if not tally.failed:
                self._switch(DefaultChoice())
                chosen_now()
        return tally.verdict("the Backup Path", described(before), switched=not tally.failed)

    # ---------------------------------------------------------------- retrieval

    def _retrieve_local(self, operation: Operation) -> Work:
        given = operation.parameters

        async def work(run: Run) -> Verdict:
            def retrieve() -> Verdict:
                marker = MountedVolume(Path(given["source"]), server_id=None).marker()
                choice = volume_choice.local_choice(given["source"], volume_id=marker.volume_id)
                opened = self._volumes.open(choice, server_id=None)
                assert opened is not None
                return self._retrieve(run, self._readable(opened, choice), given)

            return await in_own_thread(retrieve, name="retrieval")

        return work

    def _retrieve_bucket(self, operation: Operation) -> Work:
        given = operation.parameters

        async def work(run: Run) -> Verdict:
            return await in_own_thread(lambda: self._retrieve_from_bucket(run, given), name="retrieval")

        return work

    def _retrieve_from_bucket(self, run: Run, given: Mapping[str, Any]) -> Verdict:
        choice, buckets = self._bucket_meant(given)
        around = self._volumes.open(choice, server_id=None, buckets=buckets)
        assert around is not None
        server = chosen.the_server(chosen.servers_at(around.bare), given.get("server_id"))
        prefix = "/".join(part for part in (choice.volume_prefix, server) if part)
        choice = msgspec.structs.replace(choice, volume_prefix=prefix)
        opened = self._volumes.open(choice, server_id=None, buckets=buckets)
        assert opened is not None
        return self._retrieve(run, self._readable(opened, choice, buckets), given)

    def _bucket_meant(self, given: Mapping[str, Any]) -> tuple[BucketChoice, tuple[Bucket, ...]]:
        """Return the bucket that a command names, describes, or that is in use."""
        prefix = given.get("volume_prefix") or ""
        token = given.get(CREDENTIALS)
        if token is not None:
            bucket = self.given_buckets.get(token)
            if bucket is None:
                raise UsageError(
                    "the credentials of this operation are gone with the daemon's start",
                    hint="give the command again",
                )
            return volume_choice.bucket_choice(bucket.store_type.value, bucket.uuid, volume_prefix=prefix), (
                bucket,
            )
        buckets = self._volumes.buckets()
        wanted = given.get("bucket_configuration_id")
        if wanted is None:
            current = self._volumes.choice()
            if not isinstance(current, BucketChoice):
                raise UsageError(
                    "no bucket is in use here", hint="give bucket_configuration_id, or describe the bucket"
                )
            wanted, prefix = current.bucket_id, prefix or current.volume_prefix
        found = next((one for one in buckets if one.uuid == wanted), None)
        if found is None:
            raise UsageError(f"no bucket configuration {wanted}", hint="core listBuckets all lists them")
        return volume_choice.bucket_choice(found.store_type.value, found.uuid, volume_prefix=prefix), buckets

    def _readable(
        self, opened: ChosenVolume, choice: VolumeChoice, buckets: tuple[Bucket, ...] | None = None
    ) -> ChosenVolume:
        """Return the volume with encryption around it where what rests there is encrypted."""
        if not key_folder.is_encrypted(opened.bare) or isinstance(choice, DefaultChoice):
            return opened
        sealed = msgspec.structs.replace(choice, encrypted=True)
        found = self._volumes.open(sealed, server_id=None, buckets=buckets)
        assert found is not None
        return found

    def _retrieve(self, run: Run, opened: ChosenVolume, given: Mapping[str, Any]) -> Verdict:
        destination = Path(given["destination"]).resolve()
        own = self._store.layout.root
        for other in (own, self._volumes.mail_root.resolve()):
            if destination != own and destination.is_relative_to(other):
                raise UsageError(f"{destination} lies in {other}", hint="give a directory of its own")

        def rebuild_catalog(volume: Volume, root: Path, within: Run) -> int:
            return catalog_of(opened, volume, root, within, self._clock)

        retrieval = Retrieval(
            opened.volume,
            Path(given["destination"]),
            clock=self._clock,
            rebuild_catalog=rebuild_catalog,
            threads=int(given.get("threads") or 10),
        )
        return retrieval.run(run)

    def _list_lost(self, _operation: Operation) -> Work:
        async def work(run: Run) -> Verdict:
            return await in_own_thread(lambda: self._lost(run), name="lost contents")

        return work

    def _lost(self, run: Run) -> Verdict:
        """List the volume first: what the catalog believes to be there may be gone."""
        outside, doubt = self._store.blobs.outside, ""
        if isinstance(outside, BlobsOutside):
            try:
                rebuild(outside, run, now=self._clock.now)
            except VolumeError as error:
                doubt = error.message
        return LostContents(self._store).run(run, self._clock.now(), doubt=doubt)


def bucket_choice(kind: StoreType, given: Mapping[str, Any], *, encrypted: bool) -> BucketChoice:
    """Return the choice that a command's parameters mean. Raises `UsageError`."""
    return volume_choice.bucket_choice(
        kind.value,
        given["bucket_configuration_id"],
        volume_prefix=given.get("volume_prefix") or "",
        use_infrequent_access=bool(given.get("use_infrequent_access")),
        infrequent_access_threshold=given.get("infrequent_access_threshold"),
        use_intelligent_tiering=bool(given.get("use_intelligent_tiering")),
        encrypted=encrypted,
    )


def described_bucket(given: Mapping[str, Any]) -> Bucket | None:
    """Return the bucket that a retrieval describes, None where it names one. Raises `UsageError`."""
    fields = ("bucket_name", "access_key", "secret", "secret_file", "region", "url", "prefix")
    said = {name: given.get(name) for name in fields if given.get(name)}
    if not said:
        return None
    if given.get("bucket_configuration_id"):
        raise UsageError(
            "a bucket is named and described at once", hint="give bucket_configuration_id or bucket_name"
        )
    kind = StoreType.CUSTOM_S3 if said.get("url") else StoreType.S3
    return made(GIVEN_BUCKET, kind, {"label": "given", **said})


def claimed(
    store: Store, opened: ChosenVolume, choice: VolumeChoice, clock: Clock, mail_root: Path
) -> VolumeChoice:
    """Make the place of a volume this server's. Raises `VolumeError` where it must not be used; blocks."""
    identity = store.identity
    if isinstance(choice, LocalChoice):
        _check_apart(Path(choice.path), {store.layout.root: "the Backup Path", mail_root: "the mail"})
    choice = chosen.claim(opened, choice, server_id=identity.server, name=identity.name, now=clock.now())
    if not opened.is_encrypted and key_folder.is_encrypted(opened.bare):
        raise VolumeError(
            f"what rests on {opened.title} is encrypted, and encryption is off: new contents would lie "
            "beside it in clear",
            permanent=True,
            hint="turn it on: config set server NAME backupVolumeEncryption true; or to end encryption, "
            "migrate to another path, bucket or volume_prefix",
        )
    MetadataUpload.check_place(opened.volume, store.identity)
    return choice


def _check_apart(path: Path, others: Mapping[Path, str]) -> None:
    """Raise `VolumeError` for a path that is inside another one, or around it."""
    place = path.resolve()
    for other, name in others.items():
        if place.is_relative_to(other.resolve()) or other.resolve().is_relative_to(place):
            raise VolumeError(
                f"{path} and {name}, {other}, lie in each other: what takes one takes the other too",
                permanent=True,
                hint="give a directory of another disk or of a NAS",
                path=str(path),
            )


def catalog_of(opened: ChosenVolume, volume: Volume, root: Path, run: Run, clock: Clock) -> int:
    """Build the catalog of a retrieved Backup Path; return how many contents rest outside. Blocks."""
    external = msgspec.structs.replace(_external(opened), volume=volume)
    catalog = Catalog(root / "volume.sqlite")
    try:
        outside = BlobsOutside(catalog, external, now=clock.now)
        rebuild(outside, run, now=clock.now)
        return sum(1 for _ in catalog.digests())
    finally:
        catalog.close()


def _external(opened: ChosenVolume) -> External:
    return External(
        identity=opened.identity, title=opened.title, volume=opened.volume, is_remote=opened.is_remote
    )
