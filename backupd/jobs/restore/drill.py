"""The restore drill: proves that the backup can be restored, by restoring some of it into scratch servers.

Items and accounts at moments of their past are drawn from a seed (`drill_choice`), put into AppServers that
exist for that alone (`drill_place`), read back, and compared with their histories: content, folder, flags,
tags, dates. The AppServer that is backed up is not known here, and what restores remember is not touched.
Whatever differs is named with its moment, the rest goes on, and the drill fails in the end.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from backupd.appservers.base import Account, AppServer
from backupd.clock import Clock, written
from backupd.errors import (
    AppServerRefused,
    BackupdError,
    UnknownAccount,
    UnknownItem,
    UsageError,
)
from backupd.items import CONTENT_KINDS, ItemKey, Kind
from backupd.jobs.restore import drill_choice, past
from backupd.jobs.restore.counting import Counted
from backupd.jobs.restore.drill_place import DrillPlace, Scratch, check_parent
from backupd.jobs.restore.drill_proof import Noted, as_histories_say, compare, folders_of
from backupd.jobs.restore.export import MakeTarget
from backupd.jobs.restore.memory import PassingMemory
from backupd.jobs.restore.past import AccountThen
from backupd.jobs.restore.plan import Plan, Wanted, plan_account, without_deletion_mark
from backupd.jobs.restore.proof import same_attributes
from backupd.jobs.restore.putting import Putting
from backupd.operations import Run, Verdict
from backupd.states import Photograph, State
from backupd.store.index_queries import KnownItem
from backupd.store.store import Store

ITEMS = 20
ACCOUNTS = 1
ITEMS_MAX = 1_000
ACCOUNTS_MAX = 100
SPARE_ITEMS = 100
"""So many more are drawn, to take the place of items of which no state can be restored."""
SERVER_ITEMS = 50
"""A scratch server takes so many items, each in an account of its own: more accounts make it slow."""
ITEM_ADDRESS = "item-{}@drill.invalid"

log = structlog.get_logger(__name__)


class DrillWanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: no accounts means all, no seed a new one, no `scratch_path` the usual place."""

    accounts: tuple[str, ...] = ()
    items: int = ITEMS
    account_restores: int = ACCOUNTS
    seed: int | None = None
    keep: bool = False
    scratch_path: Path | None = None


class Tally(msgspec.Struct, kw_only=True):
    """How a drill went; `items` were drawn, `expected` are these and those of the drawn accounts."""

    items: int = 0
    accounts: int = 0
    expected: int = 0
    proven: int = 0
    differing: int = 0
    lacking: int = 0
    passed_over: int = 0

    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: int(getattr(self, name)) for name in self.__struct_fields__}


