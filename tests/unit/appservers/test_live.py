"""Claims about live changes: what hints lead to, and what happens where hints are lost."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import shutil

import pytest
from watchfiles._rust_notify import WatchfilesRustInternalError

from backupd.appservers import live_folders
from backupd.appservers import watching as watching_module
from backupd.appservers.base import Account
from backupd.appservers.directory import DirectoryServer
from backupd.clock import SystemClock
from backupd.errors import AppServerUnavailable
from backupd.items import Area, Kind, digest_of
from backupd.states import ChangeType, Photograph
from tests.world import mailtree

ALICE = "user0000@example.test"


class Watching:
    """The tracker without inotify: hints are given by hand."""

    def __init__(self, server, root):
        self.folders, self.tracker = server._tracker()
        server._live.append(self.folders)
        self.root = root

    def hint(self, *paths):
        return self.tracker.look({str(path) for path in paths}).changes

    def settle(self):
        """Let everything that waits become due."""
        changes = []
        for _ in range(2):
            now = live_folders.time.monotonic() + 60
            for spot, waiting in list(self.tracker._pending.items()):
                self.tracker._pending[spot] = waiting._replace(due=now - 120)
            self.folders._due = {account: [0.0] for account in self.folders._due}
            self.folders._accounts_due = None if self.folders._accounts_due is None else 0.0
            changes += self.tracker.look(()).changes
        return changes


@pytest.fixture
async def watching(server, tree):
    for account in await server.accounts():
        await server.changes(account.id, None)
    return Watching(server, tree.root)


def told(changes):
    return [
        (change.kind.value, change.type.value, (change.metadata or {}).get("folder")) for change in changes
    ]


def test_the_same_hint_twice_is_told_once(watching, tree):
    """Several hints about one act are one change; the next act is told again."""
    path = tree.write(tree.maildir(ALICE) / "new" / "n1", b"Subject: x\n\n")
    (change,) = watching.hint(path)
    assert (change.type, change.body, change.digest) == (
        ChangeType.CREATED,
        b"Subject: x\n\n",
        digest_of(change.body),
    )
    assert watching.hint(path) == ()
    seen = path.rename(tree.maildir(ALICE) / "cur" / "n1:2,S")
    (change,) = watching.hint(seen, path)
    assert (change.type, change.body, change.metadata["flags"]) == (ChangeType.MODIFIED, None, ["seen"])
    assert watching.settle() == []


def test_what_was_put_or_listed_first_is_told_all_the_same(watching, server, tree):
    """A message that a listing saw before its hint came is told: the listing may never be recorded."""
    path = tree.write(tree.maildir(ALICE) / "new" / "n1", b"x")
    account = watching.folders.place_of("example.test/user0000").account.id
    server._changes(account, None)
    assert len(watching.hint(path)) == 1


async def test_what_was_put_into_a_new_account_is_told_with_it(watching, server, tree):
    """A restore makes the account and puts items faster than the watch sees the account."""
    new = await server.create_account(Account(id="", name="new@example.test", metadata={}))
    await server.create_folder(new, Area.MAIL, "Empty")
    photograph = Photograph(metadata={"folder": "Sent"}, digest=None, size=None)
    item = await server.put(new, Kind.MESSAGE, photograph, io.BytesIO(b"Subject: x\n\n"))
    path = next((tree.root / "example.test" / "new" / "Maildir" / ".Sent" / "cur").iterdir())
    changes = [*watching.hint(path), *watching.settle()]
    assert sorted(told(changes), key=str) == [
        ("account", "created", None),
        ("folder", "created", "Empty"),
        ("folder", "created", "INBOX"),
        ("folder", "created", "Sent"),
        ("message", "created", "Sent"),
    ]
    assert [change.item for change in changes if change.kind is Kind.MESSAGE] == [item]
    assert watching.settle() == []


def test_what_another_listing_forgot_is_told(watching, server, tree):
    """A deletion, a move with its folder and a new folder that a listing sees before their hints are told."""
    account = watching.folders.place_of("example.test/user0000").account.id
    path = next((tree.maildir(ALICE) / "cur").iterdir())
    path.unlink()
    tree.maildir(ALICE, "Sent").rename(tree.maildir(ALICE, "Out"))
    inside = list((tree.maildir(ALICE, "Out") / "cur").iterdir())
    server._changes(account, None)
    changes = [*watching.hint(path, tree.maildir(ALICE, "Sent")), *watching.settle()]
    assert sorted(told(changes)) == sorted(
        [("folder", "moved", "Out"), ("message", "deleted", None)]
        + [("message", "moved", "Out")] * len(inside)
    )


def test_a_deletion_waits_for_the_other_half_of_a_move(watching, tree):
    """A file gone from one folder that appears in another shortly after is moved, not deleted."""
    path = next((tree.maildir(ALICE) / "cur").iterdir())
    target = tree.maildir(ALICE, "Trash") / "cur" / path.name
    path.rename(target)
    assert watching.hint(path) == ()
    (change,) = watching.hint(target)
    assert (change.type, change.metadata["folder"]) == (ChangeType.MOVED, "Trash")
    assert watching.settle() == []
    target.unlink()
    assert watching.hint(target) == ()
    assert told(watching.settle()) == [("message", "deleted", None)]


def test_a_link_waits_for_the_removal_of_its_source(watching, tree):
    """Dovecot's MOVE in two steps is one move under the old id; its COPY is a new item."""
    path = next((tree.maildir(ALICE) / "cur").iterdir())
    target = tree.maildir(ALICE, "Trash") / "cur" / "other:2,S"
    target.hardlink_to(path)
    assert watching.hint(target) == ()
    path.unlink()
    (change,) = [*watching.hint(path), *watching.settle()]
    assert (change.type, change.item) == (ChangeType.MOVED, path.name.partition(":")[0])
    copy = tree.maildir(ALICE, "Sent") / "cur" / "copy:2,S"
    copy.hardlink_to(target)
    assert watching.hint(copy) == ()
    (change,) = watching.settle()
    assert (change.type, change.item) == (ChangeType.CREATED, "copy")


