"""A bucket that hangs, refuses, fills or locks: what a daemon says, what goes on, what heals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.fault_proxy import FaultProxy
from tests.world.mailhost import MailHost
from tests.world.patience import eventually
from tests.world.stores import Store

SERVER = "66666666-2222-4333-8444-555555555555"
IMPATIENCE = {
    "backupd.jobs.upload.plan.AGE_SECONDS_MAX": 0.2,
    "daemon.uploading.PERMANENT_RETRY_SECONDS": 0.3,
    "daemon.uploading.BACK_OFF_SECONDS_MAX": 0.3,
    "daemon.outward.LOOK_SECONDS": 0.2,
}


@pytest.fixture
def host(tmp_path: Path) -> MailHost:
    return MailHost(mailtree.build(tmp_path / "vmail", accounts=1, messages=4, size=400))


@pytest.fixture
def proxy(moto: Store) -> Iterator[FaultProxy]:
    """Return a way to the store that can be struck."""
    made = FaultProxy(moto.port)
    with made.running():
        yield made


@pytest.fixture
def daemon(tmp_path: Path, host: MailHost) -> Iterator[Daemon]:
    with Daemon(tmp_path / "b", host.tree.root, server_id=SERVER, impatience=IMPATIENCE) as started:
        started.wait_until_scanned()
        yield started


def started(daemon: Daemon) -> str:
    try:
        return str(daemon.status()["started"])
    except OSError:
        return ""


def volume_of(daemon: Daemon) -> dict[str, Any]:
    try:
        return daemon.status().get("volume") or {}
    except OSError:
        return {}


def told(daemon: Daemon, *words: str, check: bool = True) -> str:
    done = daemon.console(*words, check=False)
    said = (done.stdout + done.stderr).decode()
    assert not check or done.returncode == 0, said
    return said


def make_bucket(daemon: Daemon, store: Store, url: str, bucket: str, **facts: Any) -> str:
    """Make a bucket at the store and known to the daemon; return the configuration's id."""
    store.make_bucket(bucket, **facts)
    reply = daemon.command(
        "core/doCreateBucket%20CustomS3",
        bucket_name=bucket,
        access_key=store.access_key,
        secret=store.secret.revealed,
        url=url,
        label=bucket,
    )
    return str(reply["buckets"][0]["uuid"])


def use(daemon: Daemon, *words: str) -> str:
    """Choose a volume, and wait until the daemon has begun anew with it."""
    began = daemon.status()["started"]
    said = told(daemon, "backup", "setBackupVolume", *words)
    eventually("the volume is in use", lambda: started(daemon) not in ("", began), 40)
    return said


def is_outside(daemon: Daemon) -> bool:
    view = volume_of(daemon)
    metadata = view.get("metadata") or {}
    return bool(
        view.get("cached_objects")
        and not view.get("waiting_objects")
        and metadata.get("sent_through", None) is not None
    )


def test_the_way_out_of_a_store_that_hangs(
    daemon: Daemon, host: MailHost, moto: Store, proxy: FaultProxy
) -> None:
    """While every request hangs the daemon records, another volume is chosen at once, the loss is listed."""
    use(daemon, "CustomS3", make_bucket(daemon, moto, proxy.url, "hangs"))
    eventually("everything is outside", lambda: is_outside(daemon), 30)
    told(daemon, "config", "set", "server", "local", "backupBlobCacheSize", "0")
    eventually("the cache is empty", lambda: volume_of(daemon).get("cached_objects") == 0, 20)
    proxy.hanging = True
    host.deliver_text(host.addresses[0], "while it hangs")
    eventually("it is recorded", lambda: daemon.find(host.addresses[0], "while it hangs"))
    eventually("a request hangs", lambda: volume_of(daemon)["waiting_objects"], 10)
    began = time.monotonic()
    said = use(daemon, "Default", "start")
    took = time.monotonic() - began
    assert took < 10, f"{took:.1f} s"
    assert "doListLostContents lists them" in said

    def listed() -> Any:
        operations = daemon.ask("GET", "/v1/operations")["operations"]
        return next((one for one in operations if one["type"] == "doListLostContents" and one["ended"]), None)

    lost = eventually("the loss is listed", listed, 20)
    assert lost["status"] == "failed"
    assert "4 contents of 4 items" in lost["verdict"], lost
    host.deliver_text(host.addresses[0], "after it")
    eventually("it is recorded", lambda: daemon.find(host.addresses[0], "after it"))
    assert "volume" not in daemon.status() or daemon.status()["volume"] is None


TROUBLES = [
    (403, "InvalidAccessKeyId", "InvalidAccessKeyId", "revoked"),
    (403, "SignatureDoesNotMatch", "SignatureDoesNotMatch", "secret"),
    (403, "RequestTimeTooSkewed", "RequestTimeTooSkewed", "timedatectl"),
    (404, "NoSuchBucket", "does not exist", "create it"),
    (507, "InsufficientStorage", "", "room"),
]


def test_each_trouble_is_told_with_its_cure_and_heals_by_itself(
    daemon: Daemon, host: MailHost, moto: Store, proxy: FaultProxy
) -> None:
    """Credentials revoked, clock wrong, bucket gone, full: mail is recorded, and goes out afterwards."""
    use(daemon, "CustomS3", make_bucket(daemon, moto, proxy.url, "troubled"))
    eventually("everything is outside", lambda: is_outside(daemon), 30)
    for status, code, reason, cure in TROUBLES:
        proxy.answer = (status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())
        host.deliver_text(host.addresses[0], f"while {code}")
        eventually("it is recorded", lambda code=code: daemon.find(host.addresses[0], f"while {code}"))
        view = eventually(f"{code} is told", lambda: failing(daemon), 20)
        assert reason in view["error"], view["error"]
        assert cure in view["hint"], view["hint"]
        if view["permanent"]:
            assert view["hint"] in told(daemon, "status", check=False)
        proxy.answer = None
        eventually(f"{code} is over", lambda: volume_of(daemon)["reachable"] and is_outside(daemon), 30)


