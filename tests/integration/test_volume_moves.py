"""Volumes that change and are shared: moved with a kill midway, and two servers in one bucket."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_store_troubles import (
    IMPATIENCE,
    is_outside,
    make_bucket,
    started,
    told,
    use,
    volume_of,
)
from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.patience import eventually
from tests.world.stores import Store

FIRST, SECOND = "77777777-2222-4333-8444-555555555555", "88888888-2222-4333-8444-555555555555"


@pytest.fixture
def host(tmp_path: Path) -> MailHost:
    return MailHost(mailtree.build(tmp_path / "vmail", accounts=2, messages=20, documents=2, size=3000))


@pytest.fixture
def daemon(tmp_path: Path, host: MailHost) -> Iterator[Daemon]:
    with Daemon(
        tmp_path / "b", host.tree.root, server_id=FIRST, watch=False, impatience=IMPATIENCE
    ) as running:
        running.wait_until_scanned()
        yield running


def migrated(daemon: Daemon, command: str, **given: Any) -> str:
    """Migrate to the end; return the verdict once the daemon works with the other volume."""
    began = started(daemon)
    uuid = daemon.command(f"backup/migrateBackupVolume%20{command}", **given)["operation"]["uuid"]

    def ended() -> Any:
        try:
            found = daemon.ask("GET", f"/v1/operations/{uuid}")["operation"]
        except OSError:  # it is beginning anew
            return None
        return found if found["ended"] else None

    done = eventually("the migration has ended", ended, 60)
    assert done["status"] == "successful", done
    eventually("the other volume is in use", lambda: started(daemon) not in ("", began), 20)
    return str(done["verdict"])


def empty_cache(daemon: Daemon) -> None:
    told(daemon, "config", "set", "server", "local", "backupBlobCacheSize", "0")
    eventually("the cache is empty", lambda: volume_of(daemon).get("cached_objects") == 0, 20)


def objects(store: Store, bucket: str, prefix: str) -> set[str]:
    with store.directly(bucket=bucket) as direct:
        return {one["Key"] for one in direct.call("list_objects_v2", Prefix=prefix).get("Contents", [])}


def test_from_a_bucket_to_a_path_and_home(
    daemon: Daemon, host: MailHost, real_store: Store, tmp_path: Path
) -> None:
    """Killed midway it stays where it was and goes on; the source is left, nothing is missed."""
    use(daemon, "CustomS3", make_bucket(daemon, real_store, real_store.url, "moved"))
    eventually("everything is outside", lambda: is_outside(daemon), 30)
    empty_cache(daemon)
    there = objects(real_store, "moved", f"{FIRST}/items/")
    nas = tmp_path / "nas"
    nas.mkdir()
    daemon.command("backup/migrateBackupVolume%20Local", path=str(nas), threads=1)
    eventually("some of it is copied", lambda: any(path.is_file() for path in nas.rglob("items/*/*")), 20)
    daemon.kill()
    copied = sum(path.is_file() for path in nas.rglob("items/*/*"))
    daemon.start()
    if volume_of(daemon)["title"].startswith("the CustomS3"):  # it was killed before it was through
        verdict = migrated(daemon, "Local", path=str(nas))
        assert "complete" in verdict
        assert "were there already" in verdict
    assert volume_of(daemon)["title"] == f"the mounted path {nas}"
    assert copied > 0
    assert there <= objects(real_store, "moved", f"{FIRST}/items/")
    empty_cache(daemon)
    passed = daemon.run("backup/doRestoreDrill", items=40, account_restores=1)
    assert passed["status"] == "successful", passed
    assert "complete" in migrated(daemon, "Default", action="start")
    shutil.rmtree(nas)
    passed = daemon.run("backup/doRestoreDrill", items=40, account_restores=1)
    assert passed["status"] == "successful", passed


def test_two_servers_share_a_bucket(daemon: Daemon, host: MailHost, moto: Store, tmp_path: Path) -> None:
    """Each sees its own alone, a foreign or unowned place is refused, and a retrieval asks whose is meant."""
    bucket = make_bucket(daemon, moto, moto.url, "shared")
    use(daemon, "CustomS3", bucket, "volume_prefix", "hosts")
    eventually("everything is outside", lambda: is_outside(daemon), 30)
    first = objects(moto, "shared", "")
    tree = mailtree.build(tmp_path / "other", accounts=1, messages=3, seed=9)
    with Daemon(tmp_path / "c", tree.root, server_id=SECOND, watch=False, impatience=IMPATIENCE) as other:
        other.wait_until_scanned()
        bucket = known(other, moto, "shared")
        use(other, "CustomS3", bucket, "volume_prefix", "hosts")
        eventually("everything is outside", lambda: is_outside(other), 30)
        assert other.scan()["status"] == "successful"
        assert daemon.scan()["status"] == "successful"
        both = objects(moto, "shared", "")
        assert {key.split("/")[1] for key in both} == {FIRST, SECOND}
        assert first <= both
        given = {"destination": str(tmp_path / "back"), "bucket_configuration_id": bucket}
        asked = other.run("backup/retrieveMetadataFromArchive%20S3", volume_prefix="hosts", **given)
        assert asked["status"] == "failed"
        assert FIRST in str(asked)
        assert SECOND in str(asked)
        for inside in (other.backup_path / "back", tree.root / "back"):
            within = other.run(
                "backup/retrieveMetadataFromArchive%20S3",
                volume_prefix="hosts",
                server_id=FIRST,
                **given | {"destination": str(inside)},
            )
            assert "lies in" in within["verdict"]
            assert not inside.exists()
        wrong = other.run("backup/retrieveMetadataFromArchive%20S3", volume_prefix="wrong", **given)
        assert "check bucket, prefix and volume_prefix" in str(wrong)
        with moto.directly(bucket="shared") as direct:
            direct.call("put_object", Key=f"unowned/{SECOND}/strange", Body=b"?")
            owner = direct.call("get_object", Key=f"hosts/{FIRST}/backupd-volume.json")
            assert owner["ContentLength"] > 0
            direct.call(
                "copy_object",
                Key=f"foreign/{SECOND}/backupd-volume.json",
                CopySource=f"shared/hosts/{FIRST}/backupd-volume.json",
            )
        for prefix, reason in (("unowned", "no owner"), ("foreign", f"belongs to the server {FIRST}")):
            refused = other.console(
                "backup", "setBackupVolume", "CustomS3", bucket, "volume_prefix", prefix, check=False
            )
            assert refused.returncode != 0
            assert reason in refused.stderr.decode()
    # A server made anew under the same id must not take the earlier backup for its own.
    with Daemon(tmp_path / "d", tree.root, server_id=SECOND, watch=False, impatience=IMPATIENCE) as again:
        again.wait_until_scanned()
        bucket = known(again, moto, "shared")
        refused = again.console(
            "backup", "setBackupVolume", "CustomS3", bucket, "volume_prefix", "hosts", check=False
        )
        assert refused.returncode != 0
        assert "an earlier backup of this server" in refused.stderr.decode()
        assert "retrieveMetadataFromArchive" in refused.stderr.decode()
        use(again, "CustomS3", bucket, "volume_prefix", "anew")
        eventually("everything is outside", lambda: is_outside(again), 30)


def known(daemon: Daemon, store: Store, bucket: str) -> str:
    """Make a bucket that is there known to another daemon."""
    reply = daemon.command(
        "core/doCreateBucket%20CustomS3",
        bucket_name=bucket,
        access_key=store.access_key,
        secret=store.secret.revealed,
        url=store.url,
        label=bucket,
    )
    return str(reply["buckets"][0]["uuid"])


def test_storage_classes_change_for_the_volume_in_use(daemon: Daemon, host: MailHost, moto: Store) -> None:
    """`updateBackupVolume` takes what the store knows; new objects have the class."""
    moto.make_bucket("classes")
    reply = daemon.command(
        "core/doCreateBucket%20S3",
        bucket_name="classes",
        access_key=moto.access_key,
        secret=moto.secret.revealed,
        region="us-east-1",
        url=moto.url,
        label="classes",
    )
    use(daemon, "S3", reply["buckets"][0]["uuid"])
    eventually("everything is outside", lambda: is_outside(daemon), 30)
    before = objects(moto, "classes", f"{FIRST}/items/")
    began = started(daemon)
    told(daemon, "backup", "updateBackupVolume", "S3", "use_intelligent_tiering", "true")
    eventually("it is in use", lambda: started(daemon) not in ("", began), 20)
    host.deliver_text(host.addresses[0], "another class")
    daemon.run("backup/doAccountScan", account=host.addresses[0])
    fresh = eventually("it is outside", lambda: objects(moto, "classes", f"{FIRST}/items/") - before, 20)
    with moto.directly(bucket="classes") as direct:
        assert direct.call("head_object", Key=min(fresh))["StorageClass"] == "INTELLIGENT_TIERING"
    again = daemon.console(
        "backup", "updateBackupVolume", "S3", "use_intelligent_tiering", "true", check=False
    )
    assert "nothing to change" in again.stderr.decode()
