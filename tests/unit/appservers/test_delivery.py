"""Claims about what restores write into a mail host's files."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import subprocess
import tempfile
import threading
import time
import tomllib
from pathlib import Path

import pytest

from backupd import durable
from backupd.appservers import delivery, keywords
from backupd.appservers.base import Account, BytesContent
from backupd.appservers.deliveries import Arrival, deliver_many
from backupd.appservers.delivery import deliver_file, deliver_message, make_mail_folder, toml_of
from backupd.appservers.maildir import mail_folders
from backupd.appservers.writing import told_apart
from backupd.errors import AppServerRefused, AppServerUnavailable
from backupd.items import Area, Kind
from backupd.states import Photograph
from tests.world import mailtree

ALICE = "user0000@example.test"


def test_a_message_lies_as_a_maildir_wants_it(tree):
    """The name carries size and flags, the file the date, keywords get letters, nothing stays in tmp."""
    metadata = {"flags": ["seen", "nonsense"], "tags": ["work", "$label"], "received": "2020-01-02T03:04:05Z"}
    done = deliver_message(tree.account(ALICE), "Neu/Über", metadata, io.BytesIO(b"hello"))
    assert done.directory == tree.maildir(ALICE, "Neu/&ANw-ber")
    assert done.name.endswith(",S=5:2,Sab")
    assert done.facts.st_mtime == 1577934245
    assert (done.directory / "dovecot-keywords").read_text() == "0 work\n1 $label\n"
    assert (done.directory / "maildirfolder").exists()
    assert list((done.directory / "tmp").iterdir()) == []
    assert not (done.directory / "dovecot-uidlist.lock").exists()
    account = tree.account(ALICE).stat()
    assert (done.facts.st_uid, done.facts.st_gid) == (account.st_uid, account.st_gid)
    assert stat.S_IMODE((done.directory / "cur").stat().st_mode) & 0o700 == 0o700


def test_keywords_known_keep_their_letters(tree):
    """A keyword that has a letter keeps it; above 26 nothing is lost but the new keyword's name."""
    folder = tree.maildir(ALICE)
    (folder / "dovecot-keywords").write_text("".join(f"{n} k{n}\n" for n in range(26)))
    done = deliver_message(tree.account(ALICE), "INBOX", {"tags": ["k3", "extra"]}, io.BytesIO(b"x"))
    assert done.name.endswith(":2,d")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_delivers_belongs_to_the_account(tree):
    """Files, folders and keywords get the owner of the account's directory."""
    for path in (tree.account(ALICE), *tree.account(ALICE).rglob("*")):
        os.chown(path, 12345, 23456)
    done = deliver_message(tree.account(ALICE), "New", {"tags": ["work"]}, io.BytesIO(b"x"))
    deliver_file(tree.account(ALICE), Area.FILES, "a/b", "c.txt", {}, io.BytesIO(b"x"))
    made = [done.directory, *done.directory.rglob("*"), *(tree.account(ALICE) / "files").rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(12345, 23456)}