def test_keywords_get_their_names_when_dovecot_wrote_them(watching, tree):
    """A letter whose name comes after the rename is told with its name as soon as that is there."""
    folder = tree.maildir(ALICE)
    path = tree.write(folder / "cur" / "k1:2,a", b"x")
    (change,) = watching.hint(path)
    assert change.metadata["tags"] == []
    names = tree.write(folder / "dovecot-keywords", b"0 work\n")
    (change,) = watching.hint(names)
    assert change.metadata["tags"] == ["work"]
    assert watching.hint(names) == ()


def test_keywords_that_change_their_meaning_are_a_gap(watching, tree):
    """A letter given to another keyword concerns messages nobody hinted at: the account counts as missed."""
    names = tree.write(tree.maildir(ALICE) / "dovecot-keywords", b"0 work\n")
    watching.hint(names)
    tree.write(names, b"0 play\n")
    assert len(watching.tracker.look({str(names)}).missed) == 1


def test_folders_come_with_what_is_in_them(watching, tree):
    """A new folder is told with messages that nobody hinted at; so are its renaming and its removal."""
    folder = mailtree.make_maildir(tree.maildir(ALICE, "Neu"))
    tree.write(folder / "cur" / "m1:2,", b"x")
    watching.hint(folder)
    assert told(watching.settle()) == [("folder", "created", "Neu"), ("message", "created", "Neu")]
    folder.rename(tree.maildir(ALICE, "Alt"))
    watching.hint(folder, tree.maildir(ALICE, "Alt"))
    assert told(watching.settle()) == [("folder", "moved", "Alt"), ("message", "moved", "Alt")]
    shutil.rmtree(tree.maildir(ALICE, "Alt"))
    watching.hint(tree.maildir(ALICE, "Alt"))
    assert told(watching.settle()) == [("message", "deleted", None), ("folder", "deleted", None)]


