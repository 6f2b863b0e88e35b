"""docs/disaster-recovery.md, followed line by line: the server is gone, another one has everything again.

On a real Swift where it is installed, else on moto; part of the open corpus where it is there.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backupd.volumes.s3 import S3Volume
from tests.integration.test_external_restore import contents
from tests.world import corpus, mailtree
from tests.world.daemons import Daemon
from tests.world.followed_page import Reader, sections_of
from tests.world.mailhost import MailHost
from tests.world.patience import eventually
from tests.world.stores import Store

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "disaster-recovery.md"
OLD, NEW = "33333333-2222-4333-8444-555555555555", "44444444-2222-4333-8444-555555555555"
IMPATIENCE = {"backupd.jobs.upload.plan.AGE_SECONDS_MAX": 0.2}
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


class Lost:
    """A mail host with its daemon, until both are lost; `model` is what was outside by then."""

    def __init__(self, place: Path, server: str, extra: str = "") -> None:
        messages = [path for path in corpus.corpus_files("mail") if path.stat().st_size < 60_000][:60]
        tree = mailtree.build(
            place / "vmail", accounts=3, messages=5, contacts=2, appointments=2, documents=2, corpus=messages
        )
        self.server = server
        self.host = MailHost(tree)
        self.daemon = Daemon(place / "b", tree.root, server_id=server, extra=extra, impatience=IMPATIENCE)
        self.model: Counter[tuple[str, ...]] = Counter()

    def command(self, *words: str) -> str:
        done = self.daemon.console(*words, check=False)
        told = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, told
        return told

    def live(self, volume: list[str], *, encrypted: bool = False) -> None:
        """Back everything up to a volume; mail that comes after the archives goes out with the metadata."""
        daemon, host = self.daemon, self.host
        daemon.start()
        daemon.wait_until_scanned()
        # What goes out, and when, is for the test to say.
        self.command(
            *("config", "set", "server", "local", "backupRemoteMetadataUploadScheduler"),
            '{"cron-enabled": false, "cron-pattern": "* * * * *"}',
        )
        if encrypted:
            self.command("config", "set", "server", "local", "backupVolumeEncryption", "true")
        began = daemon.status()["started"]
        self.command("backup", "setBackupVolume", *volume)
        eventually("the volume is in use", lambda: begun(daemon, began), 20)
        daemon.wait_until_scanned()
        # As if it were tomorrow: this scan writes the day's configuration, with the volume in it.
        for archive in (daemon.backup_path / "servers").glob("configuration_*"):
            archive.unlink()
        self.command("backup", "doSmartScan", "start", "--sync")
        for number in range(4):
            host.deliver_text(host.addresses[0], f"after the archives {number}")
        host.add_document(host.addresses[1], "late.txt", b"late\n")
        host.flag(host.messages(host.addresses[2])[0], "FRS")
        eventually("it is recorded", lambda: daemon.find(host.addresses[0], "after the archives 3"))
        eventually("it is recorded", lambda: daemon.find(host.addresses[1], "late.txt", kind="document"))
        daemon.stop()
        daemon.start()
        eventually("everything is outside", lambda: is_outside(daemon), 30)
        self.model = seen(host.tree.root)

    def die(self) -> None:
        """Lose it while mail comes in that nobody outside has seen."""
        self.host.deliver_text(self.host.addresses[0], "too late")
        eventually("it is recorded", lambda: self.daemon.find(self.host.addresses[0], "too late"))
        self.daemon.kill()
        for place in (self.host.tree.root, self.daemon.place):
            shutil.rmtree(place)


def seen(root: Path) -> Counter[tuple[str, ...]]:
    """Return what users see in a mail host; times to the microsecond, as they are kept."""
    found: Counter[tuple[str, ...]] = Counter()
    for (place, what, time, digest), count in contents(root).items():
        found[(place, what, time[:-3], digest)] += count
    return found


def begun(daemon: Daemon, before: str) -> bool:
    try:
        return bool(daemon.status()["started"] != before)
    except OSError:
        return False


def is_outside(daemon: Daemon) -> bool:
    status = daemon.status()
    view = status["volume"]
    through = (view.get("metadata") or {}).get("sent_through") or 0
    recorded = status["recorder"]["recorded"]
    return not view.get("waiting_objects") and view.get("cached_objects", 0) > 0 and through >= recorded > 0


@pytest.fixture
def page() -> dict[str, list[str]]:
    return sections_of(PAGE)


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Daemon]:
    """Return the daemon of a new machine, installed and not started, whose mail host is empty."""
    root = tmp_path / "new" / "vmail"
    root.mkdir(parents=True)
    daemon = Daemon(tmp_path / "new" / "b", root, server_id=NEW, watch=False, impatience=IMPATIENCE)
    yield daemon
    daemon.stop()


def reader(daemon: Daemon, place: Path, store: Store | None, bucket: str = "", **texts: str) -> Reader:
    """Return one who follows the page, who has what it says is needed."""
    etc = place / "etc"
    etc.mkdir(exist_ok=True)
    words = {"NAME": "mail.example.com"}
    if store is not None:
        words |= {"BUCKET": bucket, "ACCESS_KEY": store.access_key, "URL": store.url}
        texts["/etc/backupd/bucket.secret"] = store.secret.revealed + "\n"
    return Reader(
        daemon,
        words=words,
        paths={
            "/etc/backupd/backupd.toml": daemon.config,
            "/etc/backupd": etc,
            "/srv/recovered": place / "recovered",
            "/mnt/backup": place / "nas",
        },
        texts=texts,
    )


def make_known(lost: Lost, store: Store, bucket: str) -> str:
    """Make a new bucket of the store known to a daemon; return the configuration's id."""
    store.make_bucket(bucket)
    lost.daemon.start()
    lost.daemon.wait_until_scanned()
    reply = lost.daemon.command(
        "core/doCreateBucket%20CustomS3",
        bucket_name=bucket,
        access_key=store.access_key,
        secret=store.secret.revealed,
        url=store.url,
        label="old",
    )
    lost.daemon.stop()
    return str(reply["buckets"][0]["uuid"])


