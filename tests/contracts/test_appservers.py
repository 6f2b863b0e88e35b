"""One suite for every AppServer: what listings, cursors, readings and restores mean.

Each implementation is driven through a *world*: the acts of users in its own way (files renamed, dicts
changed), so that the claims hold whatever the AppServer is made of.
"""

from __future__ import annotations

import asyncio
import io

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupd.appservers.base import Account
from backupd.errors import AppServerRefused, AppServerUnavailable, ItemVanished
from backupd.items import CONTENT_KINDS, Area, ItemKey, Kind
from backupd.states import Photograph
from tests.contracts.appserver_worlds import WORLDS
from tests.world.mailtree import generated_contact, generated_message


@pytest.fixture(params=WORLDS, ids=["memory", "directory"])
async def world(request):
    made = request.param()
    await made.begin()
    yield made
    made.close()


def by_id(listing):
    return {item.item: item for item in listing.items if item.kind is not Kind.FOLDER}


def folders(listing):
    return {item.metadata["folder"]: item.item for item in listing.items if item.kind is Kind.FOLDER}


async def test_a_whole_listing_has_no_scope_and_every_item(world):
    """Without a cursor all folders and items are listed, and the scope is None."""
    message = await world.deliver("Projects/Apollo", generated_message(1))
    contact = await world.add_contact("Personal", generated_contact(1))
    listing = await world.server.changes(world.account, None)
    assert listing.scope is None
    assert by_id(listing).keys() == {message, contact}
    assert {"INBOX", "Projects/Apollo", "Personal"} <= folders(listing).keys()
    assert by_id(listing)[message].kind is Kind.MESSAGE
    assert by_id(listing)[message].metadata["folder"] == "Projects/Apollo"


async def test_nothing_changed_is_an_empty_scope(world):
    """An account that did not change since a cursor has an empty scope and no items."""
    await world.deliver("INBOX", generated_message(1))
    world.calm()
    first = await world.server.changes(world.account, None)
    again = await world.server.changes(world.account, first.cursor)
    assert again.scope == frozenset()
    assert list(again.items) == []
    assert (await world.server.changes(world.account, again.cursor)).scope == frozenset()


async def test_only_changed_folders_are_listed(world):
    """The scope names the changed folder; items of others are not listed, folder items all are."""
    kept = await world.deliver("Quiet", generated_message(1))
    await world.deliver("INBOX", generated_message(2))
    world.calm()
    first = await world.server.changes(world.account, None)
    new = await world.deliver("INBOX", generated_message(3))
    listing = await world.server.changes(world.account, first.cursor)
    assert listing.scope == {(Area.MAIL, "INBOX")}
    assert new in by_id(listing)
    assert kept not in by_id(listing)
    assert {"INBOX", "Quiet"} <= folders(listing).keys()


async def test_an_unknown_cursor_lists_everything(world):
    """A cursor that is none of the AppServer's lists the whole account."""
    message = await world.deliver("INBOX", generated_message(1))
    listing = await world.server.changes(world.account, "no cursor")
    assert listing.scope is None
    assert message in by_id(listing)


async def test_flags_keep_the_id_and_the_content(world):
    """A change of flags shows in the metadata of the same id, whose content is fixed."""
    message = await world.deliver("INBOX", generated_message(1))
    await world.server.changes(world.account, None)
    await world.flag(message, ["seen", "flagged"])
    item = by_id(await world.server.changes(world.account, None))[message]
    assert item.metadata["flags"] == ["flagged", "seen"]
    assert item.content_fixed


async def test_a_move_keeps_the_id(world):
    """A moved message is listed under its id in its new folder, and both folders are in the scope."""
    message = await world.deliver("INBOX", generated_message(1))
    await world.deliver("Sent", generated_message(2))
    world.calm()
    first = await world.server.changes(world.account, None)
    await world.move(message, "Sent")
    listing = await world.server.changes(world.account, first.cursor)
    assert by_id(listing)[message].metadata["folder"] == "Sent"
    assert listing.scope == {(Area.MAIL, "INBOX"), (Area.MAIL, "Sent")}


async def test_a_renamed_folder_keeps_its_id_and_its_messages(world):
    """Folder and messages keep their ids when the folder is renamed; the old path is in the scope."""
    message = await world.deliver("Old", generated_message(1))
    world.calm()
    first = await world.server.changes(world.account, None)
    await world.rename_folder("Old", "New")
    listing = await world.server.changes(world.account, first.cursor)
    assert folders(listing)["New"] == folders(first)["Old"]
    assert "Old" not in folders(listing)
    assert by_id(listing)[message].metadata["folder"] == "New"
    assert (Area.MAIL, "Old") in listing.scope


async def test_a_folder_that_came_and_was_renamed_between_two_scans_keeps_its_ids(world):
    """A message that another listing saw first is the same one after its folder got another name."""
    await world.deliver("INBOX", generated_message(1))
    world.calm()
    cursor = (await world.server.changes(world.account, None)).cursor
    message = await world.deliver("Projects", generated_message(2))
    await world.server.changes(world.account, None)
    await world.rename_folder("Projects", "Plans")
    world.calm()
    listing = await world.server.changes(world.account, cursor)
    placed = {item.item: item.metadata["folder"] for item in listing.items if item.kind is Kind.MESSAGE}
    assert placed[message] == "Plans"