def test_accounts_come_change_and_go(watching, tree):
    """New, changed and removed accounts are told; many gone at once are not believed."""
    toml = tree.write(tree.account("new@example.test") / "account.toml", b'cos = "a"\n')
    watching.hint(toml)
    assert ("account", "created", None) in told(watching.settle())
    tree.write(toml, b'cos = "b"\n')
    watching.hint(toml)
    (change,) = watching.settle()
    assert (change.type, change.metadata["cos"]) == (ChangeType.MODIFIED, "b")
    shutil.rmtree(toml.parent)
    watching.hint(toml.parent)
    assert told(watching.settle()) == [("account", "deleted", None)]


def test_a_lost_mount_deletes_no_account(tmp_path):
    """When a domain with many accounts is suddenly empty, none is told as deleted; all count as missed."""
    tree = mailtree.build(tmp_path / "root", accounts=8)
    server = DirectoryServer(tree.root, identity_path=tmp_path / "i.sqlite", clock=SystemClock())
    watching = Watching(server, tree.root)
    (tree.root / "example.test").rename(tmp_path / "unmounted")
    (tree.root / "example.test").mkdir()
    watching.tracker.look({str(tree.root / "example.test")})
    watching.folders._accounts_due = 0.0
    watched = watching.tracker.look(())
    assert watched.changes == ()
    assert len(watched.missed) == 8
    server.close()


def test_the_sweep_finds_what_nobody_hinted_at(watching, tree, monkeypatch):
    """Without any hint, the sweep tells what changed, and that changes were missed."""
    monkeypatch.setattr(live_folders, "SWEEP_SECONDS", 0.0)
    monkeypatch.setattr("backupd.appservers.survey.RACY_SECONDS", 0.0)
    for _ in range(2):
        watched = watching.tracker.sweep(1.0)
        assert (watched.changes, watched.missed) == ((), frozenset())
    tree.write(tree.maildir(ALICE) / "new" / "n1", b"x")
    next((tree.maildir(ALICE) / "cur").iterdir()).unlink()
    tree.write(tree.account(ALICE) / "files" / "reports" / "r0.txt", b"edited in place")
    swept = [watching.tracker.sweep(1.0) for _ in range(3)]
    changes = [change for watched in swept for change in watched.changes]
    assert sorted((change.kind.value, change.type.value) for change in changes) == [
        ("document", "modified"),
        ("message", "created"),
        ("message", "deleted"),
    ]
    assert len(frozenset().union(*(watched.missed for watched in swept))) == 1


def test_the_sweep_agrees_with_what_was_told(watching, tree, monkeypatch):
    """What hints had told already is no miss."""
    monkeypatch.setattr(live_folders, "SWEEP_SECONDS", 0.0)
    monkeypatch.setattr("backupd.appservers.survey.RACY_SECONDS", 0.0)
    for _ in range(3):
        watching.tracker.sweep(1.0)
    path = tree.write(tree.maildir(ALICE) / "new" / "n1", b"x")
    assert len(watching.hint(path)) == 1
    for _ in range(3):
        watched = watching.tracker.sweep(1.0)
        assert (watched.changes, watched.missed) == ((), frozenset())


@contextlib.asynccontextmanager
async def followed(server):
    batches = []
    began = asyncio.Event()

    async def follow():
        async for watched in server.watch():
            batches.append(watched)
            began.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow(), name="follow")
        await began.wait()
        yield batches
        task.cancel()


