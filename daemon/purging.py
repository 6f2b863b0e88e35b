"""Purging: the operation `doPurge`, with the retention in force and what protects accounts at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from backupd.attributes import Scopes, Settings
from backupd.clock import Clock
from backupd.errors import UsageError, VolumeError
from backupd.jobs.guard.guard import Guard
from backupd.jobs.purge import Alone, Purge, PurgeWanted, Rules
from backupd.jobs.purge.elsewhere import is_own, opened_elsewhere
from backupd.jobs.purge.seams import Rounds
from backupd.operations import Operation, Run, Verdict, Work
from backupd.retention import ACCOUNT_DAYS, ARCHIVE_DAYS, DATA_DAYS, Retention, Stay
from backupd.store.outside.reclaiming import Reclaimed
from backupd.store.protections import Protections, Reason
from backupd.store.store import Store
from daemon.clock_watch import ClockWatch, marks_of
from daemon.enrolling import kept_left_out
from daemon.operations_queue import Factory
from daemon.own_thread import in_own_thread

STAY_OF = {Reason.LEGAL_HOLD: Stay.LEGAL_HOLD, Reason.SUSPENDED: Stay.SUSPENDED}


class LedgerKeeping:
    """What a store's ledger says at one moment of accounts that are protected, or not recorded any more."""

    def __init__(self, store: Store) -> None:
        self._protections = Protections(store.ledger)
        self._protected = self._protections.now_in_force()
        self._left_out = kept_left_out(store.ledger)

    def protection(self, account: str) -> Stay | None:
        """Return why nothing of an account may go, a hold before a suspension."""
        found = [STAY_OF[one.reason] for one in self._protected.why(account)]
        return found[0] if found else None

    def disabled_since(self, account: str) -> datetime | None:
        """Return since when an account is not recorded any more."""
        left_out = self._left_out.get(account)
        return None if left_out is None else left_out.since

    def forget(self, account: str) -> None:
        """Forget what was lifted of an account that is gone."""
        self._protections.forget([account])


class Purging:
    """Makes the work of a purge from its parameters."""

    def __init__(
        self,
        store: Store,
        rounds: Rounds,
        settings: Settings,
        clock_watch: ClockWatch,
        *,
        server_id: str,
        clock: Clock,
        guard: Guard,
        sent_through: Callable[[], int | None],
        reclaim: Callable[[Run], Reclaimed | None],
    ) -> None:
        self._store = store
        self._rounds = rounds
        self._settings = settings
        self._clock_watch = clock_watch
        self._scopes = Scopes(server=server_id)
        self._clock = clock
        self._guard = guard
        self._sent_through = sent_through
        self._reclaim = reclaim

    def factories(self) -> dict[str, Factory]:
        """Return the factory of `doPurge`."""
        return {"doPurge": self._do_purge}

    def rules(self) -> Rules:
        """Return what is in force now."""
        return Rules(
            retention=Retention(
                data_days=self._number(DATA_DAYS),
                account_days=self._number(ACCOUNT_DAYS),
                archive_days=self._number(ARCHIVE_DAYS),
            ),
            archives_follow=bool(self._settings.get("ZxBackup_PurgeCustomizations", self._scopes).value),
            share_max=self._number("backupPurgeShareMax"),
            grace=timedelta(hours=self._number("backupBlobGraceHours")),
        )

    def _number(self, attribute: str) -> int:
        return int(str(self._settings.get(attribute, self._scopes).value))

    def _do_purge(self, operation: Operation) -> Work:
        given = operation.parameters
        wanted = PurgeWanted(
            days=given.get("purge_days"),
            dry_run=bool(given.get("dry_run")),
            force=bool(given.get("force")),
            verbose=bool(given.get("verbose")),
        )
        wanted.check()
        path = Path(given["backup_path"]) if given.get("backup_path") else None
        if path is not None and not path.is_absolute():
            raise UsageError(f"{path} is no absolute path", hint="give the whole path of the directory")

        async def work(run: Run) -> Verdict:
            own = self._store.layout.root
            if path is None or await asyncio.to_thread(is_own, path, own):
                return await self._purge_own(run, wanted)
            opening = opened_elsewhere(path, own, self._clock)
            store = await asyncio.to_thread(opening.__enter__)
            try:
                return await self._purge(store, Alone(store), is_ours=False).run(run, wanted)
            finally:
                await asyncio.to_thread(store.close)

        return work

    async def _purge_own(self, run: Run, wanted: PurgeWanted) -> Verdict:
        """Purge our own path, and give back what that leaves unused outside.

        Whoever lost an unusual share of his items is looked for first, so that nothing of it is taken away.
        """
        await asyncio.to_thread(lambda: self._guard.examine(self._clock_watch.believed_now()))
        verdict = await self._purge(self._store, self._rounds, is_ours=True).run(run, wanted)
        if wanted.dry_run:
            return verdict
        try:
            given_back = await in_own_thread(lambda: self._reclaim(run), name="reclaiming")
        except VolumeError as error:
            run.note_error("the external volume", error.message)
            return _with(verdict, "; the room on the external volume is given back by a later purge")
        return verdict if given_back is None else _with(verdict, f"; outside {given_back.sentence()}")

    def _purge(self, store: Store, rounds: Rounds, *, is_ours: bool) -> Purge:
        return Purge(
            store,
            rounds,
            clock=self._clock,
            rules=self.rules,
            keeping=lambda: LedgerKeeping(store),
            clock_doubt=self._clock_watch.look,
            accept_clock=self._clock_watch.accept,
            doubts_future=not is_ours,
            sent_through=self._sent_through if is_ours else lambda: None,
            marks=lambda: marks_of(store),
        )


def _with(verdict: Verdict, words: str) -> Verdict:
    return msgspec.structs.replace(verdict, sentence=verdict.sentence + words)
