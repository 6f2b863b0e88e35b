"""Seeking in the whole path: who refers to a content, and where a file lies that is not in its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from backupd.items import ItemKey, file_name_of
from backupd.jobs.coherency.digest_sets import DigestSet
from backupd.jobs.coherency.judging import HISTORY_BYTES_MAX
from backupd.jobs.coherency.shelves import ACCOUNT_PARTS, Step, Walk, there
from backupd.operations import Run
from backupd.store import layout
from backupd.store.foreign_files import Tree

_DIGEST = re.compile(rb'"digest":"([A-Za-z0-9+,]{43}=)"')


def remove_referenced(run: Run, tree: Tree, digests: DigestSet) -> None:
    """Take out of a set every content that stands in any history. Raises `OperationStopped`."""
    for path in _histories(tree):
        run.check()
        try:
            with tree.open(path) as file:
                content = file.read(HISTORY_BYTES_MAX)
        except OSError:
            continue
        digests.remove(one.decode() for one in _DIGEST.findall(content))


def not_misplaced(tree: Tree, digests: Collection[str]) -> set[str]:
    """Return those of some contents that no shelf holds, not even a wrong one."""
    left = set(digests)
    for shelf in Walk(tree).blob_shelves():
        for one in there(tree, shelf.path, "blob.unreadable")[0]:
            left.discard(one.name)
    return left


def lies_elsewhere(tree: Tree, key: ItemKey) -> bool:
    """Tell whether a history of this name lies on another shelf of the account."""
    if not key.account:
        return False
    folder = layout.account_directory(key.account)
    name = file_name_of(key.item)
    for part in ACCOUNT_PARTS:
        for bucket in there(tree, f"{folder}/{part}", "history.unreadable")[0]:
            if bucket.is_directory and any(
                one.name == name for one in there(tree, f"{folder}/{part}/{bucket.name}", "file.unknown")[0]
            ):
                return True
    return False


def _histories(tree: Tree) -> Iterator[str]:
    walk = Walk(tree)
    steps: list[Iterator[Step]] = [iter(walk.server_shelves())]
    steps += [walk.shelves_of(account) for account in walk.account_folders()]
    for several in steps:
        for step in several:
            for one in there(tree, step.path, "history.unreadable")[0]:
                if one.is_file:
                    yield f"{step.path}/{one.name}"