class RestoreDrill:
    """Drills from our own store. `parent` holds scratch servers; `forbidden` may not, nor lie below one."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        make_target: MakeTarget,
        parent: Path,
        forbidden: Sequence[Path],
        new_seed: Callable[[], int] = lambda: secrets.randbelow(drill_choice.SEED_MAX),
    ) -> None:
        self._store = store
        self._clock = clock
        self._make_target = make_target
        self._parent = parent
        self._forbidden = (store.layout.root, *forbidden)
        self._new_seed = new_seed

    async def run(self, run: Run, wanted: DrillWanted) -> Verdict:
        """Drill. Raises `UsageError`, `UnknownAccount`, `SpaceExhausted`, `BackupdError` with no place."""
        _check(wanted)
        seed = self._new_seed() if wanted.seed is None else wanted.seed
        accounts = await asyncio.to_thread(self._accounts, wanted.accounts)
        parent = self._parent
        if wanted.scratch_path is not None:
            parent = await asyncio.to_thread(check_parent, wanted.scratch_path, self._forbidden)
        place = DrillPlace(
            parent,
            server=self._store.identity.server,
            operation=run.uuid or str(seed),
            keep=wanted.keep,
            free_bytes_min=self._store.space_threshold_bytes,
        )
        await asyncio.to_thread(place.make)
        try:
            drilling = _Drilling(self._store, self._clock, self._make_target, place, seed, accounts)
            await drilling.drill_items(run, wanted.items)
            await drilling.drill_accounts(run, wanted.account_restores)
        finally:
            await asyncio.to_thread(place.drop)
        return _verdict(drilling.tally, seed, place.root if wanted.keep else None)

    def _accounts(self, names: Sequence[str]) -> list[KnownItem]:
        """Return the accounts to draw from, deleted ones too."""
        if not names:
            return self._store.index.accounts(deleted=None)
        found = {}
        for name in names:
            known = self._store.index.find_account(name)
            if known is None:
                raise UnknownAccount(
                    f"no account {name!r} in the backup", hint="getAvailableAccounts lists them"
                )
            found[known.item] = known
        return list(found.values())


class _Drilling:
    """One drill."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        make_target: MakeTarget,
        place: DrillPlace,
        seed: int,
        accounts: Sequence[KnownItem],
    ) -> None:
        self._store = store
        self._clock = clock
        self._make_target = make_target
        self._place = place
        self._seed = seed
        self._accounts = accounts
        self.tally = Tally()

    # ------------------------------------------------------------------- items

    async def drill_items(self, run: Run, count: int) -> None:
        """Restore items one by one, each into a scratch account of its own, and compare them."""
        drawn = await asyncio.to_thread(self._draw_items, count)
        for place in range(0, len(drawn), SERVER_ITEMS):
            if self.tally.items == count:
                return
            name = f"items-{place // SERVER_ITEMS + 1}"
            try:
                async with Scratch(self._place, name, self._make_target) as appserver:
                    for key in drawn[place : place + SERVER_ITEMS]:
                        run.check()
                        if self.tally.items == count:
                            break
                        await self._drill_item(run, appserver, key)
                        run.report(self.tally.items, count)
            finally:
                await asyncio.to_thread(self._place.drop, name)

    def _draw_items(self, count: int) -> list[ItemKey]:
        keys = (
            key
            for account in self._accounts
            for key in self._store.index.keys(account.item)
            if key.kind in CONTENT_KINDS
        )
        spare = count + SPARE_ITEMS if count else 0
        return drill_choice.ranked(self._seed, keys, spare, purpose="item")

    async def _drill_item(self, run: Run, appserver: AppServer, key: ItemKey) -> None:
        try:
            history = await asyncio.to_thread(self._store.histories.read, key)
        except (BackupdError, OSError) as error:
            self._begin_item()
            self._differs(run, key, None, f"its history can't be read: {error}")
            return
        drawn = drill_choice.draw_state(self._seed, key, history, self._clock.now())
        if drawn is None:
            self.tally.lacking += 1
            return
        self._begin_item()
        await asyncio.to_thread(self._place.need_room, drawn.state.size or 0)
        one = _wanted(key, drawn.state)
        noted = Noted(run, self._clock)
        target = await appserver.create_account(
            Account(id="", name=ITEM_ADDRESS.format(self.tally.items), metadata={})
        )
        memory = PassingMemory()
        putting = Putting(
            self._store, appserver, blobs=self._store.blobs, clock=self._clock, kept=memory, began_empty=True
        )
        await putting.run(noted, Plan(folders=(), items=(one,)), key.account, target, Counted())
        reasons = noted.reasons
        if not reasons:
            reasons = await compare(appserver, target, [(one, one.photograph)], memory)
        if reasons:
            self._differs(run, key, drawn.moment, "; ".join(reasons.values()))
            return
        self.tally.proven += 1
        log.info(
            "drill_item_proven", item=str(key), moment=written(drawn.moment), transaction=one.transaction
        )

    def _begin_item(self) -> None:
        self.tally.items += 1
        self.tally.expected += 1

    # ---------------------------------------------------------------- accounts

    async def drill_accounts(self, run: Run, count: int) -> None:
        """Restore whole accounts, each into a scratch server of its own, and compare them."""
        order = sorted(
            self._accounts, key=lambda one: (drill_choice.rank(self._seed, "account", one.item), one.item)
        )
        for known in order:
            if self.tally.accounts == count:
                return
            run.check()
            basis = await asyncio.to_thread(self._store.index.highest_transaction)
            then = await self._account_then(run, known)
            if then is None:
                continue
            moment, account = then
            contents = sum(item.size or 0 for item in account.items)
            if not await asyncio.to_thread(self._place.room_for, contents, len(account.items)):
                self.tally.passed_over += 1
                log.warning("drill_account_has_no_room", account=known.item, bytes=contents)
                continue
            self.tally.accounts += 1
            name = f"account-{self.tally.accounts}"
            try:
                async with Scratch(self._place, name, self._make_target) as appserver:
                    await self._drill_account(run, appserver, account, moment, basis)
            finally:
                await asyncio.to_thread(self._place.drop, name)

    async def _account_then(self, run: Run, known: KnownItem) -> tuple[datetime, AccountThen] | None:
        """Return an account at a moment at which one of its items was in it; None where there is none."""
        try:
            drawn = await asyncio.to_thread(self._draw_moment, known)
            if drawn is None:
                return None
            moment = drill_choice.moment_of_account(drawn, first=known.first, deleted_at=known.deleted_at)
            then = await asyncio.to_thread(past.account_at, self._store, known.item, moment)
        except UnknownItem:
            return None
        except (BackupdError, OSError) as error:
            self.tally.expected += 1
            self._differs(run, known.key, None, str(error))
            return None
        return None if then.deleted or not then.items else (moment, then)

    def _draw_moment(self, known: KnownItem) -> datetime | None:
        keys = (key for key in self._store.index.keys(known.item) if key.kind in CONTENT_KINDS)
        for key in drill_choice.ranked(self._seed, keys, SPARE_ITEMS, purpose="moment"):
            history = self._store.histories.read(key)
            drawn = drill_choice.draw_state(self._seed, key, history, self._clock.now(), alive=True)
            if drawn is not None:
                return drawn.moment
        return None

    async def _drill_account(
        self, run: Run, appserver: AppServer, then: AccountThen, moment: datetime, basis: int
    ) -> None:
        plan = plan_account(then)
        whole = tuple(one for one in plan.items if not one.lacking)
        self.tally.lacking += len(plan.items) - len(whole)
        self.tally.expected += len(whole)
        try:
            target = await appserver.create_account(
                Account(id=then.account, name=then.name, metadata=then.attributes)
            )
        except AppServerRefused as error:
            self.tally.expected += 1
            self._differs(run, ItemKey(then.account, Kind.ACCOUNT, then.account), moment, error.message)
            self.tally.differing += len(whole)
            return
        memory, noted = PassingMemory(), Noted(run, self._clock)
        putting = Putting(
            self._store, appserver, blobs=self._store.blobs, clock=self._clock, kept=memory, began_empty=True
        )
        await putting.run(noted, Plan(folders=plan.folders, items=whole), then.account, target, Counted())
        reasons = dict(noted.reasons)
        expected = await asyncio.to_thread(as_histories_say, self._store, whole, moment, basis, reasons)
        pairs = [pair for pair in expected if pair[0].source.item not in reasons]
        reasons |= await compare(appserver, target, pairs, memory, run=run)
        kinds = {one.source.item: one.kind for one in whole}
        for item, reason in reasons.items():
            self.tally.expected += item not in kinds
            self._differs(run, ItemKey(then.account, kinds.get(item, Kind.ACCOUNT), item), moment, reason)
        self.tally.proven += sum(one.source.item not in reasons for one in whole)
        await self._compare_account(run, appserver, then, moment)
        log.info(
            "drill_account_restored",
            account=then.account,
            moment=written(moment),
            items=len(whole),
            differing=len(reasons),
        )

    async def _compare_account(
        self, run: Run, appserver: AppServer, then: AccountThen, moment: datetime
    ) -> None:
        """Compare an account's attributes and folders with what they were."""
        key = ItemKey(then.account, Kind.ACCOUNT, then.account)
        found = next((one for one in await appserver.accounts() if one.id == then.account), None)
        if found is None or not same_attributes(found.metadata, then.attributes):
            self.tally.expected += 1
            self._differs(run, key, moment, "its attributes do not read back as they were")
        wanted = {folder for folder in then.folders if folder[1]}
        lost = wanted - await folders_of(appserver, then.account)
        if lost:
            self.tally.expected += 1
            named = ", ".join(sorted(folder for _, folder in lost)[:3])
            self._differs(run, key, moment, f"{len(lost):,} folders do not read back: {named}")

    def _differs(self, run: Run, key: ItemKey, moment: datetime | None, reason: str) -> None:
        self.tally.differing += 1
        when = f"as of {written(moment)}: " if moment is not None else ""
        run.note_error(str(key), when + reason)
        log.warning("drill_differs", item=str(key), moment=when, reason=reason)


