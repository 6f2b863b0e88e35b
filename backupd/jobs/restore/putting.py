"""Putting: carries a plan out in an account of the AppServer, in chunks, so that it can be run again.

Before a chunk the ledger keeps that its items are begun, after it as which items they were made. A restore
that is run again skips what is made and still there; one that was killed finds what its last chunk had made
by content and folder, among what is new in the target since. Each item is read back and compared; what
differs, or could not be read back, stays in doubt, and is read again by the next run. An item that can't be
restored is noted with its reason, and the next one is restored; an AppServer that is away, or can't write, is
waited for with back-off, for a bounded time, then the operation fails and can be given again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import BinaryIO, Protocol, TypeVar

import msgspec
import structlog

from backupd.appservers.base import AppServer, Reading
from backupd.appservers.many import NewItem, put_many, read_many
from backupd.clock import Clock
from backupd.errors import (
    AppServerRefused,
    AppServerUnavailable,
    BackupdError,
    BlobMissing,
    CorruptBlob,
    ItemVanished,
    UnknownItem,
    VolumeError,
)
from backupd.items import AREA_OF_KIND, Area, ItemKey
from backupd.jobs.restore.counting import Counted
from backupd.jobs.restore.memory import RestoreMemory, in_doubt, unread
from backupd.jobs.restore.patience import Patience
from backupd.jobs.restore.plan import Plan, Wanted
from backupd.jobs.restore.proof import digest_of_reading, why_not_equal
from backupd.operations import Run
from backupd.store.ledger_tables import KeptRestores, RestorePlace
from backupd.store.store import Store

CHUNK_ITEMS = 256
CHUNK_BYTES = 64 << 20
"""A chunk ends with the item that reaches this: progress and stops are between chunks."""
REFUSED_IN_A_ROW_MAX = 50
"""So many items in a row that the AppServer can't take although it answers: something else is wrong."""
ONE_ITEM = (AppServerRefused, BlobMissing, CorruptBlob, ItemVanished, UnknownItem, VolumeError)
"""What is wrong with one item alone."""

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


