"""Configuring: attributes and schedules at every level, what is inherited, and what is said besides `ok`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backupd.commands import COMMANDS
from backupd.control import ConfigReply, DoneReply, SchedulesReply
from backupd.errors import UnknownAccount, UnknownEntry, UsageError
from backupd.events import Change
from backupd.items import Kind
from backupd.states import ChangeType, Origin
from backupd.views import ScheduleView
from tests.unit.daemon.making import AnsweringWorld
from tests.unit.jobs.worlds import ALICE, SERVER

ENABLED = "backupEnabled"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    async with AnsweringWorld(tmp_path) as made:
        made.journal(
            entry(made, Kind.COS, "c1", {"name": "gold"}),
            entry(made, Kind.DOMAIN, "d1", {"name": "example.com"}),
            entry(made, Kind.ACCOUNT, ALICE, {"name": "alice@example.com", "cos": "gold"}),
        )
        await made.record()
        yield made


def entry(world: AnsweringWorld, kind: Kind, item: str, metadata: dict[str, object]) -> Change:
    return Change(
        account=item if kind is Kind.ACCOUNT else "",
        kind=kind,
        item=item,
        type=ChangeType.CREATED,
        time=world.clock.now(),
        origin=Origin.SMARTSCAN,
        metadata=metadata,
        basis=0,
    )


Inheritance = tuple[object, bool, str]
"""Value, whether it is inherited, and from which level."""


async def value(world: AnsweringWorld, level: str, attribute: str, **subject: str) -> Inheritance:
    reply = await world.ask("config", f"get {level}", attribute=attribute, **subject)
    assert isinstance(reply, ConfigReply)
    (view,) = reply.values
    return view.value, view.is_inherited, view.inherited_from


async def test_every_command_of_these_modules_is_answered(world: AnsweringWorld) -> None:
    """The table of answers has each row of the table of commands."""
    rows = {one.title for one in COMMANDS if one.module in {"config", "scheduler"}}
    assert rows == set(world.configuring.table()) - set(world.configuring.buckets.table())


async def test_an_account_inherits_from_its_cos(world: AnsweringWorld) -> None:
    """Default, then the COS that the account's attributes name, then the account itself."""
    account = {"account": "alice@example.com"}
    assert await value(world, "account", ENABLED, **account) == (True, True, "default")
    await world.ask("config", "set cos", cos="gold", attribute=ENABLED, value="false")
    assert await value(world, "account", ENABLED, **account) == (False, True, "cos")
    assert await value(world, "cos", ENABLED, cos="c1") == (False, False, "")
    await world.ask("config", "set account", attribute=ENABLED, value="TRUE", **account)
    assert await value(world, "account", ENABLED, **account) == (True, False, "")
    await world.ask("config", "unset account", attribute=ENABLED, **account)
    assert await value(world, "account", ENABLED, **account) == (False, True, "cos")


async def test_a_server_inherits_what_is_global(world: AnsweringWorld) -> None:
    """A global value holds for the server until it has its own."""
    name = "ZxBackup_DataRetentionDays"
    await world.ask("config", "set global", attribute=name, value="15")
    assert await value(world, "server", name, server="mail") == (15, True, "global")
    await world.ask("config", "set server", server=SERVER, attribute=name, value="7")
    assert await value(world, "server", name, server="MAIL") == (7, False, "")
    assert await value(world, "global", name) == (15, False, "")


async def test_get_without_an_attribute_gives_all_of_them(world: AnsweringWorld) -> None:
    """Every attribute of the level comes; for a domain those in force there."""
    subjects = {"global": {}, "server": {"server": "local"}, "domain": {"domain": "example.com"}}
    for level, subject in subjects.items():
        reply = await world.ask("config", f"get {level}", attribute=None, **subject)
        assert isinstance(reply, ConfigReply)
        assert "ZxBackup_RealTimeScanner" in {view.attribute for view in reply.values}
    assert reply.subject == "d1"


async def test_what_has_no_effect_says_so(world: AnsweringWorld) -> None:
    """Such a value is kept, and the answer tells that nothing follows from it; others are just ok."""
    reply = await world.ask("config", "set global", attribute="backupSaveIndex", value="true")
    assert isinstance(reply, DoneReply)
    assert reply.text == "ok"
    assert "without effect here" in reply.note
    reply = await world.ask("config", "set global", attribute="ZxCore_LogLevel", value="0")
    assert reply == DoneReply()


