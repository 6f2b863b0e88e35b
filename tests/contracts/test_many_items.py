"""Putting and reading many items together means what putting and reading each would, for every AppServer."""

from __future__ import annotations

import msgspec
import pytest

from backupd.appservers.base import BytesContent
from backupd.appservers.many import NewItem, put_many, read_many
from backupd.errors import AppServerRefused, CorruptBlob, ItemVanished
from backupd.items import ItemKey, Kind
from backupd.states import Photograph
from tests.contracts.appserver_worlds import WORLDS
from tests.world.mailtree import generated_appointment, generated_contact, generated_message

RECEIVED = "2021-03-04T05:06:07.000000Z"


@pytest.fixture(params=WORLDS, ids=["memory", "directory"])
async def world(request):
    made = request.param()
    await made.begin()
    yield made
    made.close()


async def ids_of(world):
    listing = await world.server.changes(world.account, None)
    return sorted(item.item for item in listing.items if item.kind is not Kind.FOLDER)


async def test_many_are_put_as_each_would_be(world):
    """Items of all areas put together are listed under their ids and read back as they were to be."""
    wanted = [
        (Kind.MESSAGE, {"folder": "INBOX", "flags": ["seen"], "received": RECEIVED}, generated_message(1)),
        (Kind.MESSAGE, {"folder": "Sent/Old", "flags": [], "received": RECEIVED}, generated_message(2)),
        (Kind.MESSAGE, {"folder": "Sent/Old", "flags": ["draft"], "received": RECEIVED}, b""),
        (Kind.CONTACT, {"folder": "Personal"}, generated_contact(1)),
        (Kind.CONTACT, {"folder": "Personal"}, generated_contact(1)),
        (Kind.APPOINTMENT, {"folder": "Personal"}, generated_appointment(1)),
        (Kind.DOCUMENT, {"folder": "", "name": "a.txt"}, b"one"),
        (Kind.DOCUMENT, {"folder": "deep/er", "name": "a.txt"}, b"two"),
    ]
    put = await put_many(world.server, world.account, [new_item(*one) for one in wanted])
    assert await ids_of(world) == sorted(put)
    keys = [ItemKey(world.account, kind, new) for (kind, _, _), new in zip(wanted, put, strict=True)]

    def judge(key, reading):
        with reading.content.open() as file:
            return key, {name: reading.metadata[name] for name in told(key.kind)}, file.read()

    read = await read_many(world.server, world.account, keys, judge)
    for (kind, metadata, content), key, found in zip(wanted, keys, read, strict=True):
        assert found == (key, {name: metadata[name] for name in told(kind)}, content)
        assert (await world.server.read(key)).metadata["folder"] == metadata["folder"]


def told(kind):
    return ("folder", "flags", "received") if kind is Kind.MESSAGE else ("folder",)


def new_item(kind, metadata, content):
    return NewItem(
        kind=kind, photograph=Photograph(metadata=metadata, digest=None), content=BytesContent(content)
    )


class BrokenContent:
    """Tells at its end that it was not what it should be, as a damaged blob does."""

    size = 5

    def open(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def read(self, size=-1):
        message = "broken"
        raise CorruptBlob(message)


async def test_one_that_cant_be_put_fails_alone_and_leaves_nothing(world):
    """A damaged content, a folder that leads out, a kind without content: each its error, the rest is put."""
    broken = msgspec.structs.replace(
        new_item(Kind.MESSAGE, {"folder": "INBOX"}, b""), content=BrokenContent()
    )
    put = await put_many(
        world.server,
        world.account,
        [
            broken,
            new_item(Kind.MESSAGE, {"folder": "INBOX"}, generated_message(1)),
            new_item(Kind.DOCUMENT, {"folder": "..", "name": "x"}, b"out"),
            new_item(Kind.FOLDER, {"folder": "INBOX"}, b""),
            new_item(Kind.DOCUMENT, {"folder": "", "name": "x"}, b"in"),
        ],
    )
    assert [type(one) for one in put] == [CorruptBlob, str, AppServerRefused, AppServerRefused, str]
    assert await ids_of(world) == sorted([put[1], put[4]])


async def test_nothing_is_put_into_an_account_that_is_not_there(world):
    """Put together or alone: refused, for each item or for all."""
    item = new_item(Kind.MESSAGE, {"folder": "INBOX"}, generated_message(1))
    try:
        put = await put_many(world.server, "nobody", [item, item])
    except AppServerRefused:
        return
    assert [type(one) for one in put] == [AppServerRefused] * 2


async def test_what_is_gone_is_told_among_those_read(world):
    """Reading many tells `ItemVanished` in the place of one that is gone."""
    there = await world.deliver("INBOX", generated_message(1))
    keys = [ItemKey(world.account, Kind.MESSAGE, one) for one in ("gone", there)]
    read = await read_many(world.server, world.account, keys, lambda key, _: key.item)
    assert isinstance(read[0], ItemVanished)
    assert read[1] == there
