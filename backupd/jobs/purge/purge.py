"""Purge: removes from a Backup Path what retention no longer covers, and nothing else.

It plans over the index, stops where the clock is in doubt or an unusual share would go, then acts in small
steps: accounts, histories, archives of the server, contents that nothing refers to, old journal segments. A
crash anywhere leaves a whole backup; the next purge goes on. What goes is listed first (store/manifests).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import structlog

from backupd.clock import Clock, written
from backupd.errors import BackupdError, UsageError
from backupd.items import ItemKey
from backupd.jobs.purge import plan
from backupd.jobs.purge.blobs import BlobPurge
from backupd.jobs.purge.histories import Done, Remover
from backupd.jobs.purge.plan import KnownAccount, Tally
from backupd.jobs.purge.seams import BlobPlaces, Keeping, Rounds, StorePlaces
from backupd.jobs.purge.verdict import foreseen, infinite, sentence
from backupd.operations import Run, Verdict
from backupd.retention import AccountStanding, Cutoffs, Retention, archives_that_go, cutoffs
from backupd.store import archives, manifests, purging
from backupd.store.archives import ArchiveType
from backupd.store.index_queries import KnownItem
from backupd.store.manifests import Manifest
from backupd.store.store import Store
from backupd.timekeeping import Marks
from backupd.volumes.disk import sync_directory

REMEMBERED_ENTRIES = 10_000
"""So many entries of the journal stay at least: the recorder looks through the last ones at its start."""
REPORTED_EVERY = 5_000
DAYS_MAX = 36_500

log = structlog.get_logger(__name__)


class PurgeRefused(BackupdError):
    """A purge would do what needs an admin's word first."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force at the start of a purge. `share_max` in percent."""

    retention: Retention
    archives_follow: bool = True
    share_max: int = 20
    grace: timedelta = timedelta(hours=24)


class PurgeWanted(msgspec.Struct, frozen=True, kw_only=True):
    """What one purge shall do. `days` stands in for the days of every class."""

    days: int | None = None
    dry_run: bool = False
    force: bool = False
    verbose: bool = False

    def check(self) -> None:
        """Raise `UsageError` for days that mean nothing."""
        if self.days is not None and not 1 <= self.days <= DAYS_MAX:
            raise UsageError(
                f"purgeDays must be 1 to {DAYS_MAX:,}",
                hint="0 would be for ever; to purge what was deleted a day ago or earlier: purgeDays 1",
            )


