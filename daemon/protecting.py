"""Protecting: legal holds and the mass-deletion guard, as the daemon runs them and answers for them.

The guard looks as soon as deletions were recorded, at most every few seconds, so that admins are told early;
whoever purges asks `Guard.examine` right before, so that no deletion is purged that it has not judged. Each
change in what is protected is logged and told, with who made it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from backupd.attribute import Attribute
from backupd.clock import Clock
from backupd.control import Reply
from backupd.errors import BackupdError, UnknownAccount, UsageError
from backupd.jobs.guard import Guard
from backupd.keeping_views import HoldView, SuspensionView
from backupd.replies import HoldsReply, SuspensionsReply
from backupd.store.index_queries import KnownItem
from backupd.store.protections import ALL, Protected, Protections, Suspension
from backupd.store.store import Store
from daemon import messages
from daemon.answering import Answering, Given
from daemon.enrolling import Enrolling
from daemon.guarding import ATTRIBUTES
from daemon.messages import Message
from daemon.peers import Caller

LOOK_SECONDS = 5.0
LOOK_SECONDS_MAX = 3_600.0
"""Without new deletions the guard looks as often as this: windows move on, and so do settings."""
REST = 20
"""After a look the guard rests for so many times as long as it took."""
REST_SECONDS_MAX = 300.0
ALL_WORD = "all"

log = structlog.get_logger(__name__)


class Protecting:
    """Runs the guard and answers `legalHold` and the commands about suspended retention.

    `tell` takes a message for admins, `look_soon` is called when there are new problems or fewer. Losses are
    judged as of `believed_now`: by a clock that is behind, those of months would be of one day.
    """

    def __init__(
        self,
        store: Store,
        guard: Guard,
        enrolling: Enrolling,
        *,
        clock: Clock,
        believed_now: Callable[[], datetime],
        server: str,
        tell: Callable[[Message], None],
        look_soon: Callable[[], None],
    ) -> None:
        self._store = store
        self._guard = guard
        self._believed_now = believed_now
        self.enrolling = enrolling
        self._clock = clock
        self._server = server
        self._tell = tell
        self._look_soon = look_soon
        self._protections = Protections(store.ledger)
        self._deleted = -1
        self._looked = 0.0

    def table(self) -> dict[str, Answering]:
        """Return what answers each command, by its title."""
        return {
            "backup legalHold get": self._get_holds,
            "backup legalHold set": self._set_holds,
            "backup legalHold unset": self._unset_holds,
            "backup getSuspendedRetention": self._get_suspended,
            "backup doResumeRetention": self._resume,
        }

    # -------------------------------------------------------------------- guard

    def setting_changed(self, attribute: Attribute) -> None:
        """Look again within seconds where limits changed; from any thread."""
        if attribute.name in ATTRIBUTES:
            self._deleted = -1

    async def run(self) -> None:
        """Guard until cancelled."""
        while True:
            began = self._clock.monotonic()
            try:
                await self._look(began)
            except (OSError, sqlite3.Error, BackupdError) as error:
                log.error("guard_could_not_look", reason=str(error))
            took = self._clock.monotonic() - began
            await self._clock.sleep(min(max(LOOK_SECONDS, REST * took), REST_SECONDS_MAX))

    async def _look(self, now: float) -> None:
        deleted = sum((await asyncio.to_thread(self._store.index.counts)).deleted.values())
        if deleted == self._deleted and now - self._looked < LOOK_SECONDS_MAX:
            return
        await asyncio.to_thread(self.enrolling.refresh)
        new = await asyncio.to_thread(lambda: self._guard.examine(self._believed_now()))
        self._deleted, self._looked = deleted, now
        if new:
            self._look_soon()

    # -------------------------------------------------------------------- holds

    async def _get_holds(self, given: Given, _caller: Caller) -> Reply:
        words = given["accounts"]

        def get() -> HoldsReply:
            return self._holds_reply([] if words is None or _means_all(words) else self._chosen(words))

        return await asyncio.to_thread(get)

    async def _set_holds(self, given: Given, caller: Caller) -> Reply:
        def set_() -> tuple[list[str], HoldsReply]:
            words, chosen = given["accounts"], []
            if not _means_all(words):
                chosen = self._chosen(words)
            ids = [one.id for one in chosen] or [ALL]
            new = self._protections.set_holds(ids, by=caller.name, now=self._clock.now())
            return self._names(new, chosen), self._holds_reply(chosen)

        names, reply = await asyncio.to_thread(set_)
        self._told("legal hold set", names, caller)
        return reply

    async def _unset_holds(self, given: Given, caller: Caller) -> Reply:
        def unset() -> tuple[list[str], HoldsReply]:
            words, chosen = given["accounts"], []
            if not _means_all(words):
                chosen = self._chosen(words)
            gone = self._protections.unset_holds([one.id for one in chosen] or [ALL])
            left = len(self._protections.holds()) if gone == [ALL] else 0
            return self._names(gone, chosen), self._holds_reply(chosen, _note_of_left(left))

        names, reply = await asyncio.to_thread(unset)
        self._told("legal hold unset", names, caller)
        return reply

    def _holds_reply(self, chosen: Sequence[HoldView], note: str = "") -> HoldsReply:
        """Return how accounts (none chosen: all of the backup) stand now, by address."""
        protected = self._protections.now_in_force()
        everyone = protected.everyone
        return HoldsReply(
            accounts=tuple(_held(one, protected) for one in chosen or self._every_account()),
            all_since=None if everyone is None else everyone.since,
            all_by="" if everyone is None else everyone.by,
            note=note,
        )

    def _every_account(self) -> list[HoldView]:
        """Return all accounts, those that only the ledger knows any more too."""
        found = [_hold_view(one) for one in self._store.index.accounts(deleted=None)]
        known = {one.id for one in found}
        held = [one.account for one in self._protections.holds() if one.account not in known]
        return found + [HoldView(id=one, name=one, legal_hold=False) for one in held if one != ALL]

    def _chosen(self, words: Sequence[str]) -> list[HoldView]:
        """Return the accounts that are meant, each once. Raises `UnknownAccount` that names every other word.

        An address means every account that had it last, deleted ones too: keeping too much does no harm.
        """
        if any(_is_all(word) for word in words):
            raise UsageError("all stands alone: it means every account", hint="give all, or accounts")
        every = self._every_account()
        chosen: dict[str, HoldView] = {}
        unknown = []
        for word in words:
            found = [one for one in every if one.id == word or one.name.casefold() == word.casefold()]
            if not found and any(self._store.index.account_counts(word)):
                found = [HoldView(id=word, name=word, legal_hold=False)]
            chosen |= {one.id: one for one in found}
            unknown += [] if found else [word]
        if unknown:
            raise UnknownAccount(
                f"no account {', '.join(repr(word) for word in unknown)} in the backup: nothing was changed",
                hint="getAvailableAccounts lists them, deleted ones too",
            )
        return list(chosen.values())

    # -------------------------------------------------------------- suspensions

    async def _get_suspended(self, given: Given, _caller: Caller) -> Reply:
        def get() -> SuspensionsReply:
            found = self._protections.suspensions()
            found += self._protections.suspensions(lifted=True) if given["lifted"] else []
            return self._suspensions_reply(found)

        return await asyncio.to_thread(get)

    async def _resume(self, given: Given, caller: Caller) -> Reply:
        reply = await asyncio.to_thread(self._lift, given["accounts"], caller)
        self._told("suspended retention resumed", [one.name for one in reply.accounts], caller)
        self._look_soon()
        return reply

    def _lift(self, words: Sequence[str], caller: Caller) -> SuspensionsReply:
        suspended = suspension_views(self._store, self._protections.suspensions())
        if _means_all(words):
            chosen = [one.id for one in suspended]
        else:
            meant = {
                word: [
                    one.id for one in suspended if word == one.id or word.casefold() == one.name.casefold()
                ]
                for word in words
            }
            wrong = [word for word, found in meant.items() if not found]
            if wrong:
                raise UnknownAccount(
                    f"retention is not suspended for {', '.join(repr(word) for word in wrong)}:"
                    " nothing was changed",
                    hint="getSuspendedRetention lists the accounts",
                )
            chosen = [account for found in meant.values() for account in found]
        # Deletions that are journaled and not recorded yet were made before the admin looked.
        through = self._store.journal.last_sequence
        lifted = self._protections.lift(chosen, by=caller.name, now=self._clock.now(), through=through)
        return self._suspensions_reply(lifted)

    def _suspensions_reply(self, found: Sequence[Suspension]) -> SuspensionsReply:
        return SuspensionsReply(accounts=tuple(suspension_views(self._store, found)))

    # -------------------------------------------------------------------- telling

    def _names(self, ids: Sequence[str], chosen: Sequence[HoldView]) -> list[str]:
        names = {one.id: one.name for one in chosen} | {ALL: "all accounts"}
        return [names.get(one) or name_of(self._store, one) for one in ids]

    def _told(self, what: str, names: Sequence[str], caller: Caller) -> None:
        if names:
            log.warning("protection_changed", change=what, by=caller.name, accounts=list(names))
            self._tell(messages.of_protection(what, names, caller.name, self._server))


def suspension_views(
    store: Store, suspensions: Sequence[Suspension], *, named_max: int | None = None
) -> list[SuspensionView]:
    """Return suspensions with the names of their accounts (the first ones, those beyond by id); blocks."""
    return [
        SuspensionView(
            id=one.account,
            name=name_of(store, one.account) if named_max is None or place < named_max else one.account,
            since=one.since,
            lost=one.lost,
            total=one.total,
            noun=one.noun,
            hours=one.hours,
            sentence=one.sentence,
            lifted=one.lifted,
            lifted_by=one.lifted_by,
        )
        for place, one in enumerate(suspensions)
    ]


def name_of(store: Store, account: str) -> str:
    """Return an account's address, or its id where the backup knows no address."""
    known = store.index.find_account(account)
    return account if known is None else str(known.metadata.get("name") or account)


def _held(view: HoldView, protected: Protected) -> HoldView:
    hold = protected.hold_of(view.id)
    return HoldView(
        id=view.id,
        name=view.name,
        deleted=view.deleted,
        legal_hold=hold is not None,
        since=None if hold is None else hold.since,
        by="" if hold is None else hold.by,
        of_all=hold is not None and hold.account == ALL,
    )


def _hold_view(known: KnownItem) -> HoldView:
    name = str(known.metadata.get("name") or known.item)
    return HoldView(id=known.item, name=name, deleted=known.deleted, legal_hold=False)


def _means_all(words: Sequence[str]) -> bool:
    return len(words) == 1 and _is_all(words[0])


def _is_all(word: str) -> bool:
    return word.casefold() == ALL_WORD


def _note_of_left(left: int) -> str:
    if not left:
        return ""
    return f"still held, each by itself: {left:,}; legalHold unset all again unsets them, too"
