"""Any account of the open corpus as of any moment, restored on a new one: equal to what its users remember.

`BACKUPD_PROOFS` is the number of (account, moment) pairs (`make proof` sets 200, and takes the whole corpus);
`BACKUPD_SEED` draws others. What was restored is read from the disk by the users' own eyes, not by ours.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from backupd.items import Kind
from tests.integration.test_corpus import (
    ACCOUNTS,
    SEED,
    World,
    differences,
    present_now,
    reading,
    spread,
    wait_until_recorded,
)
from tests.world import mailtree
from tests.world.corpus import WHERE, corpus_files, corpus_root
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.mailtree import MailTree
from tests.world.users import Expected, Users

PROOFS = int(os.environ.get("BACKUPD_PROOFS", "20"))
THOROUGH_PROOFS = 100
"""From so many proofs on the whole corpus is taken, else a tenth of it."""
SHARE = 1 if PROOFS >= THOROUGH_PROOFS else 10
MOMENTS = 10 if PROOFS >= THOROUGH_PROOFS else 4
CHANGES_PER_MOMENT = 150 if PROOFS >= THOROUGH_PROOFS else 60

pytestmark = pytest.mark.timeout(1800 if PROOFS >= THOROUGH_PROOFS else 120)


class Moment(NamedTuple):
    """A moment between changes, and what everybody's mailbox held then."""

    when: datetime
    remembered: list[Expected]


class Noticed(NamedTuple):
    """What a user would notice of an item: all but the id."""

    kind: Kind
    folder: str
    flags: tuple[str, ...]
    digest: str | None
    name: str
    area: str


@pytest.fixture(scope="module")
def lived() -> Iterator[tuple[World, list[Moment]]]:
    """Return the corpus as a mail host with a life of several moments, recorded live."""
    if corpus_root() is None:
        pytest.skip(f"the open corpus is not here: {WHERE}")
    with tempfile.TemporaryDirectory(prefix="backupd-cr-") as name:
        place = Path(name)
        root = place / "vmail"
        tree = mailtree.build(root, accounts=ACCOUNTS, corpus=corpus_files("mail")[::SHARE])
        for number, path in enumerate(corpus_files("ics")[::SHARE]):
            spread(tree, number, "calendars", "Work" if number % 3 else "Private", f"ics{number}.ics", path)
        for number, path in enumerate(corpus_files("vcf")[::SHARE]):
            spread(tree, number, "contacts", "Personal", f"vcf{number}.vcf", path)
        for number, path in enumerate(corpus_files("files")[::SHARE]):
            spread(tree, number, "files", f"corpus/{path.suffix[1:] or 'x'}", f"{number} {path.name}", path)
        _make_tops(tree)
        users = Users(MailHost(tree), random.Random(SEED))
        with Daemon(place / "b", root) as daemon:
            assert daemon.wait_until_scanned(90)["status"] == "successful"
            with reading(daemon) as store:
                accounts = {str(one.metadata["name"]): one.item for one in store.index.accounts()}
                world = World(daemon, users, accounts)
                moments = _moments(world, store)
            yield world, moments


def _make_tops(tree: MailTree) -> None:
    """Make the directories of areas in which nothing lies; users look into all of them."""
    for address in tree.addresses:
        for area in ("contacts", "calendars", "files"):
            (tree.account(address) / area).mkdir(exist_ok=True)


def _moments(world: World, store) -> list[Moment]:
    users = world.users
    assert differences(users.photograph(), present_now(store, world.accounts), learn=True) == []
    moments = []
    for _ in range(MOMENTS):
        users.rest()
        users.act(CHANGES_PER_MOMENT)
        wait_until_recorded(world, store)
        time.sleep(0.25)
        moments.append(Moment(datetime.now(UTC), users.photograph()))
        time.sleep(0.25)
    return moments


def noticed(items: Sequence[Expected], address: str) -> Counter[Noticed]:
    """Return what a user would notice; the tops of areas are there as soon as anything is in them."""
    return Counter(
        Noticed(one.kind, one.folder, one.flags, one.digest, one.name, one.area)
        for one in items
        if one.handle.account == address and not (one.kind is Kind.FOLDER and not one.folder)
    )


def seen_in(world: World, address: str) -> Counter[Noticed]:
    """Return what lies in an account's files."""
    tree = MailTree(world.users.host.tree.root, [address])
    _make_tops(tree)
    return noticed(Users(MailHost(tree), random.Random(0)).photograph(), address)


def test_any_account_comes_back_as_it_was_at_any_moment(lived):
    """Byte for byte, flag for flag, folder for folder; a second run restores nothing; sources stay."""
    world, moments = lived
    daemon = world.daemon
    dice = random.Random(f"{SEED}/pairs")
    pairs = [(dice.choice(sorted(world.accounts)), dice.choice(moments)) for _ in range(PROOFS)]
    items, began = 0, time.monotonic()
    for number, (address, moment) in enumerate(pairs):
        asked = {
            "source_account": address,
            "destination_account": f"proof{number}@{mailtree.DOMAIN}",
            "date": moment.when.isoformat(),
        }
        restored = daemon.run("backup/doRestoreOnNewAccount", **asked)
        assert restored["status"] == "successful", (asked, restored)
        expected = noticed(moment.remembered, address)
        there = seen_in(world, asked["destination_account"])
        assert there == expected, (
            asked,
            SEED,
            list((there - expected).items())[:5],
            list((expected - there).items())[:5],
        )
        items += expected.total()
        if number % 10 == 0:
            again = daemon.run("backup/doRestoreOnNewAccount", **asked)
            assert ", 0 restored" in again["verdict"], again
            assert seen_in(world, asked["destination_account"]) == expected
    print(f"{PROOFS} pairs, {items} items and folders, {time.monotonic() - began:.1f} s, seed {SEED}")
    last = moments[-1].remembered
    for address in world.accounts:
        assert seen_in(world, address) == noticed(last, address)