def chunks_of(items: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Yield items in chunks of bounded number and size."""
    chunk: list[Wanted] = []
    content_bytes = 0
    for one in items:
        chunk.append(one)
        content_bytes += one.photograph.size or 0
        if len(chunk) == CHUNK_ITEMS or content_bytes >= CHUNK_BYTES:
            yield chunk
            chunk, content_bytes = [], 0
    if chunk:
        yield chunk


def why_not_kept(one: Wanted) -> BackupdError | None:
    """Return why the backup itself does not hold what is wanted, None where it should."""
    if "metadata" in one.lacking:
        return UnknownItem("it was never photographed: it was gone before it could be read")
    if one.photograph.digest is None or "content" in one.lacking:
        return BlobMissing("its content was never stored")
    return None


class BlobSource(Protocol):
    """Where contents are read from: our own blobs, or those of another Backup Path."""

    def open(self, digest: str, *, bytes_max: int | None = None) -> BinaryIO:
        """Open a content for reading, verified; see `Blobs.open`."""
        ...


class BlobContent(msgspec.Struct, frozen=True):
    """A blob as the content of an item to be put; reading it to the end verifies it."""

    blobs: BlobSource
    digest: str
    size: int
    bytes_max: int | None = None

    def open(self) -> BinaryIO:
        """Open the blob. Raises `BlobMissing`, `CorruptBlob`, `VolumeError`."""
        return self.blobs.open(self.digest, bytes_max=self.bytes_max)


class Putting:
    """Puts what plans want into an AppServer. `blobs` and `origin` are the source's: empty for our own.

    `kept` remembers what was put, None: our ledger. `began_empty`: all that is in the target was put there.
    """

    def __init__(
        self,
        store: Store,
        appserver: AppServer,
        *,
        blobs: BlobSource,
        clock: Clock,
        origin: str = "",
        kept: RestoreMemory | None = None,
        began_empty: bool = False,
    ) -> None:
        self._store = store
        self._appserver = appserver
        self._blobs = blobs
        self._patience = Patience(appserver, clock)
        self._origin = origin
        self._kept: RestoreMemory = KeptRestores(store.ledger) if kept is None else kept
        self._began_empty = began_empty
        self._refused_in_a_row = 0
        self._unmade: set[tuple[str, Area, str]] = set()

    async def run(
        self, run: Run, plan: Plan, source: str, target: str, done: Counted, *, total: int | None = None
    ) -> None:
        """Carry a plan of a source account out in the target account (ids), adding to `done` on the way.

        `total` is what the whole operation expects, for its progress. Raises `AppServerUnavailable` where the
        AppServer stays away, `OperationStopped`.
        """
        total = done.expected + len(plan.items) if total is None else total
        done.expected += len(plan.items)
        await self._make_folders(run, plan.folders, target, done)
        known, doubtful = await self._known(run, source, target, plan.items)
        for chunk in chunks_of(plan.items):
            run.check()
            fresh = [one for one in chunk if self._place(one, target) not in known]
            doubted = [one for one in chunk if self._place(one, target) in doubtful]
            done.skipped += len(chunk) - len(fresh) - len(doubted)
            if doubted:
                await self._look_again(run, doubted, doubtful, source, target, done)
            if fresh:
                await self._put_chunk(run, fresh, source, target, done)
            run.report(done.restored + done.skipped + done.unrestored, total)

    async def foresee(self, run: Run, plan: Plan, source: str, target: str | None, done: Counted) -> None:
        """Add to `done` what `run` would find and do, changing nothing; `target` None is yet to be made."""
        done.expected += len(plan.items)
        done.folders += len(plan.folders)
        known: set[RestorePlace] = set()
        if target is not None:
            known, _ = await self._known(run, source, target, plan.items, keep=False)
        for one in plan.items:
            reason = why_not_kept(one)
            if target is not None and self._place(one, target) in known:
                done.skipped += 1
            elif reason is not None:
                done.unrestored += 1
                run.note_error(one.source.item, reason.message)
            else:
                done.restored += 1

    def _place(self, one: Wanted, target: str) -> RestorePlace:
        return one.source.item, one.transaction, f"{self._origin}{one.target(target)}"

    async def _make_folders(
        self, run: Run, folders: Iterable[tuple[Area, str]], target: str, done: Counted
    ) -> None:
        for area, folder in folders:
            run.check()
            if not folder and area is Area.MAIL:
                continue
            try:
                await self._patience.wait(run, partial(self._appserver.create_folder, target, area, folder))
                done.folders += 1
            except AppServerRefused as error:
                if (target, area, folder) not in self._unmade:
                    self._unmade.add((target, area, folder))
                    done.folders_failed += 1
                    run.note_error(f"folder {folder}", error.message)

    # ------------------------------------------------------------ what is there

    async def _known(
        self, run: Run, source: str, target: str, items: Sequence[Wanted], *, keep: bool = True
    ) -> tuple[set[RestorePlace], dict[RestorePlace, str]]:
        """Return which of these states an earlier run made in the target, where they are still.

        Those of them that are in doubt are returned with why, too.
        """
        places = {self._place(one, target): one for one in items}
        restored = await asyncio.to_thread(self._kept.restored, source)
        begun = await asyncio.to_thread(self._kept.begun, source)
        made = {place: new for place, new in restored.items() if place in places}
        unsure = {place: basis for place, basis in begun.items() if place in places}
        if not made and not unsure:
            return set(), {}
        listing = await self._patience.wait(run, partial(self._appserver.changes, target, None))
        there = {listed.item for listed in listing.items}
        sources = set() if self._began_empty else {one.source.item for one in items}
        # What was restored, and went again, is brought back by its own state, where that is wanted too.
        found = {place for place, new in made.items() if new in there or new in sources}
        doubtful = {
            place: mark
            for place, new in made.items()
            if new in there and (mark := restored.get(in_doubt(place))) in (new, unread(new))
        }
        open_ends = {place: places[place] for place in unsure if place not in found}
        if open_ends:
            taken = set(restored.values())
            candidates = [
                ItemKey(target, listed.kind, listed.item)
                for listed in listing.items
                if listed.item not in taken
            ]
            recovered = await self._recovered(open_ends, candidates, min(unsure.values()))
            if keep:
                await asyncio.to_thread(self._kept.end, source, recovered)
            found |= recovered.keys()
        return found, doubtful

    async def _recovered(
        self, open_ends: dict[RestorePlace, Wanted], candidates: Sequence[ItemKey], basis: int
    ) -> dict[RestorePlace, str]:
        """Return what a killed run had made: items that were not there before, by content and folder."""
        made: defaultdict[tuple[str, str, str | None], list[str]] = defaultdict(list)
        for key in candidates:
            if await asyncio.to_thread(self._was_there, key, basis):
                continue
            try:
                reading = await self._appserver.read(key)
            except (ItemVanished, AppServerRefused):
                continue
            digest = await asyncio.to_thread(digest_of_reading, reading)
            made[key.kind, str(reading.metadata.get("folder", "")), digest].append(key.item)
        recovered = {}
        for place, one in open_ends.items():
            same = made[one.kind, one.folder, one.photograph.digest]
            if same:
                recovered[place] = same.pop()
        return recovered

    def _was_there(self, key: ItemKey, basis: int) -> bool:
        if self._began_empty:
            return False
        states = [one for one in self._store.histories.read(key) if one.transaction <= basis]
        return bool(states) and not states[-1].deleted

    # ------------------------------------------------------------------ putting

    async def _put_chunk(
        self, run: Run, fresh: Sequence[Wanted], source: str, target: str, done: Counted
    ) -> None:
        basis = self._store.journal.last_sequence
        await asyncio.to_thread(self._kept.begin, source, [self._place(one, target) for one in fresh], basis)
        made: dict[RestorePlace, str] = {}
        restored: list[tuple[Wanted, str]] = []

        async def put(some: Sequence[Wanted]) -> list[str | BackupdError]:
            ends = await self._put_together(some, target)
            made.update(
                (self._place(one, target), new)
                for one, new in zip(some, ends, strict=True)
                if isinstance(new, str)
            )
            return ends

        doubtful: dict[RestorePlace, str] | None = None
        try:
            for one, new in zip(fresh, await self._patience.each(run, fresh, put), strict=True):
                if isinstance(new, str):
                    self._refused_in_a_row = 0
                    restored.append((one, new))
                else:
                    done.unrestored += 1
                    self._note(run, one, new, target)
            doubtful = await self._prove(run, restored, target)
        finally:
            if (doubts := doubtful) is None:
                doubts = {place: unread(new) for place, new in made.items()}
            marks = {in_doubt(place): mark for place, mark in doubts.items()}
            await asyncio.to_thread(self._kept.end, source, made | marks)
        done.restored += len(restored) - len(doubtful)
        done.unrestored += len(doubtful)

    async def _look_again(
        self,
        run: Run,
        doubted: Sequence[Wanted],
        marks: Mapping[RestorePlace, str],
        source: str,
        target: str,
        done: Counted,
    ) -> None:
        """Read back what an earlier run left in doubt."""
        restored = await asyncio.to_thread(self._kept.restored, source)
        made = [(one, restored[self._place(one, target)]) for one in doubted]
        not_read = {place for one, new in made if marks[place := self._place(one, target)] == unread(new)}
        doubtful = await self._prove(run, made, target, not_read)
        places = [self._place(one, target) for one in doubted]
        cleared = {in_doubt(place): "" for place in places if place not in doubtful}
        await asyncio.to_thread(self._kept.end, source, cleared)
        done.skipped += len(cleared)
        done.unrestored += len(doubtful)

    async def _put_together(self, wanted: Sequence[Wanted], target: str) -> list[str | BackupdError]:
        """Put items; return for each its new id, or what went wrong."""
        ended = [why_not_kept(one) for one in wanted]
        there = [one for one, reason in zip(wanted, ended, strict=True) if reason is None]
        results = iter(await put_many(self._appserver, target, [self._new_item(one) for one in there]))
        return [next(results) if reason is None else reason for reason in ended]

    def _new_item(self, one: Wanted) -> NewItem:
        digest = one.photograph.digest or ""
        size = one.photograph.size or 0
        # What others wrote may inflate without an end; what we wrote is taken at its digest.
        content = BlobContent(self._blobs, digest, size, size if self._origin else None)
        return NewItem(kind=one.kind, photograph=one.photograph, content=content)

    async def _prove(
        self,
        run: Run,
        made: Sequence[tuple[Wanted, str]],
        target: str,
        not_read: Container[RestorePlace] = (),
    ) -> dict[RestorePlace, str]:
        """Read restored items back; note what reads back otherwise, and return it with what is kept of it.

        Of what is `not_read` since it was put the content alone is compared.
        """
        wanted = {ItemKey(target, one.kind, new): one for one, new in made}

        def judge(key: ItemKey, reading: Reading) -> str:
            one = wanted[key]
            photograph = one.photograph
            if not_read and self._place(one, target) in not_read:
                photograph = msgspec.structs.replace(photograph, metadata={})
            return why_not_equal(photograph, reading)

        async def read(keys: Sequence[ItemKey]) -> list[str | BackupdError]:
            return await read_many(self._appserver, target, keys, judge)

        doubtful = {}
        reasons = await self._patience.each(run, list(wanted), read)
        for (key, one), reason in zip(wanted.items(), reasons, strict=True):
            if reason:
                failed = isinstance(reason, BackupdError)
                said = reason.message if isinstance(reason, BackupdError) else reason
                run.note_error(str(one.source.item), f"restored as {key.item}, but {said}")
                doubtful[self._place(one, target)] = unread(key.item) if failed else key.item
        return doubtful

    def _note(self, run: Run, one: Wanted, error: BackupdError, target: str) -> None:
        run.note_error(one.source.item, error.message)
        log.warning("item_not_restored", item=str(one.source), reason=error.message)
        is_unmade = (target, AREA_OF_KIND[one.kind], one.folder) in self._unmade
        if isinstance(error, AppServerRefused) and not is_unmade:
            # What lies with the source or with its folder says nothing about the AppServer.
            self._refused_in_a_row += 1
        if self._refused_in_a_row >= REFUSED_IN_A_ROW_MAX:
            raise AppServerUnavailable(
                f"{REFUSED_IN_A_ROW_MAX} items in a row could not be restored; the last: {error.message}",
                hint="mend what is wrong and give the same command again: it goes on where it stopped",
            )

    async def patiently(self, run: Run, act: Callable[[], Awaitable[Result]]) -> Result:
        """Do something with the AppServer, waiting for it as for items. Raises `AppServerUnavailable`."""
        return await self._patience.wait(run, act)
