"""A real daemon as a child process, and ways to talk to it.

`Daemon(place, root)` writes a configuration into `place` and starts `backupd` on the mail tree `root`;
leaving the context ends it. All files stay below `place`. `console` runs `backupctl`; `ask` calls the socket
directly, which is quicker. It comes from the nursery, where Python has imported everything already;
with `module="daemon"` it is a Python of its own, as systemd starts it.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.world import nursery
from tests.world.faulty_daemon import Request

START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 10.0
"""What we promise; `stop` waits longer, for a machine that is busy with other tests."""


class Daemon:
    """A daemon on a mail tree; `broker` is `embedded` or an MQTT URL, `module` what a Python of its own runs.

    `impatience` gives constants of the daemon's modules, by their full names, other values: a pause between
    two tries, say, that a test need not wait out.
    """

    def __init__(
        self,
        place: Path,
        root: Path,
        *,
        broker: str = "embedded",
        broker_lines: str = "",
        extra: str = "",
        watch: bool = True,
        module: str = "",
        environment: dict[str, str] | None = None,
        impatience: dict[str, float] | None = None,
        server_id: str = "11111111-2222-4333-8444-555555555555",
    ) -> None:
        self.place = place
        self.root = root
        self.backup_path = place / "backup"
        self.socket = place / "s"
        self.log_path = place / "daemon.log"
        self.config = place / "backupd.toml"
        self.module = module
        self.environment = environment or {}
        self.impatience = impatience or {}
        self.process: subprocess.Popen[bytes] | nursery.Life | None = None
        place.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            f"""
[server]
id = "{server_id}"
name = "mail.example.com"
backup_path = "{self.backup_path}"
state_directory = "{place / "state"}"
[broker]
url = "{broker}"
{broker_lines}
[appserver]
kind = "directory"
root = "{root}"
watch = {str(watch).lower()}
[control]
socket = "{self.socket}"
[log]
format = "json"
level = "info"
{extra}
"""
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------ process

    def start(self, *, wait: bool = True) -> None:
        """Start the process and wait until its control socket answers."""
        environment = {**os.environ, **self.environment}
        if self.module:
            assert not self.impatience, "only the nursery knows of it"
            self.process = self._python(environment)
        else:
            request = Request(str(self.config), str(self.log_path), environment, self.impatience)
            self.process = nursery.shared().start(request)
        if wait:
            self.wait_until_answering()

    def _python(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", self.module, "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
                cwd=Path(__file__).parents[2],
            )

    def wait_until_answering(self) -> None:
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end:
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(
                    f"the daemon ended with {self.process.returncode}:\n{self.log_text()[-20_000:]}"
                )
            try:
                self.status()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError(f"the daemon did not answer:\n{self.log_text()[-20_000:]}")

    def stop(self) -> int | None:
        """End the daemon as a service manager does; kill what is left. Return its exit status."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS_MAX * 3)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _kill_group(process.pid)
            process.wait()

    def kill(self) -> None:
        """End the daemon and its workers at once, as a crash does."""
        if self.process is None:
            return
        process, self.process = self.process, None
        _kill_group(process.pid)
        process.wait()

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # --------------------------------------------------------------------- talk

    def ask(self, method: str, path: str, parameters: dict[str, Any] | None = None) -> Any:
        """Return the JSON that the control socket answers, whatever its status."""
        connection = _UnixConnection(self.socket)
        try:
            body = json.dumps({"parameters": parameters or {}}) if method == "POST" else None
            connection.request(method, path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def command(self, name: str, **parameters: Any) -> Any:
        """Give a command; return the reply."""
        return self.ask("POST", f"/v1/commands/{name}", parameters)

    def status(self) -> Any:
        return self.ask("GET", "/v1/status")

    def console(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run the real console against this daemon."""
        program = Path(sys.executable).with_name("backupctl")
        return subprocess.run(
            [program, "--socket", str(self.socket), *words],
            capture_output=True,
            timeout=60,
            check=check,
        )

    # ---------------------------------------------------------------- shortcuts

    def wait_for_operation(self, uuid: str, seconds: float = 60.0) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            operation = self.ask("GET", f"/v1/operations/{uuid}")["operation"]
            if operation["ended"] is not None:
                return operation
            time.sleep(0.02)
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGUSR1)
            time.sleep(1)
        raise TimeoutError(f"operation {uuid} has not ended: {operation}\n{self.log_text()[-20_000:]}")

    def run(self, name: str, **parameters: Any) -> Any:
        """Give a command that queues an operation, and wait for its end."""
        reply = self.command(name, **parameters)
        if reply["reply"] != "operation":
            raise RuntimeError(f"{name}: {reply}")
        return self.wait_for_operation(reply["operation"]["uuid"])

    def scan(self, **parameters: Any) -> Any:
        return self.run("backup/doSmartScan", action="start", **parameters)

    def wait_until_scanned(self, seconds: float = 60.0, *, pause: float = 0.05) -> Any:
        """Wait until the scans that the daemon queued by itself have ended; return the first of them."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            operations = self.ask("GET", "/v1/operations")["operations"]
            scans = [one for one in operations if one["type"] == "doSmartScan"]
            if scans and all(one["ended"] for one in operations):
                return scans[0]
            time.sleep(pause)
        raise TimeoutError(f"no scan has ended: {self.status()}")

    def states(self, account: str, item: str) -> list[Any]:
        reply = self.command("backup/getItem", account=account, item=item, date="all")
        if reply["reply"] != "item":
            raise LookupError(str(reply))
        return list(reply["states"])

    def last(self, account: str, item: str) -> Any:
        return self.states(account, item)[-1]

    def search(self, account: str, **parameters: Any) -> list[Any]:
        reply = self.command("backup/doItemSearch", account=account, **parameters)
        return list(reply["items"]) if reply["reply"] == "search" else []

    def find(self, account: str, text: str, *, kind: str = "message") -> str | None:
        """Return the id of the first item whose subject or name contains a text."""
        hits = self.search(account, search_string=text, type=kind, search_filter="all")
        return str(hits[0]["id"]) if hits else None

    def deleted(self, account: str) -> list[str]:
        return [str(hit["id"]) for hit in self.search(account, search_filter="deleted")]

    def restore(self, account: str, item: str, **parameters: Any) -> Any:
        return self.run("backup/doItemRestore", account=account, item_id=item, **parameters)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
