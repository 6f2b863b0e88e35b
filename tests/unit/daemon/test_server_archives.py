"""Server archives: the facts in them by type, id and key, and the archives of a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.clock import written
from backupd.commands import COMMANDS
from backupd.control import CommandRequest, ServerConfigReply
from backupd.errors import BackupPathRefused, UsageError
from backupd.grammar import complete
from backupd.jobs.archive.configuration import ConfigurationDump
from backupd.jobs.archive.customizations import Customizations
from backupd.operations import Run
from backupd.store.archives import NoArchive
from daemon.peers import Caller, Forbidden
from tests.unit.daemon.making import AnsweringWorld
from tests.world.clocks import START

_ROW = next(row for row in COMMANDS if row.name == "getServerConfig")
ENTRIES = [
    ("example.com/domain.toml", b'description = "the first"\n'),
    ("example.com/alice/account.toml", b'id = "a1"\nquota = 5\n'),
    ("cos/gold.toml", b"quota = 9\n"),
    ("lists/all@example.com.toml", b'members = ["alice@example.com"]\n'),
    ("broken.toml", b"= ="),
    ("backupd/attributes.json", b'[{"level":"global","attribute":"A","value":true,"isInherited":false}]'),
    ("backupd/backupd.toml", b'[server]\nname = "mail"\n'),
    ("backupd/state.sqlite", bytes(300)),
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    async with AnsweringWorld(tmp_path) as made:
        yield made


async def ask(world: AnsweringWorld, **given: object) -> ServerConfigReply:
    reply = await world.ask("backup", "getServerConfig", **complete(_ROW, {"type": "standard", **given}))
    assert isinstance(reply, ServerConfigReply)
    return reply


async def facts(world: AnsweringWorld, **given: object) -> dict[str, object]:
    reply = await ask(world, **given)
    return {f"{one.type}/{one.id}/{one.key}": one.value for one in reply.values}


async def test_a_configuration_is_read_into_facts(world: AnsweringWorld) -> None:
    """Everything has its type, id and key; what can't be read as data is a file with size and text."""
    ConfigurationDump(world.store.layout, lambda: ENTRIES).write(START)
    assert await facts(world) == {
        "domains/example.com/description": "the first",
        "accounts/alice@example.com/id": "a1",
        "accounts/alice@example.com/quota": 5,
        "coses/gold/quota": 9,
        "lists/all@example.com/members": ["alice@example.com"],
        "files/broken.toml/size": 3,
        "files/broken.toml/content": "= =",
        "attributes/global/A": True,
        "backupd/server/name": "mail",
        "files/backupd/state.sqlite/size": 300,
    }


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("/", 10),
        ("coses", 1),
        ("COSES/Gold/quota", 1),
        ("accounts/alice@example.com", 2),
        ("accounts/alice", 0),
        ("files/backupd", 1),
    ],
)
async def test_a_query_names_a_place(world: AnsweringWorld, query: str, found: int) -> None:
    """Whole parts of type/id/key, in any case; a part of a name is none."""
    ConfigurationDump(world.store.layout, lambda: ENTRIES).write(START)
    assert len(await facts(world, query=query)) == found


async def test_the_archive_of_a_moment_is_read(world: AnsweringWorld) -> None:
    """`last` is the newest, a date the newest until then, `all` lists them."""
    for day in range(3):
        told = [("cos/gold.toml", b"quota = %d\n" % day)]
        ConfigurationDump(world.store.layout, lambda told=told: told).write(START + timedelta(days=day))
    assert await facts(world) == {"coses/gold/quota": 2}
    assert await facts(world, date=written(START + timedelta(days=1, hours=1))) == {"coses/gold/quota": 1}
    listed = await ask(world, date="all")
    assert [one.date for one in listed.archives] == [START + timedelta(days=day) for day in (2, 1, 0)]
    assert listed.values == ()
    assert await facts(world, file=listed.archives[-1].path) == {"coses/gold/quota": 0}
    assert await facts(world, backup_path=str(world.path)) == {"coses/gold/quota": 2}
    with pytest.raises(NoArchive):
        await ask(world, date=written(START - timedelta(days=1)))


async def test_customizations_show_files_and_their_text_where_asked(
    world: AnsweringWorld, tmp_path: Path
) -> None:
    """Sizes and links by default; texts with verbose, or where the query ends in content."""
    place = tmp_path / "etc"
    place.mkdir()
    (place / "main.cf").write_text("a = b\n")
    (place / "key").write_bytes(b"\xff\xfe")
    (place / "link").symlink_to("main.cf")
    files = Customizations(world.store.layout, [place], file_bytes_max=1 << 20)
    files.run(Run(world.clock), START)
    base = f"files/{str(place).lstrip('/')}"
    sizes = {f"{base}/key/size": 2, f"{base}/main.cf/size": 6, f"{base}/link/link": "main.cf"}
    assert await facts(world, type="customizations") == sizes
    text = {f"{base}/main.cf/content": "a = b\n"}
    assert await facts(world, type="customizations", verbose="true") == sizes | text
    assert await facts(world, type="customizations", query=f"{base}/main.cf/content") == text


async def test_long_values_are_cut_unless_verbose(world: AnsweringWorld) -> None:
    """A long text is shown in part, and whole where asked for."""
    ConfigurationDump(world.store.layout, lambda: [("cos/x.toml", b'n = "%s"' % (b"y" * 999))]).write(START)
    assert len(str((await facts(world))["coses/x/n"])) == 201
    assert len(str((await facts(world, verbose="true"))["coses/x/n"])) == 999


async def test_only_archives_are_read(world: AnsweringWorld, tmp_path: Path) -> None:
    """A file of another name and a folder that is no Backup Path are refused; no archive is told as such."""
    with pytest.raises(UsageError, match="no archive's name"):
        await ask(world, file="/etc/passwd")
    with pytest.raises(BackupPathRefused, match="no Backup Path"):
        await ask(world, backup_path=str(tmp_path / "nothing"))
    with pytest.raises(NoArchive) as none:
        await ask(world)
    assert "doBackupCluster" in none.value.hint


async def test_what_is_secret_is_not_printed(world: AnsweringWorld, tmp_path: Path) -> None:
    """URLs that are secrets are left out; texts of the server's files are not for those who may only ask."""
    told = b'[notifications]\nping_url = "https://x/5d32"\nsmtp_host = "m"\n'
    ConfigurationDump(world.store.layout, lambda: [("backupd/backupd.toml", told)]).write(START)
    found = {"backupd/notifications/ping_url": "(secret)", "backupd/notifications/smtp_host": "m"}
    assert await facts(world, verbose="true") == found
    reader = Caller(uid=9, gid=9, pid=1, name="reader", may_read=True, may_change=False)
    for given in ({"verbose": "true"}, {"query": "files/etc/main.cf/content"}):
        parameters = complete(_ROW, {"type": "customizations", **given})
        request = CommandRequest(module="backup", command="getServerConfig", parameters=parameters)
        with pytest.raises(Forbidden, match="may not read"):
            await world.answers.execute(request, reader)
