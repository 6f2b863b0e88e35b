"""Rebuilding: the catalog from the volume alone, for a new machine or after the catalog was lost.

Packs tell by their index what is in them, a single object by its name. What is in the catalog already stays;
a content that rests twice lives in the first object and is dead in the other; an object of the catalog that
is not on the volume is taken out, and what was lost with it is counted and listed. It may be done at any
time, again after a crash, and beside uploads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

import msgspec
import structlog

from backupd.errors import CorruptBlob
from backupd.items import is_digest
from backupd.operations import Run
from backupd.store.blob_reading import HEADER_BYTES_MAX, content_size
from backupd.store.layout import BLOBS, PACKS, blob_name
from backupd.store.outside.objects import Intent, IntentKind, Objects
from backupd.store.outside.reading import BlobsOutside, read_exactly
from backupd.store.packs import FOOTER_BYTES, CorruptPack, Place, read_footer, read_index
from backupd.volumes.base import NameMissing, ObjectDamaged, Volume

_PAGE = 1000
_TAIL_BYTES = 256 << 10
"""Read at once from the end of a pack: most indexes are smaller, and one request is enough."""

log = structlog.get_logger(__name__)


class Rebuilt(msgspec.Struct, kw_only=True):
    """Objects and contents that were found and not known, what is damaged or foreign, and what is lost."""

    objects: int = 0
    contents: int = 0
    known: int = 0
    damaged: int = 0
    foreign: int = 0
    lost: int = 0


def rebuild(outside: BlobsOutside, run: Run, *, now: Callable[[], datetime]) -> Rebuilt:
    """Bring the catalog to what the volume holds. Blocks.

    Objects that are damaged, and contents that are lost with an object that is gone, are listed in `run`.
    Raises `OperationStopped`, `VolumeError`; what was found before stays found.
    """
    volume = outside.external.volume
    objects = Objects(outside.catalog, outside.catalog.number_of(outside.external.identity))
    done = Rebuilt()
    known = _Known(objects)
    for place, name in enumerate(volume.names(f"{BLOBS}/")):
        run.check()
        run.report(place, unit="objects")
        for number, missing in known.before(name):
            _note_lost(objects, volume, number, missing, run, done)
        if known.has(name):
            done.known += 1
            continue
        try:
            # In turn with uploads, none is in its midst: what was put is confirmed, too.
            with outside.turn(run.check):
                if objects.is_known(name):
                    done.known += 1
                    continue
                contents = _take(objects, volume, name, now())
        except (CorruptBlob, NameMissing, ObjectDamaged) as error:
            done.damaged += 1
            run.note_error(name, error.message)
            continue
        if contents is None:
            done.foreign += 1
        else:
            done.objects += 1
            done.contents += contents
    for number, missing in known.rest():
        _note_lost(objects, volume, number, missing, run, done)
    # What was gone may come back with a store's restore: the next start looks once more.
    outside.catalog.set_whole(whole=not done.lost)
    # What was lost outside and is still cached here goes out again.
    outside.sweep_due = outside.sweep_due or done.lost > 0
    log.info("catalog_rebuilt", **msgspec.structs.asdict(done))
    return done


def lose_vanished(objects: Objects, volume: Volume, check: Callable[[], None]) -> int:
    """Take objects that are not on their volume any more out of its catalog; return how many contents went.

    For a volume that is not in use. Raises what `check` does, `VolumeError`.
    """
    lost = 0
    known = _Known(objects)
    for name in volume.names(f"{BLOBS}/"):
        check()
        for number, missing in known.before(name):
            lost += 0 if volume.exists(missing) else len(objects.lose(number))
        known.has(name)
    for number, missing in known.rest():
        check()
        lost += 0 if volume.exists(missing) else len(objects.lose(number))
    return lost


class _Known:
    """The names of a catalog in their order, walked beside those of the volume."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._page: list[tuple[int, str]] = []
        self._after = ""

    def before(self, name: str) -> Iterator[tuple[int, str]]:
        """Yield objects of the catalog that stand before a name and were not seen on the volume."""
        while (head := self._head()) is not None and head[1] < name:
            self._page.pop()
            yield head

    def has(self, name: str) -> bool:
        """Tell whether a name is in the catalog, and go on behind it."""
        head = self._head()
        if head is None or head[1] != name:
            return False
        self._page.pop()
        return True

    def rest(self) -> Iterator[tuple[int, str]]:
        """Yield what stands behind the last name of the volume."""
        while (head := self._head()) is not None:
            self._page.pop()
            yield head

    def _head(self) -> tuple[int, str] | None:
        if not self._page:
            self._page = self._objects.names(self._after, _PAGE)[::-1]
            if not self._page:
                return None
            self._after = self._page[0][1]
        return self._page[-1]


def _take(objects: Objects, volume: Volume, name: str, now: datetime) -> int | None:
    """Take an object into the catalog; return how many contents it tells of, None if it is foreign."""
    if name.startswith(f"{PACKS}/"):
        stored = volume.size(name)
        places = read_places(volume, name, stored)
        objects.confirm_pack(Intent(name, IntentKind.PACK, b"", stored), places, now, adopt=True)
        return len(places)
    digest = name.rpartition("/")[2]
    if not is_digest(digest) or blob_name(digest) != name:
        return None
    stored = volume.size(name)
    with volume.get(name, length=HEADER_BYTES_MAX) as file:
        size = content_size(file.read(HEADER_BYTES_MAX), stored, name, digest)
    objects.confirm_single(name, digest, size, stored, now, adopt=True)
    return 1


def read_places(volume: Volume, name: str, stored: int) -> tuple[Place, ...]:
    """Return what a pack holds, from its end. Raises `CorruptPack`, `NameMissing`, `VolumeError`."""
    begin = max(0, stored - _TAIL_BYTES)
    with volume.get(name, offset=begin) as file:
        tail = file.read(_TAIL_BYTES + 1)
    if len(tail) != stored - begin:
        raise CorruptPack(f"{len(tail)} of its last {stored - begin} bytes were read")
    span = read_footer(tail[-FOOTER_BYTES:], stored)
    if span.offset >= begin:
        index = tail[span.offset - begin : span.offset - begin + span.length]
    else:
        with volume.get(name, offset=span.offset, length=span.length) as file:
            index = read_exactly(file, span.length)
    return read_index(index, span)


def _note_lost(objects: Objects, volume: Volume, number: int, name: str, run: Run, done: Rebuilt) -> None:
    if volume.exists(name):
        return  # confirmed since the listing came by
    lost = objects.lose(number)
    done.lost += len(lost)
    if lost:
        run.note_error(name, f"it is gone from the volume, and with it {len(lost):,} contents")
