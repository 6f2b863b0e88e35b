"""The contract of directory entries: domains, classes of service, mailing lists, attributes of accounts."""

from __future__ import annotations

import pytest

from backupd.appservers.base import DirectoryEntry
from backupd.errors import AppServerRefused
from backupd.items import ItemKey, Kind
from tests.contracts.appserver_worlds import WORLDS


@pytest.fixture(params=WORLDS, ids=["memory", "directory"])
async def world(request):
    made = request.param()
    await made.begin()
    yield made
    made.close()


@pytest.mark.parametrize("kind", [Kind.DOMAIN, Kind.COS, Kind.MAILING_LIST])
async def test_an_entry_is_made_once_and_then_only_completed(world, kind):
    """A new entry has its id and attributes; put again, it gets what it lacks, and nothing it has changes."""
    name = {Kind.DOMAIN: "new.test", Kind.COS: "gold", Kind.MAILING_LIST: "all@new.test"}[kind]
    first = DirectoryEntry(kind=kind, id="e-1", metadata={"name": name, "quota": 5, "none": None})
    assert await world.server.put_entry(first) == "e-1"
    more = {"name": name, "id": "other", "quota": 7, "members": ["a@x", "b@x"], "more": {"deep": [1]}}
    assert await world.server.put_entry(DirectoryEntry(kind=kind, id="e-2", metadata=more)) == "e-1"
    (found,) = [
        one for one in await world.server.directory() if one.kind is kind and one.metadata["name"] == name
    ]
    assert found.id == "e-1"
    assert found.metadata == {
        "name": name,
        "quota": 5,
        "members": ["a@x", "b@x"],
        "more": {"deep": [1]},
    }
    assert (await world.server.read(ItemKey("", kind, "e-1"))).metadata == found.metadata


async def test_an_entry_without_an_id_gets_one_and_a_taken_one_is_not_given_twice(world):
    """Ids stay unique among entries of a kind."""
    one = await world.server.put_entry(DirectoryEntry(kind=Kind.COS, id="", metadata={"name": "one"}))
    two = await world.server.put_entry(DirectoryEntry(kind=Kind.COS, id=one, metadata={"name": "two"}))
    assert one
    assert two not in ("", one)


async def test_an_account_is_completed_and_never_made_by_an_entry(world):
    """It gets the attributes it lacks and keeps those it has; an unknown id is refused."""
    more = {"cos": "other", "quota": 9, "name": "else@where.test", "zimbraId": None}
    entry = DirectoryEntry(kind=Kind.ACCOUNT, id=world.account, metadata=more)
    assert await world.server.put_entry(entry) == world.account
    (account,) = await world.server.accounts()
    assert (account.id, account.name) == (world.account, "alice@example.test")
    assert account.metadata["cos"] == "a"
    assert account.metadata["quota"] == 9
    with pytest.raises(AppServerRefused):
        await world.server.put_entry(DirectoryEntry(kind=Kind.ACCOUNT, id="nobody", metadata=more))


@pytest.mark.parametrize("name", ["", "a/b", "../out"])
async def test_entries_with_names_that_lead_elsewhere_are_refused(world, name):
    """No entry is made of them."""
    with pytest.raises(AppServerRefused):
        await world.server.put_entry(DirectoryEntry(kind=Kind.COS, id="", metadata={"name": name}))
    assert not [one for one in await world.server.directory() if one.kind is Kind.COS]
