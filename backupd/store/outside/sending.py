"""Sending: how an object comes to be on the external volume, confirmed, whatever ends the process meanwhile.

The order: intent, put, read back, confirm. An object is confirmed in one transaction, after it was read back
from the volume whole: a pack must have the SHA-256 it was made with, a single object the digest of its name.
`settle` looks at intents that were left: an object that is there and right is adopted, one that is wrong is
removed, one that is not there is looked for once more later, for a request whose reply was lost may still be
carried out. So no content ever lives in two objects.

A blob that is damaged in the Backup Path is set aside with the reason and stops nobody, and neither does an
object that is wrong and may not be removed. What else the volume raises goes to the caller; everything can be
tried again.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog

from backupd import durable
from backupd.errors import BlobMissing, CorruptBlob, VolumeError
from backupd.items import is_digest
from backupd.store.blob_reading import open_verified
from backupd.store.layout import blob_name, pack_name
from backupd.store.outside.cache import Cache
from backupd.store.outside.catalog import Queued
from backupd.store.outside.objects import Intent, IntentKind, Objects
from backupd.store.outside.reading import BlobsOutside
from backupd.store.packs import PACKED_BYTES_MAX, CorruptPack, PackBuilder, Packed, places_of
from backupd.volumes.base import NameMissing, ObjectDamaged

LATE_AFTER = timedelta(hours=1)
"""After so long no lost request is carried out any more."""
SINGLES_AT_ONCE = 4
_CHUNK_BYTES = 1 << 20
PACK_READ_BYTES_MAX = 32 << 20

log = structlog.get_logger(__name__)


class Sender:
    """Puts blobs of the cache on the volume. One thread at a time, which holds `BlobsOutside.hand`."""

    def __init__(
        self,
        outside: BlobsOutside,
        cache: Cache,
        *,
        now: Callable[[], datetime],
        level: Callable[[], int] = lambda: 3,
    ) -> None:
        self._outside = outside
        self._cache = cache
        self._now = now
        self._level = level
        self._catalog = outside.catalog
        self._volume = outside.external.volume
        self.objects = Objects(outside.catalog, outside.catalog.number_of(outside.external.identity))

    def settle(self) -> int:
        """Look at what may be on the volume unconfirmed; return how many objects were adopted or removed.

        Raises as the volume does; what was settled before stays so.
        """
        settled = 0
        for intent in self.objects.intents(self._now()):
            match intent.kind:
                case IntentKind.ABANDONED:
                    settled += self._remove_late(intent.name)
                case IntentKind.SINGLE:
                    self._settle_single(intent.name)
                case _:
                    settled += self._settle_pack(intent)
        return settled

    def send_pack(self, queued: Sequence[Queued]) -> list[Queued]:
        """Send as many of these as a pack takes, in order; return what is confirmed."""
        builder = PackBuilder(level=self._level())
        for one in queued:
            content = self._content(one.digest)
            if content is not None:
                builder.add(one.digest, content)
            if builder.is_full:
                break
        if not len(builder):
            return []
        return self.place_pack(builder.finish(), IntentKind.PACK)

    def place_pack(self, pack: Packed, kind: IntentKind) -> list[Queued]:
        """Put a pack, read it back, confirm it; return what of the queue it answers for."""
        name = pack_name(f"{self._now():%Y%m%dT%H%M%S}-{secrets.token_hex(8)}")
        intent = Intent(name, kind, pack.sha256, len(pack.content))
        durable.step("sending.intend")
        self.objects.intend([intent])
        durable.step("sending.put")
        self._volume.put(name, pack.content)
        durable.step("sending.put_done")
        self._read_back(intent)
        durable.step("sending.read_back")
        done = self.objects.confirm_pack(intent, pack.places, self._now())
        durable.step("sending.confirmed")
        return done

    def send_singles(self, queued: Sequence[Queued]) -> list[Queued]:
        """Send these, each as an object of its own; return what is confirmed.

        Raises the first error after all were tried.
        """
        durable.step("sending.intend")
        self.objects.intend([Intent(blob_name(one.digest), IntentKind.SINGLE) for one in queued])
        done: list[Queued] = []
        errors: list[BaseException] = []
        sizes: list[tuple[Queued, int]] = []
        for one, outcome in self._put_singles(queued):
            if isinstance(outcome, BaseException):
                errors.append(outcome)
            elif outcome is None:
                self.objects.drop_intent(blob_name(one.digest))
            else:
                sizes.append((one, outcome))
        durable.step("sending.read_back")
        with self._catalog.transaction():
            for one, stored in sizes:
                name = blob_name(one.digest)
                done += self.objects.confirm_single(name, one.digest, one.size, stored, self._now())
        durable.step("sending.confirmed")
        if errors:
            raise errors[0]
        return done

    # ------------------------------------------------------------------- within

    def _content(self, digest: str) -> bytes | None:
        """Return a content for a pack; None where it can't be had, which the catalog then knows."""
        try:
            return self._cache.content(digest, PACKED_BYTES_MAX)
        except BlobMissing:
            self._catalog.unqueue(digest)
        except CorruptBlob as error:
            self._set_aside(digest, error)
        return None

    def _put_singles(self, queued: Sequence[Queued]) -> list[tuple[Queued, int | BaseException | None]]:
        """Put these, a few at a time, in threads that nobody waits for when the process ends."""
        rest = iter(queued)
        taking = threading.Lock()
        outcomes: list[tuple[Queued, int | BaseException | None]] = []

        def work() -> None:
            while True:
                with taking:
                    one = next(rest, None)
                if one is None:
                    return
                try:
                    outcome: int | BaseException | None = self._put_single(one.digest)
                except BaseException as error:  # noqa: BLE001 - the caller raises it
                    outcome = error
                outcomes.append((one, outcome))

        workers = [
            threading.Thread(target=work, name="sending", daemon=True)
            for _ in range(min(SINGLES_AT_ONCE, len(queued)))
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        order = {one.digest: place for place, one in enumerate(queued)}
        return sorted(outcomes, key=lambda pair: order[pair[0].digest])

    def _put_single(self, digest: str) -> int | None:
        """Put a blob file and read it back; return its bytes outside, None if it can't be had here."""
        name = blob_name(digest)
        try:
            stored = self._cache.verify(digest)
            file, _ = self._cache.file(digest)
        except BlobMissing:
            self._catalog.unqueue(digest)
            return None
        except CorruptBlob as error:
            self._set_aside(digest, error)
            return None
        try:
            with file:
                durable.step("sending.put")
                if not self._volume.put(name, file):
                    stored = self._volume.size(name)
            durable.step("sending.put_done")
            with open_verified(self._volume.get(name), digest, name, None, stored=stored) as content:
                while content.read(_CHUNK_BYTES):
                    pass
        except (CorruptBlob, ObjectDamaged) as error:
            if not self._remove_wrong(name, error.message):
                # Its name is taken: it would be found there again and again, and those behind it would wait.
                self._catalog.set_trouble(
                    digest, f"{name} on {self._outside.external.title} is wrong and can't be removed"
                )
            raise self._wrong(name, error.message) from error
        return stored

    def _set_aside(self, digest: str, error: CorruptBlob) -> None:
        log.error("blob_not_sent", digest=digest, reason=error.message)
        self._catalog.set_trouble(digest, error.message)

    def _read_back(self, intent: Intent) -> None:
        """Raise `VolumeError` unless an object is on the volume as it was made; a wrong one is removed."""
        found = hashlib.sha256()
        length = 0
        reason = ""
        try:
            with self._volume.get(intent.name) as file:
                while length <= intent.bytes and (chunk := file.read(_CHUNK_BYTES)):
                    found.update(chunk)
                    length += len(chunk)
        except ObjectDamaged as error:
            reason = error.message
        if length != intent.bytes or found.digest() != intent.sha256:
            reason = reason or f"{length} of {intent.bytes} bytes, or other ones, were read back"
            self._remove_wrong(intent.name, reason)
            raise self._wrong(intent.name, reason)

    def _remove_wrong(self, name: str, reason: str) -> bool:
        """Remove an object that is not what was sent; tell whether it could be."""
        log.error("object_read_back_wrong", object=name, reason=reason)
        was_there = self._removed(name)
        self.objects.abandon(name, self._now() + LATE_AFTER)
        return was_there is not None

    def _removed(self, name: str) -> bool | None:
        """Remove an object; tell whether it was there, None where its removal is refused.

        That is so while its retention lasts, and for a key that may only write.
        """
        try:
            return self._volume.delete(name)
        except VolumeError as error:
            if not error.permanent:
                raise
            log.warning("object_stays", object=name, reason=error.message)
            return None

    def _wrong(self, name: str, reason: str) -> VolumeError:
        return VolumeError(
            f"{self._outside.external.title}/{name} is not what was sent: {reason}",
            hint="it is sent again by itself; if this goes on, the store or the way to it damages contents",
        )

    def _settle_pack(self, intent: Intent) -> bool:
        try:
            with self._volume.get(intent.name) as file:
                content = file.read(min(intent.bytes, PACK_READ_BYTES_MAX) + 1)
        except NameMissing:
            self.objects.abandon(intent.name, self._now() + LATE_AFTER)
            return False
        except ObjectDamaged as error:
            self._remove_wrong(intent.name, error.message)
            return True
        if hashlib.sha256(content).digest() != intent.sha256:
            self._remove_wrong(
                intent.name, f"{len(content)} of {intent.bytes} bytes, or other ones, are there"
            )
            return True
        try:
            places = places_of(content)
        except CorruptPack as error:
            self._remove_wrong(intent.name, error.message)
            return True
        self.objects.confirm_pack(intent, places, self._now())
        log.info("pack_adopted", object=intent.name, contents=len(places))
        return True

    def _settle_single(self, name: str) -> None:
        """Leave what is known, or waits and is put again; what nobody wants is removed later."""
        digest = name.rpartition("/")[2]
        waits = is_digest(digest) and self._catalog.waits(digest)
        if waits or self.objects.is_known(name):
            self.objects.drop_intent(name)
        else:
            self.objects.abandon(name, self._now())

    def _remove_late(self, name: str) -> bool:
        """Remove what came late, unless it is known; what can't be removed yet is tried again later."""
        was_there: bool | None = False
        if not self.objects.is_known(name):
            was_there = self._removed(name)
        if was_there is None:
            self.objects.abandon(name, self._now() + LATE_AFTER)
            return False
        if was_there:
            log.info("late_object_removed", object=name)
        self.objects.drop_intent(name)
        return was_there
