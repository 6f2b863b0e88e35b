"""A real OpenStack Swift with its S3 interface: four servers and memcached on free loopback ports.

One device in a directory, one replica. Started as root it runs as `nobody`, for the servers give up root. It
has no conditional puts (501), ignores object lock, and breaks the connection after a HEAD that failed. All it
stores lies in the directory.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.secret import Secret
from tests.world.brokers import SEARCH_PATH, free_port
from tests.world.stores import Store, end, wait_until_open

PACKAGES = ("swift-proxy", "swift-account", "swift-container", "swift-object", "memcached")
SWIFT = pytest.mark.server(*PACKAGES)
"""What a test carries that talks to it."""
ACCOUNT, USER, KEY = "test", "tester", "testing"
SERVERS = ("account", "container", "object")
_CLUSTER = """
[swift-hash]
swift_hash_path_suffix = test
swift_hash_path_prefix = test
[storage-policy:0]
name = p0
default = yes
"""
_SERVER = """
[DEFAULT]
swift_dir = {here}
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
log_level = WARNING
user = {user}
devices = {here}/node
mount_check = false
fallocate_reserve = 0
disable_fallocate = true
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_PROXY = """
[DEFAULT]
swift_dir = {here}
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
log_level = WARNING
user = {user}
[pipeline:main]
pipeline = catch_errors cache s3api tempauth bulk slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 10
node_timeout = 30
error_suppression_limit = 1000000
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{cache_port}
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{login} = {key} .admin
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
min_segment_size = 5242880
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:symlink]
use = egg:swift#symlink
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""

_RINGS = """
import sys
from swift.common.ring import RingBuilder
for kind, port in zip(("account", "container", "object"), sys.argv[1:]):
    builder = RingBuilder(4, 1, 0)
    place = {"ip": "127.0.0.1", "port": int(port), "device": "d1"}
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, **place, "meta": "",
                     "replication_ip": "127.0.0.1", "replication_port": int(port)})
    builder.rebalance()
    builder.get_ring().save(kind + ".ring.gz")
"""
PYTHON = "/usr/bin/python3"
"""The interpreter that Debian's packages of Swift belong to."""


@contextlib.contextmanager
def running_swift(keep: Path | None = None) -> Iterator[Store]:
    """Start a Swift with an empty bucket; end it afterwards, and keep its logs in a directory if given."""
    # A place of its own: whoever it runs as must be able to go there, which pytest's places do not allow.
    here = Path(tempfile.mkdtemp(prefix="backupd-swift-"))
    ports = {kind: free_port() for kind in (*SERVERS, "proxy", "memcached")}
    owner = pwd.getpwuid(os.getuid()) if os.getuid() else pwd.getpwnam("nobody")
    _configure(here, ports, owner)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        cache = ["memcached", "-l", "127.0.0.1", "-p", str(ports["memcached"]), "-U", "0"]
        processes.append(_start(here, "memcached", cache, owner))
        for kind in (*SERVERS, "proxy"):
            command = [f"swift-{kind}-server", str(here / f"{kind}.conf"), "-v"]
            processes.append(_start(here, kind, command, owner))
        for kind, process in zip(("memcached", *SERVERS, "proxy"), processes, strict=True):
            wait_until_open(ports[kind], process, here / f"{kind}.log")
        store = Store(
            url=f"http://127.0.0.1:{ports['proxy']}",
            access_key=f"{ACCOUNT}:{USER}",
            secret=Secret(KEY),
            port=ports["proxy"],
        )
        store.make_bucket()
        yield store
    finally:
        end(processes)
        for log in here.glob("*.log"):
            if keep is not None:
                shutil.copy(log, keep)
        shutil.rmtree(here, ignore_errors=True)


def _configure(here: Path, ports: dict[str, int], owner: pwd.struct_passwd) -> None:
    (here / "node" / "d1").mkdir(parents=True)
    (here / "swift.conf").write_text(_CLUSTER)
    facts = {"here": here, "user": owner.pw_name, "cache_port": ports["memcached"]}
    facts |= {"account": ACCOUNT, "login": USER, "key": KEY}
    for kind in SERVERS:
        (here / f"{kind}.conf").write_text(_SERVER.format(kind=kind, port=ports[kind], **facts))
    # One program for all rings: each start of the tool that comes with Swift takes a second.
    subprocess.run(
        [PYTHON, "-c", _RINGS, *(str(ports[kind]) for kind in SERVERS)],
        cwd=here,
        env=_ENVIRONMENT,
        check=True,
    )
    (here / "proxy.conf").write_text(_PROXY.format(port=ports["proxy"], **facts))
    if os.getuid() == 0:
        for path in (here, *here.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)


def _start(here: Path, kind: str, command: list[str], owner: pwd.struct_passwd) -> subprocess.Popen[bytes]:
    as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    with (here / f"{kind}.log").open("wb") as log:
        return subprocess.Popen(
            [program(command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=here,
            env={**_ENVIRONMENT, "HOME": str(here)},
            **as_owner,
        )


def program(name: str) -> str:
    """Return the path of a program of the Swift packages."""
    found = shutil.which(name, path=SEARCH_PATH)
    assert found is not None, f"{name} is missing: make debian-packages"
    return found


_ENVIRONMENT = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8"}
"""Swift runs on the machine's own Python: nothing of the tests' environment belongs there."""
