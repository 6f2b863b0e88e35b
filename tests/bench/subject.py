"""The daemon as it is measured: started for one measurement, asked through its control socket."""

from __future__ import annotations

import http.client
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.world.daemons import Daemon


class Subject(Daemon):
    """A daemon with questions that measurements ask."""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def metric(self, name: str) -> int:
        """Return the value of one metric without labels, 0 where there is none."""
        for line in self._text("/metrics").splitlines():
            if line.startswith(f"backupd_{name} "):
                return int(float(line.split()[1]))
        return 0

    def _text(self, path: str) -> str:
        connection = _Connection(self.socket)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


def seconds_of(operation: dict[str, Any]) -> float:
    """Return how long an operation took, from its submission to its end; it must have been successful."""
    assert operation["status"] == "successful", operation
    return (_moment(operation["ended"]) - _moment(operation["submitted"])).total_seconds()


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))