async def test_what_is_gone_is_missing_from_a_folder_in_scope(world):
    """A removed item's folder is in the scope, and the item is not listed; so for a removed folder."""
    message = await world.deliver("INBOX", generated_message(1))
    inside = await world.deliver("Old", generated_message(2))
    world.calm()
    first = await world.server.changes(world.account, None)
    await world.remove(message)
    await world.remove_folder("Old")
    listing = await world.server.changes(world.account, first.cursor)
    assert {(Area.MAIL, "INBOX"), (Area.MAIL, "Old")} <= listing.scope
    assert not by_id(listing).keys() & {message, inside}
    assert "Old" not in folders(listing)


async def test_an_edited_contact_is_listed_as_other(world):
    """An edit in place changes what the listing tells, and the content is to be read again."""
    contact = await world.add_contact("Personal", generated_contact(1))
    world.calm()
    first = await world.server.changes(world.account, None)
    await world.edit(contact, generated_contact(1) + b"NOTE:more\r\n")
    item = by_id(await world.server.changes(world.account, first.cursor))[contact]
    assert item.metadata != by_id(first)[contact].metadata
    assert not item.content_fixed


async def test_a_reading_has_the_bytes_and_what_the_listing_told(world):
    """A photograph holds all that the listing told, is JSON, and comes with the exact bytes."""
    content = b"Subject: caf\xe9 \x00\r\nFrom: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\r\n\r\n\xff\x00body\r"
    message = await world.deliver("INBOX", content)
    item = by_id(await world.server.changes(world.account, None))[message]
    reading = await world.server.read(ItemKey(world.account, Kind.MESSAGE, message))
    assert reading.content.open().read() == content
    assert reading.content.size == len(content)
    assert item.metadata.items() <= reading.metadata.items()
    assert reading.metadata["subject"] == "café"
    assert reading.metadata["sender"] == "j@example.org"
    assert msgspec.json.decode(msgspec.json.encode(reading.metadata)) == reading.metadata


async def test_what_is_put_is_listed_and_read_as_it_was(world):
    """Put a message and a contact as photographed: the next listing shows them under the returned ids."""
    message = Photograph(
        metadata={
            "folder": "Back/Again",
            "flags": ["answered", "seen"],
            "tags": ["work"],
            "received": "2020-01-02T03:04:05.123456Z",
        }
    )
    contact = Photograph(
        metadata={"folder": "Friends", "uid": "c-1", "modified": "2020-01-02T03:04:05.000000Z"}
    )
    put = {
        await world.server.put(
            world.account, Kind.MESSAGE, message, io.BytesIO(generated_message(1))
        ): message,
        await world.server.put(
            world.account, Kind.CONTACT, contact, io.BytesIO(generated_contact(1))
        ): contact,
    }
    listed = by_id(await world.server.changes(world.account, None))
    for identifier, photograph in put.items():
        wanted = {key: value for key, value in photograph.metadata.items() if key != "uid"}
        assert wanted.items() <= listed[identifier].metadata.items()
    reading = await world.server.read(ItemKey(world.account, Kind.MESSAGE, next(iter(put))))
    assert reading.content.open().read() == generated_message(1)


async def test_putting_twice_makes_two_items(world):
    """Nothing existing is overwritten by a put."""
    photograph = Photograph(metadata={"folder": "reports", "name": "a.txt"})
    first = await world.server.put(world.account, Kind.DOCUMENT, photograph, io.BytesIO(b"one"))
    second = await world.server.put(world.account, Kind.DOCUMENT, photograph, io.BytesIO(b"two"))
    assert first != second
    for identifier, content in ((first, b"one"), (second, b"two")):
        reading = await world.server.read(ItemKey(world.account, Kind.DOCUMENT, identifier))
        assert reading.content.open().read() == content


async def test_create_folder_is_idempotent_and_listed(world):
    """A folder made twice has one id, and a listing shows it."""
    first = await world.server.create_folder(world.account, Area.MAIL, "A/B")
    assert await world.server.create_folder(world.account, Area.MAIL, "A/B") == first
    assert folders(await world.server.changes(world.account, None))["A/B"] == first


@pytest.mark.parametrize("folder", ["..", "../../etc", "a/../b", "nul\0"])
async def test_paths_that_lead_out_are_refused(world, folder):
    """Folder names that would leave the account are refused."""
    with pytest.raises(AppServerRefused):
        await world.server.create_folder(world.account, Area.FILES, folder)


async def test_gone_items_vanish_and_unknown_accounts_are_refused(world):
    """Reading what is gone raises ItemVanished; listing an account that never was, AppServerRefused."""
    message = await world.deliver("INBOX", generated_message(1))
    await world.server.changes(world.account, None)
    await world.remove(message)
    with pytest.raises(ItemVanished):
        await world.server.read(ItemKey(world.account, Kind.MESSAGE, message))
    with pytest.raises(AppServerRefused):
        await world.server.changes("nobody", None)


