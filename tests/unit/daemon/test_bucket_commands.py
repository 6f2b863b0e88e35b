"""Bucket commands: what is kept, what is refused while in use, and secrets that nobody sees unasked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backupd import buckets, volume_choice
from backupd.attributes import Scopes
from backupd.commands import COMMANDS
from backupd.control import BucketsReply, ConfigReply, DoctorReply, DoneReply, encode
from backupd.errors import ConfigError, UsageError
from backupd.jobs.archive.configuration import ATTRIBUTES_MEMBER
from backupd.store import archives
from backupd.views import CheckView, Outcome
from backupd.volume_choice import bucket_choice
from backupd.volume_views import BucketView
from daemon.peers import Caller, Forbidden
from daemon.wiring import configuration_dump
from tests.unit.daemon.making import AnsweringWorld, configured
from tests.unit.jobs.worlds import SERVER

READER = Caller(uid=1000, gid=1000, pid=2, name="reader", may_read=True, may_change=False)
SECRET = "wJalrXUtnFEMI"
S3 = {"bucket_name": "hsm", "access_key": "AKIA1", "secret": SECRET, "label": "one", "region": "EU_WEST_1"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    async with AnsweringWorld(tmp_path) as made:
        yield made


def completed(title: str, given: dict[str, Any]) -> dict[str, Any]:
    (row,) = [one for one in COMMANDS if one.title == title]
    return {parameter.name: given.get(parameter.name, parameter.default) for parameter in row.parameters}


async def ask(world: AnsweringWorld, command: str, **given: Any) -> Any:
    return await world.ask("core", command, **completed(f"core {command}", given))


async def created(world: AnsweringWorld, **changes: Any) -> BucketView:
    reply = await ask(world, "doCreateBucket S3", **(S3 | changes))
    assert isinstance(reply, BucketsReply)
    return reply.buckets[0]


async def listed(world: AnsweringWorld, **given: Any) -> tuple[BucketView, ...]:
    reply = await ask(world, "listBuckets", **given)
    assert isinstance(reply, BucketsReply)
    return reply.buckets


def use(world: AnsweringWorld, view: BucketView, prefix: str = "") -> None:
    choice = bucket_choice(view.store_type, view.uuid, volume_prefix=prefix)
    world.settings.set(volume_choice.ATTRIBUTE, Scopes(server=SERVER), volume_choice.encode(choice))


async def test_every_command_of_buckets_is_answered(world: AnsweringWorld) -> None:
    """The table of answers has each row of the table of commands."""
    words = ("Bucket", "testS3Connection")
    rows = {one.title for one in COMMANDS if one.module == "core" and any(word in one.name for word in words)}
    assert rows == set(world.configuring.buckets.table())


async def test_a_bucket_is_made_listed_changed_and_forgotten(world: AnsweringWorld) -> None:
    """It gets an id, is found by type, keeps what is not changed, and is gone from the ledger in the end."""
    view = await created(world)
    await ask(world, "doCreateBucket MinIO", **S3, url="minio.example.com:9000", protocol="HTTP")
    assert [one.store_type for one in await listed(world)] == ["S3", "MinIO"]
    (minio,) = await listed(world, type="MinIO")
    assert (minio.url, minio.protocol, minio.path_style) == ("http://minio.example.com:9000", "HTTP", True)
    changed = await ask(world, "doUpdateBucket S3", bucket_configuration_id=view.uuid, notes="cold")
    assert changed.buckets[0] == msgspec.structs.replace(view, notes="cold")
    for uuid, store in ((view.uuid, "S3"), (minio.uuid, "MinIO")):
        reply = await ask(world, f"doDeleteBucket {store}", bucket_configuration_id=uuid)
        assert isinstance(reply, DoneReply)
    assert await listed(world) == ()
    assert world.settings.get(buckets.ATTRIBUTE).value == []


async def test_what_can_not_be_is_refused_and_nothing_changes(world: AnsweringWorld) -> None:
    """An unknown id, another type, a second of the same, and a change of nothing."""
    view = await created(world)
    for command, given, said in (
        ("doUpdateBucket S3", {"bucket_configuration_id": "x", "notes": "n"}, view.uuid),
        ("doUpdateBucket MinIO", {"bucket_configuration_id": view.uuid, "notes": "n"}, "say S3"),
        ("doDeleteBucket MinIO", {"bucket_configuration_id": view.uuid}, "say S3"),
        ("doUpdateBucket S3", {"bucket_configuration_id": view.uuid}, "nothing is to be changed"),
        ("doUpdateBucket S3", {"bucket_configuration_id": view.uuid, "label": ""}, "needs label"),
        ("doCreateBucket S3", S3, "configured already"),
        ("testS3Connection", {"bucket_configuration_id": view.uuid, "storeType": "EMC"}, "of type S3"),
    ):
        with pytest.raises(UsageError) as told:
            await ask(world, command, **given)
        assert said in str(told.value), command
    assert await listed(world) == (view,)


async def test_a_secret_file_that_can_not_serve_is_told_at_once(
    world: AnsweringWorld, tmp_path: Path
) -> None:
    """It is kept all the same, for the file may come later; one that everybody may read is told, too."""
    file = tmp_path / "secret"
    given = S3 | {"secret": None, "secret_file": str(file)}
    reply = await ask(world, "doCreateBucket S3", **given)
    assert "can't be read" in reply.note
    bucket = reply.buckets[0].uuid
    file.write_text(SECRET)
    file.chmod(0o644)
    changes = {"bucket_configuration_id": bucket, "secret_file": str(file)}
    assert "everybody may read" in (await ask(world, "doUpdateBucket S3", **changes)).note
    file.chmod(0o600)
    assert (await ask(world, "doUpdateBucket S3", **changes)).note == ""


async def test_a_bucket_in_use_stays(world: AnsweringWorld) -> None:
    """With the volume in it, it can't be forgotten or moved; its credentials can change; later it goes."""
    view = await created(world)
    use(world, view, "new")
    (shown,) = await listed(world)
    assert shown.destination_path == f"new/{SERVER}"
    assert [use.server for use in shown.backup_usage] == ["mail"]
    given = {"bucket_configuration_id": view.uuid}
    for change in ({"prefix": "elsewhere"}, {"bucket_name": "other"}):
        with pytest.raises(UsageError, match="the external volume can't be changed"):
            await ask(world, "doUpdateBucket S3", **given, **change)
    with pytest.raises(UsageError, match="setBackupVolume Default"):
        await ask(world, "doDeleteBucket S3", **given)
    reply = await ask(world, "doUpdateBucket S3", **given, secret="new", url="https://s3.example.com")
    assert "the external volume" in reply.note
    world.settings.set(volume_choice.ATTRIBUTE, Scopes(server=SERVER), {})
    assert isinstance(await ask(world, "doDeleteBucket S3", **given), DoneReply)