@pytest.mark.parametrize(
    ("level", "subject", "told"),
    [
        ("server", {"server": "other"}, "no server 'other' here"),
        ("cos", {"cos": "silver"}, "no COS 'silver'"),
        ("domain", {"domain": "example.org"}, "no domain 'example.org'"),
        ("account", {"account": "bob@example.com"}, "no account 'bob@example.com'"),
    ],
)
async def test_a_subject_that_is_unknown_is_refused_by_name(
    world: AnsweringWorld, level: str, subject: dict[str, str], told: str
) -> None:
    """The error names what was asked for, and the hint what is there."""
    with pytest.raises((UsageError, UnknownAccount, UnknownEntry), match=told) as refused:
        await world.ask("config", f"get {level}", attribute=ENABLED, **subject)
    assert refused.value.hint


async def test_a_level_that_an_attribute_lacks_is_refused(world: AnsweringWorld) -> None:
    """An attribute of the server can't be set for a domain; the levels it has are named."""
    with pytest.raises(UsageError, match="level domain") as refused:
        await world.ask(
            "config", "set domain", domain="example.com", attribute="ZxBackup_SpaceThreshold", value="1"
        )
    assert refused.value.hint == "valid: global, server"


async def schedule(world: AnsweringWorld, command: str, **given: object) -> ScheduleView:
    reply = await world.ask("scheduler", command, **given)
    assert isinstance(reply, SchedulesReply)
    return reply.schedules[0]


async def test_a_schedule_is_changed_in_parts(world: AnsweringWorld) -> None:
    """The pattern alone and the switch alone keep the other; the server inherits until it has its own."""
    local = {"target_server": "local"}
    assert (await schedule(world, "SmartScan get global")).pattern == "0 4 * * *"
    await world.ask("scheduler", "SmartScan set global", enabled=None, pattern="15 2 * * *")
    assert (await schedule(world, "SmartScan get server", **local)).is_inherited
    await world.ask("scheduler", "SmartScan set server", enabled=False, pattern=None, **local)
    view = await schedule(world, "SmartScan get server", **local)
    assert (view.pattern, view.enabled, view.is_inherited) == ("15 2 * * *", False, False)
    assert (await schedule(world, "SmartScan get global")).enabled


async def test_a_schedule_needs_a_value_that_is_one(world: AnsweringWorld) -> None:
    """Nothing given, and what is no cron pattern, are usage errors; nothing changes."""
    with pytest.raises(UsageError, match="needs a value"):
        await world.ask("scheduler", "purge set global", enabled=None, pattern=None)
    with pytest.raises(UsageError, match="'never' is no pattern: a cron pattern has 5 fields"):
        await world.ask("scheduler", "purge set global", enabled=None, pattern="never")
    assert (await schedule(world, "purge get global")).pattern == "0 4 * * 6"


async def test_a_job_that_does_nothing_yet_says_so(world: AnsweringWorld) -> None:
    """Its time can be set, and both answers tell that nothing runs."""
    world.scheduler.set("remoteMetadataUpload", "* * * * *", note="no external volume: nothing runs")
    reply = await world.ask("scheduler", "remoteMetadataUpload set global", enabled=True, pattern=None)
    assert isinstance(reply, DoneReply)
    assert "nothing runs" in reply.note
    assert "nothing runs" in (await schedule(world, "remoteMetadataUpload get global")).note


async def test_a_cos_is_known_in_any_case(world: AnsweringWorld) -> None:
    """Names are compared as addresses are."""
    await world.ask("config", "set cos", cos="GOLD", attribute=ENABLED, value="false")
    assert (await value(world, "cos", ENABLED, cos="gold"))[0] is False


async def test_a_global_value_that_does_not_count_here_says_so(world: AnsweringWorld) -> None:
    """Where this server has its own value, setting the global one tells how to have that count."""
    days = {"attribute": "ZxBackup_DataRetentionDays"}
    assert await world.ask("config", "set global", **days, value="20") == DoneReply()
    assert await world.ask("config", "set server", server="local", **days, value="30") == DoneReply()
    reply = await world.ask("config", "set global", **days, value="25")
    assert isinstance(reply, DoneReply)
    assert "config unset server mail ZxBackup_DataRetentionDays" in reply.note
    await world.ask("scheduler", "purge set server", enabled=False, pattern=None, target_server="local")
    reply = await world.ask("scheduler", "purge set global", enabled=True, pattern=None)
    assert isinstance(reply, DoneReply)
    assert "a value of its own" in reply.note
