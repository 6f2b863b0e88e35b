"""Copying every content to another volume, each verified where it came from and where it went.

The volume in use stays in use: what comes meanwhile goes there too. What was copied is in the catalog under
the other volume's identity, so that a migration that is given again goes on where it was. It is complete when
nothing that is here or on the volume in use is missing there; only then may the volume be switched, which is
left to the caller. The source stays as it is.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime

import msgspec
import structlog

from backupd.durable import step
from backupd.errors import BlobMissing, CorruptBlob, VolumeError
from backupd.operations import Run, Verdict
from backupd.store.beyond import Staged
from backupd.store.blob_reading import open_verified
from backupd.store.blobs import Blobs
from backupd.store.layout import blob_name, pack_name
from backupd.store.outside.catalog import Catalog
from backupd.store.outside.objects import Intent, IntentKind, Objects
from backupd.store.outside.reading import External
from backupd.store.outside.rebuilding import lose_vanished
from backupd.store.packs import PACK_BYTES, PACKED_BYTES_MAX, PackBuilder, Packed

THREADS_MAX = 64
STAGED_BYTES_MAX = 64 << 20
BATCH_BYTES = PACK_BYTES // 2
"""Each thread holds as much: packed together it is less, and still a pack that stays."""
BATCH_CONTENTS_MAX = 10_000
_CHUNK_BYTES = 1 << 20

log = structlog.get_logger(__name__)


class Tally(msgspec.Struct):
    """What a migration did."""

    copied: int = 0
    bytes: int = 0
    there: int = 0
    failed: int = 0

    def verdict(self, target: str, source: str, *, switched: bool) -> Verdict:
        """Return the counted sentence."""
        whole = "complete" if not self.failed else f"{self.failed:,} contents could not be copied"
        use = f"; {target} is in use now, {source} stays as it is" if switched else f"; {source} stays in use"
        return Verdict(
            sentence=f"{self.copied:,} contents ({self.bytes:,} bytes) copied to {target} and verified, "
            f"{self.there:,} were there already, {whole}{use}",
            counts={
                "copied": self.copied,
                "bytes": self.bytes,
                "already_there": self.there,
                "failed": self.failed,
            },
            successful=not self.failed,
        )


class Migration:
    """Copies to an external volume. Blocks."""

    def __init__(
        self,
        blobs: Blobs,
        catalog: Catalog,
        target: External,
        *,
        now: Callable[[], datetime],
        threads: int = 10,
    ) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._target = target
        self._number = catalog.number_of(target.identity)
        self._objects = Objects(catalog, self._number)
        self._now = now
        self._threads = max(1, min(threads, THREADS_MAX))
        self._counting = threading.Lock()
        self.tally = Tally()

    def run(self, run: Run, total: int | None = None) -> Tally:
        """Copy what is missing; return the counts. Raises `OperationStopped`, `VolumeError`.

        A content that can't be read is noted as an error of the run, and is not copied.
        """
        self._settle()
        # Nobody watched the place since an earlier migration: what was copied may be gone again.
        vanished = lose_vanished(self._objects, self._target.volume, run.check)
        if vanished:
            log.warning("copied_contents_vanished", contents=vanished, volume=self._target.title)
        pending: set[Future[None]] = set()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="migrate") as pool:
            try:
                for batch in self._batches():
                    run.check()
                    pending.add(pool.submit(self._copy, run, batch))
                    if len(pending) > self._threads:
                        done, pending = wait(pending, return_when=FIRST_COMPLETED)
                        for future in done:
                            future.result()
                    run.report(self.tally.copied + self.tally.there, total, unit="contents")
                for future in pending:
                    future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return self.tally

    def _settle(self) -> None:
        """Remove what an earlier migration may have left unconfirmed: it is copied again."""
        for intent in self._objects.intents(self._now()):
            if not self._objects.is_known(intent.name):
                self._remove(intent.name)
            self._objects.drop_intent(intent.name)

    def _remove(self, name: str) -> None:
        """Remove an object; one that is retained, or not this key's to remove, stays and harms nothing."""
        try:
            self._target.volume.delete(name)
        except VolumeError as error:
            if not error.permanent:
                raise
            log.warning("object_stays", object=name, reason=error.message)

    def _batches(self) -> Iterator[list[str]]:
        """Yield digests that go together: enough for a pack that no purge would find small."""
        batch: list[str] = []
        size = 0
        for digest in self._blobs.digests():
            if self._catalog.locate(digest, self._number) is not None:
                self.tally.there += 1
                continue
            try:
                stored = self._blobs.stored_size(digest)
            except BlobMissing:
                continue  # it was purged meanwhile
            batch.append(digest)
            size += stored
            if size >= BATCH_BYTES or len(batch) >= BATCH_CONTENTS_MAX:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _copy(self, run: Run, digests: Sequence[str]) -> None:
        builder = PackBuilder(level=self._blobs.level)
        for digest in digests:
            run.check()
            try:
                content = self._small_content(digest)
                if content is None:
                    self._copy_single(digest)
                    continue
            except (BlobMissing, CorruptBlob) as error:
                run.note_error(digest, error.message)
                with self._counting:
                    self.tally.failed += 1
                continue
            builder.add(digest, content)
            if builder.is_full:
                self._place(builder.finish())
                builder = PackBuilder(level=self._blobs.level)
        if len(builder):
            self._place(builder.finish())

    def _small_content(self, digest: str) -> bytes | None:
        """Return a content that goes into a pack, verified; None for one that is an object of its own."""
        if not self._target.is_remote or self._blobs.stored_size(digest) > PACKED_BYTES_MAX:
            return None
        with self._blobs.open(digest) as file:
            content = file.read(PACKED_BYTES_MAX + 1)
            return content if len(content) <= PACKED_BYTES_MAX and not file.read(1) else None

    def _place(self, pack: Packed) -> None:
        name = pack_name(f"{self._now():%Y%m%dT%H%M%S}-{secrets.token_hex(8)}")
        intent = Intent(name, IntentKind.PACK, pack.sha256, len(pack.content))
        self._objects.intend([intent])
        step("migrate.put")
        self._target.volume.put(name, pack.content)
        found = hashlib.sha256()
        with self._target.volume.get(name) as file:
            while chunk := file.read(_CHUNK_BYTES):
                found.update(chunk)
        if found.digest() != pack.sha256:
            raise self._wrong(name)
        step("migrate.read_back")
        self._objects.confirm_pack(intent, pack.places, self._now(), adopt=True)
        with self._counting:
            self.tally.copied += len(pack.places)
            self.tally.bytes += len(pack.content)

    def _copy_single(self, digest: str) -> None:
        name = blob_name(digest)
        self._objects.intend([Intent(name, IntentKind.SINGLE)])
        with self._blobs.stored(digest) as (file, file_bytes):
            step("migrate.put")
            is_new = self._target.volume.put(name, file)
        stored = file_bytes if is_new else self._target.volume.size(name)
        size = 0
        try:
            with open_verified(self._target.volume.get(name), digest, name, None, stored=stored) as content:
                while chunk := content.read(_CHUNK_BYTES):
                    size += len(chunk)
        except CorruptBlob as error:
            raise self._wrong(name) from error
        step("migrate.read_back")
        self._objects.confirm_single(name, digest, size, stored, self._now(), adopt=True)
        with self._counting:
            self.tally.copied += 1
            self.tally.bytes += stored

    def _wrong(self, name: str) -> VolumeError:
        self._remove(name)
        self._objects.drop_intent(name)
        return VolumeError(
            f"{self._target.title}/{name} is not what was sent",
            hint="give the migration again; if this goes on, the store or the way to it damages contents",
        )


