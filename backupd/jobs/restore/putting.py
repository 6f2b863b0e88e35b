"""Putting: carries a plan out in an account of the AppServer, in chunks, so that it can be run again.

Before a chunk the ledger keeps that its items are begun, after it as which items they were made. A restore
that is run again skips what is made and still there; one that was killed finds what its last chunk had made
by content and folder, among what is new in the target since. Each item is read back and compared. An item
that can't be restored is noted with its reason, and the next one is restored; an AppServer that is away, or
can't write, is waited for with back-off, for a bounded time, then the operation fails and can be given again.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, BinaryIO, Protocol, TypeVar, cast

import msgspec
import structlog

from backupd.appservers.base import AppServer
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
from backupd.items import Area, ItemKey
from backupd.jobs.restore.memory import RestoreMemory
from backupd.jobs.restore.plan import Plan, Wanted
from backupd.jobs.restore.proof import digest_of_reading, why_not_equal
from backupd.operations import Run
from backupd.store.ledger_tables import KeptRestores, RestorePlace
from backupd.store.store import Store

CHUNK_ITEMS = 128
AT_ONCE = 4
SPOOL_BYTES_MAX = 4 << 20
COPY_BYTES = 1 << 20
REFUSED_IN_A_ROW_MAX = 50
"""So many items in a row that the AppServer can't take although it answers: something else is wrong."""
BACK_OFF_SECONDS_MIN = 1.0
BACK_OFF_SECONDS_MAX = 60.0
PATIENCE_SECONDS = 900.0
"""How long an AppServer that is away is waited for."""
DOUBTFUL_SECONDS = 300.0
"""How long an item is tried where the AppServer took others just before."""
ONE_ITEM = (AppServerRefused, BlobMissing, CorruptBlob, ItemVanished, UnknownItem, VolumeError)
"""What is wrong with one item alone."""

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Counted(msgspec.Struct, kw_only=True):
    """How a restore went, by items; `folders` were made sure of."""

    expected: int = 0
    restored: int = 0
    skipped: int = 0
    unrestored: int = 0
    folders: int = 0

    def add(self, other: Counted) -> None:
        """Add another restore's counts."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def sentence(self) -> str:
        """Return the counted verdict."""
        return (
            f"{self.expected:,} expected, {self.restored:,} restored and read back as equal, "
            f"{self.skipped:,} skipped (restored before), {self.unrestored:,} unrestored"
        )

    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: int(getattr(self, name)) for name in self.__struct_fields__}


class BlobSource(Protocol):
    """Where contents are read from: our own blobs, or those of another Backup Path."""

    def open(self, digest: str, *, bytes_max: int | None = None) -> BinaryIO:
        """Open a content for reading, verified; see `Blobs.open`."""
        ...


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
        self._clock = clock
        self._origin = origin
        self._kept: RestoreMemory = KeptRestores(store.ledger) if kept is None else kept
        self._began_empty = began_empty
        self._refused_in_a_row = 0
        self._written = 0
        """So many items the AppServer took."""
        self._waited_in_vain = False

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
        known = await self._known(source, target, plan.items)
        for place in range(0, len(plan.items), CHUNK_ITEMS):
            run.check()
            chunk = plan.items[place : place + CHUNK_ITEMS]
            fresh = [one for one in chunk if self._place(one, target) not in known]
            done.skipped += len(chunk) - len(fresh)
            await self._put_chunk(run, fresh, source, target, done)
            run.report(done.restored + done.skipped + done.unrestored, total)

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
                await self._patiently(run, partial(self._appserver.create_folder, target, area, folder))
                done.folders += 1
            except AppServerRefused as error:
                run.note_error(f"folder {folder}", error.message)

    # ------------------------------------------------------------ what is there

    async def _known(self, source: str, target: str, items: Sequence[Wanted]) -> set[RestorePlace]:
        """Return which of these states are in the target already, made by an earlier run and still there."""
        places = {self._place(one, target): one for one in items}
        restored = await asyncio.to_thread(self._kept.restored, source)
        begun = await asyncio.to_thread(self._kept.begun, source)
        made = {place: new for place, new in restored.items() if place in places}
        unsure = {place: basis for place, basis in begun.items() if place in places}
        if not made and not unsure:
            return set()
        listing = await self._appserver.changes(target, None)
        there = {listed.item for listed in listing.items}
        sources = set() if self._began_empty else {one.source.item for one in items}
        # What was restored, and went again, is brought back by its own state, where that is wanted too.
        found = {place for place, new in made.items() if new in there or new in sources}
        open_ends = {place: places[place] for place in unsure if place not in found}
        if open_ends:
            taken = set(restored.values())
            candidates = [
                ItemKey(target, listed.kind, listed.item)
                for listed in listing.items
                if listed.item not in taken
            ]
            recovered = await self._recovered(open_ends, candidates, min(unsure.values()))
            await asyncio.to_thread(self._kept.end, source, recovered)
            found |= recovered.keys()
        return found

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
        if not fresh:
            return
        basis = self._store.journal.last_sequence
        await asyncio.to_thread(self._kept.begin, source, [self._place(one, target) for one in fresh], basis)
        made: dict[RestorePlace, str] = {}
        try:
            for place in range(0, len(fresh), AT_ONCE):
                together = fresh[place : place + AT_ONCE]
                results = await asyncio.gather(*(self._put_one(run, one, target) for one in together))
                for one, new in zip(together, results, strict=True):
                    if new:
                        made[self._place(one, target)] = new
                    else:
                        done.unrestored += 1
        finally:
            await asyncio.to_thread(self._kept.end, source, made)
        for one in fresh:
            identifier = made.get(self._place(one, target))
            if identifier is not None:
                await self._prove(run, one, ItemKey(target, one.kind, identifier), done)

    async def _put_one(self, run: Run, one: Wanted, target: str) -> str:
        """Put an item; return its new id, empty where it can't be restored: then the reason is noted."""
        try:
            new = await self._patiently(run, partial(self._put, one, target))
        except ONE_ITEM as error:
            self._note(run, one, error)
            return ""
        self._refused_in_a_row = 0
        self._written += 1
        self._waited_in_vain = False
        return new

    async def _put(self, one: Wanted, target: str) -> str:
        if "metadata" in one.lacking:
            raise UnknownItem("it was never photographed: it was gone before it could be read")
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES_MAX) as content:
            await asyncio.to_thread(self._copy_blob, one, content)
            return await self._appserver.put(target, one.kind, one.photograph, cast("BinaryIO", content))

    def _copy_blob(self, one: Wanted, target: Any) -> None:
        digest = one.photograph.digest
        if digest is None or "content" in one.lacking:
            raise BlobMissing("its content was never stored")
        # What others wrote may inflate without an end; what we wrote is taken at its digest.
        bytes_max = one.photograph.size if self._origin else None
        with self._blobs.open(digest, bytes_max=bytes_max) as content:
            while piece := content.read(COPY_BYTES):
                target.write(piece)
        target.seek(0)

    async def _prove(self, run: Run, one: Wanted, made: ItemKey, done: Counted) -> None:
        """Read a restored item back and count it; what reads back otherwise is no restored item."""
        try:
            reading = await self._patiently(run, partial(self._appserver.read, made))
            reason = await asyncio.to_thread(why_not_equal, one.photograph, reading)
        except ONE_ITEM as error:
            reason = error.message
        if reason:
            done.unrestored += 1
            run.note_error(str(one.source.item), f"restored as {made.item}, but {reason}")
            return
        done.restored += 1

    def _note(self, run: Run, one: Wanted, error: BackupdError) -> None:
        run.note_error(one.source.item, error.message)
        log.warning("item_not_restored", item=str(one.source), reason=error.message)
        if isinstance(error, AppServerRefused):
            # What lies with the source says nothing about the AppServer.
            self._refused_in_a_row += 1
        if self._refused_in_a_row >= REFUSED_IN_A_ROW_MAX:
            raise AppServerUnavailable(
                f"{REFUSED_IN_A_ROW_MAX} items in a row could not be restored; the last: {error.message}",
                hint="mend what is wrong and give the same command again: it goes on where it stopped",
            )

    async def patiently(self, run: Run, act: Callable[[], Awaitable[Result]]) -> Result:
        """Do something with the AppServer, waiting for it as for items. Raises `AppServerUnavailable`."""
        return await self._patiently(run, act)

    async def _patiently(self, run: Run, act: Callable[[], Awaitable[Result]]) -> Result:
        """Do something with the AppServer; while it can't, wait with back-off for a bounded time.

        It may answer and yet store nothing, while its disk is full, say: that is waited for, too. Where it
        took others after this had failed, it is about this one; where it took others just before, it
        may be, and is waited for not quite as long.
        """
        began, delay = self._clock.monotonic(), BACK_OFF_SECONDS_MIN
        at_first, at_failure = self._written, None
        while True:
            at_start = self._written
            try:
                return await act()
            except AppServerUnavailable as error:
                waited = self._clock.monotonic() - began
                works = at_failure is not None and at_start > at_failure
                doubtful = waited > DOUBTFUL_SECONDS and self._written > at_first
                too_long = waited > PATIENCE_SECONDS
                hopeless = at_failure is not None and self._waited_in_vain
                if (works or doubtful or too_long or hopeless) and await self._answers():
                    self._waited_in_vain |= too_long
                    raise AppServerRefused(error.message, hint=error.hint) from error
                if too_long:
                    raise AppServerUnavailable(
                        f"the AppServer stayed away: {error.message}",
                        hint="give the same command again when it is back: it goes on where it stopped",
                    ) from error
                at_failure = self._written if at_failure is None else at_failure
                log.warning("restore_waits", reason=error.message, retry_seconds=delay)
                run.check()
                await self._clock.sleep(delay)
                delay = min(delay * 2, BACK_OFF_SECONDS_MAX)

    async def _answers(self) -> bool:
        try:
            await self._appserver.accounts()
        except AppServerUnavailable:
            return False
        return True
