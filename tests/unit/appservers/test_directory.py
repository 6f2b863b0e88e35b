"""Claims about the directory AppServer: odd files, ids, what is never lost in silence."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import sqlite3
import threading
import time

import msgspec
import pytest

from backupd.appservers.directory import DirectoryServer
from backupd.appservers.directory_reader import WHOLE_BYTES_MAX
from backupd.clock import SystemClock
from backupd.errors import AppServerUnavailable, ItemVanished
from backupd.items import CONTENT_KINDS, Area, ItemKey, Kind
from tests.world import mailtree
from tests.world.corpus import WHERE, corpus_files

ALICE = "user0000@example.test"


def contents(listing, kind=None):
    return [item for item in listing.items if item.kind in CONTENT_KINDS and kind in (None, item.kind)]


async def test_everything_of_a_tree_is_listed_with_its_bytes(tree, server):
    """Each file of a tree is an item, and reading it by its locator gives the tree's bytes."""
    reader = pickle.loads(pickle.dumps(server.reader()))
    read = []
    for account in await server.accounts():
        listing = await server.changes(account.id, None)
        for item in contents(listing):
            reading = reader.read(item.kind, item.item, item.locator)
            assert item.metadata.items() <= reading.metadata.items()
            read.append(reading.content.open().read())
    expected = [content for path, content in tree.contents.items() if not path.endswith(".toml")]
    assert sorted(read) == sorted(expected)
    kinds = {item.kind for item in listing.items}
    assert kinds == CONTENT_KINDS - {Kind.CONTACT_GROUP} | {Kind.FOLDER}


async def test_odd_files_are_passed_over_or_kept(tree, server, account):
    """Links, pipes, sockets, hidden names and tmp are no items; empty and oddly named files are."""
    maildir = tree.maildir(ALICE)
    before = {item.item for item in contents(await server.changes(account, None))}
    (maildir / "cur" / "link").symlink_to(tree.root / "example.test" / "domain.toml")
    (maildir / "cur" / "dangling").symlink_to("/nowhere")
    (maildir / "cur" / ".hidden").write_bytes(b"x")
    (maildir / "cur" / "directory:2,S").mkdir()
    (maildir / "tmp" / "half").write_bytes(b"x")
    (maildir / "dovecot.index.log").write_bytes(b"x")
    (maildir / ".not-a-folder").write_bytes(b"x")
    (maildir / ".empty").mkdir()
    (maildir / "..DOVECOT-TRASHED" / "cur").mkdir(parents=True)
    (maildir / ".linked").symlink_to(maildir / ".Sent")
    os.mkfifo(maildir / "new" / "pipe")
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(f"/proc/self/fd/{os.open(maildir / 'new', os.O_RDONLY)}/socket")
    (maildir / "cur" / "empty:2,").write_bytes(b"")
    (maildir / "new" / "info:1,x").write_bytes(b"x")
    (maildir / "cur" / ":2,S").write_bytes(b"x")
    latin = tree.account(ALICE) / "files" / os.fsdecode(b"caf\xe9")
    latin.mkdir()
    (latin / os.fsdecode(b"na\xefve.txt")).write_bytes(b"latin")
    (tree.account(ALICE) / "files" / ".hidden").write_bytes(b"kept")
    (tree.account(ALICE) / "contacts" / "Personal" / ".tmp.vcf").write_bytes(b"x")
    (tree.account(ALICE) / "contacts" / "Personal" / "displayname").write_bytes(b"x")
    listing = await server.changes(account, None)
    fresh = [item for item in contents(listing) if item.item not in before]
    read = sorted(server.reader().read(i.kind, i.item, i.locator).content.open().read() for i in fresh)
    assert read == [b"", b"kept", b"latin", b"x", b"x"]
    assert msgspec.json.decode(msgspec.json.encode([i.metadata for i in listing.items]))
    folders = {i.metadata["folder"] for i in listing.items if i.kind is Kind.FOLDER}
    assert not folders & {"empty", "linked", "not-a-folder", "DOVECOT-TRASHED"}


async def test_nothing_is_read_through_a_link(tree, server, account):
    """A folder that became a link to elsewhere, or a file that did, is gone, not read."""
    listing = await server.changes(account, None)
    item = next(i for i in contents(listing, Kind.MESSAGE) if i.metadata["folder"] == "INBOX")
    cur = tree.maildir(ALICE) / "cur"
    cur.rename(tree.root / "elsewhere")
    cur.symlink_to(tree.root / "elsewhere")
    with pytest.raises(ItemVanished):
        server.reader().read(item.kind, item.item, item.locator)