async def test_unavailable_is_never_an_empty_listing(world):
    """A server that is down raises AppServerUnavailable from every question."""
    await world.deliver("INBOX", generated_message(1))
    cursor = (await world.server.changes(world.account, None)).cursor
    await world.break_down()
    for question in (
        world.server.accounts(),
        world.server.directory(),
        world.server.changes(world.account, None),
        world.server.changes(world.account, cursor),
    ):
        with pytest.raises(AppServerUnavailable):
            await question


async def test_accounts_are_created_once(world):
    """An account made has the given id and metadata, a mailbox, and can't be made twice."""
    account = Account(
        id="acc-2", name="bob@example.test", metadata={"cos": "x", "quota": 5, "aliases": ["b@x"]}
    )
    assert await world.server.create_account(account) == "acc-2"
    found = {each.id: each for each in await world.server.accounts()}["acc-2"]
    assert found.name == "bob@example.test"
    assert account.metadata.items() <= found.metadata.items()
    assert "INBOX" in folders(await world.server.changes("acc-2", None))
    with pytest.raises(AppServerRefused):
        await world.server.create_account(account)


async def test_the_watch_tells_creation_move_and_deletion(world):
    """A watch begins with an empty batch, then tells each act with the id that listings show."""
    watching = aiter(world.server.watch())
    first = await anext(watching)
    assert not first.changes

    async def told(kind_of_change):
        async with asyncio.timeout(30):
            while True:
                for change in (await anext(watching)).changes:
                    if change.kind is Kind.MESSAGE and change.type.value == kind_of_change:
                        return change

    await world.deliver("Sent", generated_message(0))
    assert (await told("created")).body == generated_message(0)
    message = await world.deliver("INBOX", generated_message(1))
    assert (await told("created")).item == message
    await world.move(message, "Sent")
    moved = await told("moved")
    assert (moved.item, moved.metadata["folder"]) == (message, "Sent")
    await world.remove(message)
    assert (await told("deleted")).item == message
    await watching.aclose()


FOLDERS = ["INBOX", "A", "A/B"]
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["deliver", "contact", "flag", "move", "remove", "edit", "rename", "drop", "scan"]),
        st.integers(0, 9),
        st.sampled_from(FOLDERS),
    ),
    min_size=8,
    max_size=30,
)


async def act(world, step, number, folder, known, contacts):
    """Do one random act of a user, where there is something to act on."""
    messages = sorted(known)
    message = messages[number % len(messages)] if messages else None
    contact = contacts[number % len(contacts)] if contacts else None
    match step:
        case "deliver":
            known[await world.deliver(folder, generated_message(number, size=20))] = folder
        case "contact":
            contacts.append(await world.add_contact("Personal", generated_contact(number)))
        case "flag" if message:
            await world.flag(message, ["seen", "flagged"][: number % 3])
        case "move" if message and known[message] != folder:
            await world.move(message, folder)
            known[message] = folder
        case "remove" if message:
            await world.remove(message)
            del known[message]
        case "edit" if contact:
            await world.edit(contact, generated_contact(number))
        case "rename" if "A/B" in known.values() and not getattr(world, "renamed", False):
            # Once: the folder stays where it went, even when its messages have moved away again.
            world.renamed = True
            await world.rename_folder("A/B", "C")
            known |= {item: "C" for item, where in known.items() if where == "A/B"}
        case "drop" if "A" in known.values():
            await world.remove_folder("A")
            for item in [item for item, where in known.items() if where == "A"]:
                del known[item]


def applied(model, listing):
    """Apply a listing to a model of the account, as an engine must read it."""
    listed = {(item.kind, item.item): item.metadata for item in listing.items}
    if listing.scope is None:
        return listed
    if not listing.scope:
        return model
    area = {Kind.MESSAGE: Area.MAIL, Kind.CONTACT: Area.CONTACTS}
    kept = {
        key: metadata
        for key, metadata in model.items()
        if key[0] in CONTENT_KINDS and (area[key[0]], metadata["folder"]) not in listing.scope
    }
    return kept | listed


@pytest.mark.parametrize("make", WORLDS, ids=["memory", "directory"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(acts=ACTS)
async def test_changes_applied_are_a_whole_listing(make, acts):
    """After any acts, what changed since the last cursor applied to what was known is the whole account."""
    world = make()
    try:
        await world.begin()
        known, contacts, model, cursor = {}, [], {}, None
        for step, number, folder in [*acts, ("scan", 0, "INBOX")]:
            await act(world, step, number, folder, known, contacts)
            if step == "scan":
                world.calm()
                listing = await world.server.changes(world.account, cursor)
                model, cursor = applied(model, listing), listing.cursor
        whole = applied({}, await world.server.changes(world.account, None))
        assert model == whole
        assert {item: m["folder"] for (kind, item), m in model.items() if kind is Kind.MESSAGE} == known
    finally:
        world.close()
