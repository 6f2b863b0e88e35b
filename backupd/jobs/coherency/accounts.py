"""Which accounts are meant, where no index is asked: by the id that names their folder, or by address."""

from __future__ import annotations

from collections.abc import Sequence

from backupd.items import file_name_of, identifier_of
from backupd.jobs.coherency import judging
from backupd.jobs.coherency.shelves import Walk
from backupd.store import layout
from backupd.store.foreign_files import Tree


def accounts_named(tree: Tree, names: Sequence[str]) -> dict[str, str]:
    """Return the ids of the accounts that are meant, by the name given; unknown ones are not in it."""
    folders = Walk(tree).account_folders()
    found = {name: name for name in names if file_name_of(name) in folders}
    sought = {name.casefold(): name for name in names if name not in found}
    for folder in folders if sought else ():
        address = _address(tree, folder).casefold()
        if address in sought:
            found[sought[address]] = identifier_of(folder)
    return found


def _address(tree: Tree, folder: str) -> str:
    path = f"{layout.ACCOUNTS}/{folder}/{layout.ACCOUNT_HISTORY}"
    try:
        with tree.open(path) as file:
            states = judging.salvage(file.read(judging.HISTORY_BYTES_MAX))
    except OSError:
        return ""
    name = states[-1].metadata.get("name") if states else None
    return name if isinstance(name, str) else ""
