"""Accounts of the open corpus, changed while a daemon looks on, are restored as of random past moments.

What is compared is what lies on the disk, read without any of the backup's code: the mail host as it was at
each moment, in the users' memory, and the directory that the restore made. `BACKUPD_PROOFS` says how many
pairs of account and moment are tried (`make proof` takes 200), `BACKUPD_SEED` which.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backupd.items import Area, Kind, digest_of
from tests.world.corpus import WHERE, corpus_root
from tests.world.corpus_host import ACCOUNTS, World, corpus_host, reading, wait_until_recorded
from tests.world.mailtree import make_maildir
from tests.world.users import Handle, Users, kind_of

PROOFS = int(os.environ.get("BACKUPD_PROOFS", "10"))
MOMENTS = max(4, PROOFS // 8)
CHANGES_PER_MOMENT = 60
TWICE_OF = 5
"""Every so many pairs, one is restored again."""
SEED = int(os.environ.get("BACKUPD_SEED", "20261123"))
EMPTY = "Nothing in it"
"""A folder that each account has."""
QUIET_SECONDS = 0.25
"""Before and after a moment, so that it is clear on which side of it a change was."""
WORDS = {"D": "draft", "F": "flagged", "P": "forwarded", "R": "answered", "S": "seen", "T": "deleted"}
DIRECTORIES = {"contacts": Area.CONTACTS, "calendars": Area.CALENDARS, "files": Area.FILES}


class Seen(NamedTuple):
    """A folder or an item as it lies on the disk; two equal ones are two of the same."""

    kind: Kind
    folder: str
    area: str = ""
    name: str = ""
    flags: tuple[str, ...] = ()
    microseconds: int = 0
    digest: str = ""


Account = Counter[Seen]


class Moment(NamedTuple):
    """When, and what each account was then."""

    when: datetime
    accounts: dict[str, Account]


def microseconds_of(path: Path) -> int:
    return path.stat().st_mtime_ns // 1000


def on_disk(account: Path) -> Account:
    """Return what lies in an account's directory."""
    found: Account = Counter()
    maildir = account / "Maildir"
    for directory in [maildir, *maildir.glob(".[!.]*")]:
        folder = "INBOX" if directory == maildir else directory.name[1:].replace(".", "/")
        found[Seen(Kind.FOLDER, folder, Area.MAIL.value)] += 1
        for path in (*directory.glob("cur/*"), *directory.glob("new/*")):
            flags = tuple(sorted(WORDS[letter] for letter in path.name.partition(":2,")[2]))
            digest = digest_of(path.read_bytes())
            found[Seen(Kind.MESSAGE, folder, "", "", flags, microseconds_of(path), digest)] += 1
    for name, area in DIRECTORIES.items():
        top = account / name
        for path in [top, *top.rglob("*")] if top.is_dir() else []:
            if path.is_dir():
                below = "" if path == top else path.relative_to(top).as_posix()
                found[Seen(Kind.FOLDER, below, area.value)] += 1
                continue
            content = path.read_bytes()
            found[seen_file(kind_of(area, content), path, top, digest_of(content))] += 1
    return found


def seen_file(kind: Kind, path: Path, top: Path, digest: str) -> Seen:
    """Return a file; the names of vCards and iCalendar files mean nothing to users."""
    below = "" if path.parent == top else path.parent.relative_to(top).as_posix()
    name = path.name if kind is Kind.DOCUMENT else ""
    return Seen(kind, below, name=name, microseconds=microseconds_of(path), digest=digest)


def in_memory(users: Users) -> dict[str, Account]:
    """Return what users remember of all accounts now; only the times of files are looked up."""
    accounts: dict[str, Account] = {address: Counter() for address in users.host.addresses}
    for one in users.photograph():
        if one.kind is Kind.FOLDER:
            accounts[one.handle.account][Seen(Kind.FOLDER, one.folder, one.area)] += 1
    for thing in users.things:
        one = thing.expected
        seen = Seen(
            one.kind, one.folder, "", one.name, one.flags, microseconds_of(thing.path), one.digest or ""
        )
        accounts[one.handle.account][seen] += 1
    return accounts


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return the corpus as a mail host, after the first scan of a daemon."""
    if corpus_root() is None:
        pytest.skip(f"the open corpus is not here: {WHERE}")
    with corpus_host(tmp_path_factory.mktemp("proof"), SEED) as made:
        yield made


@pytest.fixture(scope="module")
def moments(world: World) -> list[Moment]:
    """Return moments of a life in which users did things in between."""
    found = []
    for address in world.users.host.addresses:
        make_maildir(world.users.host.tree.maildir(address, EMPTY))
        world.users.folders[address, Area.MAIL, EMPTY] = Handle(address)
    with reading(world.daemon) as store:
        for _ in range(MOMENTS):
            wait_until_recorded(world, store)
            world.users.rest()
            time.sleep(QUIET_SECONDS)
            found.append(Moment(datetime.now(UTC), in_memory(world.users)))
            time.sleep(QUIET_SECONDS)
            world.users.act(CHANGES_PER_MOMENT)
        wait_until_recorded(world, store)
    return found


def restored_at(world: World, source: str, destination: str, when: datetime) -> Any:
    return world.daemon.run(
        "backup/doRestoreOnNewAccount",
        source_account=source,
        destination_account=destination,
        date=when.isoformat(),
    )


def counted(operation: Any) -> tuple[int, ...]:
    """Return what a verdict says: expected, restored, skipped, unrestored."""
    said = r"([\d,]+) expected, ([\d,]+) restored .*, ([\d,]+) skipped .*, ([\d,]+) unrestored"
    found = re.search(said, operation["verdict"])
    assert found, operation
    return tuple(int(number.replace(",", "")) for number in found.groups())


@pytest.mark.timeout(60 + 10 * PROOFS)
def test_accounts_come_back_as_they_were_at_any_moment(world: World, moments: list[Moment]) -> None:
    """Byte for byte, flag for flag, date for date, folder for folder; given again, nothing comes twice."""
    dice = random.Random(SEED)
    tree = world.users.host.tree
    sources = [dice.choice(tree.addresses) for _ in range(PROOFS)]
    assert len(tree.addresses) == ACCOUNTS
    items = 0
    for number, source in enumerate(sources):
        moment = dice.choice(moments)
        destination = f"proof{number:04d}@example.test"
        ended = restored_at(world, source, destination, moment.when)
        assert ended["status"] == "successful", ended
        wanted = moment.accounts[source]
        restored = on_disk(tree.account(destination))
        what = f"seed {SEED}, pair {number}: {source} at {moment.when}"
        assert (wanted - restored, restored - wanted) == (Counter(), Counter()), what
        expected, made, skipped, unrestored = counted(ended)
        assert expected == made == sum(n for seen, n in wanted.items() if seen.kind is not Kind.FOLDER)
        assert (skipped, unrestored) == (0, 0)
        items += made
        if number % TWICE_OF == 0:
            assert counted(restored_at(world, source, destination, moment.when)) == (expected, 0, expected, 0)
            assert on_disk(tree.account(destination)) == restored
    print(f"{PROOFS} pairs of account and moment, {items:,} items; seed {SEED}")
    memory = in_memory(world.users)
    assert {address: on_disk(tree.account(address)) for address in tree.addresses} == memory, "the sources"
