"""Seeking in the whole path: who refers to a content, and where a file lies that is not in its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

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


def history_names(tree: Tree, account: str) -> set[str]:
    """Return the file names of all histories of an account's items, on whatever shelf they lie."""
    if not account:
        return set()
    folder = layout.account_directory(account)
    return {
        one.name
        for part in ACCOUNT_PARTS
        for bucket in there(tree, f"{folder}/{part}", "history.unreadable")[0]
        if bucket.is_directory
        for one in there(tree, f"{folder}/{part}/{bucket.name}", "history.unreadable")[0]
    }


def _histories(tree: Tree) -> Iterator[str]:
    walk = Walk(tree)
    steps: list[Iterator[Step]] = [iter(walk.server_shelves())]
    steps += [walk.shelves_of(account) for account in walk.account_folders()]
    for several in steps:
        for step in several:
            for one in there(tree, step.path, "history.unreadable")[0]:
                if one.is_file:
                    yield f"{step.path}/{one.name}"
