"""Every command that is available, by the real console with `--json`: the answer is one that its row names.

A new row without a line in `LINES` fails here, so that none goes untried.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pytest

from backupd.buckets import StoreType
from backupd.clock import SystemClock
from backupd.commands import COMMANDS, Command
from backupd.control import decode_reply
from backupd.store.store import Store
from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost

USAGE = 64
LINES = {
    "backup status": "",
    "backup doctor": "",
    "backup getItem": "{address} {item} date all",
    "backup doItemSearch": "{address} search_filter all",
    "backup history": "{address} {item}",
    "backup diff": "{address} 01/01/2020",
    "backup getFolders": "{address}",
    "backup getBackupInfo": "",
    "backup getAccountInfo": "{address} backupstats true",
    "backup getAvailableAccounts": "",
    "backup getAvailableDomains": "last",
    "backup getMap": "",
    "backup getServerConfig": "standard query /",
    "backup doSmartScan": "start deep true",
    "backup doAccountScan": "{address}",
    "backup doPurge": "purgeDays 9 dry_run true verbose true",
    "backup doItemRestore": "{address} {item} restore_folder Back",
    "backup doExport": "{export}",
    "backup doRestoreDrill": "items 2 seed 1",
    "backup doUndelete": "{address} first last dry_run true",
    "backup doRestoreOnNewAccount": "{address} copy@example.test last",
    "backup doExternalRestore": "{other_backup} dry_run true",
    "backup doRestoreBlobs": "all",
    "backup doCoherencyCheck": "{backup_path}",
    "backup getCoherencyFindings": "",
    "backup doBackupServerCustomizations": "start",
    "backup doListLostContents": "start",
    "backup doBackupCluster": "start",
    "backup doBackupLDAP": "start remote_metadata_upload true",
    "backup legalHold get": "all",
    "backup legalHold set": "{address}",
    "backup legalHold unset": "{address}",
    "backup getSuspendedRetention": "lifted true",
    "backup doResumeRetention": "all",
    "backup getAllOperations": "verbose true",
    "backup monitor": "{operation}",
    "backup doStopOperation": "{operation}",
    "backup doStopAllOperations": "",
    "backup getServices": "",
    "backup doStartService": "scheduler",
    "backup doStopService": "scheduler",
    "backup doRestartService": "scheduler",
    "core getAllOperations": "",
    "core getOperationLog": "{operation}",
    "core getUnfinishedOperationLog": "",
    "core getAllServicesStatus": "",
    "core getNotification": "",
    "core listBuckets": "all show_secrets true",
    "core testS3Connection": "{bucket}",
    "config info": "ZxBackup_DestPath",
}
SUBJECTS = {
    "global": "",
    "server": "mail.example.com",
    "cos": "{cos}",
    "domain": "{domain}",
    "account": "{address}",
}
ATTRIBUTES = dict.fromkeys(SUBJECTS, "ZxBackup_SpaceThreshold") | {
    "cos": "backupEnabled",
    "account": "backupEnabled",
}
BUCKET = {
    "bucket_name": "made-here",
    "access_key": "AKIA",
    "secret": "s3cret",
    "label": "made here",
    "region": "eu-west-1",
    "url": "http://127.0.0.1:9",
}
"""What a bucket is made of; nobody answers at its address, which `testS3Connection` tells."""
VOLUMES = ("setBackupVolume", "updateBackupVolume", "migrateBackupVolume", "retrieveMetadataFromArchive")
"""Commands that begin another life of the daemon, or need a store that answers: tried by themselves."""
ON_VOLUMES = [row for row in COMMANDS if row.available and row.name.startswith(VOLUMES)]
AVAILABLE = [row for row in COMMANDS if row.available and row not in ON_VOLUMES]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, dict[str, str]]]:
    """Return a daemon after its first scan and what stands for the values in a line."""
    place = tmp_path_factory.mktemp("commands")
    tree = mailtree.build(place / "vmail", accounts=1, messages=5, contacts=1, size=300)
    extra = f'[customizations]\npaths = ["{tree.root / "cos"}"]\n'
    other = place / "other"
    clock = SystemClock()
    Store.open(other, server_id="another-server", server_name="another", clock=clock).close()
    with Daemon(place / "b", tree.root, extra=extra) as daemon:
        scan = daemon.wait_until_scanned()
        buckets = {f"bucket_{store}": made_bucket(daemon, store) for store in StoreType}
        host = MailHost(tree)
        address = host.addresses[0]
        yield (
            daemon,
            {
                "address": address,
                "export": str(place / "export"),
                "item": host.messages(address)[0].name.partition(":2,")[0],
                "operation": scan["uuid"],
                "other_backup": str(other),
                "bucket": made_bucket(daemon, StoreType.CUSTOM_S3, bucket_name="tried-out"),
                **buckets,
                "backup_path": str(daemon.backup_path),
                "domain": address.partition("@")[2],
                "cos": next((tree.root / "cos").glob("*.toml")).stem,
            },
        )


def made_bucket(daemon: Daemon, store: StoreType, **changes: str) -> str:
    """Make a bucket known and return its id."""
    given = BUCKET | {"bucket_name": f"for-{store.lower()}"} | changes
    return str(daemon.command(f"core/doCreateBucket/{store}", **given)["buckets"][0]["uuid"])


def bucket_values(verb: str, store: str, command: Command) -> str:
    """Return the values that a command for a type of store is tried with."""
    if verb == "doCreateBucket":
        given = BUCKET | {"bucket_name": f"made-for-{store.lower()}"}
        return shlex.join(given[parameter.name] for parameter in command.positional)
    return f"{{bucket_{store}}}" + (" notes changed" if verb == "doUpdateBucket" else "")


def values_of(command: Command) -> str:
    """Return the values that a command is tried with."""
    if command.title in LINES:
        return LINES[command.title]
    verb, _, level = command.name.rpartition(" ")
    if command.module == "core":
        return bucket_values(verb, level, command)
    if command.module == "scheduler":
        return "" if verb.endswith("get") else "enabled true"
    value = {"set": "{attribute} 1", "unset": "{attribute}"}.get(verb, "")
    return f"{SUBJECTS[level]} {value}".replace("{attribute}", ATTRIBUTES[level])


def shape_problems(content: object, command: Command) -> list[str]:
    """Return what is not as the documentation says."""
    assert isinstance(content, dict)
    problems = (
        [] if content["reply"] in command.replies else [f"{content['reply']} is none of {command.replies}"]
    )
    return problems if content["version"] == 1 else [*problems, "another version"]


@pytest.mark.parametrize("command", AVAILABLE, ids=lambda command: command.title)
def test_every_command_answers_as_its_row_says(world, command):
    """One line of JSON, decoded by the contract's structs, of a kind that the row names; exit status 0."""
    daemon, facts = world
    line = values_of(command).format(**facts)
    done = daemon.console(*command.title.split(), *shlex.split(line), "--json", check=False)
    (answer,) = done.stdout.decode().splitlines()
    if command.name in {"set domain", "unset domain"}:
        # No attribute has a value for a domain: the answer is an error, and names the levels there are.
        assert done.returncode == USAGE
        assert "valid: global, server" in json.loads(answer)["hint"]
        return
    checks = command.name in {"doctor", "testS3Connection"}
    assert done.returncode in {0, 1, 2} if checks else done.returncode == 0, done
    assert shape_problems(json.loads(answer), command) == []
    decode_reply(answer.encode())


