"""Restore of contents: puts back in place what the AppServer lost of items that it still lists.

Every listed item in question is read to its digest and compared with what is recorded (`lost_content`). What
is damaged gets its content in place, unless it changed since it was judged: then it is judged again. It is
read back afterwards. What is whole is left alone, so the command can be given again at any time and goes on
where it was stopped. An item that is not listed any more is deleted as far as anyone can tell, and another
command's business.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import structlog

from backupd.appservers.base import AppServer, Listing
from backupd.clock import Clock
from backupd.errors import (
    AppServerRefused,
    BackupdError,
    BlobMissing,
    ContentChanged,
    ItemVanished,
    UnknownAccount,
    UsageError,
)
from backupd.items import AREA_OF_KIND, ItemKey
from backupd.jobs.restore.lost_content import (
    ALL,
    ITEMS_CHOICES,
    Condition,
    Volume,
    WantedContent,
    content_wanted,
    judge,
    volume_of,
)
from backupd.jobs.restore.patience import Patience
from backupd.jobs.restore.putting import ONE_ITEM, BlobSource
from backupd.operations import Run, Verdict
from backupd.states import Photograph, State
from backupd.store.foreign import Archive, ForeignPath
from backupd.store.index_queries import KnownItem
from backupd.store.store import Store

AT_ONCE = 4
AT_ONCE_MAX = 64
ATTEMPTS_MAX = 3
"""So often an item that changes while it is judged is judged again."""
SPOOL_BYTES_MAX = 4 << 20
COPY_BYTES = 1 << 20

log = structlog.get_logger(__name__)


class ContentsWanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. `accounts` empty: all; `backup_path`: whose blobs are taken instead of ours."""

    volume: str = ALL
    items: str = ALL
    accounts: tuple[str, ...] = ()
    at_once: int = AT_ONCE
    backup_path: str = ""
    dry_run: bool = True


class _Sought(msgspec.Struct, frozen=True):
    """An item that is live in the backup and listed: how errors name it, and its key at the AppServer."""

    known: KnownItem
    key: ItemKey
    name: str


class ContentRestore:
    """Restores contents from our own histories."""

    def __init__(self, store: Store, appserver: AppServer, *, clock: Clock) -> None:
        self._store = store
        self._appserver = appserver
        self._clock = clock

    async def run(self, run: Run, wanted: ContentsWanted, archive: Archive | None = None) -> Verdict:
        """Look, and unless it is a dry run put back. Raises `UsageError`, `UnknownAccount`.

        Contents that another Backup Path does not hold itself come from `archive`.
        """
        volume = volume_of(wanted.volume)
        if wanted.items not in ITEMS_CHOICES:
            raise UsageError(
                f"there are no items {wanted.items!r}", hint=f"valid: {', '.join(ITEMS_CHOICES)}"
            )
        blobs: BlobSource = self._store.blobs
        if wanted.backup_path:
            own = self._store.layout.root
            foreign = await asyncio.to_thread(ForeignPath, Path(wanted.backup_path), own, archive)
            blobs = foreign.blobs
        accounts = await asyncio.to_thread(self._accounts, wanted.accounts)
        looking = _Looking(self._store, self._appserver, blobs, self._clock, run, wanted, volume)
        counts = [await asyncio.to_thread(self._store.index.account_counts, one.item) for one in accounts]
        kinds = {kind.value for kind in ITEMS_CHOICES[wanted.items]}
        looking.total = sum(number for live, _ in counts for kind, number in live.items() if kind in kinds)
        for account in accounts:
            await looking.look_at(account)
        return looking.verdict()

    def _accounts(self, names: Iterable[str]) -> list[KnownItem]:
        """Return the live accounts that are meant. Raises `UnknownAccount`."""
        if not names:
            return self._store.index.accounts()
        found = {}
        for name in names:
            known = self._store.index.find_account(name)
            if known is None or known.deleted:
                raise UnknownAccount(
                    f"there is no account {name!r}", hint="a deleted one comes back by doRestoreOnNewAccount"
                )
            found[known.item] = known
        return list(found.values())