def test_the_mail_servers_group_can_open_what_was_delivered(tree):
    """A file has the group's rights on the account's directory: Dovecot, another user, must open it."""
    tree.account(ALICE).chmod(0o770)
    done = deliver_message(tree.account(ALICE), "INBOX", {"tags": ["work"]}, io.BytesIO(b"x"))
    assert stat.S_IMODE(done.facts.st_mode) == 0o660
    tree.account(ALICE).chmod(0o700)
    kept = deliver_message(tree.account(ALICE), "INBOX", {}, io.BytesIO(b"x"))
    assert stat.S_IMODE(kept.facts.st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_service_of_the_mails_group_gives_it_what_it_delivers(tree):
    """Who may not give files away gives them to the group of the account's directory, a member of it."""
    for path in (tree.account(ALICE), *tree.account(ALICE).rglob("*")):
        os.chown(path, 12345, 23456)
        path.chmod(path.stat().st_mode | 0o070)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for above in tree.account(ALICE).parents:
                if above not in Path(tempfile.gettempdir(), "x").parents:
                    above.chmod(above.stat().st_mode | 0o011)
            os.setgroups([23456])
            os.setgid(45678)
            os.setuid(34567)
            deliver_message(tree.account(ALICE), "INBOX", {}, io.BytesIO(b"mine"))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (made,) = [path for path in tree.maildir(ALICE).glob("cur/*") if path.stat().st_uid == 34567]
    assert (made.stat().st_gid, stat.S_IMODE(made.stat().st_mode)) == (23456, 0o660)


def test_nothing_existing_is_overwritten(tree):
    """A taken name gets a number before its suffix."""
    for expected in ("a.tar.txt", "a.tar~2.txt", "a.tar~3.txt"):
        done = deliver_file(
            tree.account(ALICE), Area.FILES, "", "a.tar.txt", {}, io.BytesIO(expected.encode())
        )
        assert done.name == expected
    files = sorted((tree.account(ALICE) / "files").glob("a*"))
    assert [path.read_text() for path in files] == [path.name for path in files]
    assert not list((tree.account(ALICE) / "files").glob(".backupd*"))


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("y" * 255, "y" * 253 + "~2"),
        ("é" * 125 + ".txt", "é" * 124 + "~2.txt"),
        ("y" * 250 + "\uefff.txt", "y" * 249 + "~2.txt"),
    ],
)
def test_a_taken_name_of_full_length_gets_its_number(tree, name, second):
    """What the number needs is taken from the name before the suffix, whole characters at a time."""
    for expected in (name, second):
        assert deliver_file(tree.account(ALICE), Area.FILES, "", name, {}, io.BytesIO()).name == expected


@pytest.mark.parametrize("name", [b".latin\xe4", b".a.&AMQ-\xff", b".INBOX", b".&bad", ".Ä\uef80".encode()])
def test_a_folder_that_was_listed_can_be_made_again(tmp_path, name):
    """Whatever a listing calls a directory, one of that path is listed as the same when it is made anew."""
    before, after = tmp_path / "before", tmp_path / "after"
    after.mkdir()
    maildir = mailtree.make_maildir(before / "Maildir")
    mailtree.make_maildir(maildir / os.fsdecode(name))
    paths = mail_folders(str(maildir)).keys()
    assert len(paths) == 2
    for path in paths:
        make_mail_folder(after, path)
    assert mail_folders(str(after / "Maildir")).keys() == paths


def test_a_domain_is_the_same_in_any_case(tree):
    """An account comes to lie with the others of its domain, however the domain is written."""
    made = delivery.make_account(tree.root, Account(id="", name="New@EXAMPLE.test", metadata={}), "id")
    assert made == tree.root / "example.test" / "New"
    with pytest.raises(AppServerRefused, match="there already"):
        delivery.make_account(tree.root, Account(id="", name="New@Example.Test", metadata={}), "id")


@pytest.mark.parametrize("name", ["a@cos", "a@lists"])
def test_no_account_lies_where_other_entries_do(tree, name):
    """The directories of classes and lists hold no accounts: one made there would never be found again."""
    before = sorted(tree.root.rglob("*"))
    with pytest.raises(AppServerRefused, match="domain"):
        delivery.make_account(tree.root, Account(id="", name=name, metadata={}), "id")
    assert sorted(tree.root.rglob("*")) == before


@pytest.mark.parametrize("folder", ["..", "a/../b", "a//b", "/etc", "a/", "nul\0", "with.dot", "x" * 300])
def test_mail_folders_that_can_not_be_are_refused(tree, folder):
    """Names that lead out, are empty or hold Maildir++'s separator are refused, and make nothing."""
    before = sorted(tree.root.rglob("*"))
    with pytest.raises(AppServerRefused):
        make_mail_folder(tree.account(ALICE), folder)
    assert sorted(tree.root.rglob("*")) == before