async def test_a_name_that_is_no_utf8_does_not_end_the_watch(watching, server, tree, monkeypatch):
    """Watchfiles fails at such a name; the watch begins anew, and what it lost meanwhile is told."""
    monkeypatch.setattr("backupd.appservers.watching.RESTART_SECONDS", 0.01)
    monkeypatch.setattr("backupd.appservers.survey.RACY_SECONDS", 0.05)
    monkeypatch.setattr(live_folders, "CALM_SECONDS", 0.1)
    async with followed(server) as batches:
        (tree.account(ALICE) / "files" / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
        tree.write(tree.maildir(ALICE) / "new" / "n1", b"x")
        await _until(lambda: {"caf\uefe9"} <= {(c.metadata or {}).get("name") for c in _changes(batches)})
        tree.write(tree.maildir(ALICE) / "new" / "n2", b"x")
        await _until(lambda: {"n1", "n2"} <= {change.item for change in _changes(batches)})


async def test_a_directory_that_is_no_utf8_leaves_the_sweep(watching, server, tree, monkeypatch):
    """Watchfiles fails whenever such a directory is so much as read; the sweep finds what happens."""
    monkeypatch.setattr("backupd.appservers.survey.RACY_SECONDS", 0.05)
    monkeypatch.setattr(live_folders, "CALM_SECONDS", 0.1)
    monkeypatch.setattr(live_folders, "SWEEP_SECONDS", 0.1)

    async def failing(root):
        raise ExceptionGroup("", [WatchfilesRustInternalError(f"Unable to decode path {root}")])
        yield set()

    monkeypatch.setattr(watching_module, "_hints", failing)
    async with followed(server) as batches:
        for name in ("n1", "n2"):
            tree.write(tree.maildir(ALICE) / "new" / name, b"x")
            await _until(lambda name=name: name in {change.item for change in _changes(batches)})


async def test_a_missing_root_is_told(tmp_path):
    """A root that is not there can't be watched: AppServerUnavailable, not silence."""
    server = DirectoryServer(tmp_path / "none", identity_path=tmp_path / "i.sqlite", clock=SystemClock())
    with pytest.raises(AppServerUnavailable):
        await anext(aiter(server.watch()))
    server.close()


def _changes(batches):
    return [change for watched in batches for change in watched.changes]


async def _until(claim, seconds=30.0):
    async with asyncio.timeout(seconds):
        while not claim():  # noqa: ASYNC110 - batches come from a task that knows of no event
            await asyncio.sleep(0.02)


async def test_random_acts_leave_what_a_listing_shows(watching, server, tree):
    """After two hundred acts of users, the changes told, applied in order, are what a listing shows."""
    dice = random.Random(7)
    account = watching.folders.place_of("example.test/user0000").account.id
    model = {
        item.item: item.metadata
        for item in (await server.changes(account, None)).items
        if item.kind is Kind.MESSAGE
    }
    async with followed(server) as batches:
        for number in range(200):
            await asyncio.to_thread(_act, tree, dice, number)
            if dice.random() < 0.1:
                await server.changes(account, None)
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * 0.05)

        async def expected():
            listing = await server.changes(account, None)
            return {i.item: i.metadata for i in listing.items if i.kind is Kind.MESSAGE}

        async def settled():
            return _applied(model, _changes(batches), account) == await expected()

        async with asyncio.timeout(30):
            while not await settled():  # noqa: ASYNC110 - batches come from a task that knows of no event
                await asyncio.sleep(0.05)
        assert not any(watched.missed or watched.missed_all for watched in batches)


def _applied(model, changes, account):
    state = {key: dict(value) for key, value in model.items()}
    for change in changes:
        if change.account == account and change.kind is Kind.MESSAGE:
            if change.type is ChangeType.DELETED:
                state.pop(change.item, None)
            else:
                keys = ("folder", "flags", "tags", "received")
                state[change.item] = {key: change.metadata[key] for key in keys}
    return state


def _act(tree, dice, number):
    folder = tree.maildir(ALICE, dice.choice(mailtree.FOLDERS))
    files = sorted((folder / "cur").iterdir())
    act = dice.choice(["deliver", "deliver", "flag", "flag", "move", "link", "copy", "remove"])
    target = tree.maildir(ALICE, dice.choice(mailtree.FOLDERS))
    if act == "deliver" or not files:
        aside = folder / "tmp" / f"d{number}"
        aside.write_bytes(b"Subject: %d\n\n" % number)
        aside.rename(folder / dice.choice(["new", "cur"]) / f"d{number}")
        return
    path = dice.choice(files)
    base = path.name.partition(":")[0]
    match act:
        case "flag":
            path.rename(folder / "cur" / f"{base}:2,{dice.choice(['', 'S', 'FS', 'RS'])}")
        case "move" if not list(target.glob(f"*/{base}*")):
            path.rename(target / "cur" / path.name)
        case "link":
            (target / "cur" / f"l{number}:2,S").hardlink_to(path)
            path.unlink()
        case "copy":
            (target / "cur" / f"c{number}:2,").hardlink_to(path)
        case "remove":
            path.unlink()
