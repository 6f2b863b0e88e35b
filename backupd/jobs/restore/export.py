"""Export: the backup of a moment as plain files that need no software of ours; the way out.

The target is an AppServer over an empty directory, handed in by a maker. Accounts keep their ids, so that an
export is the same wherever it is read. Domains, classes of service and lists come first, then account by
account its attributes, folders and items, each read back. Whatever fails is listed, and the rest goes on;
given again, an export goes on where it stopped and puts nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from backupd import durable
from backupd.appservers.base import Account, AppServer, DirectoryEntry
from backupd.clock import Clock, written
from backupd.enrolment import Enrolment, Everyone
from backupd.errors import BackupdError, OperationStopped, SpaceExhausted, UnknownAccount, UnknownItem
from backupd.items import CONTENT_KINDS, SERVER_KINDS, Kind
from backupd.jobs.restore import past
from backupd.jobs.restore.counting import Counted
from backupd.jobs.restore.export_place import ExportPlace, Marker, export_place, make_place
from backupd.jobs.restore.past import AccountThen
from backupd.jobs.restore.plan import Plan, deleted_between, merged, plan_account, plan_undelete
from backupd.jobs.restore.proof import same_attributes
from backupd.jobs.restore.putting import Putting
from backupd.operations import Run, Verdict
from backupd.states import state_at
from backupd.store.index_queries import KnownItem
from backupd.store.ledger import Ledger
from backupd.store.ledger_tables import KeptRestores
from backupd.store.store import Store


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; empty lists mean all, `when` None the present."""

    destination: Path
    accounts: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    cos: tuple[str, ...] = ()
    when: datetime | None = None
    filter_deleted: bool = True
    free_bytes_min: int = 0
    read_errors_max: int | None = None
    skip_items: bool = False
    dry_run: bool = False


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where an export goes: an AppServer over files, and its end."""

    appserver: AppServer
    close: Callable[[], None]


MakeTarget = Callable[[Path, Path], Target]
"""Makes the target at a root, with a directory for what it keeps."""


class Export:
    """Exports from our own store. `forbidden` are directories that no export may touch.

    Accounts that are not backed up (`enrolment`) are exported only where they are named.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        make_target: MakeTarget,
        forbidden: Sequence[Path],
        enrolment: Enrolment | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._make_target = make_target
        self._enrolment = enrolment or Everyone()
        self._forbidden = (store.layout.root, *forbidden)

    async def run(self, run: Run, wanted: Wanted) -> Verdict:
        """Export. Raises `ExportRefused`, `UnknownAccount`, `UsageError`, `SpaceExhausted`."""
        place = await asyncio.to_thread(export_place, wanted.destination, self._forbidden)
        server = self._store.identity.server
        moment = place.moment(wanted.when, self._clock.now(), server)
        chosen = await asyncio.to_thread(self._choose, wanted, moment)
        if wanted.dry_run:
            return await asyncio.to_thread(self._foresee, run, chosen, wanted, moment, place)
        await asyncio.to_thread(make_place, place)
        begun = Marker(server=server, name=self._store.identity.name, moment=moment, begun=self._clock.now())
        await asyncio.to_thread(place.keep, place.marker or begun)
        target = await asyncio.to_thread(self._make_target, place.root, place.kept)
        ledger = await asyncio.to_thread(Ledger, place.kept / "restored.sqlite")
        try:
            carried = _Carrying(self._store, target, KeptRestores(ledger), self._clock, wanted, moment)
            verdict = await carried.run(_Guarded(run, self._clock, place, wanted), chosen)
        finally:
            await asyncio.to_thread(ledger.close)
            await asyncio.to_thread(target.close)
        sentence = f"as of {written(moment)} to {place.root}: {verdict.sentence}"
        ended = msgspec.structs.replace(
            place.marker or begun, ended=self._clock.now(), verdict=verdict.sentence
        )
        await asyncio.to_thread(place.keep, ended)
        return msgspec.structs.replace(verdict, sentence=sentence)

    def _choose(self, wanted: Wanted, moment: datetime) -> list[KnownItem]:
        """Return the accounts of a moment that are wanted. Raises `UnknownAccount` for one of nobody."""
        named = {_account_id(self._store, one) for one in wanted.accounts}
        domains = {one.casefold().lstrip("@") for one in wanted.domains}
        classes = {one.casefold() for one in wanted.cos}
        if classes:
            for entry in self._store.index.entries(Kind.COS, deleted=None):
                names = {entry.item, str(entry.metadata.get("name", ""))}
                if {one.casefold() for one in names} & classes:
                    classes |= {one.casefold() for one in names}
        chosen = []
        for known in self._store.index.accounts(deleted=None):
            if named and known.item not in named:
                continue
            if not named and not self._enrolment.is_enabled(known.item):
                continue
            deleted, attributes = _attributes_at(self._store, known, moment)
            if attributes is None or (deleted and wanted.filter_deleted):
                continue
            domain = str(attributes.get("name", "")).rpartition("@")[2].casefold()
            if domains and domain not in domains:
                continue
            if classes and str(attributes.get("cos", "")).casefold() not in classes:
                continue
            chosen.append(known)
        return chosen

    def _foresee(
        self, run: Run, chosen: Sequence[KnownItem], wanted: Wanted, moment: datetime, place: ExportPlace
    ) -> Verdict:
        items = folders = 0
        for known in chosen if not wanted.skip_items else ():
            run.check()
            plan = _plan(past.account_at(self._store, known.item, moment), wanted, moment)
            items += len(plan.items)
            folders += len(plan.folders)
        going_on = "" if place.marker is None else ", but for what an earlier run put there"
        what = (
            f"{len(chosen):,} accounts as of {written(moment)}, with {folders:,} folders and {items:,} items"
        )
        return Verdict(
            sentence=f"dry run: {what}, would be exported to {place.root}{going_on}",
            counts={"accounts": len(chosen), "expected": items, "folders": folders},
        )