def test_no_link_is_followed(tree, tmp_path):
    """A folder or an area that is a link to elsewhere is refused."""
    outside = mailtree.make_maildir(tmp_path / "outside")
    tree.maildir(ALICE, "Linked").symlink_to(outside)
    (tree.account(ALICE) / "files" / "linked").symlink_to(outside)
    with pytest.raises(AppServerRefused):
        deliver_message(tree.account(ALICE), "Linked", {}, io.BytesIO(b"x"))
    with pytest.raises(AppServerRefused):
        deliver_file(tree.account(ALICE), Area.FILES, "linked", "x", {}, io.BytesIO(b"x"))
    assert [path for path in outside.rglob("*") if path.is_file()] == []


def test_a_locked_folder_is_waited_for_and_then_told(tree, monkeypatch):
    """Dovecot's lock is waited for; where it stays, the delivery says so; a stale one is taken over."""
    lock = tree.maildir(ALICE) / "dovecot-uidlist.lock"
    lock.touch()
    timer = threading.Timer(0.1, lock.unlink)
    timer.start()
    deliver_message(tree.account(ALICE), "INBOX", {"tags": ["one"]}, io.BytesIO(b"x"))
    timer.join()
    lock.touch()
    monkeypatch.setattr(keywords, "LOCK_SECONDS_MAX", 0.05)
    with pytest.raises(AppServerUnavailable):
        deliver_message(tree.account(ALICE), "INBOX", {"tags": ["two"]}, io.BytesIO(b"x"))
    old = time.time() - 1000
    os.utime(lock, (old, old))
    deliver_message(tree.account(ALICE), "INBOX", {"tags": ["two"]}, io.BytesIO(b"x"))


def test_a_lock_of_a_dead_process_is_taken_over_at_once(tree, monkeypatch):
    """What a killed process of this host left holds nobody; a live one's lock, or another host's, does."""
    monkeypatch.setattr(keywords, "LOCK_SECONDS_MAX", 0.05)
    lock = tree.maildir(ALICE) / "dovecot-uidlist.lock"
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = socket.gethostname()
    for number, held in enumerate((f"{os.getpid()}:{here}", f"{dead.pid}:elsewhere.{here}", "")):
        lock.write_text(held)
        with pytest.raises(AppServerUnavailable):
            deliver_message(tree.account(ALICE), "INBOX", {"tags": [f"tag{number}"]}, io.BytesIO(b"x"))
        assert lock.read_text() == held
    lock.write_text(f"{dead.pid}:{here}")
    deliver_message(tree.account(ALICE), "INBOX", {"tags": ["two"]}, io.BytesIO(b"x"))
    assert not lock.exists()


def test_a_locked_folder_is_waited_for_once(tree, monkeypatch):
    """Of many messages put together the first waits for the lock, and all of that folder tell of it."""
    monkeypatch.setattr(keywords, "LOCK_SECONDS_MAX", 0.2)
    make_mail_folder(tree.account(ALICE), "Other")
    (tree.maildir(ALICE) / "dovecot-uidlist.lock").touch()
    arrivals = [
        Arrival(Area.MAIL, folder, "", {"tags": ["new"]}, BytesContent(b"x"))
        for folder in ("INBOX", "Other")
        for _ in range(20)
    ]
    began = time.monotonic()
    ended = deliver_many(tree.account(ALICE), arrivals, set())
    assert time.monotonic() - began < 2
    assert all(isinstance(one, AppServerUnavailable) for one in ended[:20])
    assert all(isinstance(one, delivery.Delivered) for one in ended[20:])
    assert list((tree.maildir(ALICE) / "tmp").iterdir()) == []


def test_toml_comes_back():
    """Attributes written are read back as they were, whatever they hold."""
    attributes = {
        "id": "x",
        'quo"te': 'a "b" \\ \n\x7f\x01é',
        "numbers": [1, -2, 2.5, 10**17],
        "truth": True,
        "nested": {"deep er": {"list": [{"a": 1}]}},
        "empty": {},
    }
    assert tomllib.loads(toml_of(attributes | {"none": None})) == attributes


