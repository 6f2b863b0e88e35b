"""The directory AppServer beside a real Dovecot: what IMAP and LMTP do arrives as what it is."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tempfile
from pathlib import Path

import pytest

from backupd.appservers.directory import DirectoryServer
from backupd.clock import SystemClock
from backupd.items import Area, Kind
from backupd.states import ChangeType, Photograph
from tests.integration.dovecot import require_dovecot, running_dovecot
from tests.world.mailtree import generated_message


@pytest.fixture(scope="module")
def dovecot():
    require_dovecot()
    with tempfile.TemporaryDirectory(prefix="backupd-dc-") as name:
        here = Path(name)
        here.chmod(0o755)
        with running_dovecot(here, here / "vmail") as server:
            yield server


@pytest.fixture
def address(request):
    """Return an account of its own for each test."""
    return f"{request.node.name.removeprefix('test_')[:40]}@example.test"


@pytest.fixture
def server(dovecot, tmp_path):
    made = DirectoryServer(dovecot.root, identity_path=tmp_path / "identity.sqlite", clock=SystemClock())
    yield made
    made.close()


class Follower:
    """Collects what `watch` yields."""

    def __init__(self, server):
        self.changes = []
        self.missed = set()
        self.began = asyncio.Event()
        self._server = server
        self._news = asyncio.Event()

    async def run(self):
        async for batch in self._server.watch():
            self.began.set()
            self.changes += batch.changes
            self.missed |= batch.missed
            self._news.set()

    async def wait_until_told(self, claim, count=1, seconds=5.0):
        async with asyncio.timeout(seconds):
            while len(told := [change for change in self.changes if claim(change)]) < count:
                self._news.clear()
                await self._news.wait()
        return told[0]

    def forget(self):
        self.changes.clear()


def message_created(change):
    return change.kind is Kind.MESSAGE and change.type is ChangeType.CREATED


def message_deleted(change):
    return change.kind is Kind.MESSAGE and change.type is ChangeType.DELETED


@contextlib.asynccontextmanager
async def following(server):
    follower = Follower(server)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follower.run(), name="follow")
        await follower.began.wait()
        yield follower
        task.cancel()


async def account_of(server, address):
    return next(account.id for account in await server.accounts() if account.name == address)


async def messages_of(server, account):
    listing = await server.changes(account, None)
    return [item for item in listing.items if item.kind is Kind.MESSAGE]


def in_threads(function, *arguments):
    return asyncio.to_thread(function, *arguments)


async def test_delivery_by_lmtp_is_told_with_its_bytes(dovecot, server, address):
    """A message delivered by LMTP is told as created, with the bytes that lie in the Maildir."""
    async with following(server) as follower:
        await in_threads(dovecot.deliver, address, generated_message(1))
        told = await follower.wait_until_told(message_created)
        assert told.metadata["folder"] == "INBOX"
        assert told.metadata["message_id"] in told.body.decode()
        (file,) = [path for path in dovecot.maildir(address).rglob("*") if path.parent.name in ("new", "cur")]
        assert told.body == file.read_bytes()


async def test_flags_and_keywords_keep_the_id(dovecot, server, address):
    """STORE of flags and of a keyword is told as modified, of the same item, with words and names."""
    async with following(server) as follower:
        await in_threads(dovecot.deliver, address, generated_message(2))
        created = await follower.wait_until_told(message_created)

        def store():
            with dovecot.imap(address) as client:
                client.select("INBOX")
                client.store("1", "+FLAGS", r"(\Seen \Flagged work)")

        await in_threads(store)
        told = await follower.wait_until_told(
            lambda c: c.metadata is not None and c.metadata.get("tags") == ["work"]
        )
        assert told.item == created.item
        assert told.type is ChangeType.MODIFIED
        assert told.metadata["flags"] == ["flagged", "seen"]
        assert told.digest == created.digest
        (listed,) = await messages_of(server, await account_of(server, address))
        assert (listed.item, listed.metadata["tags"]) == (created.item, ["work"])


async def test_move_keeps_the_id_and_copy_makes_a_new_item(dovecot, server, address):
    """IMAP MOVE is told as moved, of the same id; COPY as the creation of another item."""
    async with following(server) as follower:
        await in_threads(dovecot.deliver, address, generated_message(3))
        created = await follower.wait_until_told(message_created)

        def move():
            with dovecot.imap(address) as client:
                client.create("Archive/2026")
                client.select("INBOX")
                assert client._simple_command("MOVE", "1", '"Archive/2026"')[0] == "OK"

        await in_threads(move)
        moved = await follower.wait_until_told(
            lambda c: c.kind is Kind.MESSAGE and (c.metadata or {}).get("folder") == "Archive/2026"
        )
        assert (moved.item, moved.type) == (created.item, ChangeType.MOVED)
        follower.forget()

        def copy():
            with dovecot.imap(address) as client:
                client.select('"Archive/2026"')
                assert client.copy("1", "INBOX")[0] == "OK"

        await in_threads(copy)
        copied = await follower.wait_until_told(message_created)
        assert copied.item != created.item
        assert copied.digest == created.digest
        account = await account_of(server, address)
        assert {item.item for item in await messages_of(server, account)} == {created.item, copied.item}


async def test_move_is_understood_by_a_listing_too(dovecot, server, address):
    """Without a watch, a listing after MOVE shows the message under its id in its new folder."""
    await in_threads(dovecot.deliver, address, generated_message(4))
    account = await account_of(server, address)
    (before,) = await messages_of(server, account)
    first = await server.changes(account, None)

    def move():
        with dovecot.imap(address) as client:
            client.create("Sent")
            client.select("INBOX")
            client._simple_command("MOVE", "1", "Sent")

    await in_threads(move)
    listing = await server.changes(account, first.cursor)
    (after,) = [item for item in listing.items if item.kind is Kind.MESSAGE]
    assert (after.item, after.metadata["folder"]) == (before.item, "Sent")
    assert {(Area.MAIL, "INBOX"), (Area.MAIL, "Sent")} <= listing.scope


async def test_expunge_and_folder_rename_and_delete(dovecot, server, address):
    """RENAME moves the folder and its messages under their ids; EXPUNGE and DELETE are told as deleted."""
    async with following(server) as follower:
        await in_threads(dovecot.deliver, address, generated_message(5))
        await follower.wait_until_told(message_created)

        def fill():
            with dovecot.imap(address) as client:
                client.create("Old")
                client.append("Old", "", None, generated_message(6))
                client.append("Old", "", None, generated_message(7))

        await in_threads(fill)
        account = await account_of(server, address)
        await follower.wait_until_told(message_created, count=3)
        ids = {
            c.item
            for c in follower.changes
            if (c.metadata or {}).get("folder") == "Old" and c.kind is Kind.MESSAGE
        }
        folder = (
            await follower.wait_until_told(lambda c: c.kind is Kind.FOLDER and c.metadata["folder"] == "Old")
        ).item
        follower.forget()

        def rename():
            with dovecot.imap(address) as client:
                assert client.rename("Old", "Neu&APw-")[0] == "OK"

        await in_threads(rename)
        moved = await follower.wait_until_told(lambda c: c.kind is Kind.FOLDER and c.type is ChangeType.MOVED)
        assert (moved.item, moved.metadata["folder"]) == (folder, "Neuü")
        assert {
            item.item for item in await messages_of(server, account) if item.metadata["folder"] == "Neuü"
        } == ids
        assert not [c for c in follower.changes if c.type is ChangeType.DELETED]
        follower.forget()

        def expunge_and_delete():
            with dovecot.imap(address) as client:
                client.select("INBOX")
                client.store("1", "+FLAGS", r"(\Deleted)")
                client.expunge()
                client.close()
                assert client.delete("Neu&APw-")[0] == "OK"

        await in_threads(expunge_and_delete)
        await follower.wait_until_told(lambda c: c.kind is Kind.FOLDER and c.type is ChangeType.DELETED)
        await follower.wait_until_told(message_deleted, count=3)
        assert await messages_of(server, account) == []
        assert follower.missed == set()


async def test_what_is_put_is_there_over_imap(dovecot, server, address):
    """A message put with flags, keyword and date is there over IMAP, byte for byte, its folder made."""
    await in_threads(dovecot.deliver, address, generated_message(8))
    account = await account_of(server, address)
    content = generated_message(9)
    photograph = Photograph(
        metadata={
            "folder": "Wieder/Grün",
            "flags": ["answered", "seen"],
            "tags": ["work"],
            "received": "2020-01-02T03:04:05.000000Z",
        }
    )
    identifier = await server.put(account, Kind.MESSAGE, photograph, io.BytesIO(content))

    def look():
        with dovecot.imap(address) as client:
            assert client.select('"Wieder/Gr&APw-n"')[0] == "OK"
            _, found = client.fetch("1", "(FLAGS INTERNALDATE BODY.PEEK[])")
            return found[0][0].decode() + found[1].decode(), found[0][1]

    told, fetched = await in_threads(look)
    assert fetched == content
    assert r"\Seen" in told
    assert r"\Answered" in told
    assert "work" in told
    assert "02-Jan-2020" in told
    listed = {item.item: item for item in await messages_of(server, account)}
    assert listed[identifier].metadata == photograph.metadata
