"""A backup through random lives: users, intake, scans, restores, purges, time and crashes in any order.

The model knows of every history ever seen what it held, and judges by the rules as the specification words
them, written down here once more and on purpose not taken from the code. `BACKUPD_LIVES` says how many
lives; without it a few.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backupd import durable
from backupd.errors import BackupdError
from backupd.items import ItemKey, Kind
from backupd.jobs.restore import ItemRestore
from backupd.retention import Stay
from backupd.states import ChangeType, State
from backupd.store.ledger_tables import Condemned
from tests.unit.jobs.purging import DAY, DAYS, PurgedWorld, content
from tests.unit.jobs.worlds import change

LIVES = int(os.environ.get("BACKUPD_LIVES", "0"))
ROOM = "/dev/shm" if Path("/dev/shm").is_dir() else None
ACCOUNTS = ("alice", "bob")
GRACE_DAYS = 1.0
TEXTS = [f"text {number}" for number in range(6)]
"""Few, so that items share contents, and one comes back that lost its last reference."""


class Killed(BaseException):
    """The process ended here."""


class Lives(RuleBasedStateMachine):
    """One backup."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="backupd-lives-", dir=ROOM)
        self.loop = asyncio.new_event_loop()
        self.world = PurgedWorld(Path(self.directory.name) / "backup")
        self.world.rules = msgspec.structs.replace(self.world.rules, grace=timedelta(days=GRACE_DAYS))
        self.seen: dict[ItemKey, list[State]] = {}
        self.must_go: set[ItemKey] = set()
        self.without_reference: dict[str, datetime] = {}
        self.ran = 0
        for account in ACCOUNTS:
            self.run(self.world.have(TEXTS[0], account=account))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.recorder.close()
            self.world.store.close()
            self.loop.close()
            self.directory.cleanup()

    def run(self, work: object) -> object:
        return self.loop.run_until_complete(work)

    def accounts(self) -> list[str]:
        return sorted(one.id for one in self.run(self.world.server.accounts()))

    # ------------------------------------------------------------------ what users and the server do

    @rule(account=st.sampled_from(ACCOUNTS), text=st.sampled_from(TEXTS), kind=st.booleans())
    def deliver(self, account: str, text: str, kind: bool) -> None:
        if account in self.accounts():
            added = Kind.MESSAGE if kind else Kind.DOCUMENT
            self.run(self.world.server.add(account, added, "Here", content(text)))

    @rule(text=st.sampled_from(TEXTS), place=st.integers(0, 50))
    def edit(self, text: str, place: int) -> None:
        found = self._items(Kind.DOCUMENT)
        if found:
            self.world.clock.tick(1)
            self.world.server.edit(*found[place % len(found)], content(text))

    @rule(place=st.integers(0, 50))
    def remove(self, place: int) -> None:
        found = self._items(Kind.DOCUMENT) + self._items(Kind.MESSAGE)
        if found:
            self.world.server.remove(*found[place % len(found)])

    def _items(self, kind: Kind) -> list[tuple[str, str]]:
        return [
            (account, key)
            for account in self.accounts()
            for key, item in sorted(self.world.server._account(account).items.items())
            if item.kind is kind
        ]

    @rule(account=st.sampled_from(ACCOUNTS))
    def remove_account(self, account: str) -> None:
        if account in self.accounts():
            self.world.server.remove_account(account)

    @rule(account=st.sampled_from(ACCOUNTS))
    def make_account(self, account: str) -> None:
        if account not in self.accounts():
            self.run(self.world.account(account))

    # ------------------------------------------------------------------ what the backup does

    @rule()
    def scan(self) -> None:
        self.run(self.world.scan_all(force=True))

    @rule(item=st.integers(0, 3), text=st.sampled_from(TEXTS), gone=st.booleans(), recorded=st.booleans())
    def event(self, item: int, text: str, *, gone: bool, recorded: bool) -> None:
        at = (self.world.clock.now() - change().time).total_seconds()
        kind = ChangeType.DELETED if gone else ChangeType.MODIFIED
        self.world.journal(change(f"event-{item}", kind, at=at, body=content(text)))
        if recorded:
            self.run(self.world.record())

    @rule(place=st.integers(0, 50))
    def restore(self, place: int) -> None:
        gone = [key for key, states in self.seen.items() if states[-1].deleted and key.kind is Kind.MESSAGE]
        if not gone:
            return
        key = gone[place % len(gone)]
        try:
            self.run(
                ItemRestore(self.world.store, self.world.server, clock=self.world.clock).run(
                    key.account, key.item, when=None, folder=None
                )
            )
        except BackupdError:
            assert (
                key.account not in self.accounts()
                or key not in self.world.histories()
                or (not self.world.histories()[key][-1].digest)
            )

    @rule(days=st.sampled_from([0.2, 1.1, 10.0, 31.0]))
    def time_passes(self, days: float) -> None:
        self.world.clock.tick(days * DAY)

    @rule(account=st.sampled_from(ACCOUNTS), reason=st.sampled_from([None, Stay.LEGAL_HOLD, Stay.SUSPENDED]))
    def protect(self, account: str, reason: Stay | None) -> None:
        self.world.kept.protections.pop(account, None)
        if reason is not None:
            self.world.kept.protections[account] = reason

    @rule()
    def crash(self) -> None:
        self._see()
        self.world.crash()

    @rule(step=st.integers(1, 60))
    def purge_and_die(self, step: int) -> None:
        """Purge, and end at a durable step, as a process does that is killed."""
        self._see()
        passed = 0

        def die(_name: str) -> None:
            nonlocal passed
            passed += 1
            if passed >= step:
                raise Killed

        durable.observe_steps(die)
        try:
            self.run(self.world.purge(force=True))
        except Killed:
            durable.observe_steps(None)
            self.world.crash()
        finally:
            durable.observe_steps(None)
        self._compare(whole=False)

    @rule()
    def purge(self) -> None:
        self._see()
        self.run(self.world.purge(force=True))
        self._compare(whole=True)

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def every_reference_leads_somewhere(self) -> None:
        assert self.world.referenced() <= self.world.blobs()

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def nothing_vanishes_by_itself(self) -> None:
        self._see()

    # ------------------------------------------------------------------ the model

    def _see(self) -> None:
        """Take in what histories hold now; nothing seen before is missing."""
        now = self.world.histories()
        missing = set(self.seen) - set(now)
        assert not missing, f"vanished without a purge: {missing}"
        for key, states in self.seen.items():
            assert now[key][: len(states)] == states, f"{key} was rewritten"
        self.seen = now

    def _may_go(self, key: ItemKey) -> bool:
        """Tell by the specification's words whether a history may be gone."""
        if key.account in self.world.kept.protections:
            return False
        last = self.seen[key][-1]
        own = self.seen.get(ItemKey(key.account, Kind.ACCOUNT, key.account))
        account_end = own[-1].start if own and own[-1].deleted else None
        if account_end is not None and self._is_old(account_end):
            return True
        if not last.deleted or key.kind is Kind.ACCOUNT or not self._is_old(last.start):
            return False
        return account_end is None or last.start < account_end - timedelta(days=1)

    def _is_old(self, when: datetime) -> bool:
        return (self.world.clock.now() - when).total_seconds() > DAYS * DAY

    def _compare(self, *, whole: bool) -> None:
        now = self.world.histories()
        for key in set(self.seen) - set(now):
            assert self._may_go(key), f"{key} is gone, and should not be"
        for key, states in now.items():
            if key in self.seen:
                assert states[: len(self.seen[key])] == self.seen[key], f"{key} was rewritten"
        assert self.world.index_is_true()
        if whole:
            waiting = self._waiting()
            left = [key for key in now if self._may_go(key) and key.account not in waiting]
            assert not left, f"still there after a purge: {left}"
            self._compare_blobs()
            assert not list((self.world.path / ".purging").glob("*"))
        self.seen = now

    def _waiting(self) -> set[str]:
        entries = self.world.store.journal.read(self.world.recorder.cursor)
        return {entry.change.account for entry in entries}

    def _compare_blobs(self) -> None:
        """No blob without a reference is there once grace has passed since a purge first saw it so."""
        now = self.world.clock.now()
        named = {entry.change.digest for entry in self.world.store.journal.read(self.world.recorder.cursor)}
        loose = self.world.blobs() - self.world.referenced() - named
        for digest in loose & set(self.without_reference):
            age = (now - self.without_reference[digest]).total_seconds()
            assert age < GRACE_DAYS * DAY, f"{digest} outlived two purges"
        self.without_reference = {
            digest: self.without_reference.get(digest, now)
            for digest in self.world.blobs() - self.world.referenced()
        }
        assert Condemned(self.world.store.ledger).count() >= len(loose)


Lives.TestCase.settings = settings(
    max_examples=LIVES or 6,
    stateful_step_count=50 if LIVES else 25,
    deadline=None,
    derandomize=not LIVES,
    suppress_health_check=list(HealthCheck),
)
TestLives = Lives.TestCase