def restored(typed: list[Any]) -> str:
    """Return what the restore of everything said."""
    return next(one.said for one in reversed(typed) if "doExternalRestore" in one.line)


def test_the_installation_is_that_of_the_readme(page: dict[str, list[str]]) -> None:
    """Each line of step 1 stands in the README as well: what is tried out there is what is told here."""
    readme = [
        line.removeprefix("# ").partition("   ")[0].rstrip()
        for line in (ROOT / "README.md").read_text().splitlines()
    ]
    assert len(page["1. Install"]) > 5
    for line in page["1. Install"]:
        assert line in readme, line


def test_from_a_bucket(page: dict[str, list[str]], real_store: Store, new: Daemon, tmp_path: Path) -> None:
    """Steps 2 to 8: all that was outside when the server died is in the new one, account by account."""
    lost = Lost(tmp_path / "old", OLD)
    bucket = make_known(lost, real_store, "lost")
    lost.live(["CustomS3", bucket])
    lost.die()
    follower = reader(new, tmp_path, real_store, "lost")
    for step in ("2. Start, with an empty Backup Path", "3. Make the bucket known"):
        follower.follow(page[step])
    (_, fetched) = follower.follow(page["4. Fetch the metadata"])
    assert " 0 are missing" in fetched.said
    names, foreseen = follower.follow(page["5. Look before you bring it in"])
    assert all(address in names.said for address in lost.host.addresses)
    assert "3 accounts" in foreseen.said
    follower.follow(page["6. Bring it in"])
    assert " 0 unrestored" in restored(follower.typed)
    assert seen(new.root) == lost.model
    *_, status = follower.follow(page["7. Verify"])
    assert "recoverable until" in status.said
    follower.follow(page["8. Back the new server up"])
    eventually(
        "the new server's backup is outside", lambda: not new.status()["volume"]["waiting_objects"], 30
    )
    assert seen(new.root) == lost.model
    with real_store.directly(bucket="lost") as direct:
        for server in (OLD, NEW):
            assert direct.call("list_objects_v2", Prefix=f"{server}/backupstat/")["KeyCount"] > 0


