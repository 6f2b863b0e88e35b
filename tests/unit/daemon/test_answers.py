"""Answers: every command of the table over a backup in memory, and requests that mean no good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backupd.appservers.base import DirectoryEntry
from backupd.attributes import Scopes
from backupd.commands import COMMANDS, CommandKind
from backupd.control import (
    AttributeReply,
    BackupInfoReply,
    ConfigReply,
    DoneReply,
    OperationReply,
    OperationsReply,
)
from backupd.errors import (
    BackupdError,
    BackupPathRefused,
    UnknownAccount,
    UnknownEntry,
    UnknownItem,
    UsageError,
)
from backupd.grammar import complete
from backupd.items import Kind
from backupd.replies import BlobReply, ItemReply, SearchReply
from backupd.states import ChangeType
from daemon.answers import OPERATION_TYPES
from tests.unit.daemon.making import AnsweringWorld
from tests.unit.jobs.worlds import ALICE, BODY, change


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    async with AnsweringWorld(tmp_path) as made:
        await made.account()
        made.server.entries = [DirectoryEntry(kind=Kind.COS, id="c1", metadata={"name": "gold"})]
        await made.scan_all()
        made.journal(
            change("1", ChangeType.CREATED, event="e1", metadata={"folder": "INBOX", "subject": "Hello"}),
            change("1", ChangeType.DELETED, event="e2", at=10),
            change("2", ChangeType.CREATED, event="e3", metadata={"folder": "INBOX", "subject": "World"}),
        )
        await made.record()
        yield made


async def given(world: AnsweringWorld, module: str, name: str, **parameters: Any) -> Any:
    """Ask as the control socket does: with every parameter checked and completed."""
    command = next(one for one in COMMANDS if (one.module, one.name) == (module, name))
    return await world.ask(module, name, **complete(command, parameters))


async def test_every_available_operation_can_be_queued_and_nothing_else() -> None:
    """The table's operations are those that the daemon has work for."""
    listed = {one.name for one in COMMANDS if one.kind is CommandKind.OPERATION and one.available}
    assert listed == set(OPERATION_TYPES)


async def test_operations_are_queued_with_who_asked_and_what_for(world: AnsweringWorld) -> None:
    """The reply is the queued operation; it can be listed, looked at and taken out again."""
    reply = await given(world, "backup", "doSmartScan", action="start", deep="true")
    assert isinstance(reply, OperationReply)
    assert reply.operation.started_by == "root"
    assert reply.operation.parameters["deep"] is True
    uuid = reply.operation.uuid
    assert [one.uuid for one in await world.answers.operations()] == [uuid]
    assert (await world.answers.operation(uuid)).type == "doSmartScan"
    stopped = await given(world, "backup", "doStopOperation", operation_uuid=uuid)
    assert isinstance(stopped, OperationReply)
    assert stopped.operation.status.value == "removed"
    await given(world, "backup", "doAccountScan", account=ALICE)
    several = await given(world, "backup", "doStopAllOperations")
    assert isinstance(several, OperationsReply)
    assert len(several.operations) == 1


async def test_a_restore_that_can_only_fail_is_refused_at_once(world: AnsweringWorld) -> None:
    """An unknown item or account is told before anything is queued."""
    with pytest.raises(UnknownItem):
        await given(world, "backup", "doItemRestore", account=ALICE, item_id="nope")
    with pytest.raises(UnknownAccount):
        await given(world, "backup", "doItemRestore", account="bob", item_id="1")
    assert await world.answers.operations() == []


async def test_restores_of_nobody_are_refused_at_once(world: AnsweringWorld) -> None:
    """An account that the backup does not know fails no operation: a slip of the pen is no problem."""
    with pytest.raises(UnknownAccount, match="nobody"):
        await world.ask("backup", "doUndelete", account="nobody@example.com")
    with pytest.raises(UnknownAccount, match="nobody"):
        await world.ask("backup", "doRestoreOnNewAccount", source_account="nobody@example.com")
    assert world.queue.operations() == []


@pytest.mark.parametrize("sends_mail", [True, False])
async def test_recipients_that_nobody_writes_to_are_told(world: AnsweringWorld, *, sends_mail: bool) -> None:
    """Addresses given with an operation are for nothing where no mail server is set; the answer says so."""
    world.answers._sends_mail = sends_mail
    for to in (None, ["a@example.com"]):
        reply = await world.ask("backup", "doSmartScan", action="start", notifications=to)
        assert isinstance(reply, OperationReply)
        assert bool(reply.note) is (to is not None and not sends_mail)


