"""External volumes by a real daemon: chosen, filled, moved, lost, and a server rebuilt from there alone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_external_restore import contents
from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.patience import eventually

SECOND_SERVER = "22222222-2222-4333-8444-555555555555"


@pytest.fixture
def host(tmp_path: Path) -> MailHost:
    tree = mailtree.build(
        tmp_path / "vmail", accounts=2, messages=8, contacts=2, appointments=2, documents=2, size=2000
    )
    return MailHost(tree)


@pytest.fixture
def daemon(tmp_path: Path, host: MailHost) -> Iterator[Daemon]:
    with Daemon(tmp_path / "b", host.tree.root, watch=False) as started:
        started.wait_until_scanned()
        yield started


def volume_of(daemon: Daemon) -> dict[str, Any]:
    """Return what status says of the volume, empty while the daemon begins anew."""
    try:
        return daemon.status().get("volume") or {}
    except OSError:
        return {}


def wait_until_sent(daemon: Daemon) -> None:
    """Wait until everything is outside."""

    def sent() -> bool:
        view = volume_of(daemon)
        return bool(view) and not view.get("waiting_objects") and view.get("cached_objects", 0) > 0

    eventually("everything is outside", sent, 30)


def choose(daemon: Daemon, *words: str) -> str:
    """Choose a volume; return what the console says."""
    done = daemon.console("backup", "setBackupVolume", *words)
    told = done.stdout.decode() + done.stderr.decode()
    time.sleep(0.2)
    daemon.wait_until_answering()
    return told


def migrate(daemon: Daemon, kind: str, **given: Any) -> Any:
    """Migrate, and wait until the daemon works with the other volume; return the operation."""
    uuid = daemon.command(f"backup/migrateBackupVolume%20{kind}", **given)["operation"]["uuid"]

    def ended() -> Any:
        try:
            found = daemon.ask("GET", f"/v1/operations/{uuid}")["operation"]
        except OSError:
            return None
        return found if found["ended"] else None

    done = eventually("the migration has ended", ended, 60)
    assert done["status"] == "successful", done
    time.sleep(0.3)
    daemon.wait_until_answering()
    return done


def drop_cache(daemon: Daemon) -> None:
    """Let every confirmed blob leave the Backup Path."""
    daemon.console("config", "set", "server", "local", "backupBlobCacheSize", "0")
    eventually(
        "the cache is empty",
        lambda: volume_of(daemon).get("cached_objects") == 0,
        20,
    )


def blobs_in(path: Path) -> int:
    return sum(1 for found in (path / "items").rglob("*") if found.is_file())


def restored_equal(daemon: Daemon, source: str, copy: str) -> bool:
    """Restore an account into a new one, and tell whether both hold the same contents."""
    done = daemon.run("backup/doRestoreOnNewAccount", source_account=source, destination_account=copy)
    assert done["status"] == "successful", done
    return " 0 unrestored" in done["verdict"]


def test_a_mounted_volume_holds_contents_and_metadata(daemon: Daemon, host: MailHost, tmp_path: Path) -> None:
    """Contents leave the Backup Path, restores read them from outside; come home, it is needed no more."""
    nas = tmp_path / "nas"
    nas.mkdir()
    told = choose(daemon, "Local", str(nas))
    assert "ok" in told
    wait_until_sent(daemon)
    drop_cache(daemon)
    assert blobs_in(daemon.backup_path) == 0
    assert blobs_in(nas) > 10
    assert restored_equal(daemon, host.addresses[0], "copy@example.com")
    refused = daemon.console(
        "config", "set", "server", "local", "ZxBackup_DestPath", str(tmp_path / "other"), check=False
    )
    assert refused.returncode == 64
    assert "external volume" in refused.stderr.decode()
    migrate(daemon, "Default", action="start")
    shutil.rmtree(nas)
    assert restored_equal(daemon, host.addresses[1], "second@example.com")


def test_a_server_is_rebuilt_from_the_volume_alone(daemon: Daemon, host: MailHost, tmp_path: Path) -> None:
    """All local disks lost: another server retrieves the metadata and brings everything in."""
    nas = tmp_path / "nas"
    nas.mkdir()
    choose(daemon, "Local", str(nas))
    done = daemon.run("backup/doSmartScan", action="start")
    assert "archived on the external volume" in done["verdict"], done
    late = host.deliver(host.addresses[0], b"Subject: after the archives\r\n\r\nlate\r\n")
    os.utime(late, (1_700_000_000, 1_700_000_000))
    daemon.run("backup/doAccountScan", account=host.addresses[0])
    daemon.stop()
    daemon.start()
    wait_until_sent(daemon)
    eventually(
        "metadata is sent",
        lambda: any((nas / "server" / "states").glob("*")) if (nas / "server").exists() else 0,
        20,
    )
    before = contents(host.tree.root)
    daemon.stop()
    shutil.rmtree(daemon.backup_path)
    root = tmp_path / "new-vmail"
    root.mkdir()
    with Daemon(tmp_path / "n", root, watch=False, server_id=SECOND_SERVER) as fresh:
        fresh.wait_until_scanned()
        recovered = tmp_path / "recovered"
        got = fresh.run(
            "backup/retrieveMetadataFromArchive%20Local", source=str(nas), destination=str(recovered)
        )
        assert got["status"] == "successful", got
        assert " 0 are missing" in got["verdict"], got
        back = fresh.run("backup/doExternalRestore", source_path=str(recovered), blobs_archive=str(nas))
        assert back["status"] == "successful", back
    assert contents(root) == before


def test_a_volume_that_is_lost_is_left_and_what_was_lost_is_listed(
    daemon: Daemon, host: MailHost, tmp_path: Path
) -> None:
    """The way out works while the volume is gone; a deep scan fetches again what the server still has."""
    nas = tmp_path / "nas"
    nas.mkdir()
    choose(daemon, "Local", str(nas))
    wait_until_sent(daemon)
    drop_cache(daemon)
    nas.rename(tmp_path / "gone")
    told = choose(daemon, "Default", "start")
    assert "rest only on" in told
    listed = eventually(
        "the list is made",
        lambda: next(
            (
                one
                for one in daemon.ask("GET", "/v1/operations")["operations"]
                if one["type"] == "doListLostContents" and one["ended"]
            ),
            None,
        ),
        20,
    )
    assert listed["status"] == "failed"
    assert " contents of " in listed["verdict"], listed
    assert daemon.run("backup/doSmartScan", action="start", deep=True)["status"] == "successful"
    again = daemon.run("backup/doListLostContents", action="start")
    assert again["status"] == "successful", again
    assert restored_equal(daemon, host.addresses[0], "copy@example.com")


def test_config_does_not_choose_a_volume(daemon: Daemon) -> None:
    """Only a command that looked at the place chooses it."""
    refused = daemon.console(
        "config",
        "set",
        "server",
        "local",
        "backupArchivingStore",
        '{"storeType": "Local", "volumeRootPath": "/mnt/nas"}',
        check=False,
    )
    assert refused.returncode == 64
    assert "setBackupVolume" in refused.stderr.decode()