async def test_a_renamed_message_is_found_by_its_base(tree, server, account):
    """A message whose flags changed after the listing is read under its new name, with its new flags."""
    listing = await server.changes(account, None)
    item = next(i for i in contents(listing, Kind.MESSAGE) if i.metadata["flags"] == ["seen"])
    path = tree.root / item.locator.split("\0")[2]
    path.rename(path.with_name(path.name.replace(":2,S", ":2,FS")))
    reading = server.reader().read(item.kind, item.item, item.locator)
    assert reading.metadata["flags"] == ["flagged", "seen"]
    key = ItemKey(account, Kind.MESSAGE, item.item)
    assert (await server.read(key)).metadata["flags"] == ["flagged", "seen"]
    moved = tree.maildir(ALICE, "Trash") / "cur" / path.name
    next(path.parent.glob(f"{item.item}*")).rename(moved)
    assert (await server.read(key)).metadata["folder"] == "Trash"


async def test_a_lost_identity_changes_no_id_of_mail(tree, server, account, tmp_path):
    """With a new or damaged cache, messages and contacts have the same ids."""
    before = {i.item for i in contents(await server.changes(account, None)) if i.kind is not Kind.DOCUMENT}
    damaged = tmp_path / "other.sqlite"
    damaged.write_bytes(b"this is no database" * 100)
    other = DirectoryServer(tree.root, identity_path=damaged, clock=SystemClock())
    await other.accounts()
    after = {i.item for i in contents(await other.changes(account, None)) if i.kind is not Kind.DOCUMENT}
    other.close()
    assert after == before
    assert (tmp_path / "other.sqlite.damaged").exists()


async def test_ids_are_unique_in_the_account(tree, server, account):
    """The same base in two folders, and the same stem in two books, are items with different ids."""
    for folder in ("INBOX", "Sent"):
        tree.write(tree.maildir(ALICE, folder) / "cur" / "twin:2,", folder.encode())
    for place in ("contacts/A/twin.vcf", "contacts/B/twin.vcf", "calendars/C/twin.ics"):
        tree.write(tree.account(ALICE) / place, place.encode())
    first = contents(await server.changes(account, None))
    ids = [item.item for item in first]
    assert len(set(ids)) == len(ids)
    assert {"twin", "twin~2", "twin~3", "twin~4", "twin~5"} <= set(ids)
    again = contents(await server.changes(account, None))
    assert {i.item: i.locator for i in again} == {i.item: i.locator for i in first}


async def test_documents_keep_their_ids_when_moved_and_replaced(tree, server, account):
    """A renamed document keeps its id, and so does one replaced by its editor; one at an old path is new."""
    files = tree.account(ALICE) / "files"
    ids = {i.metadata["name"]: i.item for i in contents(await server.changes(account, None), Kind.DOCUMENT)}
    (files / "reports" / "r0.txt").rename(files / "moved.txt")
    (files / "reports" / ".r1.new").write_bytes(b"edited")
    (files / "reports" / ".r1.new").rename(files / "reports" / "r1.txt")
    now = {i.metadata["name"]: i.item for i in contents(await server.changes(account, None), Kind.DOCUMENT)}
    assert now == {"moved.txt": ids["r0.txt"], "r1.txt": ids["r1.txt"]}
    (files / "reports" / "r0.txt").write_bytes(b"another")
    latest = {
        i.metadata["name"]: i.item for i in contents(await server.changes(account, None), Kind.DOCUMENT)
    }
    assert len(set(latest.values())) == 3
    assert latest["moved.txt"] == ids["r0.txt"]


async def test_what_can_not_be_listed_is_never_empty(tree, server, account):
    """A missing account directory and a missing root raise; an unreadable folder is named."""
    home = tree.account(ALICE)
    home.rename(tree.root / "example.test" / "away")
    with pytest.raises(AppServerUnavailable, match="user0000"):
        await server.changes(account, None)
    (tree.root / "example.test" / "away").rename(home)
    if os.geteuid() != 0:
        (tree.maildir(ALICE, "Sent") / "cur").chmod(0)
        with pytest.raises(AppServerUnavailable, match="Sent"):
            await server.changes(account, None)
    shutil.move(tree.root, tree.root.with_name("gone"))
    with pytest.raises(AppServerUnavailable):
        await server.accounts()


async def test_a_broken_toml_file_leaves_the_account_as_it_was(tree, server):
    """An account.toml that is half written changes neither the id nor the attributes."""
    toml = tree.account(ALICE) / "account.toml"
    toml.write_text(
        'id = "abc"\npassword_hash = "x"\nwhen = 2026-11-23T00:00:00Z\nbig = 99999999999999999999\n'
    )
    before = (await server.accounts())[0]
    assert before.id == "abc"
    assert before.metadata["big"] == "99999999999999999999"
    toml.write_text('id = "ab')
    assert (await server.accounts())[0] == before
    (tree.account("user0001@example.test") / "account.toml").write_text('id = "abc"\n')
    ids = [each.id for each in await server.accounts()]
    assert len(set(ids)) == 2


