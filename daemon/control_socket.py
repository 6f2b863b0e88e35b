"""The control socket: HTTP/1.1 on a Unix socket, by which admins and the console speak to the daemon.

Its file is made with mode 0660, replaces a socket on which nobody listens any more, and anything else that
stands in its place is refused, untouched. What it answers is in `daemon.control_routes`.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from pathlib import Path
from typing import Self

import structlog
from aiohttp import web

from backupd.clock import Clock
from backupd.errors import ConfigError
from daemon.control_routes import Service, application
from daemon.peers import Owners

log = structlog.get_logger(__name__)

SOCKET_MODE = 0o660
SOCKET_PATH_BYTES_MAX = 107
SHUTDOWN_SECONDS = 1.0
GRACE_SECONDS = 0.05
BACKLOG_CONNECTIONS = 64


class ControlAddress:
    """The file by which the control socket is reached; a context, which outlives those who answer there.

    Who connects while nobody answers, between two lifetimes, waits for the next one's answer.
    """

    def __init__(self) -> None:
        """Make no file yet."""
        self._place: tuple[Path, str | None] | None = None
        self._identity: tuple[int, int] | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close, as `close`."""
        self.close()

    def listening(self, path: Path, group: str | None) -> socket.socket:
        """Return a socket that listens at a path, which the caller closes. Raises `ConfigError`.

        A path or a group other than before replaces the former file, once the new one is there.
        """
        if self._socket is None or self._place != (path, group) or not self._is_ours(path):
            if self._place is not None and self._place[0] == path:
                self.close()
            made = _bound(path, group)
            self.close()
            self._socket, self._place, self._identity = made, (path, group), _identity_of(path)
        return self._socket.dup()

    def close(self) -> None:
        """Close the socket and remove its file if it is still ours; called again, nothing happens."""
        if self._socket is None or self._place is None:
            return
        self._socket.close()
        self._socket = None
        if self._is_ours(self._place[0]):
            self._place[0].unlink(missing_ok=True)

    def _is_ours(self, path: Path) -> bool:
        return self._identity is not None and _identity_of(path) == self._identity


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class ControlSocket:
    """What answers at a control address; an asynchronous context: entered it answers."""

    def __init__(
        self,
        address: ControlAddress,
        path: Path,
        service: Service,
        *,
        group: str | None = None,
        clock: Clock,
    ) -> None:
        self._address = address
        self._path = path
        self._group = group
        self._service = service
        self._clock = clock
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Begin to answer. Raises `ConfigError` where the path can't be used."""
        listening = self._address.listening(self._path, self._group)
        owners = Owners(uid=os.geteuid(), gid=self._path.stat().st_gid)
        self._runner = web.AppRunner(
            application(self._service, owners), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listening, backlog=BACKLOG_CONNECTIONS).start()
        log.info("control_socket_listens", path=str(self._path))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish the answers within a second, and close all connections; the address stays."""
        if self._runner is None:
            return
        for site in list(self._runner.sites):
            await site.stop()
        # Who was let in just now has not been heard yet.
        await self._clock.sleep(GRACE_SECONDS)
        await self._runner.cleanup()


def _bound(path: Path, group: str | None) -> socket.socket:
    """Return a socket bound to a path and given to a group, replacing one on which nobody listens."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"the control socket's path is longer than {SOCKET_PATH_BYTES_MAX} bytes: {path}",
            hint="set [control] socket to a shorter one",
        )
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        # Linux gives the file the mode of the unbound socket less the umask: at no moment wider than meant.
        os.fchmod(listening.fileno(), SOCKET_MODE)
        listening.bind(os.fspath(path))
        path.chmod(SOCKET_MODE)
        if group is not None:
            shutil.chown(path, group=group)
    except LookupError as error:
        listening.close()
        path.unlink(missing_ok=True)
        raise ConfigError(
            f"there is no group {group!r}", hint="create it, or leave out control.group"
        ) from error
    except OSError as error:
        listening.close()
        hint = "choose a directory that the service's user may write to, by [control] socket"
        raise ConfigError(f"can't make the control socket {path}: {error.strerror}", hint=hint) from error
    except ConfigError:
        listening.close()
        raise
    listening.setblocking(False)  # noqa: FBT003 - the name of the method says it
    return listening


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            f"{path} is there and is no socket; it is left alone",
            hint="move it away, or set [control] socket",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        number = probe.connect_ex(os.fspath(path))
    if number == errno.ECONNREFUSED:
        path.unlink()
    elif number != errno.ENOENT:
        raise ConfigError(
            f"somebody answers on the control socket {path} already",
            hint="stop the other daemon, or set [control] socket to another path",
        )