class Purge:
    """Purges one store. `rounds` is who records into it; `keeping` protects accounts, asked at each step.

    `clock_doubt` says why the clock is not to be believed, empty where it is; both it and `accept_clock` (an
    admin's word that the clock is right) may block. With `doubts_future` items of the future put it in doubt
    too: for a backup of which no clock was watched. `sent_through` is the journal entry up to which others
    need it no more, None where nobody does; `marks` tell when what was recorded.
    """

    def __init__(
        self,
        store: Store,
        rounds: Rounds,
        *,
        clock: Clock,
        rules: Callable[[], Rules],
        keeping: Callable[[], Keeping],
        clock_doubt: Callable[[], str],
        accept_clock: Callable[[], None] = lambda: None,
        places: BlobPlaces | None = None,
        doubts_future: bool = False,
        sent_through: Callable[[], int | None] = lambda: None,
        marks: Callable[[], Marks] = Marks,
    ) -> None:
        self._store = store
        self._rounds = rounds
        self._clock = clock
        self._rules = rules
        self._keeping = keeping
        self._clock_doubt = clock_doubt
        self._accept_clock = accept_clock
        self._places = places or StorePlaces(store, clock)
        self._doubts_future = doubts_future
        self._sent_through = sent_through
        self._read_marks = marks
        self._marks = Marks()

    async def run(self, run: Run, wanted: PurgeWanted) -> Verdict:
        """Purge; return the verdict. Raises `PurgeRefused`, `UsageError`, `OperationStopped`, `OSError`."""
        rules = _rules_of(self._rules(), wanted)
        if rules.retention.is_infinite:
            if not wanted.dry_run:
                await asyncio.to_thread(self._note_end)
            return infinite()
        now, doubt = await self._believed_now(wanted)
        self._marks = await asyncio.to_thread(self._read_marks)
        at = cutoffs(rules.retention, now)
        tally = Tally()
        await asyncio.to_thread(self._plan, run, at, tally, now)
        refusal = self._refusal(tally, rules, wanted)
        _log_plan(tally, verbose=wanted.verbose or wanted.dry_run)
        if wanted.dry_run:
            going = await asyncio.to_thread(self._old_archives, at, rules)
            refusals = [f"the clock is in doubt: {doubt}"] * bool(doubt and not wanted.force)
            refusals += [refusal] * bool(refusal)
            return foreseen(tally, rules.retention, archives=len(going), refusal="; ".join(refusals))
        if refusal:
            raise PurgeRefused(f"nothing was purged: {refusal}", hint=_FORCE_HINT)
        return await self._act(run, wanted, rules, at, tally, now)

    async def _act(
        self, run: Run, wanted: PurgeWanted, rules: Rules, at: Cutoffs, tally: Tally, now: datetime
    ) -> Verdict:
        store, done = self._store, Done()
        facts = {
            "retention": msgspec.to_builtins(rules.retention),
            "operation": run.uuid,
            "force": wanted.force,
        }
        manifest = Manifest(store.layout, now, facts)
        remover = Remover(
            store,
            self._rounds,
            clock=self._clock,
            run=run,
            at=at,
            standing_of=self._standing_now,
            marks=self._marks,
            forget=lambda account: self._keeping().forget(account),
            manifest=manifest,
            done=done,
        )
        try:
            await self._rounds.between_rounds(partial(self._begin, store.index.cursor()))
            await remover.empty_what_was_moved()
            for known in tally.going_accounts:
                await remover.remove_account(known)
            again = self._going(run, at, Tally(), now)
            await remover.remove_items(again, tally.going_by_kind.total())
            await asyncio.to_thread(self._remove_archives, at, rules, manifest, done)
            blobs = BlobPurge(
                store, self._rounds, self._places, run=run, remover=remover, manifest=manifest, done=done
            )
            await blobs.condemn(now)
            await blobs.remove(now, rules.grace)
            await self._rounds.between_rounds(partial(self._trim_journal, at, done))
            verdict = sentence(tally, done, rules.retention, errors=run.errors_total)
            await asyncio.to_thread(self._end, manifest, verdict, now)
        finally:
            await asyncio.to_thread(manifest.close)
        return verdict

    # --------------------------------------------------------------------- plan

    async def _believed_now(self, wanted: PurgeWanted) -> tuple[datetime, str]:
        """Return the time and, for a dry run alone, what puts it in doubt."""
        doubt = await asyncio.to_thread(self._clock_doubt)
        if doubt and wanted.force and not wanted.dry_run:
            log.warning("clock_accepted", doubt=doubt)
            await asyncio.to_thread(self._accept_clock)
        elif doubt and not wanted.dry_run:
            raise PurgeRefused(f"nothing was purged: the clock is in doubt: {doubt}", hint=_CLOCK_HINT)
        elif doubt:
            log.warning("clock_in_doubt", doubt=doubt)
        return self._clock.now(), doubt

    def _plan(self, run: Run, at: Cutoffs, tally: Tally, now: datetime) -> None:
        for place, _ in enumerate(self._going(run, at, tally, now)):
            if place % REPORTED_EVERY == 0:
                run.check()
                run.report(tally.items, unit="items looked at")

    def _going(self, run: Run, at: Cutoffs, tally: Tally, now: datetime) -> Iterator[ItemKey]:
        run.check()
        keeping = self._keeping()
        standings = plan.going_accounts(self._accounts(keeping), at, tally)

        def unknown(account: str) -> AccountStanding:
            return _standing(keeping, account, None)

        facts = self._store.index.facts()
        return plan.going_items(facts, standings, unknown, at, tally, now, marks=self._marks)

    def _accounts(self, keeping: Keeping) -> Iterator[KnownAccount]:
        for item in self._store.index.accounts(deleted=None):
            name = item.metadata.get("name")
            yield KnownAccount(
                account=item.item,
                name=name if isinstance(name, str) else "",
                standing=_standing(keeping, item.item, self._gone_since(item)),
            )

    def _standing_now(self) -> Callable[[str], AccountStanding]:
        keeping, index = self._keeping(), self._store.index

        def standing(account: str) -> AccountStanding:
            known = index.item(account, account) if account else None
            return _standing(keeping, account, None if known is None else self._gone_since(known))

        return standing

    def _gone_since(self, known: KnownItem) -> datetime | None:
        claimed = known.deleted_at
        return None if claimed is None else self._marks.gone_since(claimed, known.transaction)

    def _refusal(self, tally: Tally, rules: Rules, wanted: PurgeWanted) -> str:
        if wanted.force:
            return ""
        if self._doubts_future and tally.future_items >= plan.FUTURE_ITEMS_MIN:
            return (
                f"the clock is in doubt: {tally.future_items:,} items changed later than now, "
                f"{self._clock.now():%Y-%m-%d %H:%M} UTC"
            )
        return tally.unusual(rules.share_max)

    # ---------------------------------------------------------------------- act

    def _begin(self, cursor: int) -> None:
        """Finish what an earlier purge left, and keep an index built anew from replaying what goes now."""
        purging.complete(self._store)
        purging.remember_recorded(self._store.ledger, cursor)

    def _old_archives(self, at: Cutoffs, rules: Rules) -> list[archives.Archive]:
        going = []
        for type_ in ArchiveType:
            found = archives.archives(self._store.layout, type_)
            dates, _ = archives_that_go(
                [one.date for one in found], at.archives, follow=rules.archives_follow
            )
            going += [one for one in found if one.date in dates]
        return going

    def _remove_archives(self, at: Cutoffs, rules: Rules, manifest: Manifest, done: Done) -> None:
        going = self._old_archives(at, rules)
        manifest.add(
            {"what": "archive", "name": one.path.name, "made": written(one.date), "size": one.size}
            for one in going
        )
        manifest.sync()
        for one in going:
            one.path.unlink(missing_ok=True)
            done.archives += 1
            done.freed_bytes += one.size
        if going:
            sync_directory(str(self._store.layout.servers))

    def _trim_journal(self, at: Cutoffs, done: Done) -> None:
        """Remove segments whose every entry is recorded and older than the data's retention."""
        if at.data is None:
            return
        journal = self._store.journal
        through, sent = self._store.index.cursor() - REMEMBERED_ENTRIES, self._sent_through()
        through = through if sent is None else min(through, sent)
        removed = journal.trim(through, 0, written_before=at.data)
        done.segments += len(removed)

    def _end(self, manifest: Manifest, verdict: Verdict, now: datetime) -> None:
        if manifest.path is not None:
            manifest.add([{"what": "end", "verdict": verdict.sentence}])
            manifest.sync()
        manifests.forget_old(self._store.layout, now)
        self._note_end()

    def _note_end(self) -> None:
        statistics = self._store.statistics
        statistics.write_backup(
            msgspec.structs.replace(statistics.backup(), last_purge_ended=self._clock.now())
        )


