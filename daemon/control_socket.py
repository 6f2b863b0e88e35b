"""The control socket: HTTP/1.1 on a Unix socket, by which admins and the console speak to the daemon.

It is made with mode 0660, replaces a socket on which nobody listens any more, and refuses to touch anything
else that stands in its place. What it answers is in `daemon.control_routes`.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Self

import structlog
from aiohttp import web

from backupd.errors import ConfigError
from daemon.control_routes import Service, application
from daemon.peers import Owners

log = structlog.get_logger(__name__)

SOCKET_MODE = 0o660
SOCKET_PATH_BYTES_MAX = 107
SHUTDOWN_SECONDS = 1.0
BACKLOG_CONNECTIONS = 64


class ControlSocket:
    """The listening socket; an asynchronous context: entered it answers, left it is gone."""

    def __init__(self, path: Path, service: Service, *, group: str | None = None) -> None:
        self._path = path
        self._group = group
        self._service = service
        self._identity: tuple[int, int] | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Begin to listen. Raises `ConfigError` where the path can't be used."""
        listening = _bound(self._path, self._group)
        found = self._path.stat()
        self._identity = (found.st_dev, found.st_ino)
        owners = Owners(uid=os.geteuid(), gid=found.st_gid)
        self._runner = web.AppRunner(
            application(self._service, owners), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listening, backlog=BACKLOG_CONNECTIONS).start()
        log.info("control_socket_listens", path=str(self._path))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish the answers within a second, close all connections, remove the socket if still ours."""
        if self._runner is not None:
            await self._runner.cleanup()
        with suppress(FileNotFoundError):
            found = self._path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self._path.unlink()


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
