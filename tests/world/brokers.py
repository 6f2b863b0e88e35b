"""A real mosquitto for a test: own directory, free ports, a password, TLS, and an end that can be rude.

`Mosquitto.start`, `save`, `stop` (a clean shutdown that saves), `kill` (SIGKILL) and `start` again keep ports
and directory, as a restarted service does. `persistent` False makes a broker that forgets at its end. All
methods block; tests call them in threads.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from daemon.broker_address import BrokerAddress

USERNAME = "backup"
PASSWORD = "secret"
START_SECONDS_MAX = 10.0
_PORT_MIN, _PORT_MAX = 10_000, 32_000
_PORTS = iter(
    [*range(_first := random.randrange(_PORT_MIN, _PORT_MAX), _PORT_MAX), *range(_PORT_MIN, _first)]
)
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def program(name: str) -> str:
    """Return the path of a program of the mosquitto package."""
    found = shutil.which(name, path=SEARCH_PATH)
    assert found is not None, f"{name} is missing: apt-get install mosquitto"
    return found


def free_port() -> int:
    """Return a port that nobody listens on, for a server that starts later, or again.

    It is below those that the system gives to connections on their way out, and each call gives another one.
    """
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port was given out")


class Mosquitto:
    """One broker in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        *,
        persistent: bool = True,
        inflight: int = 1000,
        certificates: Path | None = None,
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.tls_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._persistent = persistent
        self._inflight = inflight
        self._certificates = certificates
        directory.mkdir(parents=True, exist_ok=True)
        self.password_file = directory / "password"
        self.password_file.write_text(PASSWORD + "\n")
        self._users = directory / "users"
        self._users.write_text(f"{USERNAME}:{PASSWORD}\n")
        subprocess.run([program("mosquitto_passwd"), "-U", self._users], check=True)
        (directory / "mosquitto.conf").write_text(self._configuration())

    @property
    def address(self) -> BrokerAddress:
        """The plain listener, with the right password."""
        return BrokerAddress.parse(
            f"mqtt://127.0.0.1:{self.port}", username=USERNAME, password_file=self.password_file
        )

    @property
    def tls_address(self) -> BrokerAddress:
        """The TLS listener, trusting the authority that signed its certificate."""
        assert self._certificates is not None
        return BrokerAddress.parse(
            f"mqtts://localhost:{self.tls_port}",
            username=USERNAME,
            password_file=self.password_file,
            ca_file=self._certificates / "ca.crt",
        )

    def start(self) -> None:
        """Start, or start again; returns once the port answers."""
        assert self._process is None
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("mosquitto"), "-c", self.directory / "mosquitto.conf"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            assert self._process.poll() is None, (self.directory / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.5).close()
            except OSError:
                assert time.monotonic() < end, "mosquitto does not answer"
                time.sleep(0.01)
            else:
                return

    def save(self) -> None:
        """Make it write its state, and wait until it has: mosquitto alone saves now and then."""
        assert self._process is not None
        file = self.directory / "mosquitto.db"
        before = file.stat().st_ino if file.exists() else 0
        self._process.send_signal(signal.SIGUSR1)
        end = time.monotonic() + START_SECONDS_MAX
        while not file.exists() or file.stat().st_ino == before:
            assert time.monotonic() < end, "mosquitto does not save"
            # It looks for the signal when it has something to do.
            socket.create_connection(("127.0.0.1", self.port), 0.5).close()
            time.sleep(0.01)

    def stop(self) -> None:
        """Ask it to end: it saves its state first, where it is persistent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(10)
            self._process = None

    def _configuration(self) -> str:
        lines = [
            "allow_anonymous false",
            f"password_file {self._users}",
            f"persistence {'true' if self._persistent else 'false'}",
            f"persistence_location {self.directory}/",
            "autosave_interval 1",
            f"max_inflight_messages {self._inflight}",
            "max_queued_messages 0",
            "log_type error",
            "log_type warning",
            f"listener {self.port} 127.0.0.1",
        ]
        if os.geteuid() == 0:
            # Else it becomes the user mosquitto, who may not enter a test's directory.
            lines.insert(0, "user root")
        if self._certificates is not None:
            lines += [
                f"listener {self.tls_port} 127.0.0.1",
                f"certfile {self._certificates}/server.crt",
                f"keyfile {self._certificates}/server.key",
            ]
        return "\n".join(lines) + "\n"


def make_certificates(directory: Path) -> Path:
    """Make an authority (`ca.crt`) and a server certificate for localhost (`server.crt`, `server.key`)."""
    directory.mkdir(parents=True, exist_ok=True)
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    _openssl(
        directory, "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test CA"
    )
    _openssl(
        directory, "req", *new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"
    )
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    sign = ["-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"]
    _openssl(directory, "x509", "-req", *sign, "-out", "server.crt", "-days", "2")
    return directory


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)
