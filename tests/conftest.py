"""What all tests share: real servers or a reason why not, the machine's own switches, and a clock to own.

A test that talks to a real server carries `@pytest.mark.server("package")`, with the Debian package that
brings it. Where a program of that package is missing the test is skipped and says what to install; with `CI`
in the environment it fails instead, so that nothing goes untested there unnoticed.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from backupd import durable
from tests.world import nursery
from tests.world.clocks import FakeClock
from tests.world.stores import Store, running_moto
from tests.world.swift import PACKAGES, running_swift

# Shells start what runs in the background with Ctrl-C ignored, and its children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# CI judges the same examples every time; a developer's run looks for new ones. How long one takes says more
# about what else the machine does than about the code.
for profile, is_same in (("anew", False), ("ci", True)):
    settings.register_profile(
        profile, derandomize=is_same, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile("ci" if "CI" in os.environ else "anew")

# Worker processes of one run (pytest-xdist) inherit the seed, so that the header names the one of all.
os.environ.setdefault("BACKUPD_CRASH_SEED", os.urandom(4).hex())

PROGRAMS_OF_PACKAGE = {
    "mosquitto": ("mosquitto",),
    "dovecot-imapd": ("dovecot", "doveadm", "/usr/lib/dovecot/imap"),
    "dovecot-lmtpd": ("dovecot", "/usr/lib/dovecot/lmtp"),
    "restic": ("restic",),
    "borgbackup": ("borg",),
    "prometheus": ("promtool",),
    "swift-proxy": ("swift-proxy-server",),
    "swift-account": ("swift-account-server",),
    "swift-container": ("swift-container-server",),
    "swift-object": ("swift-object-server",),
    "memcached": ("memcached",),
}
"""What must be there for a package to count as installed."""

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def missing_program(package: str) -> str:
    """Return the first program of a package that this machine does not have, or an empty text."""
    for program in PROGRAMS_OF_PACKAGE[package]:
        if shutil.which(program, path=SEARCH_PATH) is None:
            return program
    return ""


def pytest_report_header() -> str:
    return f"BACKUPD_CRASH_SEED={os.environ['BACKUPD_CRASH_SEED']}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose server is missing, or fail it in CI."""
    for mark in item.iter_markers("server"):
        for package in mark.args:
            program = missing_program(package)
            if not program:
                continue
            reason = f"{program} is missing: apt-get install {package}"
            if os.environ.get("CI"):
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch):
    """Keep the machine's settings of the service out of the tests, and no fault point armed after one."""
    for name in (
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "BACKUPD_SOCKET",
        "BACKUPD_BROKER_PASSWORD",
    ):
        monkeypatch.delenv(name, raising=False)
    yield
    durable.observe_steps(None)


@pytest.fixture(scope="session", autouse=True)
def no_daemon_left():
    """End what the nursery of this process made."""
    yield
    nursery.close_shared()


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that the test moves."""
    return FakeClock()


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Give moto, started once, with the bucket `backups`, which all tests share: each uses its own prefix."""
    with running_moto(tmp_path_factory.mktemp("moto")) as store:
        yield store


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Give a real Swift, started once, shared as `moto` is; tests that use it carry `SWIFT`."""
    with running_swift(tmp_path_factory.mktemp("swift")) as store:
        yield store


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the source tree."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def real_store(request: pytest.FixtureRequest) -> Store:
    """Give Swift where it is installed, else moto."""
    is_there = not any(missing_program(package) for package in PACKAGES)
    store: Store = request.getfixturevalue("swift" if is_there else "moto")
    return store