_FORCE_HINT = "look at it with dry_run true; if it is meant: backupctl backup doPurge force true"
_CLOCK_HINT = "set the clock (timedatectl); if it is right: backupctl backup doPurge force true"


def _standing(keeping: Keeping, account: str, deleted_at: datetime | None) -> AccountStanding:
    """Return an account's standing: gone since it was deleted or disabled; of both the later counts."""
    disabled = keeping.disabled_since(account) if account else None
    gone = max((one for one in (deleted_at, disabled) if one is not None), default=None)
    return AccountStanding(gone_since=gone, protection=keeping.protection(account))


def _rules_of(rules: Rules, wanted: PurgeWanted) -> Rules:
    wanted.check()
    days = wanted.days
    if days is None:
        return rules
    retention = Retention(data_days=days, account_days=days, archive_days=days)
    return msgspec.structs.replace(rules, retention=retention)


def _log_plan(tally: Tally, *, verbose: bool) -> None:
    log.info(
        "purge_planned",
        items=tally.items,
        going=tally.going_items,
        accounts=len(tally.going_accounts),
        staying={why.value: count for why, count in tally.staying.items()},
    )
    if not verbose:
        return
    for known in tally.going_accounts:
        since = known.standing.gone_since
        log.info("account_would_go", account=known.account, name=known.name, gone_since=since)
    counted: Mapping[str, Mapping[str, Any]] = tally.by_account
    for account, counts in counted.items():
        log.info("account_planned", account=account or "(server)", **counts)
