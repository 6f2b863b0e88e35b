"""The open corpus as a mail host of 20 accounts with a daemon beside it, and what both say of its items.

`World` is the host, its users with their memory, and the daemon. `differences` compares that memory with what
the backup tells; `wait_until_recorded` waits until there are none.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backupd.clock import SystemClock
from backupd.items import Kind
from backupd.store.store import Store
from tests.world import mailtree
from tests.world.corpus import corpus_files
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.users import Expected, Users

ACCOUNTS = 20
SECONDS_PER_BATCH_MAX = 20.0


class Present(NamedTuple):
    """A living item as the backup tells it."""

    kind: Kind
    folder: str
    flags: tuple[str, ...]
    digest: str | None
    name: str
    area: str


class World(NamedTuple):
    """The mail host, its users, and the daemon that backs it up."""

    daemon: Daemon
    users: Users
    accounts: dict[str, str]
    seed: int


@contextlib.contextmanager
def corpus_host(place: Path, seed: int) -> Iterator[World]:
    """Build the host in `place`, start a daemon and scan once; end it afterwards."""
    root = place / "vmail"
    tree = mailtree.build(root, accounts=ACCOUNTS, corpus=corpus_files("mail"))
    for number, path in enumerate(corpus_files("ics")):
        spread(tree, number, "calendars", "Work" if number % 3 else "Private", f"ics{number}.ics", path)
    for number, path in enumerate(corpus_files("vcf")):
        spread(tree, number, "contacts", "Personal", f"vcf{number}.vcf", path)
    for number, path in enumerate([*corpus_files("ldif"), *corpus_files("files")]):
        spread(tree, number, "files", f"corpus/{path.suffix[1:] or 'plain'}", f"{number} {path.name}", path)
    users = Users(MailHost(tree), random.Random(seed))
    with Daemon(place / "b", root) as daemon:
        scan = daemon.wait_until_scanned(60)
        assert scan["status"] == "successful", scan
        with reading(daemon) as store:
            accounts = {str(one.metadata["name"]): one.item for one in store.index.accounts()}
        yield World(daemon, users, accounts, seed)


def spread(tree: mailtree.MailTree, number: int, area: str, folder: str, name: str, source: Path) -> None:
    """Copy a file of the corpus into one of the accounts, in turn."""
    account = tree.account(tree.addresses[number % ACCOUNTS])
    tree.write(account / area / folder / name, source.read_bytes(), at=mailtree.OLD + number)


def reading(daemon: Daemon) -> Store:
    """Open the daemon's Backup Path beside it, for reading."""
    return Store.open(daemon.backup_path, server_id="", server_name="", clock=SystemClock(), writable=False)


def present(kind: Kind, metadata: Mapping[str, Any], digest: str | None) -> Present:
    """Return what a photograph tells that users would notice."""
    return Present(
        kind,
        str(metadata.get("folder", "")),
        tuple(metadata.get("flags", ())) if kind is Kind.MESSAGE else (),
        digest,
        str(metadata["name"]) if kind is Kind.DOCUMENT else "",
        str(metadata["area"]) if kind is Kind.FOLDER else "",
    )


def differences(
    expected: Sequence[Expected], there: Mapping[str, Mapping[str, Present]], *, learn: bool = False
) -> list[str]:
    """Return what differs between memory and backup, by account; `learn` gives nameless handles their ids."""
    found: list[str] = []
    left = {address: dict(items) for address, items in there.items()}
    nameless = [one for one in expected if not one.handle.id]
    for one in expected:
        if one.handle.id:
            seen = left[one.handle.account].pop(one.handle.id, None)
            if seen != wanted(one):
                found.append(f"{one.handle.account} {one.handle.id}: {wanted(one)}, the backup has {seen}")
    for one in nameless:
        items = left[one.handle.account]
        hit = next((item for item, seen in items.items() if seen == wanted(one)), None)
        if hit is None:
            found.append(f"{one.handle.account} new: {wanted(one)} is not in the backup")
            continue
        del items[hit]
        if learn:
            one.handle.id = hit
    found += [
        f"{address} {item}: unexpected {seen}" for address in left for item, seen in left[address].items()
    ]
    return found


def wanted(one: Expected) -> Present:
    """Return an item of the users' memory in the form of the backup's."""
    return Present(one.kind, one.folder, one.flags, one.digest, one.name, one.area)


def present_now(store: Store, accounts: Mapping[str, str]) -> dict[str, dict[str, Present]]:
    """Return what lives now, by address and id, as the index tells it."""
    return {
        address: {
            one.item: present(one.kind, one.metadata, one.digest)
            for one in store.index.items(account)
            if one.kind is not Kind.ACCOUNT
        }
        for address, account in accounts.items()
    }


def wait_until_recorded(world: World, store: Store) -> None:
    """Wait until the backup says what users remember, and give new documents and folders their ids."""
    daemon, users, accounts, seed = world
    end = time.monotonic() + SECONDS_PER_BATCH_MAX
    while different := differences(users.photograph(), present_now(store, accounts)):
        if time.monotonic() > end:
            status = daemon.status()
            facts = {name: status[name] for name in ("recorder", "broker", "gaps", "problems")}
            raise AssertionError(
                "\n".join(
                    [
                        f"seed {seed}, {len(different)} differ",
                        *different[:20],
                        str(facts),
                        daemon.log_text()[-2000:],
                    ]
                )
            )
        time.sleep(0.1)
    assert differences(users.photograph(), present_now(store, accounts), learn=True) == []
