"""The coherency check: reads what a Backup Path holds and says what does not fit. Writes nothing there.

The whole path in one run, an account's part of it, or a bounded part behind where the last run ended
(`rotation`). Blobs are looked at first: what no state refers to is then sought in every history before it is
called an orphan. A daemon may be recording meanwhile: whatever of a history looks wrong is looked at again
while nothing is being written (`calm`) before it is said.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from backupd.clock import Clock
from backupd.items import ItemKey, Kind, file_name_of
from backupd.jobs.coherency import losses, references, top
from backupd.jobs.coherency.account_files import GRACE_SECONDS
from backupd.jobs.coherency.digest_sets import DigestSet
from backupd.jobs.coherency.findings import Finding, Findings
from backupd.jobs.coherency.looking import GONE_MAX, Looked
from backupd.jobs.coherency.rotation import Position, Rings
from backupd.jobs.coherency.shelves import ACCOUNT_PARTS, Ring, Step, Walk
from backupd.jobs.coherency.workers import Lookers
from backupd.operations import Run
from backupd.store import index_audit, index_queries, layout, unwritten
from backupd.store.foreign_files import Tree
from backupd.store.index_queries import APPLICATION, VERSION
from backupd.volumes.local import STAGED

SETTLE_SECONDS = 0.3
ABSENT_MAX = 100_000
"""Contents that are not there, of which more is found out than their number."""
CALM_NAMES = 50
"""Histories that are looked at again while recording waits, at a time."""
T = TypeVar("T")
Calm = Callable[[Callable[[], T]], T]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to look at. `accounts` (ids) empty: everything. `share` and `seconds_max` bound a run.

    `noted`: the shelves of which `Checked.looked_at` shall tell; None: all.
    """

    accounts: tuple[str, ...] = ()
    share: float | None = None
    seconds_max: float | None = None
    noted: frozenset[str] | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether the run may be a part of a pass."""
        return not self.accounts and (self.share is not None or self.seconds_max is not None)


class Checked(msgspec.Struct, kw_only=True):
    """What a run found. `share` is the part of the pass that is done, 1 at its end; `looked_at` its shelves.

    `reached`: accounts that a run of single accounts found.
    """

    findings: Findings
    files: int = 0
    read_bytes: int = 0
    seconds: float = 0.0
    share: float = 0.0
    looked_at: set[str] = set()
    began: datetime | None = None


class Check:
    """Checks one Backup Path."""

    def __init__(
        self,
        root: Path,
        *,
        clock: Clock,
        live: bool = False,
        calm: Calm[Looked] | None = None,
        settle_seconds: float = SETTLE_SECONDS,
        workers: int | None = None,
        pool_after_seconds: float | None = None,
    ) -> None:
        """`live`: the path's own daemon has it open; `calm` runs something while it writes nothing.

        Without `calm` whatever looks wrong is looked at again after `settle_seconds`.
        """
        self._root = root
        self._clock = clock
        self._live = live
        self._calm = calm
        self._settle_seconds = settle_seconds
        self._workers = min(4, os.cpu_count() or 1) if workers is None else workers
        self._pool = {} if pool_after_seconds is None else {"pool_after_seconds": pool_after_seconds}

    def run(self, run: Run, wanted: Wanted, position: Position) -> Checked:
        """Look, and move `position` on. Raises `BackupPathRefused`, `OperationStopped`, `OSError`."""
        began = time.monotonic()
        if position.began is None:
            position.began = self._clock.now()
        tree = Tree(self._root)
        with tempfile.TemporaryDirectory(prefix="backupd-check-") as scratch:
            looking = _Pass(self, run, wanted, position, tree, Path(scratch))
            checked = looking.go()
        checked.seconds = time.monotonic() - began
        return checked

    def lookers(self, index: str, catalog: str, wanted: Wanted) -> Lookers:
        """Return what looks at shelves."""
        return Lookers(
            self._root,
            index,
            workers=self._workers,
            gather=bool(wanted.accounts),
            catalog=catalog,
            **self._pool,
        )

    def calmly(self, look: Callable[[], Looked]) -> Looked:
        """Look while nothing is being written."""
        if self._calm is not None:
            return self._calm(look)
        time.sleep(self._settle_seconds)
        return look()

    @property
    def live(self) -> bool:
        """Whether the path's own daemon has it open."""
        return self._live

    @property
    def root(self) -> Path:
        """The Backup Path."""
        return self._root


