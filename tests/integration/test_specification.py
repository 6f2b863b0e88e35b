"""The specification's commands, as printed there, through `alias carbonio=backupctl`, against a live daemon.

Each line is typed into a real shell. Its words must be accepted and its effect must be there. `$(zmhostname)`
is the server's name, as on the machines that the specification speaks of; words in asterisks stand for values
there, and have them here. Lines whose work is still to come answer so, with exit status 69.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.patience import eventually

SERVER = "mail.example.com"
NOT_YET = 69
CONFIGURATION = 78
PRELUDE = "shopt -s expand_aliases\nalias carbonio=backupctl\nzmhostname() {{ echo {server}; }}\n{line}\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Return a daemon after its first scan."""
    place = tmp_path_factory.mktemp("specification")
    tree = mailtree.build(place / "vmail", accounts=1, messages=5, contacts=1, size=300)
    with Daemon(place / "b", tree.root) as daemon:
        daemon.wait_until_scanned()
        yield daemon


def typed(daemon: Daemon, line: str, status: int | None = 0) -> str:
    """Type a line as an admin does; return what it printed. The exit status is `status`, any where None."""
    script = PRELUDE.format(server=SERVER, line=line)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path, "BACKUPD_SOCKET": str(daemon.socket)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert status in (done.returncode, None), (line, done.stdout, done.stderr)
    return done.stdout + done.stderr


def value(daemon: Daemon, attribute: str, level: str = "server") -> object:
    subject = [SERVER] if level == "server" else []
    done = daemon.console("config", "get", level, *subject, attribute, "--json")
    return json.loads(done.stdout)["values"][0]["value"]


def test_the_log_level_is_raised_and_lowered(daemon):
    """0 logs everything at once, 1 what the file says; the dump shows which."""
    assert typed(daemon, "carbonio config set global ZxCore_LogLevel 0") == "ok\n"
    assert typed(daemon, "carbonio config dump global|grep LogLevel").split() == ["ZxCore_LogLevel", "0"]
    daemon.command("backup/getServices")
    eventually("a line for debugging", lambda: '"level":"debug"' in daemon.log_text())
    assert typed(daemon, "carbonio config set global ZxCore_LogLevel 1") == "ok\n"
    assert typed(daemon, "carbonio config set server $(zmhostname) ZxCore_LogLevel 0") == "ok\n"
    assert typed(daemon, "carbonio config set server $(zmhostname) ZxCore_LogLevel 1") == "ok\n"


def test_the_backup_path_is_shown_as_printed(daemon):
    """`config get` prints the fields of the specification's sample, in its order and layout."""
    printed = typed(daemon, f"carbonio config get server {SERVER} ZxBackup_DestPath")
    words = [line.split() for line in printed.splitlines() if line.strip()]
    server_id = "11111111-2222-4333-8444-555555555555"
    assert words == [
        ["server", server_id],
        ["values"],
        ["attribute", "ZxBackup_DestPath"],
        ["value", str(daemon.backup_path)],
        ["isInherited", "false"],
        ["modules"],
        ["ZxBackup"],
    ]
    lines = [line for line in printed.splitlines() if line.strip()]
    assert lines[0].index(server_id) == 52
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 0, 8, 8, 8, 8, 16]


@pytest.mark.parametrize("attribute", ["ZxBackup_DataRetentionDays", "backupAccountsRetentionDays"])
def test_the_retention_is_read_and_set(daemon, attribute):
    """The dump shows 30 days, then what was set."""
    assert typed(daemon, f"carbonio config dump global | grep {attribute}").split() == [attribute, "30"]
    assert typed(daemon, f"carbonio config set global {attribute} 15").startswith("ok\n")
    assert typed(daemon, f"carbonio config dump global | grep {attribute}").split() == [attribute, "15"]


def test_a_purge_is_started_and_monitored(daemon):
    """The purge is queued, can be followed, and says what it did; with infinite retention it ends at once."""
    operation = json.loads(typed(daemon, "carbonio backup doPurge --json"))["operation"]
    ended = daemon.wait_for_operation(operation["uuid"])
    assert ended["status"] == "successful"
    assert "0 histories and 0 accounts removed" in ended["verdict"]
    assert "successful" in typed(daemon, f"carbonio backup monitor {operation['uuid']}")
    days = ("ZxBackup_DataRetentionDays", "backupAccountsRetentionDays", "backupServerArchivesRetentionDays")
    for attribute in days:
        assert typed(daemon, f"carbonio config set global {attribute} 0") == "ok\n"
    operation = json.loads(typed(daemon, "carbonio backup doPurge --json"))["operation"]
    assert "infinite retention" in daemon.wait_for_operation(operation["uuid"])["verdict"]
    for attribute in days:
        assert typed(daemon, f"carbonio config set global {attribute} 15") == "ok\n"


