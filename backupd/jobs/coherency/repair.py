"""Repair: what `fixBackup` does about each finding. It moves aside and writes anew; it never deletes.

Every change is made while nobody else writes to the backup (`Keeper.between`), in small steps, after looking
once more whether the finding still holds. What can't be read of a history is taken from the index where that
knows it; a content that is missing or damaged is read from the AppServer where it still is; what is lost for
good is noted (`losses`), so that later checks tell it and do not fail for it.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from backupd.clock import Clock
from backupd.errors import BackupdError
from backupd.items import SERVER_KINDS, ItemKey, Kind, identifier_of, is_digest
from backupd.jobs.coherency import judging, losses, top
from backupd.jobs.coherency.findings import Finding
from backupd.jobs.coherency.losses import Loss
from backupd.operations import Run
from backupd.states import State
from backupd.store import history_format, layout
from backupd.store.blob_reading import size_told
from backupd.store.damaged import Aside
from backupd.store.foreign_files import Tree

T = TypeVar("T")
MOVED = frozenset(
    {"file.unknown", "file.leftover", "file.link", "file.special", "mapper.corrupt"}
    | {"statistics.unreadable", "archive.corrupt", "blob.orphan"}
)
SALVAGED = frozenset({"history.torn", "history.corrupt", "history.order", "history.digest", "history.size"})
EMPTIED = frozenset({"history.empty", "history.identity", "history.foreign_kind"})
REFETCHED = frozenset({"blob.missing", "blob.corrupt", "blob.empty"})
TAKEN_IN = frozenset({"index.lacks", "index.differs"})
REBUILT = frozenset({"index.missing", "index.corrupt", "index.version"})
HEALED_BY_OPENING = frozenset({"journal.torn", "ledger.missing"})
_SERVER_KIND_OF = {directory: kind for kind, directory in layout.SERVER_DIRECTORIES.items()}


class Keeper(Protocol):
    """Whoever may change the backup: the daemon's recorder lends its thread, or nobody else is there."""

    @property
    def is_alone(self) -> bool:
        """Whether no daemon has the path open, so that opening it has built an index that was damaged."""
        ...

    def between(self, work: Callable[[], T]) -> T:
        """Run something while nobody writes histories, blobs and index."""
        ...

    def known(self, key: ItemKey) -> list[State]:
        """Return the states that the index knows of an item."""
        ...

    def kinds_of(self, account: str, item: str) -> list[Kind]:
        """Return the kinds under which the index knows an id."""
        ...

    def take_in(self, key: ItemKey, states: Sequence[State]) -> None:
        """Make the index say of an item what its history does; none: forget it. Durable after `settle`."""
        ...

    def users_of(self, digest: str) -> list[ItemKey]:
        """Return the items with states that need a content."""
        ...

    def is_awaited(self, digest: str) -> bool:
        """Tell whether a content is referred to now, by the index or by what is not recorded yet."""
        ...

    def refetch(self, digest: str, items: Sequence[ItemKey]) -> bool:
        """Store a content again from the AppServer; False where no item there has it any more."""
        ...

    def is_beyond(self, digest: str) -> bool:
        """Tell whether a content without a good file rests outside; one that is held is stored."""
        ...

    def settle(self) -> None:
        """Make what was taken in durable."""
        ...


class Mended(msgspec.Struct, kw_only=True):
    """What a repair did: findings that are mended, contents that are lost, what is left and why."""

    mended: Counter[str] = msgspec.field(default_factory=Counter)
    lost: list[Finding] = []
    left: list[tuple[Finding, str]] = []
    aside: str = ""


