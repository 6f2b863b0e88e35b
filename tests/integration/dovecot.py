"""A real Dovecot for tests: IMAP and LMTP on free loopback ports, Maildirs in the layout of a directory root.

Runs as root (then the mail processes run as an unprivileged user) or as any user. Ends every process it
started. Missing servers skip a test with the package to install; with `CI` set they fail it.
"""

from __future__ import annotations

import contextlib
import grp
import imaplib
import os
import pwd
import shutil
import signal
import smtplib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.brokers import free_port

PASSWORD = "secret"
START_SECONDS_MAX = 20.0
_LIBEXEC = Path("/usr/lib/dovecot")
_CONFIGURATION = """
base_dir = {here}/run
state_dir = {here}/state
log_path = {here}/dovecot.log
instance_name = backupd-{imap_port}
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 0
first_valid_gid = 0
mail_uid = {uid}
mail_gid = {gid}
mail_home = {root}/%d/%n
mail_location = maildir:~/Maildir
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_fsync = optimized
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={root}/%d/%n allow_all_users=yes
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp_port}
  }}
}}
"""


class Dovecot:
    """A running Dovecot with mail at `<root>/<domain>/<user>/Maildir`; any user may log in."""

    def __init__(self, root: Path, imap_port: int, lmtp_port: int) -> None:
        self.root = root
        self.imap_port = imap_port
        self.lmtp_port = lmtp_port

    def maildir(self, address: str) -> Path:
        """Return where an address has its mail."""
        user, _, domain = address.rpartition("@")
        return self.root / domain / user / "Maildir"

    @contextlib.contextmanager
    def imap(self, address: str) -> Iterator[imaplib.IMAP4]:
        """Log in."""
        with imaplib.IMAP4("127.0.0.1", self.imap_port, timeout=20) as client:
            client.login(address, PASSWORD)
            yield client

    def deliver(self, address: str, message: bytes) -> None:
        """Deliver a message by LMTP."""
        with smtplib.LMTP("127.0.0.1", self.lmtp_port) as client:
            client.sendmail("sender@example.org", [address], message)


def missing() -> str:
    """Return which package is missing, or nothing."""
    if shutil.which("dovecot") is None:
        return "dovecot-core"
    for program, package in (("imap", "dovecot-imapd"), ("lmtp", "dovecot-lmtpd")):
        if not (_LIBEXEC / program).exists():
            return package
    return ""


def require_dovecot() -> None:
    """Skip the test where Dovecot is missing; fail it in CI."""
    if package := missing():
        reason = f"needs the Debian package {package}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def _mail_user() -> tuple[str, str, int, int]:
    entry = pwd.getpwuid(os.getuid()) if os.getuid() else pwd.getpwnam("nobody")
    return entry.pw_name, grp.getgrgid(entry.pw_gid).gr_name, entry.pw_uid, entry.pw_gid


@contextlib.contextmanager
def running_dovecot(here: Path, root: Path) -> Iterator[Dovecot]:
    """Start a Dovecot whose instance lies in `here` and whose mail lies in `root`; end it afterwards.

    `here` must be short enough for Unix sockets in it (about 60 characters).
    """
    user, group, uid, gid = _mail_user()
    imap_port, lmtp_port = free_port(), free_port()
    for path in (here / "run", here / "state", root):
        path.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        for path in (here, here / "run", here / "state", root):
            os.chown(path, uid, gid)
        for path in (root, *root.parents):
            if path.stat().st_uid == 0 and path.name.startswith(("pytest-", "test_", "backupd")):
                path.chmod(path.stat().st_mode | 0o011)
    configuration = here / "dovecot.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            here=here,
            root=root,
            user=user,
            group=group,
            uid=uid,
            gid=gid,
            password=PASSWORD,
            imap_port=imap_port,
            lmtp_port=lmtp_port,
        )
    )
    process = subprocess.Popen(
        ["dovecot", "-F", "-c", str(configuration)],
        stdin=subprocess.DEVNULL,
        stdout=(here / "stdout.log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_until_ready(process, here, (imap_port, lmtp_port))
        yield Dovecot(root, imap_port, lmtp_port)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _wait_until_ready(process: subprocess.Popen[bytes], here: Path, ports: tuple[int, ...]) -> None:
    give_up = time.monotonic() + START_SECONDS_MAX
    for port in ports:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > give_up:
                logs = [(here / name) for name in ("stdout.log", "dovecot.log")]
                told = "\n".join(each.read_text(errors="replace") for each in logs if each.exists())
                raise RuntimeError(f"Dovecot did not start:\n{told}")
            time.sleep(0.02)
