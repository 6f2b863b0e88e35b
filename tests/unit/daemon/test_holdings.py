"""Holdings: accounts and domains as they are and were, an account's own life, and map files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.clock import written
from backupd.command import Command
from backupd.commands import COMMANDS
from backupd.control import MapReply, Reply
from backupd.errors import UnknownAccount, UnknownItem, UsageError
from backupd.events import Change
from backupd.grammar import complete
from backupd.items import Kind
from backupd.replies import AccountReply, AccountsReply, DomainsReply
from backupd.states import ChangeType, Origin
from daemon.holdings import UnknownMap
from tests.unit.daemon.making import AnsweringWorld
from tests.unit.jobs.worlds import SERVER
from tests.world.clocks import START

_ROWS: dict[str, Command] = {row.name: row for row in COMMANDS if row.module == "backup"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    """Return a backup in which alice stays, bob goes after two hours, spam is the server's own."""
    async with AnsweringWorld(tmp_path) as made:
        made.journal(
            entry(Kind.DOMAIN, "d1", 0, name="example.com"),
            entry(Kind.DOMAIN, "d2", 3, name="example.org"),
            entry(Kind.ACCOUNT, "a1", 0, name="alice@example.com", status="active", quota=1),
            entry(Kind.ACCOUNT, "b1", 0, name="bob@example.com"),
            entry(Kind.ACCOUNT, "s1", 1, name="spam@example.com", zimbraIsSystemResource="TRUE"),
            entry(Kind.ACCOUNT, "c1", 3, name="carol@example.org"),
        )
        await made.record()
        basis = made.store.journal.last_sequence
        locked = {"name": "alice@example.com", "status": "locked", "quota": 2}
        made.journal(
            entry(Kind.ACCOUNT, "b1", 2, ChangeType.DELETED, basis),
            entry(Kind.ACCOUNT, "a1", 4, ChangeType.MODIFIED, basis, **locked),
        )
        await made.record()
        yield made


def entry(
    kind: Kind, item: str, hour: int, type_: ChangeType = ChangeType.CREATED, basis: int = 0, **told: Any
) -> Change:
    return Change(
        account=item if kind is Kind.ACCOUNT else "",
        kind=kind,
        item=item,
        type=type_,
        time=START + timedelta(hours=hour),
        origin=Origin.SMARTSCAN,
        metadata=told or None,
        basis=basis,
    )


def at(hours: float) -> str:
    return written(START + timedelta(hours=hours))


async def ask(world: AnsweringWorld, command: str, **given: object) -> Reply:
    return await world.ask("backup", command, **complete(_ROWS[command], given))


async def accounts(world: AnsweringWorld, **given: object) -> dict[str, str]:
    reply = await ask(world, "getAvailableAccounts", **given)
    assert isinstance(reply, AccountsReply)
    return {one.name.partition("@")[0]: one.status for one in reply.accounts}


async def test_available_accounts_now(world: AnsweringWorld) -> None:
    """Living and deleted ones with their status; the server's own only where asked for."""
    assert await accounts(world) == {"alice": "locked", "bob": "deleted", "carol": "active"}
    assert "spam" in await accounts(world, hide_system_accounts="false")
    assert await accounts(world, hide_deleted="true") == {"alice": "locked", "carol": "active"}
    assert await accounts(world, hide_existing_accounts="true") == {"bob": "deleted"}
    assert await accounts(world, domains="EXAMPLE.org,@example.net") == {"carol": "active"}


async def test_available_accounts_of_a_moment(world: AnsweringWorld) -> None:
    """What was not there yet is left out, what was deleted later is not, attributes are those of then."""
    assert await accounts(world, date=at(1)) == {"alice": "active", "bob": "active"}
    assert await accounts(world, date=at(2.5)) == {"alice": "active", "bob": "deleted"}
    assert await accounts(world, date=at(-1)) == {}
    reply = await ask(world, "getAvailableAccounts", date=at(1))
    assert isinstance(reply, AccountsReply)
    bob = reply.accounts[1]
    assert (bob.id, bob.exists, bob.deleted_at, bob.domain) == ("b1", False, None, "example.com")


async def test_available_domains(world: AnsweringWorld) -> None:
    """Each with the accounts it had; positional values may be left out."""

    async def domains(**given: object) -> dict[str, int]:
        reply = await ask(world, "getAvailableDomains", **given)
        assert isinstance(reply, DomainsReply)
        return {one.name: one.accounts for one in reply.domains}

    assert await domains() == {"example.com": 2, "example.org": 1}
    assert await domains(date=at(1.5)) == {"example.com": 3}
    assert await domains(date="last", backup_path=str(world.path)) == await domains()


async def test_an_account_at_its_moments(world: AnsweringWorld) -> None:
    """Newest, oldest, all and the one of a date; by address and by id; with statistics where asked for."""

    async def quotas(account: str = "alice@example.com", **given: object) -> list[object]:
        reply = await ask(world, "getAccountInfo", account=account, **given)
        assert isinstance(reply, AccountReply)
        assert reply.statistics is None
        return [state.metadata.get("quota") for state in reply.states]

    assert await quotas() == [2]
    assert await quotas("a1", date="least_recent") == [1]
    assert await quotas(date="all") == [1, 2]
    assert await quotas(date=at(3)) == [1]
    reply = await ask(world, "getAccountInfo", account="a1", backupstats="true")
    assert isinstance(reply, AccountReply)
    assert reply.statistics is not None
    assert reply.statistics["items"] == {"account": 1}
    assert "cursor" not in reply.statistics
    with pytest.raises(UnknownItem, match=r"alice@example\.com"):
        await quotas(date=at(-1))
    with pytest.raises(UnknownAccount, match="nobody"):
        await quotas("nobody@example.com")


async def test_a_map_file_says_whose_backup_it_is(world: AnsweringWorld, tmp_path: Path) -> None:
    """The daemon's own without a path, another's by its path; what an import added comes as entries."""
    own = await ask(world, "getMap")
    assert isinstance(own, MapReply)
    assert (own.server_id, own.server_name, own.entries) == (SERVER, "mail", {})
    other = tmp_path / "map_9"
    other.write_text('{"format":1,"server":"9","name":"old","since":"2020-01-01T00:00:00Z","x":"y"}')
    reply = await ask(world, "getMap", file_path=str(other))
    assert isinstance(reply, MapReply)
    assert (reply.server_id, reply.entries) == ("9", {"x": "y"})


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format":1}', b"\xff", None])
async def test_what_is_no_map_is_refused(
    world: AnsweringWorld, tmp_path: Path, content: bytes | None
) -> None:
    """A missing, broken or foreign file is one clear error."""
    path = tmp_path / "map_x"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnknownMap, match="map_x"):
        await ask(world, "getMap", file_path=str(path))


async def test_no_other_file_is_read_as_a_map(world: AnsweringWorld, tmp_path: Path) -> None:
    """Whoever may only ask can't have the daemon read whatever it may read."""
    secret = tmp_path / "secret.json"
    secret.write_text('{"server":"x","token":"y"}')
    with pytest.raises(UsageError, match="no map file"):
        await ask(world, "getMap", file_path=str(secret))