async def test_a_bucket_that_an_operation_names_stays(world: AnsweringWorld) -> None:
    """What waits in the queue counts as use."""
    view = await created(world)
    operation = await world.queue.submit(
        "doExport", {"bucket_configuration_id": view.uuid}, started_by="root"
    )
    with pytest.raises(UsageError, match=operation.uuid):
        await ask(world, "doDeleteBucket S3", bucket_configuration_id=view.uuid)


async def test_secrets_are_for_those_who_may_change(world: AnsweringWorld) -> None:
    """Unasked nobody sees one; a reader who asks is refused; root gets it."""
    view = await created(world)
    assert view.secret == ""
    assert SECRET not in encode(BucketsReply(buckets=await listed(world))).decode()
    (shown,) = await listed(world, show_secrets=True)
    assert shown.secret == SECRET
    answer = world.configuring.buckets.table()["core listBuckets"]
    with pytest.raises(Forbidden, match="not see secrets"):
        await answer({"type": "all", "show_secrets": True}, READER)
    reply = await answer({"type": "all", "show_secrets": False}, READER)
    assert SECRET not in encode(reply).decode()


async def test_config_shows_no_secret_and_takes_back_what_it_showed(world: AnsweringWorld) -> None:
    """`config get` and `dump` mask it; what they printed can be set again and the secret stays."""
    await created(world)
    for command in ("get global", "dump global"):
        reply = await world.ask("config", command, attribute=None, show_inherited=True)
        assert SECRET not in encode(reply).decode()
    reply = await world.ask("config", "get global", attribute=buckets.ATTRIBUTE)
    assert isinstance(reply, ConfigReply)
    shown = reply.values[0].value
    assert shown[0]["secret"] == buckets.MASK
    shown[0]["notes"] = "edited"
    text = msgspec.json.encode(shown).decode()
    await world.ask("config", "set global", attribute=buckets.ATTRIBUTE, value=text)
    (view,) = await listed(world, show_secrets=True)
    assert (view.notes, view.secret) == ("edited", SECRET)


