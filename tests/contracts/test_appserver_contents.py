"""One suite for every AppServer: content is examined, and put back in place or not at all."""

from __future__ import annotations

import io

import pytest

from backupd.errors import ContentChanged, ItemVanished
from backupd.items import ItemKey, Kind, digest_of
from backupd.states import Photograph
from tests.contracts.appserver_worlds import WORLDS
from tests.world.mailtree import generated_contact, generated_message

MAIL = generated_message(1)
CONTACT = generated_contact(1)
DATE = "2020-01-02T03:04:05.123456Z"


@pytest.fixture(params=WORLDS, ids=["memory", "directory"])
async def world(request):
    made = request.param()
    await made.begin()
    yield made
    made.close()


async def listed(world, item):
    listing = await world.server.changes(world.account, None)
    return next(one for one in listing.items if one.item == item)


async def test_what_is_examined_is_what_is_held(world):
    """Digest, size and date are those of the content as it is; the version changes with an edit."""
    contact = await world.add_contact("Personal", CONTACT)
    item = await listed(world, contact)
    key = ItemKey(world.account, Kind.CONTACT, contact)
    found = await world.server.examine(key)
    assert (found.digest, found.size, found.changed) == (
        digest_of(CONTACT),
        len(CONTACT),
        item.metadata["modified"],
    )
    assert await world.server.examine(key) == found
    await world.edit(contact, b"")
    edited = await world.server.examine(key)
    assert (edited.digest, edited.size) == (digest_of(b""), 0)
    assert edited.version != found.version


async def test_content_is_replaced_in_place(world):
    """The item keeps id, folder and flags, gets the bytes and the date as photographed; nothing is added."""
    message = await world.deliver("INBOX", MAIL)
    await listed(world, message)
    await world.flag(message, ["flagged", "seen"])
    await world.edit(message, b"")
    await listed(world, message)
    key = ItemKey(world.account, Kind.MESSAGE, message)
    found = await world.server.examine(key)
    photograph = Photograph(metadata={"folder": "elsewhere", "flags": [], "received": DATE})
    await world.server.replace_content(key, found.version, photograph, io.BytesIO(MAIL))
    item = await listed(world, message)
    assert item.metadata == {
        "folder": "INBOX",
        "flags": ["flagged", "seen"],
        "tags": [],
        "received": DATE,
    }
    assert (await world.server.read(key)).content.open().read() == MAIL
    assert (await world.server.examine(key)).digest == digest_of(MAIL)
    listing = await world.server.changes(world.account, None)
    assert [one.item for one in listing.items if one.kind is Kind.MESSAGE] == [message]


async def test_what_changed_since_it_was_examined_is_left_alone(world):
    """An edit after the examination is kept: the replacement is refused as changed."""
    contact = await world.add_contact("Personal", b"")
    await listed(world, contact)
    key = ItemKey(world.account, (await listed(world, contact)).kind, contact)
    found = await world.server.examine(key)
    await world.edit(contact, CONTACT + b"NOTE:mine\r\n")
    with pytest.raises(ContentChanged):
        await world.server.replace_content(key, found.version, Photograph(metadata={}), io.BytesIO(CONTACT))
    assert (await world.server.read(key)).content.open().read() == CONTACT + b"NOTE:mine\r\n"


async def test_what_is_gone_is_neither_examined_nor_made_anew(world):
    """A removed item raises ItemVanished from both, and stays away."""
    message = await world.deliver("INBOX", MAIL)
    await listed(world, message)
    key = ItemKey(world.account, Kind.MESSAGE, message)
    found = await world.server.examine(key)
    await world.remove(message)
    with pytest.raises(ItemVanished):
        await world.server.examine(key)
    with pytest.raises(ItemVanished):
        await world.server.replace_content(key, found.version, Photograph(metadata={}), io.BytesIO(MAIL))
    listing = await world.server.changes(world.account, None)
    assert [one for one in listing.items if one.kind is Kind.MESSAGE] == []
