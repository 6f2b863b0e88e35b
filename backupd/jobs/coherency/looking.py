"""Looking at one shelf: the part of a check for worker processes, which reads and writes nothing.

A step goes in, what was found comes out, small: findings, how much was read, and what only the whole check
can decide: blobs that nothing known refers to, contents that are not where they should be.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from backupd.errors import BackupPathRefused, CorruptBlob
from backupd.items import ItemKey, Kind, identifier_of, is_digest
from backupd.jobs.coherency import judging
from backupd.jobs.coherency.account_files import is_old, judge_beside
from backupd.jobs.coherency.findings import Finding
from backupd.jobs.coherency.judging import HISTORY_BYTES_MAX, Judged
from backupd.jobs.coherency.shelves import (
    ACCOUNT_PARTS,
    Entry,
    Ring,
    Step,
    joined,
    open_to_others,
    stranger,
    there,
)
from backupd.store import index_audit, index_queries, layout, unwritten
from backupd.store.blob_reading import open_verified, size_told
from backupd.store.foreign_files import Tree, why_unreadable
from backupd.store.index_audit import Expectation
from backupd.store.outside import catalog as outside_catalog

GONE_MAX = 100_000
"""Items of an account without a history that are looked for again one by one; beyond it, next time."""
_READ_BYTES = 1 << 20


class Looked(msgspec.Struct):
    """What a shelf gave. `unreferenced`: (path, last written) of blobs that nothing known refers to.

    `absent`: contents that are not there, and which items need them. `digests`: every content that a state
    on this shelf refers to, where they were asked for. `gone`: items that the index knows and whose history
    is not where it should be. `suspects`: names to look at again before anything is said of them.
    """

    step: Step
    findings: list[Finding] = []
    files: int = 0
    read_bytes: int = 0
    unreferenced: list[tuple[str, float]] = []
    absent: dict[str, list[ItemKey]] = {}
    digests: set[str] = set()
    gone: list[ItemKey] = []
    suspects: list[str] = []


class Looker:
    """Looks at shelves of one Backup Path.

    `index` is where the index can be read, `catalog` the same of what rests outside; each empty where there
    is none to read.
    """

    def __init__(self, root: Path, index: str, *, gather: bool = False, catalog: str = "") -> None:
        self._tree = Tree(root)
        self._gather = gather
        self._catalog = unwritten.opened(catalog) if catalog else None
        self._index: sqlite3.Connection | None = None
        self._expectation = Expectation()
        if index:
            self._index = unwritten.opened(index)

    def close(self) -> None:
        """Close what is open."""
        self._expectation.close()
        if self._catalog is not None:
            self._catalog.close()
        if self._index is not None:
            self._index.close()

    def look(self, step: Step) -> Looked:
        """Look at a shelf. Raises `sqlite3.DatabaseError` where the index is found damaged."""
        looked = Looked(step)
        code = "blob.unreadable" if step.ring is Ring.BLOBS else "history.unreadable"
        found, problems = there(self._tree, step.path, code)
        looked.findings += problems
        if step.names:
            wanted = frozenset(step.names)
            found = [one for one in found if one.name in wanted]
        else:
            looked.findings += open_to_others(step.path, found)
        if step.ring is Ring.BLOBS:
            self._blobs(looked, found)
        elif step.is_account:
            self._account(looked, found)
        else:
            self._histories(looked, found)
        return looked

    # ------------------------------------------------------------------- histories

    def _account(self, looked: Looked, found: Sequence[Entry]) -> None:
        own = looked.step.path
        names = {one.name for one in found}
        for one in found:
            path = joined(own, one.name)
            if one.name == layout.ACCOUNT_HISTORY and one.is_file:
                self._history(looked, one)
            elif one.is_directory and one.name in ACCOUNT_PARTS:
                continue
            elif one.is_file:
                looked.files += 1
                looked.findings += judge_beside(self._tree, path, one)
            else:
                looked.findings.append(stranger(own, one))
        if looked.step.names:
            return
        account = identifier_of(own.rpartition("/")[2])
        looked.gone += self.gone_of(account)
        is_known = any(key.kind is Kind.ACCOUNT for key in looked.gone)
        if layout.ACCOUNT_HISTORY not in names and any(map(is_old, found)) and not is_known:
            looked.findings.append(Finding(code="account.no_history", path=own, account=account))

    def gone_of(self, account: str) -> list[ItemKey]:
        """Return the items of an account that the index knows and whose history is not there."""
        found: list[ItemKey] = []
        after = ("", "")
        while self._index is not None and len(found) < GONE_MAX:
            page = index_audit.keys_after(self._index, account, after)
            if not page:
                break
            found += [key for key in page if not self.has_history(key)]
            after = (page[-1].item, page[-1].kind.value)
        return found

    def has_history(self, key: ItemKey) -> bool:
        """Tell whether anything stands where an item's history belongs."""
        return os.path.lexists(f"{self._tree.root}/{'/'.join(layout.history_place(key))}")

    def knows(self, key: ItemKey) -> bool:
        """Tell whether the index knows an item."""
        return self._index is not None and index_audit.rows_of(self._index, key) is not None

    def _histories(self, looked: Looked, found: Sequence[Entry]) -> None:
        for one in found:
            if not one.is_file:
                looked.findings.append(stranger(looked.step.path, one))
            elif one.name.startswith("."):
                looked.findings.append(Finding(code="file.leftover", path=joined(looked.step.path, one.name)))
            else:
                self._history(looked, one)

    def _history(self, looked: Looked, entry: Entry) -> None:
        path = joined(looked.step.path, entry.name)
        try:
            with self._tree.open(path) as file:
                content = file.read(HISTORY_BYTES_MAX + 1)
        except FileNotFoundError:
            return  # it went since it was listed
        except OSError as error:
            found = Finding(code="history.unreadable", path=path, detail=why_unreadable(error))
            looked.findings.append(found)
            return
        looked.files += 1
        looked.read_bytes += len(content)
        if len(content) > HISTORY_BYTES_MAX:
            detail = f"it is larger than {HISTORY_BYTES_MAX >> 20} MiB"
            looked.findings.append(Finding(code="history.corrupt", path=path, detail=detail))
            return
        judged = judging.judge_history(path, content)
        if any(one.code == "file.unknown" for one in judged.findings) and self._is_known(path):
            judged = judging.judge_history(path, content, is_known=True)
        findings = list(judged.findings)
        if self._gather:
            looked.digests |= judged.digests
        if judged.key is not None:
            findings += self._contents(looked, path, judged)
        if judged.is_sound and not findings:
            findings += self._compared(path, judged)
        if findings:
            looked.suspects.append(entry.name)
            looked.findings += findings

    def _is_known(self, path: str) -> bool:
        """Tell whether the index knows an item whose history would lie here."""
        parts = path.split("/")
        if self._index is None or parts[0] != layout.ACCOUNTS:
            return False
        account = identifier_of(parts[1])
        item = account if parts[-1] == layout.ACCOUNT_HISTORY else identifier_of(parts[-1])
        return index_queries.item(self._index, account, item, None) is not None

    def _contents(self, looked: Looked, path: str, judged: Judged) -> list[Finding]:
        """Look whether the contents that states need are there, and as large as they say."""
        found = []
        key = judged.key
        assert key is not None
        for digest, sizes in judging.told_sizes(judged.states).items():
            try:
                true_size = self._true_size(digest)
            except FileNotFoundError:
                if self._catalog is not None and outside_catalog.rests(self._catalog, digest):
                    continue
                looked.absent.setdefault(digest, []).append(key)
                continue
            except OSError:
                continue  # its own shelf tells
            wrong = sizes - {true_size}
            if true_size is not None and wrong and self._why_corrupt(digest) == "":
                detail = f"a state tells {min(wrong):,} bytes of {digest}, which has {true_size:,}"
                found.append(
                    Finding(
                        code="history.size",
                        path=path,
                        detail=detail,
                        account=key.account,
                        items=(key.item,),
                        digest=digest,
                    )
                )
        return found

    def _true_size(self, digest: str) -> int | None:
        """Return the size a blob's file tells of its content, None where it tells none. Raises `OSError`."""
        with self._tree.open(layout.blob_name(digest)) as file:
            return size_told(file)

    def _compared(self, path: str, judged: Judged) -> list[Finding]:
        is_cut = "%%" in path.split("/")[1]  # then only its own history knows the account's id
        if self._index is None or is_cut or len({state.kind for state in judged.states}) > 1:
            return []
        key = judged.key
        assert key is not None
        is_, should = (
            index_audit.rows_of(self._index, key),
            self._expectation.rows_of(key, judged.states),
        )
        if is_ == should:
            return []
        code = "index.lacks" if is_ is None else "index.differs"
        detail = "" if is_ is None or should is None else _difference(is_, should)
        return [Finding(code=code, path=path, detail=detail, account=key.account, items=(key.item,))]

    # ----------------------------------------------------------------------- blobs

    def _blobs(self, looked: Looked, found: Sequence[Entry]) -> None:
        for one in found:
            path = joined(looked.step.path, one.name)
            if not one.is_file:
                looked.findings.append(stranger(looked.step.path, one))
            elif one.name.startswith("."):
                looked.findings.append(Finding(code="file.leftover", path=path))
            elif not is_digest(one.name):
                looked.findings.append(Finding(code="file.unknown", path=path))
            else:
                self._blob(looked, path, one)

    def _blob(self, looked: Looked, path: str, entry: Entry) -> None:
        looked.files += 1
        looked.read_bytes += entry.size
        digest = entry.name
        if entry.size == 0:
            looked.findings.append(Finding(code="blob.empty", path=path, digest=digest))
            return
        try:
            reason = self._why_corrupt(digest, path)
        except FileNotFoundError:
            return  # it went since it was listed
        except OSError as error:
            detail = why_unreadable(error)
            looked.findings.append(Finding(code="blob.unreadable", path=path, detail=detail, digest=digest))
            return
        if reason:
            looked.findings.append(Finding(code="blob.corrupt", path=path, detail=reason, digest=digest))
        elif layout.blob_name(digest) != path:
            detail = f"its place is {layout.blob_name(digest)}"
            looked.findings.append(Finding(code="blob.misfiled", path=path, detail=detail, digest=digest))
        elif self._index is None or not index_queries.has_blob(self._index, digest):
            looked.unreferenced.append((path, entry.modified))

    def _why_corrupt(self, digest: str, path: str = "") -> str:
        """Read a blob to its end; return why its content is not the one named. Raises `OSError`."""
        path = path or layout.blob_name(digest)
        try:
            with open_verified(self._tree.open(path), digest, path, None) as file:
                _read_to_end(file)
        except CorruptBlob as error:
            return error.message.removeprefix(f"{path}: ")
        except BackupPathRefused as error:
            raise OSError(error.message) from error
        return ""


def _read_to_end(file: BinaryIO) -> None:
    while file.read(_READ_BYTES):
        pass


def _difference(is_: index_audit.Rows, should: index_audit.Rows) -> str:
    """Return in words which parts of what the index says of an item are otherwise."""
    other = [name for name, one, two in zip(_PARTS, is_, should, strict=True) if one != two]
    return f"it differs in: {', '.join(other)}"


_PARTS = (
    "last transaction",
    "number of states",
    "deleted",
    "first moment",
    "last moment",
    "digest",
    "size",
    "folder",
    "name",
    "sender",
    "lacking",
    "metadata",
    "past states",
    "references",
)