@pytest.mark.parametrize(
    "name", ["nobody", "a/b@example.test", "..@example.test", "a@..", ".a@example.test", "@x"]
)
async def test_addresses_that_can_not_be_are_refused(server, tree, name):
    """An account whose address gives no plain directory is refused, and makes nothing."""
    before = sorted(tree.root.rglob("*"))
    with pytest.raises(AppServerRefused):
        await server.create_account(Account(id="", name=name, metadata={}))
    assert sorted(tree.root.rglob("*")) == before


async def test_a_put_contact_is_listed_under_its_id(server, account):
    """Contacts without uid and a kind that has no content: the first gets an id, the second is refused."""
    photograph = Photograph(metadata={"folder": "Personal"})
    identifier = await server.put(
        account, Kind.CONTACT, photograph, io.BytesIO(mailtree.generated_contact(1))
    )
    assert identifier in {item.item for item in (await server.changes(account, None)).items}
    with pytest.raises(AppServerRefused):
        await server.put(account, Kind.FOLDER, photograph, io.BytesIO(b""))


def test_a_name_that_no_waiting_mends_is_refused(tmp_path):
    """What the file system can't name is about the item; a full disk is about the storage."""
    with pytest.raises(AppServerRefused, match="too long"), told_apart(tmp_path):
        (tmp_path / ("x" * 300)).mkdir()
    with pytest.raises(AppServerUnavailable, match="space"), told_apart(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))


class Held:
    """A content in memory."""

    def open(self) -> io.BytesIO:
        """Open it."""
        return io.BytesIO(b"hello")


def put_one(account: Path, area: Area) -> None:
    """Put one item by itself."""
    if area is Area.MAIL:
        deliver_message(account, "INBOX", {}, io.BytesIO(b"hello"))
    else:
        deliver_file(account, area, "", "notes.txt", {}, io.BytesIO(b"hello"))


def put_group(account: Path, area: Area) -> None:
    """Put one item as a group; raise what became of it."""
    arrival = Arrival(area, "INBOX" * (area is Area.MAIL), "notes.txt", {}, Held())
    (done,) = deliver_many(account, [arrival], set())
    if isinstance(done, Exception):
        raise done


def test_what_can_not_be_taken_back_now_is_taken_back_first(tmp_path, monkeypatch):
    """A storage that goes away between name and sync leaves no second copy where the item is put again."""
    account, aside = tmp_path / "here" / "account", tmp_path / "away"
    account.mkdir(parents=True)
    arrivals = [Arrival(Area.MAIL, "INBOX", "", {}, Held()) for _ in range(3)]
    unremoved: set[str] = set()
    deliver_many(account, arrivals[:1], unremoved)

    def going_away(step):
        if step == "deliveries.named":
            account.parent.rename(aside)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "step", going_away)
        ended = deliver_many(account, arrivals[1:], unremoved)
    assert all(isinstance(one, AppServerUnavailable) for one in ended)
    with pytest.raises(AppServerUnavailable):
        deliver_many(account, arrivals[1:], unremoved)
    aside.rename(account.parent)
    deliver_many(account, arrivals[1:], unremoved)
    assert (len(list(account.glob("Maildir/cur/*"))), unremoved) == (3, set())


@pytest.mark.parametrize("put", [put_one, put_group])
@pytest.mark.parametrize("area", [Area.MAIL, Area.FILES])
def test_a_name_that_is_not_durable_is_taken_back(tree, put, area):
    """Where the directory can't be synced, the item is gone again: another try makes no second one."""
    account = tree.account(ALICE)

    def items() -> int:
        return sum(path.is_file() and path.read_bytes() == b"hello" for path in account.rglob("*"))

    def fail(name: str) -> None:
        if name in {"delivery.named", "deliveries.named"}:
            raise OSError(errno.EIO, "input/output error")

    durable.observe_steps(fail)
    try:
        with pytest.raises(AppServerUnavailable):
            put(account, area)
    finally:
        durable.observe_steps(None)
    assert items() == 0
    put(account, area)
    assert items() == 1