class FetchedBack:
    """Copies every content that rests outside into the Backup Path. Blocks."""

    def __init__(self, blobs: Blobs, local: Blobs) -> None:
        """Take the blobs as they are, and those of the Backup Path alone."""
        self._blobs = blobs
        self._local = local
        self.tally = Tally()

    def run(self, run: Run, total: int | None = None) -> Tally:
        """Fetch what is missing here. Raises `OperationStopped`, `VolumeError`, `SpaceExhausted`."""
        staged: list[Staged] = []
        staged_bytes = 0
        try:
            for digest in self._blobs.digests():
                run.check()
                run.report(self.tally.copied + self.tally.there, total, unit="contents")
                if self._local.contains(digest):
                    self.tally.there += 1
                    continue
                try:
                    with self._blobs.open(digest) as content:
                        staged.append(self._local.stage(content))
                except (BlobMissing, CorruptBlob) as error:
                    run.note_error(digest, error.message)
                    self.tally.failed += 1
                    continue
                staged_bytes += staged[-1].stored_size
                if staged_bytes >= STAGED_BYTES_MAX:
                    self._commit(staged)
                    staged_bytes = 0
            self._commit(staged)
        except BaseException:
            self._local.discard(staged)
            raise
        return self.tally

    def _commit(self, staged: list[Staged]) -> None:
        self._local.commit(staged)
        self.tally.copied += len(staged)
        self.tally.bytes += sum(one.stored_size for one in staged)
        staged.clear()
