"""Removing from a Backup Path so that a crash anywhere leaves nothing half gone.

Before histories are unlinked, an *intention* in the ledger names them: after a crash the index is brought up
to what is still there. An account goes whole in one rename out of `accounts/` into `.purging/`, so that there
is never a half of one; what lies there is emptied later, by anybody. The writer of histories must be at rest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from backupd import durable
from backupd.items import ItemKey
from backupd.store.layout import PURGING, Layout
from backupd.store.ledger import Ledger
from backupd.store.ledger_tables import KeptRestores, Remembered
from backupd.volumes.disk import sync_directory

if TYPE_CHECKING:
    from backupd.store.store import Store

_NAME = "purging"
_RECORDED = "purged_through"


class Intention(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is about to go: histories by key, or accounts as a whole."""

    keys: tuple[ItemKey, ...] = ()
    accounts: tuple[str, ...] = ()


def intended(ledger: Ledger) -> Intention:
    """Return what was about to go when it was last said; nothing where all was finished."""
    kept = Remembered(ledger).get(_NAME)
    return Intention() if kept is None else msgspec.json.decode(kept, type=Intention)


def remove_histories(store: Store, keys: Sequence[ItemKey]) -> dict[ItemKey, int]:
    """Remove histories and forget the items, durably; return the bytes each took."""
    _intend(store.ledger, Intention(keys=tuple(keys)))
    freed: dict[ItemKey, int] = {}
    for key in keys:
        durable.step("purge.history")
        freed[key] = store.histories.remove(key)
    durable.step("purge.histories_removed")
    store.histories.sync_directories(keys)
    durable.step("purge.histories_gone")
    for key in keys:
        store.index.forget(key)
    store.index.commit(store.index.cursor())
    durable.step("purge.forgotten")
    restores = KeptRestores(store.ledger)
    with store.ledger.batch():
        for key in keys:
            restores.forget(key.account, key.item)
        Remembered(store.ledger).forget(_NAME)
    return freed


def remove_account(store: Store, account: str) -> int:
    """Take an account with everything in it out of the backup, at once; return how many items it had."""
    layout = store.layout
    aside = layout.root / PURGING
    aside.mkdir(mode=0o700, exist_ok=True)
    sync_directory(str(layout.root))
    _intend(store.ledger, Intention(accounts=(account,)))
    durable.step("purge.account")
    place = layout.account(account)
    if os.path.lexists(place):
        place.rename(_free_name(aside, place.name))
    durable.step("purge.account_moved")
    sync_directory(str(place.parent))
    sync_directory(str(aside))
    durable.step("purge.account_gone")
    store.forget_directories()
    items = _forget_account(store, account)
    durable.step("purge.account_forgotten")
    with store.ledger.batch():
        KeptRestores(store.ledger).forget(account)
        Remembered(store.ledger).forget(_NAME)
    return items


def complete(store: Store) -> bool:
    """Finish what a crash left half done, so that the index says what is there; tell whether anything was.

    The next purge removes what was named and is still there. Commits.
    """
    left = intended(store.ledger)
    if left == Intention():
        return False
    store.catch_up(left.keys)
    for account in left.accounts:
        if not os.path.lexists(store.layout.account(account)):
            store.index.forget_account(account)
            KeptRestores(store.ledger).forget(account)
    if store.index.is_recording:
        store.index.commit(store.index.cursor())
    restores = KeptRestores(store.ledger)
    with store.ledger.batch():
        for key in left.keys:
            if store.index.item(key.account, key.item, key.kind) is None:
                restores.forget(key.account, key.item)
        Remembered(store.ledger).forget(_NAME)
    durable.step("purge.completed")
    return True


def moved_aside(layout: Layout) -> list[Path]:
    """Return the accounts that are out of the backup and still take room."""
    aside = layout.root / PURGING
    return sorted(aside.iterdir()) if aside.is_dir() and not aside.is_symlink() else []


def empty(place: Path) -> int:
    """Remove an account that was moved aside; return the bytes its files took. Raises `OSError`."""
    freed = 0
    for directory, _, names in os.walk(place):
        for name in names:
            freed += os.lstat(os.path.join(directory, name)).st_size  # noqa: PTH118 - as os.walk gives it
    durable.step("purge.emptied")
    shutil.rmtree(place)
    return freed


def remember_recorded(ledger: Ledger, cursor: int) -> None:
    """Keep up to where the journal was recorded when something was purged.

    An index that is built anew must not replay what is older: it would bring purged items back.
    """
    if cursor > recorded_through(ledger):
        Remembered(ledger).keep(_RECORDED, msgspec.json.encode(cursor))


def recorded_through(ledger: Ledger) -> int:
    """Return the sequence number up to which the journal must not be replayed into the histories."""
    kept = Remembered(ledger).get(_RECORDED)
    return 0 if kept is None else msgspec.json.decode(kept, type=int)


def _intend(ledger: Ledger, intention: Intention) -> None:
    Remembered(ledger).keep(_NAME, msgspec.json.encode(intention))
    durable.step("purge.intended")


def _forget_account(store: Store, account: str) -> int:
    items = store.index.forget_account(account)
    store.index.commit(store.index.cursor())
    return items


def _free_name(aside: Path, name: str) -> Path:
    place, count = aside / name, 0
    while os.path.lexists(place):
        count += 1
        place = aside / f"{name}.{count}"
    return place