def test_a_smartscan_is_started_listed_and_monitored(daemon):
    """The scan is queued, stands in the list of operations, and its UUID can be followed."""
    line = "carbonio backup doSmartScan start"
    operation = json.loads(typed(daemon, f"{line} --json"))["operation"]
    listed = typed(daemon, "carbonio backup getAllOperations verbose true")
    assert operation["uuid"] in listed
    daemon.wait_for_operation(operation["uuid"])
    assert "successful" in typed(daemon, f"carbonio backup monitor {operation['uuid']}")
    deep = json.loads(typed(daemon, f"{line} deep true notifications a@example.com,b@example.com --json"))
    assert deep["operation"]["parameters"]["deep"] is True
    daemon.wait_for_operation(deep["operation"]["uuid"])


def test_the_realtime_scanner_is_turned_off_and_on(daemon):
    """Off counts at once; on again it works, and a scan finds what happened meanwhile."""
    assert typed(daemon, "carbonio config set server $(zmhostname) ZxBackup_RealTimeScanner FALSE") == "ok\n"
    eventually("off", lambda: not daemon.status()["realtime"]["enabled"])
    assert typed(daemon, "carbonio config set server $(zmhostname) ZxBackup_RealTimeScanner TRUE") == "ok\n"
    eventually("on", lambda: daemon.status()["realtime"]["active"])
    eventually("scanned", lambda: not daemon.status()["gaps"], seconds=30)


def test_blobless_mode_in_the_older_word_order(daemon):
    """Both lines are understood and count at once; the mail tree can hold what is deleted."""
    for line, level in (
        ("carbonio config global set attribute backupBloblessMode value true", "global"),
        (f"carbonio config server set {SERVER} attribute backupBloblessMode value true", "server"),
    ):
        assert typed(daemon, line) == "ok\n"
        assert value(daemon, "backupBloblessMode", level) is True
        assert daemon.status()["blobless"]["active"]
        assert typed(daemon, line.replace("true", "false")) == "ok\n"
        assert not daemon.status()["blobless"]["active"]


def test_a_class_of_service_is_left_out(daemon):
    """The line counts, for a class of service by its name; taken back, its accounts are scanned again."""
    assert typed(daemon, "carbonio config set cos default backupEnabled false") == "ok\n"
    assert daemon.status()["accounts_not_enabled"] > 0
    assert typed(daemon, "carbonio config set cos default backupEnabled true") == "ok\n"
    assert daemon.status()["accounts_not_enabled"] == 0
    eventually("scanned", lambda: not daemon.status()["gaps"], seconds=30)


def test_a_legal_hold_is_set_and_shown(daemon):
    """`get all` prints address, id and whether it is set, one account a line."""
    (first, *_) = [line.split() for line in typed(daemon, "carbonio backup legalHold get all").splitlines()]
    assert first[2] == "unset"
    assert typed(daemon, f"carbonio backup legalHold set {first[0]}").split()[:3] == [*first[:2], "set"]
    assert typed(daemon, f"carbonio backup legalhold unset {first[1]}").split()[:3] == [*first[:2], "unset"]


def test_the_directory_dump_is_turned_off(daemon):
    """The attribute is kept; here the configuration dump holds the directory in any case, and says so."""
    assert typed(daemon, "carbonio config set server $(zmhostname) ldapDumpEnabled false").startswith("ok\n")
    assert value(daemon, "ldapDumpEnabled") is False


def test_volumes_as_the_specification_types_them(daemon):
    """Each command is understood; what its place lacks is told."""
    told = typed(daemon, "carbonio backup setBackupVolume Default start")
    assert "ok" in told
    line = "carbonio backup setBackupVolume S3 bucket_configuration_id 58fa4ca2-31dd-4209-aa23-48b33b116090"
    assert "no bucket configuration" in typed(daemon, f"{line} volume_prefix new_backup", status=64)
    told = typed(daemon, "carbonio backup retrieveMetadataFromArchive S3 /mnt/destination")
    assert "retrieveMetadataFromArchive S3" in told
    assert "migrateBackupVolume Default" in typed(daemon, "carbonio backup migrateBackupVolume Default start")


def test_what_is_still_to_come_says_so(daemon):
    """The words are known, nothing is done, and the exit status tells that it is not available."""
    assert "not available yet" in typed(daemon, "carbonio backup doCheckShares start", status=NOT_YET)