class _Guarded(Run):
    """A run that also stops for too little free space and for too many errors."""

    def __init__(self, run: Run, clock: Clock, place: ExportPlace, wanted: Wanted) -> None:
        super().__init__(clock, uuid=run.uuid)
        self._run = run
        self._place = place
        self._wanted = wanted

    def report(self, done: int, total: int | None = None, *, unit: str = "items") -> None:
        self._run.report(done, total, unit=unit)

    def note_error(self, item: str, reason: str) -> None:
        self._run.note_error(item, reason)

    def check(self) -> None:
        """Raise `OperationStopped`, `SpaceExhausted`, or `BackupdError` beyond the threshold of errors."""
        self._run.check()
        free = durable.free_bytes(self._place.root)
        if free < self._wanted.free_bytes_min:
            raise SpaceExhausted(
                f"{free >> 20:,} MB are free at {self._place.root}, "
                f"{self._wanted.free_bytes_min >> 20:,} MB are to stay free",
                hint="make room and give the same command again: it goes on where it stopped",
            )
        errors_max = self._wanted.read_errors_max
        if errors_max is not None and self._run.errors_total > errors_max:
            raise BackupdError(
                f"{self._run.errors_total:,} items could not be exported, {errors_max:,} were to be borne",
                hint="see their reasons; without read_error_threshold the export goes on whatever fails",
            )


