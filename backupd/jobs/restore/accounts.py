"""Restoring into accounts: a whole account as of a moment on a new one, and what was deleted to where it was.

Neither touches the source. A new account gets the attributes of then, but for what names the old one. Both
can be run again: what was restored is skipped, a killed run goes on.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from backupd.appservers.base import Account, AppServer
from backupd.clock import Clock, written
from backupd.errors import AppServerRefused, UnknownAccount, UsageError
from backupd.items import AREA_OF_KIND, Kind
from backupd.jobs.restore import past
from backupd.jobs.restore.counting import Counted
from backupd.jobs.restore.past import AccountThen
from backupd.jobs.restore.patience import Patience
from backupd.jobs.restore.plan import Plan, Wanted, deleted_between, merged, plan_account, plan_undelete
from backupd.jobs.restore.putting import Putting
from backupd.operations import Run, Verdict
from backupd.store.ledger_tables import KeptRestores, RestorePlace
from backupd.store.store import Store

IDENTITY = frozenset({"id", "name", "domain"})
"""Attributes that name the account itself: a new one has its own."""
ADDRESSES = frozenset({"aliases", "zimbraMailAlias"})
"""Attributes that hold further addresses: two living accounts can't share them."""
AFTER_ALL = datetime(9999, 1, 1, tzinfo=UTC)
ACCOUNT_MARK = "account:"
"""Begins the target by which the ledger remembers an account that a restore made."""


class NewAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: `when` None is now; `undelete` also brings back what went since `undelete_from`."""

    source: str
    destination: str
    when: datetime | None = None
    undelete: bool = False
    undelete_from: datetime | None = None
    keep_id: bool = False
    dry_run: bool = False


class Undelete(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: what was deleted between `start` and `end` (None: open)."""

    account: str
    start: datetime | None = None
    end: datetime | None = None
    to_original_folder: bool = True
    dry_run: bool = False