def test_from_a_mounted_path(page: dict[str, list[str]], new: Daemon, tmp_path: Path) -> None:
    """The variant of a mounted path: the same model, by its own lines."""
    lost = Lost(tmp_path / "old", OLD)
    (tmp_path / "nas").mkdir()
    lost.live(["Local", str(tmp_path / "nas")])
    lost.die()
    follower = reader(new, tmp_path, None)
    follower.follow(page["2. Start, with an empty Backup Path"])
    follower.follow(page["The volume was a mounted path"])
    assert " 0 unrestored" in restored(follower.typed)
    assert seen(new.root) == lost.model


def test_from_an_encrypted_bucket(
    page: dict[str, list[str]], moto: Store, new: Daemon, tmp_path: Path
) -> None:
    """Nothing in the bucket is readable; without the key it says which one; with it all comes back."""
    key = tmp_path / "volume.key"
    key.write_text(KEY + "\n")
    lost = Lost(tmp_path / "old", "55555555-2222-4333-8444-555555555555", f'[encryption]\nkey_file = "{key}"')
    bucket = make_known(lost, moto, "encrypted")
    lost.live(["CustomS3", bucket, "volume_prefix", "sealed"], encrypted=True)
    lost.die()
    volume = S3Volume(moto.settings(bucket="encrypted", prefix=f"sealed/{lost.server}"))
    names = list(volume.names())
    everything = b"".join(volume.get(name).read() for name in names)
    volume.close()
    assert len(names) > 8
    assert not [name for name in names if re.search(r"user0|0000000|pack|tar|states|journal", name)]
    assert not re.search(rb"user0000|late\.txt|after the archives|example", everything)
    follower = reader(
        new,
        tmp_path,
        moto,
        "encrypted",
        **{
            "/etc/backupd/volume.key": KEY + "\n",
            "/etc/backupd/backupd.toml": new.config.read_text()
            + f'[encryption]\nkey_file = "{tmp_path}/etc/volume.key"\n',
        },
    )
    follower.follow(page["2. Start, with an empty Backup Path"])
    follower.follow(page["3. Make the bucket known"])
    made, fetch = page["4. Fetch the metadata"]
    fetch = fetch.replace("--sync", "volume_prefix sealed --sync")
    follower.type(made)
    refused = follower.type(fetch, status=1)
    assert "key" in refused.said
    follower.follow(page["The volume was encrypted"])
    assert " 0 are missing" in follower.type(fetch).said
    follower.follow(page["6. Bring it in"])
    assert " 0 unrestored" in restored(follower.typed)
    assert seen(new.root) == lost.model


def test_the_backup_path_alone_is_lost(page: dict[str, list[str]], moto: Store, tmp_path: Path) -> None:
    """The same server takes the retrieved path as its own: old states are there, new mail is found."""
    lost = Lost(tmp_path / "old", OLD)
    bucket = make_known(lost, moto, "path-lost")
    lost.live(["CustomS3", bucket])
    daemon, host = lost.daemon, lost.host
    item = daemon.find(host.addresses[0], "after the archives 0")
    flagged = daemon.find(host.addresses[1], "late.txt", kind="document")
    assert item
    assert flagged
    states = daemon.states(host.addresses[0], item)
    daemon.kill()
    shutil.rmtree(daemon.backup_path)
    host.deliver_text(host.addresses[0], "while it was lost")
    follower = reader(daemon, tmp_path, moto, "path-lost")
    follower.words |= {"OLD_SERVER": OLD, "OLD_ID": bucket}
    follower.follow(page["Only the Backup Path is lost"])
    listed = next(one.said for one in follower.typed if "listBuckets" in one.line)
    assert bucket in listed
    assert daemon.states(host.addresses[0], item)[: len(states)] == states
    assert daemon.find(host.addresses[0], "while it was lost")
    eventually("everything is outside", lambda: not daemon.status()["volume"]["waiting_objects"], 30)
    assert daemon.run("backup/doRestoreDrill", items=20, account_restores=1)["status"] == "successful"
    daemon.stop()