def test_every_command_has_help(world):
    """`--help` explains each parameter, also of what is still to come."""
    daemon, _ = world
    for command in COMMANDS[:: max(1, len(COMMANDS) // 12)]:
        said = daemon.console(*command.title.split(), "--help").stdout.decode()
        assert command.title in said
        assert [one.name for one in command.parameters if one.name not in said] == []


def test_every_command_on_volumes_answers_as_its_row_says(world):
    """Operations are queued, Default is in use already, a store that is away is told with its cure."""
    daemon, facts = world
    daemon.console("backup", "doStopService", "operations")
    try:
        for row in ON_VOLUMES:
            given = {
                "action": "start",
                "path": "/nowhere/at/all",
                "source": "/nowhere/at/all",
                "destination": "/nowhere/else",
                "bucket_configuration_id": facts.get(f"bucket_{row.name.rpartition(' ')[2]}", ""),
            }
            parameters = {one.name: given[one.name] for one in row.positional}
            reply = daemon.command(f"backup/{row.name.replace(' ', '%20')}", **parameters)
            if reply["reply"] == "error":
                assert row.name.startswith(VOLUMES[:2]), reply
                assert reply["message"], row.name
                assert reply["hint"], row.name
            else:
                assert shape_problems(reply, row) == []
    finally:
        daemon.console("backup", "doStopAllOperations")
        daemon.console("backup", "doStartService", "operations")