class AccountRestore:
    """Restores from our own store."""

    def __init__(self, store: Store, appserver: AppServer, *, clock: Clock) -> None:
        self._store = store
        self._appserver = appserver
        self._clock = clock
        self._kept = KeptRestores(store.ledger)
        self._patience = Patience(appserver, clock)
        self._putting = Putting(store, appserver, blobs=store.blobs, clock=clock)

    async def on_new_account(self, run: Run, wanted: NewAccount) -> Verdict:
        """Make an account as another one was. Raises `UnknownAccount`, `UnknownItem`, `AppServerRefused`."""
        when = self._moment(wanted.when)
        self._moment(wanted.undelete_from)
        then = await asyncio.to_thread(past.account_at, self._store, wanted.source, when)
        plan = plan_account(then)
        if wanted.undelete:
            gone = deleted_between(then.gone, wanted.undelete_from, when)
            plan = merged(plan, plan_undelete(gone, tag_moment=self._clock.now()))
        better = await asyncio.to_thread(self._better_moment, then, when)
        warning = "" if better is None or wanted.undelete else f"; {_warning(len(then.items), better)}"
        check_address(wanted.destination, then.name)
        done = Counted()
        if wanted.dry_run:
            there = await self._patience.wait(run, partial(self._made_before, then, wanted))
            await self._putting.foresee(run, plan, then.account, there, done)
            return _foreseen(done, f"on the new account {wanted.destination}", warning)
        target = await self._patience.wait(run, partial(self._account, then, wanted))
        await self._putting.run(run, plan, then.account, target, done)
        moment = "as it was last" if wanted.when is None else f"of {written(when)}"
        sentence = f"account {then.name} {moment} as {wanted.destination} ({target}): {done.sentence()}"
        return Verdict(sentence=sentence + warning, counts=done.counts(), successful=done.is_whole)

    async def undelete(self, run: Run, wanted: Undelete) -> Verdict:
        """Bring back what went in a window. Raises `UnknownAccount`, `UsageError`, `AppServerRefused`."""
        if wanted.start is not None and wanted.end is not None and wanted.start > wanted.end:
            raise UsageError("the window ends before it starts", hint="give start_date, then end_date")
        known = await asyncio.to_thread(self._store.index.find_account, wanted.account)
        if known is None:
            raise UnknownAccount(
                f"no account {wanted.account!r} in the backup", hint="getAvailableAccounts lists them"
            )
        if known.deleted:
            raise AppServerRefused(
                f"account {wanted.account!r} is deleted itself",
                hint="bring it back: backupctl backup doRestoreOnNewAccount",
            )
        when = self._moment(wanted.end)
        self._moment(wanted.start)
        now = self._clock.now()
        # Named by the day, as the tag is: given again, it is the same folder.
        folder = None if wanted.to_original_folder else f"Undeleted {now:%Y-%m-%d}"
        plan = await asyncio.to_thread(self._undelete_plan, known.item, wanted, when, now, folder)
        done = Counted()
        if wanted.dry_run:
            await self._putting.foresee(run, plan, known.item, known.item, done)
            return _foreseen(done, f"in account {wanted.account}")
        await self._putting.run(run, plan, known.item, known.item, done)
        return Verdict(
            sentence=f"undelete in {wanted.account}: {done.sentence()}",
            counts=done.counts(),
            successful=done.is_whole,
        )

    def _undelete_plan(
        self, account: str, wanted: Undelete, when: datetime, now: datetime, folder: str | None
    ) -> Plan:
        """Return what brings back that was deleted at the window's end, but for what came back otherwise.

        An id may be used again: the deletion of who had it before is found in the past alone.
        """
        gone = [one for one in self._store.index.items_at(account, when) if one.deleted]
        found = deleted_between(gone, wanted.start, wanted.end)
        plan = plan_undelete(found, tag_moment=now, dedicated_folder=folder)
        restored = self._kept.restored(account)
        copies: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for (item, _, target), new in restored.items():
            copies[item, target].add(new)
        wanted_too = {one.source.item for one in plan.items}
        items = []
        for one in plan.items:
            target = one.target(account)
            copied = copies[one.source.item, target]
            # A copy that went, too, brings itself back.
            came_back = bool(copied & wanted_too) or any(
                self._lives(one, item, account) for item in {one.source.item, *copied}
            )
            # What an undelete brought back itself is counted as such.
            if (one.source.item, one.transaction, target) in restored or not came_back:
                items.append(one)
        places = {(AREA_OF_KIND[one.kind], one.folder) for one in items}
        return Plan(folders=tuple(one for one in plan.folders if one in places), items=tuple(items))

    def _lives(self, one: Wanted, item: str, account: str) -> bool:
        """Tell whether an item lives with the content that is wanted, wherever it was moved to."""
        live = self._store.index.item(account, item, one.kind)
        return live is not None and not live.deleted and live.digest == one.photograph.digest

    def _moment(self, when: datetime | None) -> datetime:
        """Return the moment that is meant, for None one after all states: a publisher's clock may be fast."""
        if when is not None and when > self._clock.now():
            raise UsageError(f"{written(when)} is in the future", hint="give a moment that has been")
        return AFTER_ALL if when is None else when

    def _better_moment(self, then: AccountThen, when: datetime) -> datetime | None:
        if when == AFTER_ALL:
            return past.better_moment((*then.items, *then.gone), when)
        return past.better_moment(list(self._store.index.items(then.account, deleted=None)), when)

    async def _made_before(self, then: AccountThen, wanted: NewAccount) -> str | None:
        """Return the id of the destination that an earlier run of the same made, None where none did.

        Raises `AppServerRefused` for an address that is taken, `UsageError` for an id that is.
        """
        place = _place(then, wanted)
        accounts = await self._appserver.accounts()
        address = wanted.destination.casefold()
        there = next((one for one in accounts if one.name.casefold() == address), None)
        made = (await asyncio.to_thread(self._kept.restored, then.account)).get(place)
        begun = place in await asyncio.to_thread(self._kept.begun, then.account)
        if there is not None and (there.id == made or begun):
            return there.id
        if there is not None:
            raise AppServerRefused(
                f"the account {wanted.destination!r} is there already",
                hint="give a destination that does not exist; a living account is never written over",
            )
        for entry in await self._appserver.directory():
            if entry.kind is Kind.MAILING_LIST and str(entry.metadata.get("name")).casefold() == address:
                raise AppServerRefused(f"{wanted.destination!r} is a mailing list")
        for one in accounts:
            if address in _further_addresses(one.metadata):
                raise AppServerRefused(f"{wanted.destination!r} is an address of account {one.name}")
        if wanted.keep_id and any(one.id == then.account for one in accounts):
            raise UsageError(
                f"account {then.name} lives and has its id", hint="leave keep_id out, or delete it first"
            )
        return None

    async def _account(self, then: AccountThen, wanted: NewAccount) -> str:
        """Make the destination, or find the one that an earlier run of the same made; return its id."""
        place = _place(then, wanted)
        there = await self._made_before(then, wanted)
        if there is not None:
            await asyncio.to_thread(self._kept.end, then.account, {place: there})
            return there
        lives = any(one.id == then.account for one in await self._appserver.accounts())
        attributes = attributes_for(then.attributes, source_lives=lives)
        identifier = then.account if wanted.keep_id else ""
        await asyncio.to_thread(self._kept.begin, then.account, [place], self._store.journal.last_sequence)
        new = await self._appserver.create_account(
            Account(id=identifier, name=wanted.destination, metadata=attributes)
        )
        await asyncio.to_thread(self._kept.end, then.account, {place: new})
        return new


def attributes_for(attributes: Mapping[str, Any], *, source_lives: bool) -> dict[str, Any]:
    """Return what a new account takes over of an old one's attributes."""
    left_out = IDENTITY | (ADDRESSES if source_lives else frozenset())
    return {name: value for name, value in attributes.items() if name not in left_out}


def _warning(items: int, better: datetime) -> str:
    return (
        f"warning: the account was nearly empty at that moment ({items:,} items); "
        f"it held the most until {written(better)}"
    )


def _place(then: AccountThen, wanted: NewAccount) -> RestorePlace:
    return then.account, 0, ACCOUNT_MARK + wanted.destination


def _further_addresses(attributes: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for name in ADDRESSES:
        value = attributes.get(name)
        found |= {str(one).casefold() for one in (value if isinstance(value, list) else [value])}
    return found


def _foreseen(done: Counted, where: str, warning: str = "") -> Verdict:
    return Verdict(sentence=done.foreseen(where) + warning, counts=done.counts())


def check_address(name: str, source: str) -> None:
    """Raise `UsageError` for what can't be the address of a new account; the source's own one can."""
    user, _, domain = name.rpartition("@")
    is_odd = any(one.isspace() or not one.isprintable() or one in "@/" for one in user + domain)
    if name != source and (not user or not domain or is_odd):
        raise UsageError(f"{name!r} is no address", hint="write user@domain")
