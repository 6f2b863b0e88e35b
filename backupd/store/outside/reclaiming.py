"""Reclaiming: room outside that dead content takes is given back, in an order that a crash can't harm.

Objects of which nothing lives are deleted, then taken out of the catalog. Of packs that are mostly dead, and
of small ones where there are many, the living contents go into new packs: put, read back, confirmed (which
moves the places), and only then the old packs, of which nothing lives any more, are deleted. A crash leaves
at most an old pack that is deleted next time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import structlog

from backupd import durable
from backupd.errors import BackupdError, CorruptBlob, VolumeError
from backupd.operations import Run
from backupd.store.outside.objects import IntentKind, PackAccount
from backupd.store.outside.reading import BlobsOutside, read_exactly
from backupd.store.outside.sending import Sender
from backupd.store.packs import PACK_BYTES, PackBuilder, Place, by_block, content_of, open_block
from backupd.volumes.base import NameMissing, ObjectDamaged
from backupd.volumes.failures import AccessRefused

DELETED_AT_ONCE = 100
SMALL_BYTES = PACK_BYTES // 8
SMALL_PACKS_MIN = 16
"""From so many small packs on they are put together."""

log = structlog.get_logger(__name__)


class Reclaimed(msgspec.Struct, kw_only=True):
    """What reclaiming did; `bytes_freed` are those of deleted objects less those of new ones."""

    objects_deleted: int = 0
    packs_rewritten: int = 0
    contents_moved: int = 0
    problems: int = 0

    def sentence(self) -> str:
        """Return it in words."""
        failed = f", {self.problems:,} can't go yet" if self.problems else ""
        return f"{self.objects_deleted:,} objects deleted, {self.packs_rewritten:,} packs rewritten{failed}"


def choose(packs: Sequence[PackAccount]) -> list[PackAccount]:
    """Return the packs to be written anew: more than half dead, or small where there are many such."""
    sparse = [pack for pack in packs if pack.live_bytes * 2 < pack.content_bytes]
    chosen = {pack.number for pack in sparse}
    small = [pack for pack in packs if pack.stored < SMALL_BYTES and pack.number not in chosen]
    if len(small) >= SMALL_PACKS_MIN:
        chosen |= {pack.number for pack in small}
    # A single pack without anything dead would only be written as it is.
    return [pack for pack in packs if pack.number in chosen]


def reclaim(outside: BlobsOutside, sender: Sender, run: Run) -> Reclaimed:
    """Give back what dead contents take outside. Blocks; uploads go on in between.

    What can't be deleted or read is listed in `run` and stays as it is. Raises `OperationStopped` at a safe
    place, and `VolumeError` where the volume as a whole can't be used.
    """
    done = Reclaimed()
    with outside.turn(run.check):
        sender.settle()
    refused: set[int] = set()
    if not _delete_dead(outside, sender, run, done, refused):
        return done  # written anew, contents would rest beside the packs that can't go
    chosen = choose(sender.objects.packs())
    builder = PackBuilder()
    for place, pack in enumerate(chosen):
        run.check()
        run.report(place, len(chosen), unit="packs")
        for digest, content in _living(outside, sender, pack, run, done):
            if builder.is_full:
                builder = _write(outside, sender, builder, run)
            builder.add(digest, content)
            done.contents_moved += 1
        done.packs_rewritten += 1
    if len(builder):
        _write(outside, sender, builder, run)
    run.report(len(chosen), len(chosen), unit="packs")
    _delete_dead(outside, sender, run, done, refused)
    log.info("outside_reclaimed", deleted=done.objects_deleted, rewritten=done.packs_rewritten)
    return done


def _write(outside: BlobsOutside, sender: Sender, builder: PackBuilder, run: Run) -> PackBuilder:
    with outside.turn(run.check):
        sender.place_pack(builder.finish(), IntentKind.REWRITE)
    return PackBuilder()


def _living(
    outside: BlobsOutside, sender: Sender, pack: PackAccount, run: Run, done: Reclaimed
) -> Iterator[tuple[str, bytes]]:
    """Yield the living contents of a pack, verified; a block that can't be read is listed and stays."""
    for places in by_block(sender.objects.places_in(pack.number)):
        try:
            contents = open_block(_stored_block(outside, pack, places[0]))
            found = [(place.digest, content_of(contents, place)) for place in places]
        except (CorruptBlob, NameMissing, ObjectDamaged) as error:
            run.note_error(pack.name, f"the block at {places[0].block_offset}: {error.message}")
            done.problems += 1
            continue
        yield from found


def _stored_block(outside: BlobsOutside, pack: PackAccount, place: Place) -> bytes:
    volume = outside.external.volume
    with volume.get(pack.name, offset=place.block_offset, length=place.block_bytes) as file:
        return read_exactly(file, place.block_bytes)


def _delete_dead(outside: BlobsOutside, sender: Sender, run: Run, done: Reclaimed, refused: set[int]) -> bool:
    """Delete objects of which nothing lives, a few at a time, so that uploads come in between.

    Those in `refused` are left out, and which can't go comes there. False where the key may delete nothing.
    """
    while True:
        run.check()
        with outside.turn(run.check):
            limit = DELETED_AT_ONCE + len(refused)
            dead = [one for one in sender.objects.dead(limit) if one[0] not in refused]
            for number, name in dead:
                durable.step("reclaiming.delete")
                try:
                    outside.external.volume.delete(name)
                except AccessRefused as error:
                    stays = sender.objects.count_dead()
                    run.note_error(outside.external.title, f"{stays:,} objects stay: {error.message}")
                    done.problems += stays
                    return False
                except VolumeError as error:
                    if not error.permanent:
                        raise
                    refused.add(number)
                    done.problems += 1
                    run.note_error(name, _reason(error))
                    continue
                durable.step("reclaiming.deleted")
                sender.objects.remove(number)
                done.objects_deleted += 1
        if not dead:
            return True


def _reason(error: BackupdError) -> str:
    return f"it can't be deleted (yet): {error.message}"