async def test_the_configuration_dump_holds_no_secret(world: AnsweringWorld, tmp_path: Path) -> None:
    """Neither the attributes in an archive nor the copy of the ledger have it; everything else is there."""
    await created(world)
    dump = configuration_dump(configured(tmp_path), world.settings, world.store, world.server, SERVER)
    archive = archives.archive_at(dump.write(world.clock.now()))
    found = {
        member.name: member.content or b""
        for member in archives.members(archive, wanted=lambda _name: True, bytes_max=1 << 26)
    }
    assert b"AKIA1" in found[ATTRIBUTES_MEMBER]
    assert b"AKIA1" in found["backupd/state.sqlite"]
    assert [name for name, content in found.items() if SECRET.encode() in content] == []


async def test_config_takes_no_bucket_away_that_is_used(world: AnsweringWorld) -> None:
    """`config set` and `unset` keep the rules of the commands; the volume is not theirs to change."""
    use(world, await created(world))
    for command, given in (("set global", {"value": "[]"}), ("unset global", {})):
        with pytest.raises(UsageError, match="is used by the external volume"):
            await world.ask("config", command, attribute=buckets.ATTRIBUTE, **given)
    for command, given in (("set server", {"value": "{}"}), ("unset server", {})):
        with pytest.raises(UsageError, match="setBackupVolume"):
            await world.ask("config", command, server="mail", attribute=volume_choice.ATTRIBUTE, **given)
    world.settings.set(volume_choice.ATTRIBUTE, Scopes(server=SERVER), {})
    await world.ask("config", "unset global", attribute=buckets.ATTRIBUTE)
    assert await listed(world) == ()


async def test_trying_out(world: AnsweringWorld, tmp_path: Path) -> None:
    """The answer is as bad as its worst check; a secret whose file is gone is told as such."""
    view = await created(world)
    reply = await ask(world, "testS3Connection", bucket_configuration_id=view.uuid)
    assert isinstance(reply, DoctorReply)
    assert (reply.outcome, [one.name for one in reply.checks]) == (Outcome.OK, ["reach"])
    bad = CheckView(name="put", outcome=Outcome.CRITICAL, found="refused", cure="ask the store's admin")
    world.configuring.buckets._probe = lambda _bucket: (bad,)
    reply = await ask(world, "testS3Connection", bucket_configuration_id=view.uuid)
    assert reply.outcome is Outcome.CRITICAL

    def revealing(bucket: buckets.Bucket) -> tuple[CheckView, ...]:
        return (CheckView(name="", outcome=Outcome.OK, found=buckets.secret_of(bucket).revealed),)

    world.configuring.buckets._probe = revealing
    filed = await created(world, secret=None, secret_file=str(tmp_path / "none"), prefix="filed")
    with pytest.raises(ConfigError, match="can't be read"):
        await ask(world, "testS3Connection", bucket_configuration_id=filed.uuid)