class _Pass:
    """One run over a path, and what it gathers."""

    def __init__(
        self, check: Check, run: Run, wanted: Wanted, position: Position, tree: Tree, scratch: Path
    ) -> None:
        self._check = check
        self._run = run
        self._wanted = wanted
        self._position = position
        self._tree = tree
        self._scratch = scratch
        self._found = Checked(findings=Findings(), began=position.began)
        self._began = time.monotonic()
        self._absent: dict[str, set[ItemKey]] = {}
        self._gone: list[ItemKey] = []
        self._mentioned = DigestSet(scratch / "mentioned")
        self._known_accounts: list[str] = []
        self._recorded = 0
        self._unreferenced = DigestSet(scratch / "unreferenced")
        self._needed = DigestSet(scratch / "needed")
        self._start_share = 0.0

    def go(self) -> Checked:
        index = self._look_at_index()
        if not self._wanted.accounts:
            self._look_at_top()
        with self._check.lookers(index, self._look_at_catalog(), self._wanted) as lookers:
            self._lookers = lookers
            if self._wanted.accounts:
                self._look_at_accounts()
            else:
                self._look_at_rings()
            self._judge_gone()
        self._judge_absent()
        self._judge_unreferenced()
        for held in (self._unreferenced, self._needed, self._mentioned):
            held.close()
        return self._found

    # ----------------------------------------------------------------- what is small

    def _look_at_catalog(self) -> str:
        """Return where the catalog of an external volume can be read, an empty text where there is none."""
        path = self._check.root / top.CATALOG
        try:
            uri = unwritten.located(path, self._scratch, live=self._check.live)
            connection = unwritten.opened(uri)
            try:
                reason = unwritten.why_damaged(connection)
            finally:
                connection.close()
        except FileNotFoundError:
            return ""
        except (unwritten.NotOpenable, OSError, sqlite3.Error) as error:
            reason = str(error)
        if reason:
            self._found.findings.add([Finding(code="catalog.corrupt", path=top.CATALOG, detail=reason)])
            return ""
        return uri

    def _look_at_index(self) -> str:
        """Return where the index can be read, an empty text where there is none to compare with."""
        path = self._check.root / top.INDEX
        code, detail, uri = "", "", ""
        try:
            if path.with_name(top.INDEX_DAMAGED).exists():
                code, detail = "index.corrupt", "the daemon met damage in it"
                raise FileNotFoundError  # noqa: TRY301 - said as one that is not there
            uri = unwritten.located(path, self._scratch, live=self._check.live)
            connection = unwritten.opened(uri)
            try:
                reason = unwritten.why_damaged(connection)
                versions = tuple(
                    connection.execute(f"PRAGMA {name}").fetchone()[0]
                    for name in ("application_id", "user_version")
                )
                if reason:
                    code, detail = "index.corrupt", reason
                elif versions != (APPLICATION, VERSION):
                    code = "index.corrupt" if versions[0] != APPLICATION else "index.version"
                    detail = f"it is of version {versions[1]}"
                else:
                    self._known_accounts = index_audit.accounts(connection)
                    self._recorded = index_queries.meta(connection, "cursor")
            finally:
                connection.close()
        except FileNotFoundError:
            code = code or "index.missing"
        except (unwritten.NotOpenable, OSError) as error:
            code, detail = "index.unread", str(error)
        except sqlite3.Error as error:
            code, detail = "index.corrupt", str(error)
        if code:
            self._found.findings.add([Finding(code=code, path=top.INDEX, detail=detail)])
            return ""
        return uri

    def _look_at_top(self) -> None:
        self._found.looked_at |= {"", layout.SERVERS, layout.JOURNAL, layout.ACCOUNTS, layout.BLOBS, STAGED}
        self._found.findings.add(top.look_at_top(self._tree))
        found, digests = top.look_at_ledger(self._check.root, self._scratch, live=self._check.live)
        self._found.findings.add(found)
        self._mentioned.add(digests)
        self._run.check()
        self._found.findings.add(top.look_at_journal(self._tree, self._mentioned.add, self._recorded))

    # ---------------------------------------------------------------------- shelves

    def _look_at_rings(self) -> None:
        walk = Walk(self._tree)
        extra = [file_name_of(account) for account in self._known_accounts if account]
        if "" in self._known_accounts:
            self._gone += self._lookers.own.gone_of("")
        rings = Rings(walk, self._position, extra)
        self._start_share = rings.share
        steps = rings.by_turns() if self._wanted.is_bounded else rings.blobs_first()
        self._take(self._bounded(rings, steps), rings)
        self._found.findings.add(walk.findings)
        self._position.blobs_done = rings.blobs_share >= 1.0
        self._position.histories_done = rings.histories_share >= 1.0
        self._found.share = 1.0 if self._position.is_complete else rings.share

    def _bounded(self, rings: Rings, steps: Iterator[Step]) -> Iterator[Step]:
        """Yield steps until the run has done its share or its time is over; at least one."""
        share, seconds = self._wanted.share, self._wanted.seconds_max
        for step in steps:
            yield step
            if share is not None and rings.share - self._start_share >= share:
                return
            if seconds is not None and time.monotonic() - self._began >= seconds:
                return

    def _take(self, steps: Iterable[Step], rings: Rings | None = None) -> None:
        for looked in self._lookers.results(iter(steps)):
            self._run.check()
            self._note(looked)
            if rings is not None:
                self._position.note(looked.step)
                self._run.report(int(rings.share * 10_000), 10_000, unit="ten-thousandths of the path")
            else:
                self._run.report(self._found.files, unit="files")

    def _note(self, looked: Looked) -> None:
        found = self._found
        found.files += looked.files
        found.read_bytes += looked.read_bytes
        if not looked.step.names:
            own = looked.step.path
            parts = [f"{own}/{part}" for part in ACCOUNT_PARTS] if looked.step.is_account else []
            noted = self._wanted.noted
            found.looked_at.update(one for one in (own, *parts) if noted is None or one in noted)
        if looked.suspects:
            looked.findings = [*self._looked_again(looked)]
        found.findings.add(looked.findings)
        for digest, keys in looked.absent.items():
            if digest in self._absent or len(self._absent) < ABSENT_MAX:
                self._absent.setdefault(digest, set()).update(keys)
        self._gone += looked.gone[: max(0, GONE_MAX - len(self._gone))]
        self._needed.add(looked.digests)
        old = time.time() - GRACE_SECONDS
        if looked.step.ring is Ring.BLOBS and not self._wanted.accounts:
            self._unreferenced.add(
                path.rpartition("/")[2] for path, modified in looked.unreferenced if modified < old
            )

    def _looked_again(self, looked: Looked) -> Iterator[Finding]:
        """Yield what still is wrong once the suspects of a shelf were looked at again."""
        step, own = looked.step, self._lookers.own
        again = {f"{step.path}/{name}" for name in looked.suspects}
        yield from (one for one in looked.findings if one.path not in again)
        for begin in range(0, len(looked.suspects), CALM_NAMES):
            names = tuple(looked.suspects[begin : begin + CALM_NAMES])
            asked = msgspec.structs.replace(step, names=names)
            seen = self._check.calmly(lambda asked=asked: own.look(asked))  # type: ignore[misc]
            yield from seen.findings

    def _look_at_accounts(self) -> None:
        walk = Walk(self._tree)
        for account in self._wanted.accounts:
            self._take(walk.shelves_of(file_name_of(account)))
        self._found.findings.add(walk.findings)

        def blobs() -> Iterator[Step]:
            for digests in self._needed.by_shelf():
                shelf = layout.blob_name(digests[0]).rpartition("/")[0]
                yield Step(Ring.BLOBS, shelf, names=digests)

        self._take(blobs())
        self._found.share = 1.0

    # ------------------------------------------------------------------ what is left

    def _judge_gone(self) -> None:
        """Say which items the index knows have no history, neither in their place nor in another."""
        own = self._lookers.own
        account: str | None = None
        names: set[str] = set()
        for key in sorted(self._gone):
            if key.account != account:
                account, names = key.account, references.history_names(self._tree, key.account)
            if key.kind is not Kind.ACCOUNT and file_name_of(key.item) in names:
                continue  # it lies in a wrong place, and is told there

            def look(key: ItemKey = key) -> Looked:
                seen = Looked(Step(Ring.HISTORIES, ""))
                if own.knows(key) and not own.has_history(key):
                    seen.gone.append(key)
                return seen

            if self._check.calmly(look).gone if self._check.live else look().gone:
                path = "/".join(layout.history_place(key))
                self._found.findings.add(
                    [Finding(code="history.missing", path=path, account=key.account, items=(key.item,))]
                )

    def _judge_absent(self) -> None:
        """Say which contents are missing: those that lie nowhere, not even in a wrong place."""
        missing = {
            digest: keys
            for digest, keys in self._absent.items()
            if not os.path.lexists(self._check.root / layout.blob_name(digest))
        }
        if missing:
            missing_names = references.not_misplaced(self._tree, missing)
            lost = losses.known(self._tree)
            for digest in sorted(missing_names):
                keys = sorted(missing[digest])
                self._found.findings.add(
                    [
                        Finding(
                            code="blob.lost" if digest in lost else "blob.missing",
                            path=layout.blob_name(digest),
                            account=keys[0].account,
                            items=tuple(f"{key.account}/{key.item}" for key in keys),
                            digest=digest,
                        )
                    ]
                )

    def _judge_unreferenced(self) -> None:
        """Say which blobs no state refers to, once every history was searched for them."""
        if not len(self._unreferenced):
            return
        self._unreferenced.remove(self._mentioned)
        if len(self._unreferenced):
            references.remove_referenced(self._run, self._tree, self._unreferenced)
        for digest in self._unreferenced:
            path = layout.blob_name(digest)
            self._found.findings.add([Finding(code="blob.orphan", path=path, digest=digest)])