class _Looking:
    """One operation: what it found and did."""

    def __init__(
        self,
        store: Store,
        appserver: AppServer,
        blobs: BlobSource,
        clock: Clock,
        run: Run,
        wanted: ContentsWanted,
        volume: Volume,
    ) -> None:
        self._store = store
        self._appserver = appserver
        self._blobs = blobs
        self._clock = clock
        self._run = run
        self._wanted = wanted
        self._volume = volume
        self._kinds = ITEMS_CHOICES[wanted.items]
        self._patience = Patience(appserver, clock)
        self._counts: Counter[str] = Counter()
        self.total = 0

    async def look_at(self, account: KnownItem) -> None:
        """Look at all items of an account that are in question."""
        self._run.check()
        name = str(account.metadata.get("name", account.item))
        try:
            listing = await self._patience.wait(
                self._run, partial(self._appserver.changes, account.item, None)
            )
        except AppServerRefused as error:
            self._fail(f"account {name}", error.message)
            return
        sought = iter(await asyncio.to_thread(self._sought, account.item, name, listing))

        async def work() -> None:
            for one in sought:
                self._run.check()
                await self._look_at(one)
                self._counts["looked"] += 1
                self._run.report(min(self._counts["looked"], self.total), self.total)

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(max(1, min(self._wanted.at_once, AT_ONCE_MAX))):
                    group.create_task(work(), name=f"contents-{number}")
        except BaseExceptionGroup as errors:
            # The first one ended the others; a caller expects it as it is.
            raise errors.exceptions[0] from None

    def _sought(self, account: str, name: str, listing: Listing) -> list[_Sought]:
        """Return the items to look at, and count those that are not listed any more."""
        listed = {
            (AREA_OF_KIND[one.kind], one.item): one for one in listing.items if one.kind in AREA_OF_KIND
        }
        sought = []
        for known in self._store.index.items(account, deleted=False):
            if known.kind not in self._kinds:
                continue
            there = listed.get((AREA_OF_KIND[known.kind], known.item))
            folder = str((known if there is None else there).metadata.get("folder", ""))
            if not self._volume.holds(known.kind, folder):
                self.total -= 1
                continue
            if there is None:
                self._counts["gone"] += 1
                continue
            # An emptied calendar item does not tell any more whether it is an appointment or a task.
            key = ItemKey(account, there.kind, known.item)
            sought.append(_Sought(known, key, f"{name} {folder}: {known.item}"))
        return sought

    async def _look_at(self, one: _Sought) -> None:
        try:
            await self._patience.wait(self._run, partial(self._see_to, one))
        except ItemVanished:
            self._counts["gone"] += 1
        except ONE_ITEM as error:
            self._fail(one.name, error.message)

    async def _see_to(self, one: _Sought) -> None:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            found = await self._appserver.examine(one.key)
            if (
                found.digest is not None
                and found.digest == one.known.digest
                and not self._may_hide(one.known)
            ):
                return
            wanted = await asyncio.to_thread(self._content_wanted, one.known)
            if wanted is None:
                self._counts["unstored"] += 1
                return
            judged = judge(wanted.state, found, self._clock.now())
            self._counts["doubtful"] += wanted.doubtful and judged.condition is Condition.WHOLE
            if judged.condition is Condition.EDITED:
                self._counts["edited"] += 1
            if judged.condition is Condition.UNCLEAR:
                self._counts["unclear"] += 1
                self._run.note_error(one.name, f"{judged.reason}; left as it is")
            if judged.condition is not Condition.LOST:
                return
            try:
                await self._put_back(one, wanted, found.version, judged.reason)
            except ContentChanged:
                if attempt == ATTEMPTS_MAX:
                    raise
            else:
                return

    @staticmethod
    def _may_hide(known: KnownItem) -> bool:
        """Tell whether earlier states may hold another content than the last: there was more than one."""
        return known.first != known.last

    def _content_wanted(self, known: KnownItem) -> WantedContent | None:
        return content_wanted(self._store.histories.read(known.key), self._is_beginning)

    def _is_beginning(self, later: State, earlier: State) -> bool:
        """Tell whether a content is how another begins, as far as both can be read."""
        try:
            with (
                self._blobs.open(later.digest or "", bytes_max=later.size) as short,
                self._blobs.open(earlier.digest or "", bytes_max=earlier.size) as long,
            ):
                while piece := short.read(COPY_BYTES):
                    if long.read(len(piece)) != piece:
                        return False
                return True
        except BackupdError:
            return False

    async def _put_back(self, one: _Sought, wanted: WantedContent, version: str, reason: str) -> None:
        state = wanted.state
        log.info("content_lost", item=str(one.known.key), what=one.name, reason=reason)
        if self._wanted.dry_run:
            self._counts["lost"] += 1
            self._run.note_error(one.name, f"{reason}; would be put back")
            return
        photograph = Photograph(metadata=state.metadata, digest=state.digest, size=state.size)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES_MAX) as content:
            await asyncio.to_thread(self._copy_blob, state, content)
            await self._appserver.replace_content(one.key, version, photograph, cast("BinaryIO", content))
        self._counts["lost"] += 1
        found = await self._appserver.examine(one.key)
        if found.digest != state.digest:
            self._fail(one.name, "it was put back, but reads back otherwise")
            return
        self._counts["restored"] += 1
        log.info("content_restored", item=str(one.known.key), reason=reason)

    def _copy_blob(self, state: State, target: Any) -> None:
        if state.digest is None:
            raise BlobMissing("its content was never stored")
        with self._blobs.open(state.digest, bytes_max=state.size) as content:
            while piece := content.read(COPY_BYTES):
                target.write(piece)
        target.seek(0)

    def _fail(self, what: str, reason: str) -> None:
        self._counts["unrestored"] += 1
        self._run.note_error(what, reason)
        log.warning("content_not_restored", item=what, reason=reason)

    def verdict(self) -> Verdict:
        """Return the counted verdict."""
        counts = {name: self._counts[name] for name in _COUNTED}
        done = (
            f"{counts['lost']:,} would be put back"
            if self._wanted.dry_run
            else f"{counts['restored']:,} put back and read back as equal"
        )
        sentence = f"{counts['looked']:,} contents looked at, {done}, {counts['unrestored']:,} unrestored"
        told = "".join(
            f"; {counts[name]:,} {words}" for name, words in _COUNTED.items() if words and counts[name]
        )
        return Verdict(
            sentence=("dry run: " if self._wanted.dry_run else "") + sentence + told,
            counts=counts,
            successful=not counts["unrestored"],
        )


_COUNTED = {
    "looked": "",
    "lost": "",
    "restored": "",
    "unrestored": "",
    "edited": "edited since they were recorded, left as they are",
    "unclear": "unclear, left as they are",
    "doubtful": "messages recorded with other contents before, left as they are: see history, doItemRestore",
    "unstored": "whose content was never stored",
    "gone": "gone altogether, so deleted as far as anyone can tell: doUndelete brings such back after a scan",
}
"""What is counted, and in which words it is told where there is any."""