async def test_items_are_found_and_shown(world: AnsweringWorld) -> None:
    """Search by text, state and id; getItem with states or the way to the content."""
    deleted = await given(world, "backup", "doItemSearch", account="alice@example.com")
    assert isinstance(deleted, SearchReply)
    assert [item.id for item in deleted.items] == ["1"]
    live = await given(
        world, "backup", "doItemSearch", account=ALICE, search_string="World", search_filter="all"
    )
    assert [item.id for item in live.items] == ["2"]
    limited = await given(world, "backup", "doItemSearch", account=ALICE, search_filter="all", limit=1)
    assert (len(limited.items), limited.more) == (1, True)
    one = await given(world, "backup", "doItemSearch", account=ALICE, id="2")
    assert [item.id for item in one.items] == ["2"]
    with pytest.raises(UnknownAccount):
        await given(world, "backup", "doItemSearch", account="bob")
    item = await given(world, "backup", "getItem", account=ALICE, item="1", date="all")
    assert isinstance(item, ItemReply)
    assert len(item.states) == 2
    blob = await given(world, "backup", "getItem", account=ALICE, item="1", dump_blob=True)
    assert isinstance(blob, BlobReply)
    assert b"".join([piece async for piece in await world.answers.blob(blob.digest)]) == BODY


async def test_another_backup_path_is_read_and_not_touched(world: AnsweringWorld, tmp_path: Path) -> None:
    """A path that holds no backup is refused and stays as it was; one that does is read beside its daemon."""
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (empty, tmp_path / "missing", Path("/dev/null"), Path("/proc/self")):
        with pytest.raises((BackupPathRefused, BackupdError)):
            await given(world, "backup", "getBackupInfo", backup_path=str(path))
    assert list(empty.iterdir()) == []
    info = await given(world, "backup", "getBackupInfo", backup_path=str(world.path))
    assert isinstance(info, BackupInfoReply)
    assert info.accounts == 1
    item = await given(world, "backup", "getItem", account=ALICE, item="1", backup_path=str(world.path))
    assert isinstance(item, ItemReply)
    found = await given(
        world, "backup", "doItemSearch", account=ALICE, search_filter="all", backup_path=str(world.path)
    )
    assert len(found.items) == 2


@pytest.mark.parametrize(
    ("account", "item"),
    [
        ("../../etc", "passwd"),
        (ALICE, "../account_info"),
        ("", ""),
        (ALICE, "\0"),
        ("%2e%2e", "1"),
        ("a" * 5000, "b" * 5000),
    ],
)
async def test_names_never_become_paths(world: AnsweringWorld, account: str, item: str) -> None:
    """Strange identifiers are unknown ones, whatever they are made of."""
    with pytest.raises((UnknownAccount, UnknownItem, UsageError)):
        await world.ask(
            "backup", "getItem", account=account, item=item, date="last", dump_blob=True, backup_path=None
        )


async def test_settings_are_read_and_changed_on_their_levels(world: AnsweringWorld) -> None:
    """Server, COS and account by name; what is set is inherited below."""
    set_ = await given(world, "config", "set global", attribute="ZxBackup_DataRetentionDays", value="15")
    assert isinstance(set_, DoneReply)
    for level, subject in (
        ("server", {"server": "MAIL"}),
        ("cos", {"cos": "gold"}),
        ("account", {"account": "alice@example.com"}),
    ):
        name = f"get {level}"
        if not any((one.module, one.name, one.available) == ("config", name, True) for one in COMMANDS):
            continue
        reply = await given(world, "config", name, attribute="zxbackup_dataretentiondays", **subject)
        assert isinstance(reply, ConfigReply)
        assert (reply.values[0].value, reply.values[0].is_inherited, reply.values[0].inherited_from) == (
            15,
            True,
            "global",
        )
    dumped = await given(world, "config", "dump global", show_inherited=False)
    assert [value.attribute for value in dumped.values] == ["ZxBackup_DataRetentionDays"]
    info = await given(world, "config", "info", attribute="ZxBackup_DestPath")
    assert isinstance(info, AttributeReply)


@pytest.mark.parametrize(
    ("level", "subject", "error"),
    [
        ("server", {"server": "elsewhere"}, UsageError),
        ("cos", {"cos": "platinum"}, UnknownEntry),
        ("account", {"account": "bob"}, UnknownAccount),
    ],
)
async def test_settings_of_nobody_are_refused(
    world: AnsweringWorld, level: str, subject: dict[str, str], error: type[BackupdError]
) -> None:
    """An unknown server, COS or account is named."""
    with pytest.raises(error):
        await world.ask("config", f"get {level}", attribute="ZxBackup_DataRetentionDays", **subject)


async def test_settings_changed_at_once_are_all_kept(world: AnsweringWorld) -> None:
    """Of many changes at the same time none is lost in memory."""
    names = ["ZxBackup_DataRetentionDays", "ZxBackup_SpaceThreshold", "backupAccountsRetentionDays"]
    known = [name for name in names if _is_known(world, name)]
    storage, order = world.settings._storage.set_attribute, list[str]()

    def slow(level: str, scope: str, name: str, value: Any) -> None:
        order.append(name)
        storage(level, scope, name, value)
        import time  # noqa: PLC0415 - the thread is to be overtaken here

        time.sleep(0.02)

    world.settings._storage.set_attribute = slow  # type: ignore[method-assign]
    await asyncio.gather(*(world.ask("config", "set global", attribute=name, value="77") for name in known))
    assert len(known) >= 2
    assert [world.settings.get(name, Scopes()).value for name in known] == [77] * len(known)


def _is_known(world: AnsweringWorld, name: str) -> bool:
    try:
        world.settings.get(name)
    except UsageError:
        return False
    return True