class _Carrying:
    """Carries one export out."""

    def __init__(
        self,
        store: Store,
        target: Target,
        kept: KeptRestores,
        clock: Clock,
        wanted: Wanted,
        moment: datetime,
    ) -> None:
        self._store = store
        self._target = target
        self._clock = clock
        self._wanted = wanted
        self._moment = moment
        self._putting = Putting(
            store, target.appserver, blobs=store.blobs, clock=clock, kept=kept, began_empty=True
        )
        self._failed = 0

    async def run(self, run: Run, chosen: Sequence[KnownItem]) -> Verdict:
        entries = await self._store_entries(run, chosen)
        there = {one.id: one for one in await self._target.appserver.accounts()}
        done, accounts = Counted(), 0
        total = await asyncio.to_thread(self._items, chosen)
        for known in chosen:
            run.check()
            try:
                then = await asyncio.to_thread(past.account_at, self._store, known.item, self._moment)
                await self._make_account(then, there)
                if not self._wanted.skip_items:
                    expected = max(total, done.expected)
                    plan = _plan(then, self._wanted, self._moment)
                    await self._putting.run(run, plan, then.account, then.account, done, total=expected)
                accounts += 1
            except OperationStopped:
                raise
            except (UnknownItem, UnknownAccount, _NotEqual) as error:
                self._fail(run, f"account {known.item}", error.message)
        run.check()
        await self._prove_accounts(run, chosen)
        items = "items left out as asked" if self._wanted.skip_items else done.sentence()
        failed = f", {self._failed:,} accounts or entries failed" if self._failed else ""
        return Verdict(
            sentence=f"{accounts:,} of {len(chosen):,} accounts, {entries:,} domains, COS and lists; "
            f"{items}{failed}",
            counts={**done.counts(), "accounts": accounts, "entries": entries, "failed": self._failed},
            successful=done.is_whole and not self._failed,
        )

    def _items(self, chosen: Sequence[KnownItem]) -> int:
        counts = (self._store.index.account_counts(known.item)[0] for known in chosen)
        return sum(count for live in counts for kind, count in live.items() if kind in CONTENT_KINDS)

    def _fail(self, run: Run, what: str, reason: str) -> None:
        run.note_error(what, reason)
        self._failed += 1

    # ------------------------------------------------------------------ entries

    async def _store_entries(self, run: Run, chosen: Sequence[KnownItem]) -> int:
        """Store domains, COS and lists, and read them back; return how many are as they shall be."""
        wanted = await asyncio.to_thread(self._entries, chosen)
        for entry in wanted:
            run.check()
            try:
                await self._target.appserver.put_entry(entry)
            except BackupdError as error:
                run.note_error(f"{entry.kind.value} {entry.id}", error.message)
        there = {(one.kind, one.id): one for one in await self._target.appserver.directory()}
        good = 0
        for entry in wanted:
            found = there.get((entry.kind, entry.id))
            if found is not None and same_attributes(found.metadata, entry.metadata):
                good += 1
            else:
                self._fail(run, f"{entry.kind.value} {entry.id}", "it does not read back as it was to be")
        return good

    def _entries(self, chosen: Sequence[KnownItem]) -> list[DirectoryEntry]:
        """Return the domains, COS and lists of the moment; where accounts are chosen, only theirs."""
        states = (_attributes_at(self._store, known, self._moment)[1] or {} for known in chosen)
        own = [(str(one.get("name", "")).rpartition("@")[2], str(one.get("cos", ""))) for one in states]
        domains = {domain.casefold() for domain, _ in own}
        classes = {cos.casefold() for _, cos in own}
        is_filtered = bool(self._wanted.accounts or self._wanted.domains or self._wanted.cos)
        found = []
        for item in self._store.index.items_at("", self._moment):
            if item.deleted or item.kind not in SERVER_KINDS:
                continue
            name = str(item.metadata.get("name") or item.item).casefold()
            used = {
                Kind.DOMAIN: name in domains,
                Kind.COS: bool({name, item.item.casefold()} & classes),
                Kind.MAILING_LIST: name.rpartition("@")[2] in domains,
            }[item.kind]
            if used or not is_filtered:
                found.append(DirectoryEntry(kind=item.kind, id=item.item, metadata=item.metadata))
        return found

    # ----------------------------------------------------------------- accounts

    async def _make_account(self, then: AccountThen, there: dict[str, Account]) -> None:
        """Make an account where it is not there yet. Raises `_NotEqual` where it can't be made."""
        if then.account in there:
            return
        account = Account(id=then.account, name=then.name, metadata=then.attributes)
        try:
            await self._target.appserver.create_account(account)
        except BackupdError as error:
            raise _NotEqual(error.message) from error
        there[then.account] = account

    async def _prove_accounts(self, run: Run, chosen: Sequence[KnownItem]) -> None:
        there = {one.id: one for one in await self._target.appserver.accounts()}
        for known in chosen:
            _, attributes = await asyncio.to_thread(_attributes_at, self._store, known, self._moment)
            found = there.get(known.item)
            if found is not None and not same_attributes(found.metadata, attributes or {}):
                self._fail(run, f"account {known.item}", "its attributes do not read back as they were")


def _plan(then: AccountThen, wanted: Wanted, moment: datetime) -> Plan:
    plan = plan_account(then)
    if wanted.filter_deleted:
        return plan
    return merged(plan, plan_undelete(deleted_between(then.gone, None, moment), tag_moment=moment))


class _NotEqual(BackupdError):
    """An account can't be exported."""


def _account_id(store: Store, name_or_id: str) -> str:
    known = store.index.find_account(name_or_id)
    if known is None:
        raise UnknownAccount(
            f"no account {name_or_id!r} in the backup", hint="getAvailableAccounts lists them"
        )
    return known.item


def _attributes_at(store: Store, known: KnownItem, moment: datetime) -> tuple[bool, Mapping[str, Any] | None]:
    """Return whether an account was deleted at a moment, and its attributes; None where it was not there."""
    if known.last <= moment:
        return known.deleted, known.metadata
    if known.first > moment:
        return False, None
    state = state_at(store.histories.read(known.key), moment)
    return (False, None) if state is None else (state.deleted, state.metadata)