class Repair:
    """One repair of one path."""

    def __init__(self, root: Path, keeper: Keeper, *, clock: Clock) -> None:
        self._root = root
        self._tree = Tree(root)
        self._keeper = keeper
        self._clock = clock
        self._aside = Aside(root, clock.now())
        self._losses: dict[str, Loss] = {}
        self._done = Mended()
        self._ways: tuple[tuple[Collection[str], Callable[[Finding], str]], ...] = (
            (MOVED, self._move),
            (SALVAGED, self._salvage),
            (EMPTIED, self._empty),
            ({"history.missing"}, lambda finding: self._from_index(finding.path)),
            ({"history.misfiled"}, self._refile),
            ({"blob.misfiled"}, self._refile_blob),
            (TAKEN_IN, lambda finding: self._take_in(finding.path)),
            ({"file.mode"}, lambda finding: self._close_to_others(finding.path)),
            (REBUILT | HEALED_BY_OPENING, self._opened),
        )

    def run(self, run: Run, findings: Sequence[Finding]) -> Mended:
        """Mend what can be mended, the histories first. Raises `OperationStopped`."""
        order = (SALVAGED, EMPTIED, {"history.missing"}, {"history.misfiled", "blob.misfiled"})
        rank = {code: place for place, codes in enumerate((*order, TAKEN_IN, REFETCHED)) for code in codes}
        for number, finding in enumerate(sorted(findings, key=lambda one: rank.get(one.code, len(rank)))):
            run.check()
            run.report(number, len(findings), unit="findings")
            self._mend(finding)
        self._keeper.between(self._keeper.settle)
        losses.note(self._root, self._losses.values())
        if os.path.lexists(self._root / self._aside.folder):
            self._done.aside = self._aside.folder
        return self._done

    def _mend(self, finding: Finding) -> None:
        try:
            left = self._try(finding)
        except (OSError, BackupdError) as error:
            left = getattr(error, "strerror", None) or str(error)
        if left:
            self._done.left.append((finding, left))
        elif finding.digest in self._losses and finding.code in REFETCHED:
            self._done.lost.append(finding)
        else:
            self._done.mended[finding.code] += 1

    def _try(self, finding: Finding) -> str:
        """Do what a finding calls for; return why nothing was done, an empty text where it was."""
        code = finding.code
        if code in REFETCHED:
            return self._refetch(finding)
        for codes, mend in self._ways:
            if code in codes:
                return self._keeper.between(partial(mend, finding))
        return finding.sort.cure

    def _opened(self, finding: Finding) -> str:
        """Say whether opening the path for writing, as a start does, has mended a finding."""
        if finding.code in REBUILT:
            if self._keeper.is_alone:
                return "" if self._index_is_whole() else finding.sort.cure
            # The next opening builds it anew, whether it would find the damage itself or not.
            (self._root / top.INDEX_DAMAGED).touch(mode=0o600)
            return "restart the daemon: it builds the index anew then"
        if finding.code == "journal.torn":
            return finding.sort.cure if finding in top.look_at_journal(self._tree, _unheard) else ""
        return "" if os.path.lexists(self._root / finding.path) else finding.sort.cure

    # -------------------------------------------------------------------- histories

    def _salvage(self, finding: Finding) -> str:
        path = finding.path
        content = self._content(path)
        if content is None:
            return "it is gone"
        judged = judging.judge_history(path, content, is_known=True)
        if judged.is_sound and finding.code != "history.size":
            return ""  # it was repaired by whoever wrote it
        key = judged.key or self._key_of(path)
        salvaged = judging.salvage(content)
        states = judging.mended(judging.merged(salvaged, self._keeper.known(key)), self._true_size)
        if not states:
            self._aside.move(path)
            self._keeper.take_in(key, ())
            return ""
        self._aside.replace(path, history_format.encode_history(states))
        self._keeper.take_in(key, states)
        return ""

    def _empty(self, finding: Finding) -> str:
        """Move a file aside that is no history of what should stand there, and write that anew if known."""
        self._aside.move(finding.path)
        self._from_index(finding.path)
        return ""

    def _from_index(self, path: str) -> str:
        """Write the history that belongs at a path from what the index knows; forget what is nowhere."""
        key = self._key_of(path)
        states = judging.mended(self._keeper.known(key), self._true_size)
        if os.path.lexists(self._root / path):
            return ""
        if states:
            self._aside.put_new(path, history_format.encode_history(states))
            self._keeper.take_in(key, states)
        return ""

    def _refile(self, finding: Finding) -> str:
        content = self._content(finding.path)
        if content is None:
            return "it is gone"
        key = judging.judge_history(finding.path, content).key
        if key is None:
            return "it can't be read any more: check again"
        place = judging.right_place(finding.path, key)
        self._aside.put_in_place(finding.path, place)
        return self._take_in(place)

    def _take_in(self, path: str) -> str:
        content = self._content(path)
        if content is None:
            return "it is gone"
        judged = judging.judge_history(path, content)
        if not judged.is_sound or judged.key is None:
            return "its history is damaged too: check again"
        self._keeper.take_in(judged.key, judged.states)
        return ""

    def _key_of(self, path: str) -> ItemKey:
        """Return the item whose history belongs at a path, with the kind under which the index knows it."""
        parts = path.split("/")
        if parts[0] == layout.SERVERS:
            return ItemKey("", _SERVER_KIND_OF[parts[1]], identifier_of(parts[-1]))
        account = identifier_of(parts[1])
        if parts[-1] == layout.ACCOUNT_HISTORY:
            return ItemKey(account, Kind.ACCOUNT, account)
        item = identifier_of(parts[-1])
        kinds = [kind for kind in self._keeper.kinds_of(account, item) if kind not in SERVER_KINDS]
        for kind in kinds:
            key = ItemKey(account, kind, item)
            if "/".join(layout.history_place(key)) == path:
                return key
        return ItemKey(account, Kind.MESSAGE, item)

    # ---------------------------------------------------------------- blobs and files

    def _refetch(self, finding: Finding) -> str:
        digest = finding.digest
        users = self._keeper.users_of(digest)
        if finding.code != "blob.missing":
            self._keeper.between(lambda: self._aside.move(finding.path))
            if layout.blob_name(digest) != finding.path:
                return ""
        if not users or self._keeper.is_beyond(digest) or self._keeper.refetch(digest, users):
            return ""
        items = tuple(f"{key.account}/{key.item}" for key in users[:100])
        self._losses[digest] = Loss(digest=digest, since=self._clock.now(), items=items)
        return ""

    def _refile_blob(self, finding: Finding) -> str:
        self._aside.put_in_place(finding.path, layout.blob_name(finding.digest))
        return ""

    def _move(self, finding: Finding) -> str:
        if finding.code == "blob.orphan" and self._keeper.is_awaited(finding.digest):
            return "it is referred to by now"
        if not os.path.lexists(self._root / finding.path):
            return ""  # whoever left it removed it
        self._aside.move(finding.path)
        return ""

    def _close_to_others(self, relative: str) -> str:
        with self._tree.directory(relative) as folder:
            for name in os.listdir(folder):  # noqa: PTH208 - within a folder that is open
                mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or not mode & 0o077:
                    continue
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                try:
                    os.fchmod(descriptor, 0o700 if stat.S_ISDIR(mode) else 0o600)
                finally:
                    os.close(descriptor)
        return ""

    def _index_is_whole(self) -> bool:
        return (self._root / top.INDEX).is_file() and not (self._root / top.INDEX_DAMAGED).exists()

    def _true_size(self, digest: str) -> int | None:
        if not is_digest(digest):
            return None
        try:
            with self._tree.open(layout.blob_name(digest)) as file:
                return size_told(file)
        except OSError:
            return None

    def _content(self, path: str) -> bytes | None:
        try:
            with self._tree.open(path) as file:
                return file.read(judging.HISTORY_BYTES_MAX)
        except FileNotFoundError:
            return None


def _unheard(_digests: Iterable[str]) -> None:
    """Take no notice of what a journal mentions."""