def failing(daemon: Daemon) -> dict[str, Any] | None:
    view = volume_of(daemon)
    return view if view.get("error") and not view["reachable"] else None


def test_new_credentials_are_taken_at_once(
    daemon: Daemon, host: MailHost, real_store: Store, tmp_path: Path
) -> None:
    """A secret that is wrong refuses; the right one is taken without a restart."""
    secret = tmp_path / "secret"
    secret.write_text(real_store.secret.revealed)
    bucket = make_bucket(daemon, real_store, real_store.url, "credentials")
    told(daemon, "core", "doUpdateBucket", "CustomS3", bucket, "secret_file", str(secret))
    use(daemon, "CustomS3", bucket)
    eventually("everything is outside", lambda: is_outside(daemon), 30)
    secret.write_text("revoked")
    host.deliver_text(host.addresses[0], "with the old secret")
    eventually("it is recorded", lambda: daemon.find(host.addresses[0], "with the old secret"))
    if real_store.access_key != "backupd":  # moto takes every secret
        view = eventually("the refusal is told", lambda: failing(daemon), 40)
        assert "secret" in view["hint"]
    began = started(daemon)
    secret.write_text(real_store.secret.revealed)
    eventually("the new secret is taken", lambda: started(daemon) not in ("", began), 40)
    eventually("everything is outside", lambda: is_outside(daemon), 30)


def test_a_writer_without_the_right_to_delete(
    daemon: Daemon, host: MailHost, moto: Store, proxy: FaultProxy
) -> None:
    """Passes end well though nothing can be removed; with the right, a later pass does it."""
    proxy.answer_to = b"DELETE"
    proxy.answer = (403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
    use(daemon, "CustomS3", make_bucket(daemon, moto, proxy.url, "undeletable"))
    eventually("everything is outside", lambda: is_outside(daemon), 30)
    daemon.wait_until_scanned()
    for number in range(3):
        host.deliver_text(host.addresses[0], f"mail {number}")
        eventually("it is recorded", lambda number=number: daemon.find(host.addresses[0], f"mail {number}"))
        done = daemon.scan()
        assert done["status"] == "successful", done
        assert "archived on the external volume" in done["verdict"], done
        time.sleep(1.0)  # names of summaries count seconds
    assert len(summaries(moto, "undeletable")) > 3
    assert daemon.status()["volume"]["reachable"]
    assert daemon.log_text().count("obsolete_metadata_stays") == 1
    proxy.answer = None
    host.deliver_text(host.addresses[0], "the last")
    eventually("it is recorded", lambda: daemon.find(host.addresses[0], "the last"))
    assert daemon.scan()["status"] == "successful"
    assert len(summaries(moto, "undeletable")) == 3


def summaries(store: Store, bucket: str) -> list[str]:
    with store.directly(bucket=bucket) as direct:
        listed = direct.call("list_objects_v2", Prefix=f"{SERVER}/backupstat/")
        return [one["Key"] for one in listed.get("Contents", [])]


def test_every_object_is_locked_where_that_is_wished(daemon: Daemon, host: MailHost, moto: Store) -> None:
    """With a retention, contents and metadata are put with a date before which nobody deletes them."""
    bucket = make_bucket(daemon, moto, moto.url, "locked-all", ObjectLockEnabledForBucket=True)
    told(daemon, "config", "set", "server", "local", "backupVolumeRetentionDays", "3")
    use(daemon, "CustomS3", bucket)
    eventually("everything is outside", lambda: is_outside(daemon), 30)
    assert daemon.scan()["status"] == "successful"
    with moto.directly(bucket="locked-all") as direct:
        keys = [one["Key"] for one in direct.call("list_objects_v2")["Contents"]]
        assert {key.split("/")[1] for key in keys} >= {"accounts", "items", "server", "backupstat"}
        for key in keys:
            if not key.rpartition("/")[2].startswith("."):
                kept = direct.call("head_object", Key=key)
                assert kept.get("ObjectLockMode") == "GOVERNANCE", (key, kept)


def test_a_bucket_made_anew_is_not_taken_for_the_old_one(daemon: Daemon, host: MailHost, moto: Store) -> None:
    """Chosen again with nothing in it, what was lost is listed, and a deep scan stores and sends it again."""
    bucket = make_bucket(daemon, moto, moto.url, "anew")
    use(daemon, "CustomS3", bucket)
    eventually("everything is outside", lambda: is_outside(daemon), 30)
    told(daemon, "config", "set", "server", "local", "backupBlobCacheSize", "0")
    eventually("the cache is empty", lambda: volume_of(daemon).get("cached_objects") == 0, 20)
    with moto.directly(bucket="anew") as direct:
        for one in direct.call("list_objects_v2")["Contents"]:
            direct.call("delete_object", Key=one["Key"])
    assert "is in use already" in told(daemon, "backup", "setBackupVolume", "CustomS3", bucket)
    assert "4 contents of 4 items" in listing(daemon, "failed")
    assert daemon.scan(deep=True)["status"] == "successful"
    eventually("the cache is empty", lambda: volume_of(daemon).get("cached_objects") == 0, 20)
    assert "every content is at hand" in listing(daemon, "successful")
    assert summaries(moto, "anew")


def listing(daemon: Daemon, status: str) -> str:
    done = daemon.run("backup/doListLostContents", action="start")
    assert done["status"] == status, done
    return str(done["verdict"])