def test_the_directory_is_dumped(daemon):
    """The dump is an archive that can be used by itself, made whenever it is asked for."""
    told = typed(daemon, "carbonio --json backup doBackupLDAP start --sync")
    assert "directory dumped with the configuration in configuration_" in told


def test_a_coherency_check_as_the_specification_types_it(daemon):
    """The check of the Backup Path is an operation that finds nothing."""
    told = typed(daemon, f"carbonio --json backup doCoherencyCheck {daemon.backup_path} --sync")
    assert '"status":"successful"' in told.splitlines()[-1]


def test_buckets_are_listed_as_printed(daemon):
    """`core listBuckets` prints the fields of the specification's sample, at its columns, and no secret."""
    assert "no bucket is known" in typed(daemon, "carbonio core listBuckets")
    line = "carbonio core doCreateBucket S3 hsm AKIA1 s3cret/+ 'cold mail' EU_WEST_1"
    assert "testS3Connection" in typed(daemon, line)
    typed(
        daemon,
        "carbonio core doCreateBucket CustomS3 label backup url https://s3.example.com "
        "bucket_name backup secret other access_key AKIA2 prefix mail",
    )
    printed = typed(daemon, "carbonio core listBuckets all")
    assert "s3cret" not in printed
    assert "other" not in printed
    first, second = (
        {line[:60].strip(): line[60:] for line in block.splitlines()} for block in printed.split("\n\n")
    )
    assert list(first)[:4] == ["bucketName", "protocol", "storeType", "accessKey"]
    assert (first["bucketName"], first["protocol"], first["region"]) == ("hsm", "HTTPS", "EU_WEST_1")
    assert first["usage in powerstore volumes"] == first["usage in external backup"] == "unused"
    assert (second["storeType"], second["url"]) == ("CustomS3", "https://s3.example.com")
    shown = typed(daemon, "carbonio core listBuckets S3 show_secrets true")
    assert "s3cret/+" in shown
    assert "CustomS3" not in shown
    assert "s3cret" not in typed(daemon, "carbonio config get global s3BucketConfigurations")
    assert "s3cret" not in daemon.log_text()
    for uuid, store in ((first["uuid"], "S3"), (second["uuid"], "CustomS3")):
        assert typed(daemon, f"carbonio core doDeleteBucket {store} {uuid}").startswith("ok\n")
    assert "no bucket is known" in typed(daemon, "carbonio core listBuckets all")


def test_a_bucket_is_tried_out(daemon, moto, tmp_path):
    """With the secret from a file, a store that is there answers every question."""
    settings = moto.settings()
    (tmp_path / "secret").write_text(settings.secret.revealed)
    made = typed(
        daemon,
        f"carbonio --json core doCreateBucket MinIO {settings.bucket} {settings.access_key} "
        f"{settings.endpoint} tried secret_file {tmp_path / 'secret'} prefix tried",
    )
    uuid = json.loads(made)["buckets"][0]["uuid"]
    tried = typed(daemon, f"carbonio --json core testS3Connection {uuid}", status=None)
    found = {check["name"]: check["outcome"] for check in json.loads(tried)["checks"]}
    assert {found[name] for name in ("reach", "list", "put", "get", "delete")} == {"ok"}
    typed(daemon, f"carbonio core doDeleteBucket MinIO {uuid}")


def test_the_coherency_check_as_printed(daemon):
    """The daemon's own path is queued and ends well; the path of the line as printed is looked for here."""
    line = f"carbonio backup doCoherencyCheck {daemon.backup_path}"
    operation = json.loads(typed(daemon, f"{line} fixDoubleGzip skip --json"))["operation"]
    assert daemon.wait_for_operation(operation["uuid"])["status"] == "successful"
    absent = "carbonio backup doCoherencyCheck /opt/zextras/backup/absent"
    assert "/opt/zextras/backup/absent" in typed(daemon, absent, status=CONFIGURATION)


def test_the_backup_path_is_changed(daemon):
    """A new path counts at once, with a scan of everything; the settings come along. Last, for it moves."""
    new = daemon.backup_path.with_name("opt-carbonio-backup")
    assert typed(daemon, f"carbonio config set server $(zmhostname) ZxBackup_DestPath {new}") == "ok\n"

    def moved() -> bool:
        try:
            status = daemon.status()
        except (OSError, ValueError):
            return False
        return status["backup_path"] == str(new) and status["smartscan"]["last_success"] is not None

    eventually("moved and scanned", moved, seconds=60)
    assert value(daemon, "ZxBackup_DataRetentionDays", "global") == 15
    assert typed(daemon, f"carbonio config get server {SERVER} ZxBackup_DestPath").count(str(new)) == 1