async def test_domains_cos_and_lists(server):
    """Domains, COS and lists come with their attributes and names."""
    found = {(entry.kind, entry.metadata["name"]): entry.metadata for entry in await server.directory()}
    assert found[Kind.COS, "default"]["quota_bytes"] == 1000000000
    assert found[Kind.MAILING_LIST, "all@example.test"]["members"] == ["user0000@example.test"]
    assert found[Kind.DOMAIN, "example.test"]["description"] == "for tests"
    names = {name for name, _ in server.configuration()}
    assert {"cos/default.toml", "example.test/domain.toml", "example.test/user0000/account.toml"} <= names


async def test_large_content_is_streamed(tree, server, account):
    """A message above the bound is not read at once, and its stream gives all bytes."""
    content = b"Subject: big\n\n" + b"x" * WHOLE_BYTES_MAX
    tree.write(tree.maildir(ALICE) / "cur" / "big:2,S", content)
    await server.changes(account, None)
    reading = await server.read(ItemKey(account, Kind.MESSAGE, "big"))
    assert reading.metadata["subject"] == "big"
    assert reading.content.size == len(content)
    (tree.maildir(ALICE) / "cur" / "big:2,S").rename(tree.maildir(ALICE) / "cur" / "big:2,FS")
    with reading.content.open() as file:
        assert file.read() == content


async def test_a_young_fingerprint_is_not_trusted(tree, server, account):
    """A change in the same tick of the clock as the listing before it is found by the next one."""
    cur = tree.maildir(ALICE) / "cur"
    cursor = (await server.changes(account, None)).cursor
    stamp = cur.stat().st_mtime_ns
    (cur / "sneaked:2,").write_bytes(b"x")
    os.utime(cur, ns=(stamp, stamp))
    listing = await server.changes(account, cursor)
    assert "sneaked" in {item.item for item in listing.items}


async def test_a_listing_during_renames_misses_nothing(tree, server, account):
    """While flags change all the time, no known message is ever missing from a listing."""
    cur = tree.maildir(ALICE) / "cur"
    for number in range(300):
        (cur / f"busy{number}:2,").write_bytes(b"x")
    await server.changes(account, None)
    stop = threading.Event()

    def change_flags():
        names = {f"busy{number}": "" for number in range(300)}
        while not stop.is_set():
            for base, flags in names.items():
                other = "" if flags else "S"
                (cur / f"{base}:2,{flags}").rename(cur / f"{base}:2,{other}")
                names[base] = other

    thread = threading.Thread(target=change_flags)
    thread.start()
    try:
        counts = []
        for _ in range(3):
            listing = await server.changes(account, None)
            counts.append(len({i.item for i in listing.items if i.item.startswith("busy")}))
    finally:
        stop.set()
        thread.join()
    assert counts == [300] * 3


async def test_an_unchanged_account_opens_no_mailbox(tree, server, account, monkeypatch):
    """With a cursor of calm folders, nothing but folders is looked at, and quickly."""
    for path in tree.root.rglob("*"):
        if path.is_dir():
            os.utime(path, (mailtree.OLD, mailtree.OLD))
    first = await server.changes(account, None)
    monkeypatch.setattr("backupd.appservers.survey.RACY_SECONDS", 0.0)
    cursor = (await server.changes(account, first.cursor)).cursor
    scanned = []
    monkeypatch.setattr("backupd.appservers.listing.scan_folder", scanned.append)
    listing = await server.changes(account, cursor)
    assert listing.scope == frozenset()
    assert scanned == []


async def test_the_corpus_byte_for_byte(tmp_path):
    """Every message of the corpus is read with its exact bytes and a photograph that JSON gives back."""
    files = corpus_files("mail")
    if not files:
        pytest.skip(f"no corpus: {WHERE}")
    tree = mailtree.build(tmp_path / "root", accounts=5, corpus=files)
    server = DirectoryServer(tree.root, identity_path=tmp_path / "i.sqlite", clock=SystemClock())
    reader = server.reader()
    count = 0
    began = time.perf_counter()
    for account in await server.accounts():
        for item in contents(await server.changes(account.id, None)):
            reading = reader.read(item.kind, item.item, item.locator)
            path = item.locator.split("\0")[2]
            assert reading.content.open().read() == tree.contents[path]
            assert msgspec.json.decode(msgspec.json.encode(reading.metadata)) == reading.metadata
            count += 1
    print(f"{(time.perf_counter() - began) / count * 1e6:.0f} µs per message, listed, read and compared")
    server.close()
    assert count == len(files)


def test_the_identity_can_be_looked_into(server, tmp_path):
    """The cache is an SQLite file that others can read while it is in use."""
    with sqlite3.connect(tmp_path / "identity.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (0,)


async def test_areas_have_their_own_folders(tree, server, account):
    """Folders of one path in two areas are two folder items."""
    for area in (Area.CONTACTS, Area.FILES):
        await server.create_folder(account, area, "Same")
    listing = await server.changes(account, None)
    same = [i for i in listing.items if i.kind is Kind.FOLDER and i.metadata["folder"] == "Same"]
    assert {i.metadata["area"] for i in same} == {"contacts", "files"}
    assert len({i.item for i in same}) == 2