def _wanted(key: ItemKey, state: State) -> Wanted:
    metadata = without_deletion_mark(state.metadata) if state.deleted else state.metadata
    photograph = Photograph(metadata=metadata, digest=state.digest, size=state.size)
    return Wanted(source=key, transaction=state.transaction, photograph=photograph)


def _check(wanted: DrillWanted) -> None:
    for name, value, largest in (
        ("items", wanted.items, ITEMS_MAX),
        ("account_restores", wanted.account_restores, ACCOUNTS_MAX),
    ):
        if not 0 <= value <= largest:
            raise UsageError(f"{name} is {value}, it can be 0 to {largest:,}")
    if not wanted.items and not wanted.account_restores:
        raise UsageError("neither items nor accounts are to be restored: nothing would be proven")


def _verdict(tally: Tally, seed: int, kept: Path | None) -> Verdict:
    """Return how a drill ended. One that proved nothing has not succeeded."""
    sentence = (
        f"drill with seed {seed}: {tally.items:,} items and {tally.accounts:,} whole accounts at random past "
        f"moments; {tally.expected:,} expected, {tally.proven:,} restored and equal to their histories, "
        f"{tally.differing:,} differ"
    )
    if tally.lacking:
        sentence += f"; {tally.lacking:,} left out, of which the backup never had all"
    if tally.passed_over:
        sentence += f"; {tally.passed_over:,} accounts passed over, for which there is no room"
    if not tally.expected:
        sentence += "; nothing was proven: the backup holds nothing that could be restored"
    if kept is not None:
        sentence += f"; kept in {kept}"
    return Verdict(
        sentence=sentence,
        counts=tally.counts(),
        successful=bool(tally.proven) and not tally.differing,
    )
